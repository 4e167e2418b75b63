"""Least-squares maximum likelihood: gradients against finite differences, steps against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.solver import kernels
from nsbluesky.solver.engines.lsqml import LeastSquaresEngine, best_steps
from nsbluesky.solver.forward import likelihood_change, line_terms
from nsbluesky.solver.light import SUMS

SIDE = 12


@pytest.fixture
def problem():
    """Two overlapping frames and two modes, in double precision."""
    rng = np.random.default_rng(2)

    def noise(*shape):
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    good = np.ones((SIDE, SIDE))
    good[4] = 0
    return {
        "canvas": 1 + 0.3 * noise(20, 20),
        "probe": 3 * noise(2, SIDE, SIDE),
        "amplitude": rng.uniform(2, 6, (2, SIDE, SIDE)),
        "good": good,
        "corners": np.array([[1, 2], [6, 5]]),
        "weights": np.array([1.0, 0.4]),
        "background": 0.5,
        "steps": (noise(20, 20), noise(2, SIDE, SIDE)),
    }


def loss(p, canvas, probe, poisson):
    total = 0.0
    for amplitude, (row, column), weight in zip(p["amplitude"], p["corners"], p["weights"], strict=True):
        field = np.fft.fft2(probe * canvas[row : row + SIDE, column : column + SIDE], norm="ortho")
        intensity = (np.abs(field) ** 2).sum(axis=0) + p["background"]
        if poisson:
            total += weight * (p["good"] * (intensity - (amplitude**2 + 0.1) * np.log(intensity + 0.1))).sum() / 2
        else:
            total += weight * (p["good"] * (np.sqrt(intensity) - amplitude) ** 2).sum()
    return total


@pytest.mark.parametrize("poisson", [False, True])
def test_the_directions_are_the_gradients(problem, poisson):
    p, probes, which = problem, problem["probe"][None], np.zeros(2, int)
    waves = np.empty((2, 2, SIDE, SIDE), complex)
    kernels.multiply_windows(p["canvas"][None], probes, which, p["corners"], waves)
    field = np.fft.fft2(waves, norm="ortho")
    factor, light = likelihood_change(np, field, p["amplitude"], p["good"], p["background"], poisson=poisson)
    over_arrays = field * factor[:, None]
    measured = (p["amplitude"], p["good"], p["background"], 0.1 if poisson else 0.0)
    bare, told = field * SIDE, np.empty((2, SUMS))
    kernels.change_fields(field, *measured, 1.0, poisson, told)
    assert np.allclose(field, over_arrays, rtol=1e-5)
    assert np.allclose(told, light, rtol=1e-5)
    kernels.change_fields(bare, *measured, 1 / SIDE, poisson, told)  # of transforms without their factor
    assert np.allclose(SIDE * bare, field, rtol=1e-5)
    assert np.allclose(told, light, rtol=1e-5)
    change = np.fft.ifft2(field, norm="ortho")
    terms, sums = np.empty((2, 1, SIDE, SIDE), complex), np.zeros((1, 2, SIDE, SIDE), complex)
    windows = (p["canvas"][None], p["corners"], p["weights"], terms)
    kernels.back_project(change, probes, which, *windows, True, sums, np.zeros((SIDE, SIDE)))
    of_object = np.zeros_like(p["canvas"])
    for (term,), (row, column) in zip(terms, p["corners"], strict=True):
        of_object[row : row + SIDE, column : column + SIDE] += term
    turn, bend = p["steps"]
    for direction, slope in (
        ((turn, 0 * bend), -2 * np.vdot(of_object, turn).real),
        ((0 * turn, bend), -2 * np.vdot(sums[0], bend).real),
    ):
        h = 1e-6
        ahead, behind = (
            loss(p, p["canvas"] + s * h * direction[0], p["probe"] + s * h * direction[1], poisson) for s in (1, -1)
        )
        assert (ahead - behind) / (2 * h) == pytest.approx(slope, rel=1e-6)


def test_the_steps_are_the_best_ones():
    rng = np.random.default_rng(5)
    u, v = (rng.normal(size=400) + 1j * rng.normal(size=400) for _ in range(2))
    chi = 0.7 * u + 0.3 * v + 0.2 * (rng.normal(size=400) + 1j * rng.normal(size=400))
    products = [np.vdot(a, b).real for a, b in ((u, chi), (v, chi), (u, u), (v, v), (u, v))]
    alpha, beta = best_steps(np.array(products))
    expected = np.linalg.lstsq(
        np.array([np.r_[u.real, u.imag], np.r_[v.real, v.imag]]).T, np.r_[chi.real, chi.imag], rcond=None
    )[0]
    assert (alpha, beta) == pytest.approx(expected, rel=0.01)
    assert best_steps(np.zeros(5)) == (0.0, 0.0)
    assert best_steps(np.array([3.0, 0.0, 2.0, 0.0, 0.0])) == (1.5, 0.0)
    assert best_steps(np.array([-1.0, 5.0, 2.0, 4.0, 0.0]))[0] == 0.0  # never uphill


@pytest.mark.parametrize("poisson", [False, True])
@pytest.mark.parametrize("modes", [1, 2])
def test_compiled_loops_do_what_the_arrays_do(backend, modes, poisson, difficult_scan):
    found = []
    for compiled in (False, True):
        store, state = difficult_scan(backend, modes)
        engine = LeastSquaresEngine(
            "lsqml",
            backend,
            poisson=poisson,
            probe_start=1,
            batch=14,
            damping=0.1,
            momentum=0.5,
            subpixel=4,
            compiled=compiled,
        )
        engine.initialize(state, store)
        residuals = []
        for _ in range(3):
            residuals += [engine.update(state, store, slots) for slots in (np.arange(10), np.arange(10, 14))]
            engine.end_pass(state, store)
            state.passes += 1
        found.append((state.object, state.probe, np.concatenate(residuals)))
    for arrays, loops in zip(*found, strict=True):
        assert loops.dtype == arrays.dtype
        assert np.allclose(loops, arrays, rtol=2e-3, atol=3e-4 * np.abs(arrays).max())


def test_it_ends_at_less_misfit_than_sequential_steps(scan, backend):
    """From the same start, steps with all frames at once end below WASP's misfit."""
    found = {}
    for name in ("wasp", "lsqml", "cg"):
        batch = 32 if name == "wasp" else 128
        solver = scan.solver(
            backend, algorithm=name, batch=8, batch_final=batch, passes_final=40, told_m=scan.defocus_m
        )
        solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
        solver.finish()
        while not solver.finished:
            solver.step(1.0)
        found[name] = solver.state.r_factor
    assert max(found["lsqml"], found["cg"]) < found["wasp"]


