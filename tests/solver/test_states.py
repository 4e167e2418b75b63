"""Objects of several incoherent states: a sample that changes while it is exposed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_scan import PIXEL_M, SIDE, simulate, smooth_image

from nsbluesky.backend import get_backend
from nsbluesky.settings import SettingsError, SolverSettings
from nsbluesky.solver.engines import BATCHED, ENGINES, make_engine
from nsbluesky.solver.engines.batched import BatchedEngine
from nsbluesky.solver.engines.wasp import WaspRule
from nsbluesky.solver.schedule import parse_schedule
from nsbluesky.solver.start import blank_canvas


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Frames of which each is half of one object and half of another, and both objects."""

    scan: object
    states: tuple


@pytest.fixture(scope="module")
def mixture():
    """Two objects that differ by more than a radian here and there, at 1e6 photons a frame."""
    rng = np.random.default_rng(9)
    scan = simulate(photons=1e6)
    other = scan.object * np.exp(1.2j * smooth_image(scan.object.shape, rng))
    corners = np.rint(scan.translations_m[:, ::-1] / PIXEL_M - SIDE / 2 - [-3000, 1000]).astype(int)
    frames = np.empty_like(scan.frames)
    for frame, (row, column) in zip(frames, corners, strict=True):
        mean = 0.0
        for image in (scan.object, other):
            wave = scan.probe[0] * image[row : row + SIDE, column : column + SIDE]
            mean = mean + 0.5 * np.abs(np.fft.fftshift(np.fft.fft2(wave, norm="ortho"))) ** 2
        frame[...] = rng.poisson(mean)
    return Mixture(dataclasses.replace(scan, frames=frames), (scan.object, other))


def solved(mixture, backend, **settings):
    scan = mixture.scan
    solver = scan.solver(backend, **{"passes_final": 40} | settings)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    solver.start_with(scan.probe)
    solver.finish()
    while not solver.finished:
        solver.step(1.0)
    return solver


def distance(truth, solver):
    """How far a true state is from all mixtures of those found, by its contrast; in the middle of the scan."""
    row, column = np.array([-3000, 1000]) - solver.state.origin_px  # where the truth begins
    on_truth = solver.state.objects[:, row : row + len(truth), column : column + truth.shape[1]]
    found = np.stack([image[20:-20, 20:-20].ravel() for image in on_truth], axis=1)
    there = truth[20:-20, 20:-20].ravel()
    rest = there - found @ np.linalg.lstsq(found, there, rcond=None)[0]
    return float(np.linalg.norm(rest) / np.linalg.norm(there - there.mean()))


def test_two_states_are_told_apart(mixture, backend):
    one, two = (solved(mixture, backend, object_modes=number, batch_final=8) for number in (1, 2))
    assert two.state.object.shape == (2, *one.state.object.shape)
    assert two.state.r_factor < 0.8 * one.state.r_factor
    for truth in mixture.states:
        assert distance(truth, two) < 0.12 < 0.3 < distance(truth, one)


def test_the_picture_shows_the_strongest_and_has_the_others(mixture, backend):
    solver = solved(mixture, backend, object_modes=2, passes_final=2)
    picture = solver.picture()
    assert picture.further.shape == (1, *picture.object.shape)
    known = np.isfinite(picture.object)
    assert np.array_equal(known, np.isfinite(picture.further[0]))
    assert np.abs(picture.object[known]).sum() > np.abs(picture.further[0][known]).sum()
    assert solver.fit().r_factor < 0.3
    assert solved(mixture, backend, passes_final=1).picture().further.shape == (0, *picture.object.shape)


@pytest.mark.parametrize("poisson", [False, True])
@pytest.mark.parametrize("averages", [False, True])
def test_compiled_loops_do_what_the_arrays_do(difficult_scan, poisson, averages):
    found = []
    backend = get_backend("numpy", threads=2)
    rng = np.random.default_rng(1)
    for compiled in (False, True):
        store, state = difficult_scan(backend, 2)
        rng = np.random.default_rng(1)
        state.object = np.stack([state.object, 0.3 * state.object * rng.random(state.object.shape)]).astype("c8")
        rule = dataclasses.replace(WaspRule(momentum=0.5, momentum_frames=5), averages_passes=averages)
        engine = BatchedEngine(rule, backend, probe_start=0, batch=14, subpixel=2, poisson=poisson, compiled=compiled)
        engine.initialize(state, store)
        residuals = []
        for _ in range(2):
            residuals += [engine.update(state, store, np.arange(14))]
            engine.end_pass(state, store)
            state.passes += 1
        found.append((state.object, state.probe, np.concatenate(residuals)))
    for arrays, loops in zip(*found, strict=True):
        assert np.allclose(loops, arrays, rtol=1e-3, atol=1e-4 * np.abs(arrays).max())


def test_frames_that_come_later_make_room_for_all_states(mixture, backend, tmp_path):
    scan = mixture.scan
    solver = scan.solver(backend, object_modes=2)
    for part in (slice(0, 40), slice(40, None)):
        solver.add_frames(scan.seq_nums[part], scan.frames[part], scan.translations_m[part])
        if solver.state is None:
            solver.start_with(scan.probe)
        solver.step(0.1)
    assert solver.state.objects.shape[0] == 2
    while solver.is_coarse:
        solver.step(0.1)
    solver.save(tmp_path / "checkpoint")
    again = scan.solver(backend, object_modes=2)
    again.load(tmp_path / "checkpoint")
    assert np.array_equal(again.state.object, solver.state.object)


def test_states_begin_unlike_each_other(backend):
    canvas = blank_canvas(backend, (30, 20), 3)
    overlaps = canvas.reshape(3, -1).conj() @ canvas.reshape(3, -1).T / canvas[0].size
    assert np.allclose(overlaps, np.diag([1, 0.05, 0.05]), atol=1e-6)


@pytest.mark.parametrize("algorithm", sorted(set(ENGINES) - set(BATCHED)))
def test_engines_that_know_one_state_only_say_so(backend, algorithm):
    with pytest.raises(SettingsError, match=rf"'{algorithm}' with object_modes = 2: expected one of wasp, rpie"):
        make_engine(SolverSettings(algorithm=algorithm, object_modes=2), backend)
    with pytest.raises(SettingsError, match="object_modes = 2"):
        parse_schedule(f"wasp:20,{algorithm}:10", 10, 2)


@pytest.mark.parametrize(
    "changes", [{"refine_positions": "frames"}, {"quality_share": 0.1}, {"object_modes": 0}], ids=str
)
def test_settings_that_need_one_state(changes):
    with pytest.raises(SettingsError, match="object_modes"):
        SolverSettings(**{"object_modes": 2} | changes)
