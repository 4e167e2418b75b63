"""A probe that changes from frame to frame is followed; one that does not is left alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_scan import PIXEL_M, SIDE, finished, object_error, solved

from benchmarks.simulated_scans import simulated_scan
from nsbluesky.backend import BackendError, get_backend
from nsbluesky.settings import SettingsError, SolverSettings
from nsbluesky.solver.coarse import refined
from nsbluesky.solver.engines import BATCHED, ENGINES, make_engine
from nsbluesky.solver.engines.base import work_space
from nsbluesky.solver.engines.differences import AMPLITUDES, Differences
from nsbluesky.solver.frames import MOST_VARIATION
from nsbluesky.solver.held_out import predictions
from nsbluesky.solver.reconstruct import reconstruct
from nsbluesky.solver.variation import ProbeVariation, let_vary, probe_of
from nsbluesky.solver.variation_gauge import trend


def noise(rng, shape):
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


@pytest.fixture(scope="module")
def restless(scan):
    """The same scan with a defocus that goes back and forth, by ± 0.6 rad at the pupil's edge."""
    rng = np.random.default_rng(11)
    turns = 0.6 * np.sqrt(2) * np.sin(np.arange(len(scan.frames)) / 9.0)
    q = np.fft.fftfreq(SIDE, PIXEL_M)
    edge = np.hypot(q[:, None], q[None]) * 80e-9  # outermost zones of 40 nm
    field = np.fft.fft2(np.fft.ifftshift(scan.probe[0]))
    corners = np.rint(scan.translations_m[:, ::-1] / PIXEL_M - SIDE / 2).astype(int)
    corners -= corners.min(axis=0)
    frames = np.empty_like(scan.frames)
    for frame, turn, (row, column) in zip(frames, turns, corners, strict=True):
        probe = np.fft.fftshift(np.fft.ifft2(field * np.exp(1j * turn * edge**2)))
        wave = probe * scan.object[row : row + SIDE, column : column + SIDE]
        frame[...] = rng.poisson(np.abs(np.fft.fftshift(np.fft.fft2(wave, norm="ortho"))) ** 2)
    return dataclasses.replace(scan, frames=frames), turns


def varying(difficult_scan, backend, modes=2, count=3):
    store, state = difficult_scan(backend, modes)
    rng = np.random.default_rng(4)
    state.variation = 0.3 * noise(rng, (count, *state.probe.shape[1:]))
    store.variation[:, :count] = rng.normal(size=(len(store.variation.values), count))
    store.uses[: len(store)] = 1
    return store, state


def told(backend, store, state, slots, *, compiled, subpixel=4):
    batch = Differences(backend, state, store, slots, subpixel=subpixel, likelihood=AMPLITUDES, compiled=compiled)
    spaces, terms = work_space(backend, state.probe.shape, len(slots))
    batch.add(spaces, terms)
    return batch, terms, sum(space.probe_numerator for space in spaces[: len(batch.shares)])


def loss(backend, store, state, slots, subpixel=4):
    """Σ w Σ m·(G − A)² in double precision, each frame with its own probe."""
    total = 0.0
    side = store.frame_px
    q = np.fft.fftfreq(side)
    for slot in slots:
        probe = state.probe.astype(complex)
        probe[0] += np.tensordot(store.variation[slot, : len(state.variation)], state.variation, 1)
        row, column = np.rint(store.shifts_px[slot] * subpixel) / subpixel
        ramp = np.exp(-2j * np.pi * (q[:, None] * row + q[None] * column))
        probe = np.fft.ifft2(np.fft.fft2(probe) * ramp)
        top, left = store.corners_px[slot] - state.origin_px
        window = state.object[top : top + side, left : left + side]
        model = np.sqrt((np.abs(np.fft.fft2(probe * window, norm="ortho")) ** 2).sum(axis=0) + state.background)
        amplitude = store.amplitude(slot)
        usable = store.good * (amplitude >= 0)
        total += store.weights[slot] * float((usable * (model - amplitude) ** 2).sum())
    return total