def test_the_line_of_conjugate_gradients_is_the_loss_along_it(problem):
    """Slope and curvature against finite differences; the curvature where no pixel has too little light."""
    p = problem
    windows = [(slice(r, r + SIDE), slice(c, c + SIDE)) for r, c in p["corners"]]
    turn, bend = p["steps"]
    field = np.fft.fft2([p["probe"] * p["canvas"][w] for w in windows], norm="ortho")
    amplitude = 0.5 * np.sqrt((np.abs(field) ** 2).sum(axis=1))
    change = np.fft.fft2([p["probe"] * turn[w] + bend * p["canvas"][w] for w in windows], norm="ortho")
    slope, curvature = line_terms(np, field, change, amplitude, p["good"], p["background"], p["weights"])

    def along(t):  # far fields change in proportion: what a step adds in second order is left out
        total = 0.0
        for psi, delta, measured, weight in zip(field, change, amplitude, p["weights"], strict=True):
            model = np.sqrt((np.abs(psi + t * delta) ** 2).sum(axis=0) + p["background"])
            total += weight * (p["good"] * (model - measured) ** 2).sum()
        return total

    h = 1e-4
    assert (along(h) - along(-h)) / (2 * h) == pytest.approx(-2 * slope, rel=1e-5)
    assert (along(h) - 2 * along(0) + along(-h)) / h**2 == pytest.approx(2 * curvature, rel=1e-4)
