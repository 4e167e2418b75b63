"""What tells the quality without a truth: half-sets, held-out pixels, and the forecast."""

from __future__ import annotations

import numpy as np
import pytest
from small_scan import PIXEL_M, simulate, solved

from nsbluesky.backend import get_backend
from nsbluesky.solver.forecast import frames_for_resolution
from nsbluesky.solver.halves import LEAST_PASSES, HalfSets, half_of
from nsbluesky.solver.held_out import predictions
from nsbluesky.solver.light import NOT_MEASURED


@pytest.fixture
def judged(scan, backend):
    """A solver of the scan with more light or less that has done its passes."""

    def make(photons: float, **settings):
        solver = scan.solver(backend, coarse_uses=0, passes_final=16, **settings, told_m=scan.defocus_m)
        rng = np.random.default_rng(9)
        thinned = rng.binomial(scan.frames.astype(np.int64), photons / 3e5).astype(np.float32)
        solver.add_frames(scan.seq_nums, thinned, scan.translations_m)
        solver.finish()
        while not solver.finished:
            solver.step(0.0)
        return solver

    return make


def test_more_light_resolves_more(judged):
    bright, faint = (judged(photons, quality_share=0.5).quality() for photons in (3e5, 1e3))
    assert bright.half_bit_m < 0.7 * faint.half_bit_m
    assert bright.half_bit_m >= 1e-8  # not below a pixel
    assert bright.one_seventh_m <= bright.half_bit_m * 1.5


def test_held_out_pixels_are_predicted_but_not_used(judged):
    solver = judged(3e5, held_out=0.02)
    frames, found = solver.frames, solver.quality()
    all_slots = np.arange(len(frames))
    used, measured = (
        frames.amplitudes(all_slots, np.empty((len(frames), 48, 48), np.float32), all_pixels=everything)
        for everything in (False, True)
    )
    held = used == NOT_MEASURED
    assert (measured >= 0).all()
    assert held.mean() == pytest.approx(0.02, rel=0.05)
    assert held[:50].sum(axis=0).max() == 1  # another pixel of each frame
    assert found.r_held_out == pytest.approx(r_of_used(solver), rel=0.1)


def r_of_used(solver):
    """R of the pixels that the solver uses, of the image as it is."""
    misfit = light = 0.0
    slots = np.arange(len(solver.frames))
    backend, subpixel = get_backend("numpy"), solver.settings.subpixel
    for intensity, amplitude in predictions(backend, solver.state, solver.frames, slots, subpixel):
        used = amplitude >= 0
        misfit += float(np.abs(np.sqrt(intensity) - amplitude)[used].sum())
        light += float(amplitude[used].sum())
    return misfit / light


def test_held_out_pixels_tell_that_more_is_fitted_than_is_known(backend):
    """Windows that hardly overlap: almost any frame has an object that fits it."""
    scan = simulate(lines=5, step_px=14.0)
    solver = solved(scan, backend, held_out=0.1, coarse_uses=0, passes_final=60)
    assert solver.quality().r_held_out > 1.3 * r_of_used(solver)


def test_without_a_share_nothing_is_told(judged):
    found = judged(3e5, quality_share=0.0, held_out=0.0).quality()
    assert np.isnan(found.half_bit_m) and np.isnan(found.r_held_out) and found.frc is None


def test_halves_follow_a_canvas_that_grows(scan, backend):
    solver = scan.solver(backend, coarse_uses=0, quality_share=1.0)
    for first in range(0, len(scan.frames), 30):
        part = slice(first, first + 30)
        solver.add_frames(scan.seq_nums[part], scan.frames[part], scan.translations_m[part])
        goal = 0 if solver.state is None else solver.state.passes
        while solver.has_work and (solver.state is None or solver.state.passes < goal + 4):
            solver.step(0.0)
    assert np.isfinite(solver.quality().half_bit_m)


def test_halves_that_begin_anew_are_compared_anew(scan, backend):
    solver = solved(scan, backend, coarse_uses=0, passes_final=1)
    halves, found = HalfSets(solver.settings, backend), []
    halves.restore(halves.contents(), solver.frames)  # of none yet
    for _ in range(2):
        assert halves.compare(solver.frames, PIXEL_M) is None
        while halves.passes < LEAST_PASSES:
            halves.batch(solver.state, solver.frames)
        found.append(halves.compare(solver.frames, PIXEL_M))
        assert found[-1] is not None and halves.compare(solver.frames, PIXEL_M) is found[-1]
        halves.reset()
    assert found[0] is not found[1]


def test_halves_are_interleaved_along_and_across_rows():
    halves = half_of(np.arange(400))
    assert (halves[::2] + halves[1::2] == 1).all()  # of two frames in a row, one is in each half
    for columns in (16, 20, 32):
        rows = halves[: 400 // columns * columns].reshape(-1, columns)
        assert rows.mean(axis=0).min() > 0.2 and rows.mean(axis=0).max() < 0.8  # no column in one half alone


def test_a_forecast_needs_a_trend():
    law = [(n, 1e-6 / np.sqrt(n)) for n in (100, 150, 220, 300)]
    assert frames_for_resolution(law, 1e-6 / np.sqrt(1000)) == pytest.approx(1000, rel=0.01)
    nonsense = [(0, 1e-9), (50, 0.0), (60, -1e-9), (70, float("nan")), (80, float("inf"))]
    assert frames_for_resolution(nonsense + law, 3e-8) == frames_for_resolution(law, 3e-8) is not None
    assert frames_for_resolution(law, 7e-8) in (220, 300)  # there already
    assert frames_for_resolution(law, 1e-9) is None  # too far
    assert frames_for_resolution(law[:3], 3e-8) is None
    flat = [(n, 1e-7 * (1 + 0.05 * (-1) ** n)) for n in (100, 151, 220, 303)]
    assert frames_for_resolution(flat, 3e-8) is None
    assert frames_for_resolution([(10, float("nan")), (20, float("inf"))], 1e-8) is None