@pytest.mark.parametrize("compiled", [False, True])
def test_what_moves_weights_and_modes_is_the_gradient(backend, difficult_scan, compiled):
    store, state = varying(difficult_scan, backend)
    slots = np.arange(14)
    batch, _, _ = told(backend, store, state, slots, compiled=compiled)
    products = np.concatenate([part.products for part in batch.varied])
    step = 1e-2
    for slot, mode in ((0, 0), (4, 2), (9, 1)):  # frame 4 has weight 0.3
        around = []
        for sign in (1, -1):
            store.variation[slot, mode] += sign * step
            around.append(loss(backend, store, state, [slot]))
            store.variation[slot, mode] -= sign * step
        slope = (around[0] - around[1]) / (2 * step)
        assert -2 * products[np.flatnonzero(batch.slots == slot)[0], mode] == pytest.approx(slope, rel=2e-3, abs=0.05)
    sums = sum(part.sums for part in batch.varied)
    direction = noise(np.random.default_rng(5), state.variation.shape)
    around = []
    before = state.variation
    for sign in (1, -1):
        state.variation = before + sign * 1e-2 * direction
        around.append(loss(backend, store, state, slots))
    slope = (around[0] - around[1]) / 2e-2
    assert -2 * float((sums.conj() * direction).real.sum()) == pytest.approx(slope, rel=2e-3)


@pytest.mark.parametrize("subpixel", [1, 4])
def test_compiled_loops_do_what_the_arrays_do(backend, difficult_scan, subpixel):
    found = []
    for compiled in (False, True):
        store, state = varying(difficult_scan, backend)
        batch, terms, probe = told(backend, store, state, np.arange(14), compiled=compiled, subpixel=subpixel)
        assert batch.between_pixels == (subpixel == 4)
        parts = [np.concatenate([part.products for part in batch.varied]), sum(p.sums for p in batch.varied)]
        found.append([terms, probe, *parts])
    for arrays, loops in zip(*found, strict=True):
        assert np.allclose(arrays, loops, atol=1e-4 * np.abs(arrays).max())


def without_trend(store, slots, count):
    """Take from weights what is linear in the places of frames."""
    places = store.places_px(slots)
    terms = np.concatenate([np.ones((len(slots), 1)), places - places.mean(axis=0)], axis=1)
    weights = store.variation[slots, :count]
    store.variation[slots, :count] = weights - terms[:, 1:] @ np.linalg.lstsq(terms, weights, rcond=None)[0][1:]


