"""When a sweep of the defocus is believed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from small_scan import Scan

from nsbluesky.backend import Backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.mean_light import mean_light
from nsbluesky.solver.sweep import DefocusSweep, judge

DISTANCES_M = np.linspace(-3e-6, 3e-6, 7)


@pytest.mark.parametrize(
    ("residual", "accepted"),
    [
        ([0.44, 0.36, 0.28, 0.2, 0.28, 0.36, 0.44], True),  # much light: a valley, no neighbour is like another
        ([0.801, 0.799, 0.8, 0.77, 0.8, 0.799, 0.801], True),  # little light: a dip in what noise makes of all
        ([0.801, 0.799, 0.8, 0.797, 0.8, 0.799, 0.801], False),
        ([0.82, 0.78, 0.81, 0.77, 0.8, 0.79, 0.83], False),
    ],
)
def test_a_minimum_is_believed_that_is_deep_or_beyond_the_noise(residual: list[float], accepted: bool) -> None:
    found = judge(DISTANCES_M, np.array(residual))
    assert found.accepted == accepted
    assert found.defocus_m == 0
    assert found.confidence == pytest.approx(1 - min(residual) / np.median(residual))


def test_a_warm_probe_that_is_better_than_all_candidates_stands_out_for_them() -> None:
    alike = np.array([0.82, 0.78, 0.81, 0.77, 0.8, 0.79, 0.83])
    assert judge(DISTANCES_M, alike, 0.3).accepted
    assert not judge(DISTANCES_M, alike, 0.9).accepted, "a worse one says nothing"
    assert not judge(DISTANCES_M, alike, math.nan).accepted


@pytest.mark.parametrize("warm", [False, True])
def test_residuals_are_r_factors_and_the_best_state_goes_on(scan: Scan, backend: Backend, warm: bool) -> None:
    corners = np.rint(scan.translations_m[:, ::-1] / 10e-9 - 24).astype(int)
    store = FrameStore(48, backend)
    slots = store.put(range(24), scan.frames[:24], corners[:24])
    sweep = DefocusSweep(
        store,
        slots,
        scan.defocus_m * np.array([-1.0, 1.0]),
        SolverSettings(modes=1, sweep_passes=2),
        backend,
        light=mean_light(store, slots, with_background=True),
        wavelength_m=scan.geometry.wavelength_m,
        pixel_m=10e-9,
        warm=scan.probe.astype(np.complex64) if warm else None,
    )
    for _ in sweep.run():
        pass
    found, best = sweep.sweep, sweep.best
    assert found is not None and best is not None
    assert found.defocus_m == scan.defocus_m and found.warm_fits == warm
    assert found.residual[1] < found.residual[0] < 1
    assert best.r_factor < found.residual[1], "it had passes more"
    assert math.isnan(found.warm_residual) != warm
    assert not warm or best.r_factor < found.warm_residual < found.residual[1]
    assert not store.uses[slots].any(), "what a sweep does is no use of a frame"
