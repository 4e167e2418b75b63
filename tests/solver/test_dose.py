"""Steps that follow the dose."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.settings import SolverSettings
from nsbluesky.solver.dose import caution, counts_are_few, photons_on_lit_pixels
from nsbluesky.solver.engines import make_engine
from nsbluesky.solver.engines.pie import PieRule
from nsbluesky.solver.engines.wasp import WaspRule


def test_the_dose_is_that_of_lit_pixels():
    pattern = np.zeros((64, 64))
    pattern[:10, :10] = 7.0
    assert photons_on_lit_pixels(pattern) == 7
    assert photons_on_lit_pixels(np.zeros((4, 4))) == 0


def test_few_photons_make_cautious_rules():
    assert caution(1e6) == pytest.approx(1, abs=1e-5)
    assert caution(2.0) == 2 and caution(0.0) < 1000
    rule = WaspRule(6.0, 0.2, momentum=0.8).damped(2.0)
    assert (rule.alpha, rule.beta, rule.momentum) == (12.0, 0.4, 0.4)
    pie = PieRule("mpie", 0.6, 0.3, momentum=0.5).damped(2.0)
    assert (pie.alpha, pie.beta, pie.momentum) == (1.0, 0.6, 0.25)


def test_steps_are_shorter_in_the_last_passes_alone(backend, difficult_scan):
    """Not while frames come, which have to get where the others are; and no longer where an image settles anew."""
    store, state = difficult_scan(backend, 1)
    engine = make_engine(SolverSettings(probe_start=0, momentum=0.0, subpixel=1), backend)
    engine.initialize(state, store)

    def step():
        before = state.object.copy(), state.probe.copy()
        engine.update(state, store, np.arange(14))
        lengths = [np.linalg.norm(now - was) for now, was in zip((state.object, state.probe), before, strict=True)]
        state.object[...], state.probe[...] = before
        return np.array(lengths)

    usual = step()
    for resting, at_end, is_shorter in ((True, False, False), (False, True, False), (True, True, True)):
        engine.rest(resting, at_end=at_end)
        assert np.all(step() < 0.7 * usual) if is_shorter else np.allclose(step(), usual, rtol=1e-6)
    engine.adapt(1e9)
    assert np.all(step() < 0.7 * usual), "the dose changes nothing of it"
    engine.rest(False, at_end=True)
    assert np.allclose(step(), usual, rtol=1e-6)


def test_few_counts_are_followed_as_photons(backend):
    assert counts_are_few(10.0) and not counts_are_few(1000.0)
    engine = make_engine(SolverSettings(), backend)
    for dose, poisson in ((10.0, True), (1000.0, False)):
        engine.adapt(dose)
        assert engine._likelihood.poisson is poisson
    for likelihood, dose in (("poisson", 1e6), ("amplitude", 0.1)):
        engine = make_engine(SolverSettings(likelihood=likelihood), backend)
        engine.adapt(dose)
        assert engine._likelihood.poisson is (likelihood == "poisson")