def test_at_the_end_of_a_pass_modes_are_components_and_frames_keep_their_probes(backend, difficult_scan):
    store, state = varying(difficult_scan, backend, modes=1)
    store.uses[2] = 0
    store.weights[5], store.variation[5, :3] = 0, 9.0  # one that was withdrawn tells nothing of the others
    used = np.delete(np.arange(14), [2, 5])
    without_trend(store, used, 3)
    before = [probe_of(backend, state, store, slot)[0] for slot in range(14)]
    ProbeVariation(backend).end_pass(state, store)
    modes, probe = state.variation, state.probe[0]
    weights = store.variation[used, :3]
    assert np.allclose(weights.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(weights.T @ weights / len(used), np.eye(3), atol=1e-3)
    gram = np.real(modes.reshape(3, -1).conj() @ modes.reshape(3, -1).T)
    assert np.allclose(gram, np.diag(np.diag(gram)), atol=1e-4 * gram.max())
    assert (np.diff(np.diag(gram)) < 0).all()
    for slot in used:  # but for flux and phase
        change = probe_of(backend, state, store, int(slot))[0] - before[slot]
        rest = change - np.vdot(probe, change) / np.vdot(probe, probe) * probe
        assert np.linalg.norm(rest) < 1e-4 * np.linalg.norm(probe)


def models(backend, state, store, slots):
    """Amplitudes of the model, frame by frame."""
    seen = predictions(backend, state, store, slots, 4)
    return np.sqrt([backend.to_numpy(photons).copy() for photons, _ in seen])


def moved(amplitudes, before):
    return np.abs(amplitudes - before).sum() / before.sum()


@pytest.mark.parametrize("states", [1, 2])
def test_a_tilt_that_grows_with_the_place_is_a_curvature_of_the_object(backend, difficult_scan, states):
    """Frames stay what they were, for no data tell the two apart."""
    store, state = difficult_scan(backend, 1)
    rng = np.random.default_rng(4)
    side, slots = store.frame_px, np.arange(14)
    store.uses[slots] = 1
    store.shifts_px[slots] = 0.0  # this probe does not fade towards the edges of its window
    state.object = np.stack([state.object, 0.3 * state.object[::-1]])[:states].squeeze()
    bend = np.array([[2e-3, -7e-4], [-7e-4, 1e-3]]) / 16
    places = store.places_px(slots)
    apart = places - places.mean(axis=0)
    across = np.arange(side) - side // 2
    first, other = state.probe[0], noise(rng, (side, side))
    other -= np.vdot(first, other) / np.vdot(first, first) * first  # which is the flux of a frame
    size = np.std(apart @ bend)
    tilted = size * 1j * np.stack([across[:, None] * first, across * first])
    state.variation = np.stack([0.02 * np.abs(first).max() * other, *tilted]).astype(np.complex64)
    store.variation[slots, 0] = rng.normal(size=14)
    without_trend(store, slots, 1)
    store.variation[slots, 0] -= store.variation[slots, 0].mean()
    store.variation[slots, 1:3] = apart @ bend / size
    before = models(backend, state, store, slots)
    tilts = store.variation[slots, 1:3].copy()
    store.variation[slots, 1:3] = 0
    assert moved(models(backend, state, store, slots), before) > 2e-3, "frames do tell that there is a tilt"
    store.variation[slots, 1:3] = tilts
    objects = state.objects.copy()
    ProbeVariation(backend).end_pass(state, store)
    turned = np.angle(state.objects * objects.conj())
    rows, columns = (np.arange(size) + first for size, first in zip(state.shape, state.origin_px, strict=True))
    middle = places.mean(axis=0) + side // 2
    down, right = (rows - middle[0])[:, None], (columns - middle[1])[None, :]
    expected = (bend[0, 0] * down**2 + 2 * bend[0, 1] * down * right + bend[1, 1] * right**2) / 2
    assert np.abs(expected).max() > 0.05
    assert np.allclose(turned, expected, atol=0.03 * np.abs(expected).max())
    assert moved(models(backend, state, store, slots), before) < 3e-4, "second order"


def test_a_trend_is_of_first_and_second_order_in_the_place():
    rng = np.random.default_rng(2)
    places = rng.uniform(0, 300, (60, 2))
    down, right = (places - 100).T / 100
    smooth = 0.3 + 0.2 * down - 0.1 * right + 0.05 * down * right - 0.04 * right**2
    found = trend(places, smooth)
    assert np.allclose(found - found.mean(), smooth - smooth.mean(), atol=1e-9)
    wild = rng.normal(size=60)
    left = wild - trend(places, wild)
    assert 0.7 * wild.std() < left.std() < wild.std()
    assert np.allclose(trend(places, left), 0, atol=1e-9)


def test_flux_has_no_trend_while_the_probe_varies(restless, backend):
    """The object could have it as well, and a probe that follows makes up for it."""
    scan, _ = restless
    rng = np.random.default_rng(3)
    place = scan.translations_m[:, 1] - scan.translations_m[:, 1].mean()
    flux = (1 + 0.2 * place / place.max()) * rng.uniform(0.9, 1.1, len(place))
    frames = rng.poisson(scan.frames * flux[:, None, None]).astype(np.float32)
    drifting = dataclasses.replace(scan, frames=frames)
    trends = []
    for count in (0, 2):
        solver = solved(drifting, backend, probe_variation=count, most_variation=0, passes_final=15)
        slots = solver.frames.active
        found = np.log(solver.frames.flux[slots])
        assert solver.refinement.flux_scatter > 0.03
        trends.append(np.ptp(trend(solver.frames.places_px(slots), found)))
    assert trends[0] > 0.05, "with one probe it is taken as it is measured"
    assert trends[1] < 0.01


@pytest.fixture(scope="module")
def pair(restless, backend):
    """The restless scan solved without and with variation, both with positions refined."""
    settings = {"passes_final": 30, "refine_positions": "frames", "held_out": 0.02}
    return [solved(restless[0], backend, probe_variation=count, **settings) for count in (0, 2)]


def test_an_image_under_a_restless_probe_gains(restless, pair):
    scan, turns = restless
    still, followed = pair
    assert object_error(followed, scan) < 0.85 * object_error(still, scan)
    assert followed.state.r_factor < 0.92 * still.state.r_factor
    order = [followed.frames.slots[number] for number in scan.seq_nums]
    assert abs(np.corrcoef(followed.frames.variation[order, 0], turns)[0, 1]) > 0.95


def test_frames_ask_for_it(restless, scan, backend):
    """As the default does, once no further mode explains what is left; a probe at rest asks for nothing."""
    restless, turns = restless
    asked = solved(restless, backend)
    assert len(asked.state.probe) == 1 and len(asked.state.variation) == 3
    assert 0.001 < asked.varied_part < 0.05
    still = solved(restless, backend, most_variation=0)
    assert still.state.variation is None and still.varied_part == 0
    assert object_error(asked, restless) < 0.95 * object_error(still, restless)
    assert asked.state.r_factor < 0.93 * still.state.r_factor
    order = [asked.frames.slots[number] for number in restless.seq_nums]
    assert abs(np.corrcoef(asked.frames.variation[order, 0], turns)[0, 1]) > 0.95
    assert solved(scan, backend).state.variation is None


def test_a_probe_that_stays_is_not_made_to_vary(scan, backend):
    still, followed = (solved(scan, backend, passes_final=20, probe_variation=count) for count in (0, 2))
    assert object_error(followed, scan) < 1.1 * object_error(still, scan)
    power = np.sum(np.abs(followed.state.variation) ** 2) / np.sum(np.abs(followed.state.probe) ** 2)
    assert power < 2e-3


def test_each_frame_is_shown_and_refined_with_its_own_probe(restless, pair):
    scan, solver = restless[0], pair[1]
    fits = [solver.fit(int(number)).r_factor for number in scan.seq_nums[::10]]
    variation, solver.state.variation = solver.state.variation, None
    same = [solver.fit(int(number)).r_factor for number in scan.seq_nums[::10]]
    by_mean = solver.quality().r_held_out
    solver.state.variation = variation
    assert np.mean(fits) < 0.9 * np.mean(same)
    assert solver.quality().r_held_out < by_mean
    assert solver.refinement.places.scatter_px < 0.1


def test_a_frame_that_comes_again_is_learnt_anew_and_one_withdrawn_is_no_component(restless, backend):
    scan, _ = restless
    solver = scan.solver(backend, probe_variation=2, passes_final=12, coarse_uses=0, told_m=scan.defocus_m)
    early = np.arange(len(scan.frames)) % 3 > 0
    solver.add_frames(scan.seq_nums[early], scan.frames[early], scan.translations_m[early])
    for _ in range(80):
        solver.step(0.0)
    slot = solver.frames.slots[int(scan.seq_nums[early][5])]
    assert solver.frames.variation[slot].any()
    solver.add_frames(scan.seq_nums[early][5:6], scan.frames[early][5:6], scan.translations_m[early][5:6])
    assert not solver.frames.variation[slot].any()
    wrong = int(scan.seq_nums[early][9])
    solver.add_frames([wrong], 3 * scan.frames[early][40:41], scan.translations_m[early][9:10])
    solver.withdraw([wrong])
    solver.add_frames(scan.seq_nums[~early], scan.frames[~early], scan.translations_m[~early])
    orderly = solved(scan, backend, passes_final=12, coarse_uses=0, probe_variation=2)
    assert object_error(finished(solver), scan) < 1.15 * object_error(orderly, scan)


def test_many_modes_of_a_very_restless_probe_stay_bounded(backend):
    """Weights and modes see the same misfit: with whole steps of both, R went from 0.14 to 0.27, and on to 10⁹."""
    scan = simulated_scan(64, 16, 1e5, restless=1.0)
    geometry = scan.geometry.replace(optic__defocus_m=0.8 * scan.defocus_m)
    settings = SolverSettings(modes=1, sweep_frames=0, find_orientation=False, probe_variation=8)
    result = reconstruct(scan.frames, scan.translations_m, None, geometry, settings, backend, passes=20)
    assert result.r_factors[-1] < 0.2
    assert 0.02 < result.variation.part < 0.1


def test_the_variation_goes_to_the_fine_grid_as_the_probe_does(backend):
    rng = np.random.default_rng(6)
    from nsbluesky.solver.state import SolverState

    state = SolverState(noise(rng, (40, 40)), noise(rng, (1, 16, 16)))
    state.variation = state.probe[[0, 0]] * np.array([0.1, 0.2j], np.complex64)[:, None, None]
    fine = refined(backend, state)
    assert np.allclose(fine.variation[1], 0.2j * fine.probe[0], atol=1e-6)
    assert fine.variation.shape == (2, 32, 32)


def test_modes_are_added_and_dropped(restless, backend):
    scan, _ = restless
    solver = solved(scan, backend, probe_variation=2, passes_final=6)
    solver.configure(solver.settings.replace(probe_variation=1))
    finished(solver)
    assert len(solver.state.variation) == 1 and not solver.frames.variation[:, 1:].any()
    solver.configure(solver.settings.replace(probe_variation=3, passes_final=8))
    finished(solver)
    assert len(solver.state.variation) == 3 and solver.frames.variation[:10, 2].any()
    solver.configure(solver.settings.replace(probe_variation=0))
    finished(solver)
    assert solver.state.variation is None and not solver.frames.variation.values.any()


def test_no_more_modes_than_there_are_fields_to_begin_with(backend, difficult_scan):
    store, state = difficult_scan(backend, 1)
    let_vary(backend, state, store, MOST_VARIATION)
    flat = state.variation.reshape(MOST_VARIATION, -1)
    assert np.linalg.matrix_rank(np.concatenate([flat.real, flat.imag], axis=1)) == MOST_VARIATION
    with pytest.raises(SettingsError, match=r"probe_variation = 9: expected 0 to 8"):
        SolverSettings(probe_variation=MOST_VARIATION + 1)


@pytest.mark.parametrize("algorithm", [*sorted(set(ENGINES) - set(BATCHED)), "wasp:5,cg:5"])
def test_other_engines_say_that_they_cannot(scan, backend, algorithm):
    with pytest.raises(SettingsError, match=r"probe_variation = 2 with algorithm .*: expected one of wasp, rpie"):
        scan.solver(backend, algorithm=algorithm, probe_variation=2)
    solver = scan.solver(backend, probe_variation=2)
    with pytest.raises(SettingsError, match="or probe_variation = 0"):
        solver.configure(solver.settings.replace(algorithm=algorithm))
    assert solver.settings.algorithm == "wasp"


def test_another_engine_that_can(restless, backend):
    scan, _ = restless
    settings = {"algorithm": "rpie", "passes_final": 20}
    still, followed = (solved(scan, backend, probe_variation=count, **settings) for count in (0, 2))
    assert object_error(followed, scan) < 0.9 * object_error(still, scan)


@pytest.mark.gpu
def test_numpy_and_cupy_give_the_same(difficult_scan):
    found = []
    for name in ("numpy", "cupy"):
        try:
            backend = get_backend(name)
        except BackendError as problem:
            pytest.skip(str(problem))
        store, state = varying(difficult_scan, backend)
        state.object, state.probe = backend.from_numpy(state.object), backend.from_numpy(state.probe)
        state.variation = backend.from_numpy(state.variation)
        engine = make_engine(SolverSettings(modes=2, probe_variation=3), backend)
        engine.initialize(state, store)
        for _ in range(3):
            engine.update(state, store, np.arange(14))
            engine.end_pass(state, store)
            state.passes += 1
        found.append([backend.to_numpy(state.object), backend.to_numpy(state.variation), store.variation[:14]])
    for host, device in zip(*found, strict=True):
        assert np.allclose(host, device, atol=2e-3 * np.abs(host).max())
