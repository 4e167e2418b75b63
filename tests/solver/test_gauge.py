"""What data leave open: taking it out, or putting it in, changes no frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_scan import simulate, solved

from nsbluesky.backend import Backend
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.gauge import align_phase, phase_ramp, ramp, set_probe_power
from nsbluesky.solver.held_out import predictions
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.variation import let_vary


def modelled(backend: Backend, state: SolverState, store: FrameStore) -> Any:
    return np.array([intensity.copy() for intensity, _ in predictions(backend, state, store, store.active, 4)])


@pytest.mark.parametrize("varies", [False, True])
def test_the_power_of_the_probe_changes_no_frame(difficult_scan: Any, backend: Backend, varies: bool) -> None:
    store, state = difficult_scan(backend, 2)
    if varies:
        let_vary(backend, state, store, 2)
        store.variation[:14, :2] = np.random.default_rng(0).normal(size=(14, 2))
    before = modelled(backend, state, store)
    set_probe_power(np, state, 1234.0)
    assert (np.abs(state.probe) ** 2).sum() == pytest.approx(1234, rel=1e-4)
    np.testing.assert_allclose(modelled(backend, state, store), before, rtol=1e-3)
    probe = state.probe.copy()
    set_probe_power(np, state, 0.0)  # dark frames tell no power
    np.testing.assert_array_equal(state.probe, probe)


def test_ramp_and_phase_of_an_image_are_found_where_it_is_known() -> None:
    rng = np.random.default_rng(0)
    image = 1 + 0.1 * (rng.normal(size=(30, 40)) + 1j * rng.normal(size=(30, 40)))
    turned = (image * ramp(np, image.shape, 0.3, -0.2)).astype(np.complex64)
    known = np.ones(image.shape, bool)
    known[5:9, 3:30] = False
    turned[~known] = 100 * rng.normal(size=int((~known).sum()))
    assert phase_ramp(turned, known) == pytest.approx((0.3, -0.2), abs=0.01)
    flat = np.where(known, turned * ramp(np, image.shape, -0.3, 0.2) * np.exp(0.7j), np.nan).astype(np.complex64)
    assert align_phase(flat, image.astype(np.complex64)) == pytest.approx(np.exp(-0.7j), abs=0.01)
    assert align_phase(flat, None) == pytest.approx(np.exp(-0.7j), abs=0.01)
    assert align_phase(np.zeros((3, 3), np.complex64), None) == 1


def test_what_no_light_falls_on_keeps_its_scale(difficult_scan: Any, backend: Backend) -> None:
    _, state = difficult_scan(backend, 1)
    seen = np.linspace(0, 1, state.object.size, dtype=np.float32).reshape(state.object.shape)
    before, power = state.object.copy(), float((np.abs(state.probe) ** 2).sum())
    set_probe_power(np, state, 1.01 * power, seen)
    change = np.abs(state.object / before)
    np.testing.assert_allclose(change, 1.01 ** (-seen / 2), rtol=1e-4)
    before = state.object.copy()
    set_probe_power(np, state, 2 * power, seen)
    np.testing.assert_allclose(np.abs(state.object / before), np.sqrt(1.01 / 2), rtol=1e-4, err_msg="a new scale")


def test_many_passes_over_few_photons_leave_dark_places_as_they_were(backend: Backend) -> None:
    """Else the canvas grew by 1 in 300 passes there, on another scan fourfold, until it drove the probe."""
    scan = simulate(photons=2e4, lines=8)
    settings = {"passes_final": 150, "refine_positions": "none", "most_modes": 1, "most_variation": 0}
    solver = solved(scan, backend, **settings)
    assert solver.state is not None
    assert np.abs(solver.state.object[:4, :4]).max() < 1.15
