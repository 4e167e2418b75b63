"""Pixels that a frame did not measure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nsbluesky.backend import Backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.engines import ENGINES, make_engine
from nsbluesky.solver.held_out import predictions

TOLD_BY_AGREEMENT = {"cg", "dm"}
"""A pixel that agrees tells `cg` how far to go; `dm` takes so much misfit a pixel, on average, for noise."""


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("name", sorted(set(ENGINES) - TOLD_BY_AGREEMENT))
def test_a_pixel_that_was_not_measured_is_as_one_that_agrees_with_the_model(
    difficult_scan: Any, backend: Backend, name: str, order: int
) -> None:
    """Whichever frame it is of, and whenever that frame came."""
    settings = SolverSettings(algorithm=name, modes=1, probe_start=0, batch=16, batch_final=16)
    gap, found = np.random.default_rng(4).random((24, 24)) < 0.1, []
    for is_measured in (False, True):
        store, state = difficult_scan(backend, 1)
        store.shifts_px[:14] = 0  # not all engines know of any
        model = [np.fft.fftshift(seen[0]) for seen in predictions(backend, state, store, np.arange(14), 4)]
        store._has_gaps = False
        for number in range(14)[::order]:
            frame = np.random.default_rng(number).poisson(40.0, (1, 24, 24)).astype(np.float32)
            if number == 3:
                frame[0, gap] = np.maximum(model[3][gap], 0) if is_measured else np.nan
            place = store.corners_px[[number]], store.weights[[number]]
            store.put([number], frame, *place)
        assert store.has_gaps != is_measured
        engine = make_engine(settings, backend)
        engine.initialize(state, store)
        residual = engine.update(state, store, np.arange(14))
        engine.end_pass(state, store)
        found.append((residual, state.object, state.probe))
    for absent, agreeing in zip(*found, strict=True):
        np.testing.assert_allclose(absent, agreeing, atol=1e-3 * np.abs(agreeing).max())
