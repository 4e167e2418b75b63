"""Whole batches as on a GPU, with kernels compiled for the host, against the loops of a CPU."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import scipy.fft
from small_scan import finished, object_error

from nsbluesky.backend import Backend, BackendError, get_backend
from nsbluesky.device_graphs import Recorder
from nsbluesky.settings import SolverSettings
from nsbluesky.solver import frames
from nsbluesky.solver.coarse import CentralHalf
from nsbluesky.solver.device_loops import DeviceLoops
from nsbluesky.solver.engines import base, device_batches
from nsbluesky.solver.engines.batched import BatchedEngine
from nsbluesky.solver.engines.device_batches import DeviceBatches
from nsbluesky.solver.engines.pie import PieRule
from nsbluesky.solver.engines.wasp import WaspRule
from nsbluesky.solver.halves import HalfSets
from nsbluesky.solver.propagation import NearField

COUNT = 14
RULES = [WaspRule(peak=0.1), PieRule("mpie", 0.1, 0.3, momentum=0.7, momentum_frames=10)]


class Device(Backend):
    """A host in the place of a GPU: whatever is done where arrays live on a device is done here."""

    on_device = True

    calls = None
    """Where calls of kernels and transforms are recorded, as in a graph."""

    def transform(self, a, out=None, *, inverse=False):
        self.start(functools.partial(get_backend("numpy", threads=1).transform, a, out, inverse=inverse))

    @classmethod
    def start(cls, call):
        call() if cls.calls is None else cls.calls.append(call)


class Graphs(Recorder):
    """Records on a host: arrays are known by where they lie, numbers as they are."""

    launched: ClassVar[list] = []

    def __init__(self, xp):
        super().__init__(xp)
        self._records = True

    def _recorded(self, work):
        Device.calls = calls = []
        work()
        Device.calls = None

        def launch():
            self.launched.append(calls)
            for call in calls:
                call()

        return SimpleNamespace(launch=launch), None


@pytest.fixture
def device(loops, monkeypatch):
    def launch(*arguments):
        Device.start(functools.partial(loops._launch, *arguments))

    loops_here = DeviceLoops(np, launch)
    for module in (base, device_batches, frames):
        monkeypatch.setattr(module, "device_loops", lambda xp: loops_here)
    return Device("numpy", np, 1, scipy.fft)


@pytest.fixture
def used(monkeypatch):
    """Grows with each batch, by whether it had the probe as well."""
    found = []

    class Counted(DeviceBatches):
        def run(self, *arguments):
            found.append(arguments[-1])
            return super().run(*arguments)

    monkeypatch.setattr(device_batches, "DeviceBatches", Counted)
    return found


def passes(rule, backend, difficult_scan, *, modes=2, states=1, subpixel=4, poisson=False, corrected=True, count=3):
    """Return object, probe, residuals and light sums of some passes over frames with all sorts of corrections."""
    store, state = difficult_scan(backend, modes)
    xp = backend.xp
    if corrected:
        store.flux[:COUNT] = np.linspace(0.8, 1.2, COUNT)
        store.backgrounds[3:6] = 0.4
        held_out = np.arange(24 * 24).reshape(24, 24) % 7
        good = np.fft.fftshift(backend.to_numpy(store.good)) > 0
        store.set_good(good, np.where(held_out < 3, held_out, -1))
    state.object, state.probe = backend.from_numpy(state.object), backend.from_numpy(state.probe)
    if states > 1:
        state.object = xp.stack([state.object / (1 + 2 * number) ** number for number in range(states)])
        state.object[1, :25] *= -1
    engine = BatchedEngine(rule, backend, probe_start=1, batch=10, subpixel=subpixel, poisson=poisson)
    engine.initialize(state, store)
    residuals, light = [], []
    for _ in range(count):
        for slots in (np.arange(10), np.arange(10, COUNT)):
            told = engine.begin_update(state, store, slots)
            residuals.append(told.residual)
            light.append(told.light)
        store.uses[:COUNT] += 1
        engine.end_pass(state, store)
        state.passes += 1
    found = backend.to_numpy(state.object), backend.to_numpy(state.probe)
    return *found, np.concatenate(residuals), np.concatenate(light)


def same(found, expected, rtol=1e-3):
    for ours, theirs in zip(found, expected, strict=True):
        assert np.isfinite(theirs).all()
        assert np.abs(theirs).max() > 0
        assert np.allclose(ours, theirs, rtol=rtol, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize(("modes", "states", "subpixel"), [(1, 1, 1), (3, 1, 8), (2, 2, 4)])
@pytest.mark.parametrize("poisson", [False, True])
def test_they_do_what_a_cpu_does(rule, modes, states, subpixel, poisson, device, used, difficult_scan):
    how = {"modes": modes, "states": states, "subpixel": subpixel, "poisson": poisson}
    expected = passes(rule, get_backend("numpy", threads=1), difficult_scan, **how)
    assert not used
    same(passes(rule, device, difficult_scan, **how), expected)
    assert used == 2 * [False] + 4 * [True]  # with the probe


@pytest.mark.parametrize("what", ["a probe that varies", "the near field"])
def test_what_no_graph_knows_goes_the_other_way(what, device, used, difficult_scan):
    found = []
    for backend in (device, get_backend("numpy", threads=1)):
        store, state = difficult_scan(backend, 1)
        if what == "the near field":
            store.propagator = NearField(backend, 24, 9.0)
        else:
            state.variation = 0.1 * state.probe[[0, 0]] * np.exp(1j * np.arange(24))
            store.variation[:COUNT, :2] = np.random.default_rng(2).normal(size=(COUNT, 2))
        engine = BatchedEngine(WaspRule(), backend, probe_start=0, batch=10, subpixel=4)
        engine.initialize(state, store)
        engine.update(state, store, np.arange(10))
        found.append((state.object, state.probe))
    assert not used
    same(*found)


def test_frames_that_change_are_looked_at_again(device, difficult_scan):
    """Moved, weakened and withdrawn between two batches; and one whose window is off the canvas."""
    found = []
    for backend in (device, get_backend("numpy", threads=1)):
        store, state = difficult_scan(backend, 1)
        engine = BatchedEngine(WaspRule(), backend, probe_start=0, batch=10, subpixel=4)
        engine.initialize(state, store)
        engine.update(state, store, np.arange(10))
        store.correct(np.array([2]), np.array([[1.3, -0.7]]))
        store.flux[3], store.backgrounds[4], store.weights[5] = 1.5, 0.3, 0.25
        engine.update(state, store, np.arange(10))
        store.corners_px[12] = 100, 100
        engine.update(state, store, np.arange(10))
        with pytest.raises(IndexError, match=r"the windows of frames \[12\] lie off the canvas"):
            engine.update(state, store, np.arange(5, 13))
        found.append((state.object, state.probe))
    same(*found)


def in_halves(backend, store, state):
    halves = HalfSets(SolverSettings(batch=7), backend)
    return lambda: halves.batch(state, store), lambda: halves._state.object


def of_centres(backend, store, state):
    centres, state.probe = CentralHalf(store), state.probe[:, 6:18, 6:18].copy()
    engine = BatchedEngine(WaspRule(), backend, probe_start=0, batch=COUNT, subpixel=4)
    engine.initialize(state, centres)
    return lambda: engine.update(state, centres, np.arange(COUNT)), lambda: state.object


@pytest.mark.parametrize("kind", [in_halves, of_centres])
def test_corners_that_follow_from_those_that_change(kind, device, used, difficult_scan):
    """Of half-sets one below the other, and on the central half of the detector."""
    found = []
    for backend in (device, get_backend("numpy", threads=1)):
        store, state = difficult_scan(backend, 1)
        work, result = kind(backend, store, state)
        for move in (0.0, 0.0, 2.2, -1.3):
            store.correct(np.arange(2, 7), np.full((5, 2), move))
            work()
        found.append([result()])
    assert len(used) == 4
    same(*found)


def test_an_engine_goes_on_with_another_state(device, difficult_scan):
    """And leaves the probe of the first one as it was."""
    store, first = difficult_scan(device, 1)
    engine = BatchedEngine(WaspRule(), device, probe_start=0, batch=10, subpixel=4)
    second = replace(first, object=first.object.copy(), probe=2 * first.probe)
    for state in (first, second):
        engine.initialize(state, store)
        engine.update(state, store, np.arange(10))
        if state is first:
            engine.end_pass(first, store)
            left = first.probe.copy()
    np.testing.assert_array_equal(first.probe, left)


def test_a_whole_reconstruction_runs_on_them(device, used, scan):
    """From the central half to whole frames, with half-sets, flux and sweep: all arrays are as they must be."""
    settings = {"sweep_frames": 40, "sweep_candidates": 3, "sweep_passes": 2, "passes_final": 4}

    def run(backend, **changes):
        solver = scan.solver(backend, **settings, **changes, told_m=scan.defocus_m)
        for first in range(0, len(scan.frames), 30):
            part = slice(first, first + 30)
            solver.add_frames(scan.seq_nums[part], scan.frames[part], scan.translations_m[part])
            for _ in range(20):
                solver.step(0.0)
        was_coarse = solver.is_coarse
        return finished(solver), was_coarse

    expected, _ = run(get_backend("numpy", threads=1))
    for changes in ({}, {"half_precision_frames": True, "modes": 1}):
        used.clear()
        found, was_coarse = run(device, **changes)
        assert was_coarse and not found.is_coarse and used
        assert found.state.r_factor == pytest.approx(expected.state.r_factor, rel=0.05)
        assert object_error(found, scan) == pytest.approx(object_error(expected, scan), rel=0.2)


def after_changes(device, difficult_scan):
    """Return object, probe and what was told by batches between which everything changes that a graph knows of."""
    store, state = difficult_scan(device, 2)
    rng = np.random.default_rng(4)
    good = rng.random((24, 24)) < 0.9
    engine = BatchedEngine(WaspRule(), device, probe_start=0, batch=10, subpixel=4, poisson=None)
    engine.initialize(state, store)

    def grow():
        state.object = np.pad(state.object, ((0, 3), (0, 0)), constant_values=1)
        engine.pad((0, 0), (3, 0))

    def begin_again():
        state.object, state.probe = state.object.copy(), 0.9 * state.probe
        engine.initialize(state, store)

    changes = [
        lambda: None,
        lambda: store.set_good(good),
        lambda: store.set_good(good, rng.integers(0, 5, good.shape)),
        lambda: store.set_good(good, rng.integers(0, 5, good.shape)),
        lambda: setattr(state, "background", 1.5),
        lambda: engine.adapt(0.1),
        lambda: engine.rest(True),
        lambda: engine.end_pass(state, store),
        grow,
        begin_again,
        lambda: store.turn(3),
        lambda: engine.restore(engine.contents()),
        lambda: store.put([2], rng.poisson(9.0, (1, 24, 24)), [[3, 4]]),
    ]
    light = []
    for change in changes:
        change()
        for _ in range(3):
            light.append(engine.begin_update(state, store, np.arange(2, 12)).light)
    return state.object, state.probe, np.concatenate(light)


def test_graphs_know_all_that_changes(device, difficult_scan, monkeypatch):
    expected = after_changes(device, difficult_scan)
    monkeypatch.setattr(device_batches, "Recorder", Graphs)
    monkeypatch.setattr("nsbluesky.device_graphs.DIRECT_RUNS", 1)
    Graphs.launched.clear()
    for found, wanted in zip(after_changes(device, difficult_scan), expected, strict=True):
        assert np.isfinite(wanted).all()
        np.testing.assert_array_equal(found, wanted)
    assert len(set(map(id, Graphs.launched))) > 5


def test_frames_that_a_checkpoint_expects_are_passed_over(device, used, scan, tmp_path):
    """More of them than a store has room for from the start."""
    solver = scan.solver(device)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    solver.step(0.0)
    solver.save(tmp_path / "c")
    other = scan.solver(device)
    other.load(tmp_path / "c")
    other.add_frames(scan.seq_nums[:40], scan.frames[:40], scan.translations_m[:40])
    used.clear()
    other.step(0.0)
    assert used and other.picture().num_frames == 40


@pytest.mark.gpu
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize(("modes", "states", "subpixel"), [(1, 1, 1), (3, 1, 8), (2, 2, 4)])
def test_a_gpu_does_what_a_cpu_does(rule, modes, states, subpixel, difficult_scan):
    """Directly at first, then as graphs."""
    try:
        backend = get_backend("cupy")
    except BackendError as error:
        pytest.skip(str(error))
    how = {"modes": modes, "states": states, "subpixel": subpixel, "count": 8}
    expected = passes(rule, get_backend("numpy", threads=1), difficult_scan, **how)
    same(passes(rule, backend, difficult_scan, **how), expected, rtol=1e-2)
