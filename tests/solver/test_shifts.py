"""Positions between pixels."""

from __future__ import annotations

import numpy as np
import pytest
from small_scan import PIXEL_M, finished, simulate

from nsbluesky.settings import SolverSettings
from nsbluesky.solver.engines import make_engine
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.shifts import RINGING, MovedProbe, light_around, ramps, steps_of
from nsbluesky.solver.state import SolverState

SIDE = 32


def beam(row=0.0, column=0.0):
    y, x = np.arange(SIDE)[:, None] - SIDE / 2 - row, np.arange(SIDE)[None] - SIDE / 2 - column
    return (np.exp(-(x**2 + y**2) / 40) * np.exp(0.05j * x * y))[None].astype(np.complex64)


def moved_to(backend, steps, subpixel):
    probe = beam()
    return MovedProbe(backend, probe, backend.fft2(probe.copy()), np.array(steps), subpixel)


def test_a_moved_probe_is_the_probe_there(backend):
    moved = moved_to(backend, [[0, 0], [1, -2], [1, -2], [2, 1]], 4)
    assert len(moved.probes) == 3 and moved.which[1] == moved.which[2]
    for number, (row, column) in enumerate([(0, 0), (0.25, -0.5), (0.25, -0.5), (0.5, 0.25)]):
        assert np.allclose(moved.probes[moved.which[number]], beam(row, column), atol=2e-3)
    assert moved_to(backend, [[0, 0], [0, 0]], 4).probes.shape == (1, 1, SIDE, SIDE)
    assert (steps_of(np.array([[0.49, -0.5], [0.1, 0.2]]), 1) == 0).all()


def test_the_way_back_is_the_adjoint(backend):
    rng = np.random.default_rng(0)
    for steps in ([[0, 0], [0, 0]], [[1, 3], [-2, 4], [1, 3]]):
        moved = moved_to(backend, steps, 8)
        sums = (rng.normal(size=moved.probes.shape) + 1j * rng.normal(size=moved.probes.shape)).astype(np.complex64)
        expected = np.vdot(moved.probes, sums)
        assert np.vdot(beam(), moved.back(sums.copy())) == pytest.approx(expected, rel=1e-3)
    assert ramps(np, np.array([[0.25, -0.5]]), SIDE).dtype == np.complex64


def test_light_reaches_to_neighbours_and_a_part_of_it_everywhere(backend):
    light = np.full((SIDE, SIDE), 0.5, np.float32)
    light[5, 31] = 4.0
    expected = np.full((SIDE, SIDE), RINGING * 4, np.float32)
    expected[4:7, [30, 31, 0]] = 4.0
    found = light_around(backend, backend.from_numpy(light))
    np.testing.assert_array_equal(backend.to_numpy(found), expected)


def test_positions_between_pixels_are_used(scan, backend):
    """The truth keeps still with its own positions, and not with rounded ones."""
    truth = scan.object[:70, :70].astype(np.complex64)
    probe = np.zeros((1, SIDE, SIDE), np.complex64)
    probe[...] = beam() * 100
    solver = scan.solver(backend, subpixel=8, probe_start=0)
    positions = np.random.default_rng(1).uniform(0, 30, (12, 2))
    corners = np.rint(positions).astype(int)
    misfits = {}
    for subpixel in (1, 8):
        store = FrameStore(SIDE, backend)
        for number, (corner, shift) in enumerate(zip(corners, positions - corners, strict=True)):
            window = truth[corner[0] : corner[0] + SIDE, corner[1] : corner[1] + SIDE]
            field = np.fft.fft2(beam(*shift) * 100 * window, norm="ortho")[0]
            store.put([number], np.fft.fftshift(np.abs(field) ** 2)[None], corner, shifts_px=shift)
        engine = make_engine(solver.settings.replace(subpixel=subpixel), backend)
        state = SolverState(truth.copy(), probe.copy())
        engine.initialize(state, store)
        misfits[subpixel] = engine.update(state, store, np.arange(12)).sum() / store.amplitude_sums[:12].sum()
    assert misfits[8] < 0.15 * misfits[1]


def test_positions_are_taken_finer_while_an_engine_rests(backend, rng):
    truth = (1 + 0.5 * rng.normal(size=(70, 70))).astype(np.complex64)
    positions = rng.uniform(0, 30, (24, 2))
    corners = np.rint(positions).astype(int)
    store = FrameStore(SIDE, backend)
    for number, (corner, shift) in enumerate(zip(corners, positions - corners, strict=True)):
        window = truth[corner[0] : corner[0] + SIDE, corner[1] : corner[1] + SIDE]
        field = np.fft.fft2(beam(*shift) * 100 * window, norm="ortho")[0]
        store.put([number], np.fft.fftshift(np.abs(field) ** 2)[None], corner, shifts_px=shift)

    def misfit(subpixel, resting):
        engine = make_engine(SolverSettings(modes=1, subpixel=subpixel, probe_start=9), backend)
        state = SolverState(truth.copy(), 100 * beam())
        engine.initialize(state, store)
        engine.rest(resting)
        return float(engine.update(state, store, np.arange(24)).sum())

    assert misfit(4, resting=True) < 0.4 * misfit(4, resting=False)
    assert misfit(1, resting=True) == misfit(1, resting=False)


def test_a_sharp_probe_between_pixels_does_not_let_the_object_grow(backend, rng):
    """Begun in focus, with few frames on a pixel: steps were divided by its own light, not by that of it moved."""
    scan = simulate(photons=1e7, lines=8, step_px=12.0)
    solver = scan.solver(backend, passes_final=20)
    shaken_m = scan.translations_m + rng.uniform(-0.4, 0.4, scan.translations_m.shape) * PIXEL_M
    solver.add_frames(scan.seq_nums, scan.frames, shaken_m)
    finished(solver)
    assert not solver.rejected
    assert solver.state.r_factor < 0.3
    assert np.abs(solver.state.object).max() < 5
