"""Amplitudes in half precision and beyond the device's memory, on the host and, where there is one, on a GPU."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nsbluesky.backend import BackendError, get_backend
from nsbluesky.geometry import oriented
from nsbluesky.solver.amplitude_chunks import AmplitudeChunks
from nsbluesky.solver.device_loops import StoredAmplitudes, device_loops
from nsbluesky.solver.engines.batched import BatchedEngine
from nsbluesky.solver.engines.wasp import WaspRule
from nsbluesky.solver.light import NOT_MEASURED
from nsbluesky.solver.quality import align, nrmse

SIDE = 8
CHUNK_FRAMES = 32
COUNT = 2 * CHUNK_FRAMES + 5
FRAME_BYTES = SIDE * SIDE * 4


@pytest.fixture
def amplitudes():
    rng = np.random.default_rng(3)
    values = np.sqrt(rng.poisson(rng.uniform(0, 1e6, (COUNT, SIDE, SIDE)))).astype(np.float32)
    values[5, [2, 1], [3, 0]] = NOT_MEASURED
    return values


def filled(amplitudes, backend, half=False, **how):
    chunk_bytes = CHUNK_FRAMES * FRAME_BYTES // (2 if half else 1)
    chunks = AmplitudeChunks(SIDE, backend, half=half, chunk_bytes=chunk_bytes, **how)
    chunks.reserve(len(amplitudes))
    for slot, amplitude in enumerate(amplitudes):
        chunks.write(slot, backend.from_numpy(amplitude))
    return chunks


def copied(chunks, slots, out, loops, scales=1.0, backgrounds=0.0):
    """Copy amplitudes as a host does, or as a GPU's kernel reads them."""
    scales, backgrounds = (np.broadcast_to(np.float32(x), len(slots)).copy() for x in (scales, backgrounds))
    if loops is None:
        chunks.copy(slots, out, scales, backgrounds)
        return
    stored = StoredAmplitudes(
        side=chunks.side,
        is_half=chunks.is_half,
        addresses=chunks.addresses(slots),
        gains=scales,
        backgrounds=backgrounds,
        held=None,
        numbers=None,
    )
    loops.take_amplitudes(stored, out[: len(slots)])


def checked(chunks, amplitudes, backend, rtol, loops):
    slots = np.array([COUNT - 1, 5, 40, 6])
    out = backend.xp.zeros((6, SIDE, SIDE), np.float32)
    copied(chunks, slots, out, loops)
    np.testing.assert_allclose(backend.to_numpy(out)[:4], amplitudes[slots], rtol=rtol)
    assert not out[4:].any()
    assert out[1, 2, 3] == NOT_MEASURED
    small = backend.xp.zeros((5, SIDE // 2, SIDE // 2), np.float32)
    scales, backgrounds = np.array([2.0, 0.5, 1.0, 3.0]), np.array([0.0, 4e4, 2e5, -50.0])
    copied(chunks, slots, small, loops, scales, backgrounds)
    edge = SIDE // 4
    kept = amplitudes.astype(np.float16 if chunks.is_half else np.float32).astype(np.float64)
    centre = np.fft.fftshift(kept[slots], axes=(1, 2))[:, edge:-edge, edge:-edge] * scales[:, None, None]
    left = np.sqrt(np.maximum(centre**2 - backgrounds[:, None, None], 0))
    assert (left == 0).any() and (centre < 0).any()
    shown = np.fft.fftshift(backend.to_numpy(small), axes=(1, 2))
    np.testing.assert_allclose(shown[:4], np.where(centre < 0, centre, left), rtol=1e-5, atol=2e-2)
    assert not shown[4:].any()
    read = chunks.read(40)
    assert read.dtype == np.float32 and isinstance(read, backend.xp.ndarray)
    np.testing.assert_allclose(backend.to_numpy(read), amplitudes[40], rtol=rtol)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("limit_chunks", [None, 0, 1, 2.5])
@pytest.mark.parametrize("name", ["numpy", "kernels", pytest.param("cupy", marks=pytest.mark.gpu)])
def test_amplitudes_come_back_from_wherever_they_are(amplitudes, half, limit_chunks, name, loops):
    try:
        backend = get_backend("cupy" if name == "cupy" else "numpy")
    except BackendError as error:
        pytest.skip(str(error))
    one = FRAME_BYTES // (2 if half else 1)
    limit = None if limit_chunks is None else int(limit_chunks * CHUNK_FRAMES * one)
    chunks = filled(amplitudes, backend, half=half, limit_bytes=limit)
    assert chunks.nbytes == COUNT * one
    within = COUNT if limit_chunks is None else int(limit_chunks) * CHUNK_FRAMES
    assert sum(chunks._beyond) == math.ceil((COUNT - within) / CHUNK_FRAMES)
    rtol = 2**-11 if half else 0
    with_kernel = {"numpy": None, "kernels": loops}
    checked(chunks, amplitudes, backend, rtol, with_kernel[name] if name in with_kernel else device_loops(backend.xp))
    chunks.turn(5)
    turned = np.fft.ifftshift(oriented(np.fft.fftshift(amplitudes, axes=(1, 2)), 5), axes=(1, 2))
    np.testing.assert_allclose(backend.to_numpy(chunks.read(50)), turned[50], rtol=rtol)


def test_rounding_is_small_beside_photon_noise(amplitudes):
    """The most of it a pixel of up to a million photons, whose amplitude has a noise of ½."""
    chunks = filled(amplitudes, get_backend("numpy"), half=True)
    errors = np.stack([chunks.read(slot) for slot in range(COUNT)]) - amplitudes
    assert (np.abs(errors) <= np.abs(amplitudes) / 2048).all()
    assert 0.01 < np.sqrt(np.mean(errors**2)) < 0.3 * 0.5


@pytest.mark.parametrize("limit", [0, None])
def test_an_engine_does_the_same_wherever_the_frames_are(difficult_scan, limit):
    found = []
    backend = get_backend("numpy", threads=2)
    for limit_bytes in (None, limit):
        store, state = difficult_scan(backend, 2)
        chunks = AmplitudeChunks(store.frame_px, backend, limit_bytes=limit_bytes)
        chunks.reserve(len(store))
        for slot in range(len(store)):
            chunks.write(slot, store.amplitude(slot))
        store._amplitudes = chunks
        engine = BatchedEngine(WaspRule(), backend, probe_start=0, batch=14, subpixel=4)
        engine.initialize(state, store)
        engine.update(state, store, np.arange(14))
        found.append(state.object)
    np.testing.assert_array_equal(*found)


def test_half_the_memory_gives_as_good_an_image(scan, backend):
    """When it has settled: on a blank object dark pixels have no phase yet, and rounding gives them another one."""
    errors = []
    for half in (False, True):
        solver = scan.solver(backend, half_precision_frames=half, passes_final=8, coarse_uses=0)
        solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
        solver.start_with(scan.probe)
        solver.finish()
        while not solver.finished:
            solver.step(0.0)
        aligned = align(solver.picture().object, scan.object, margin_px=10)
        errors.append(nrmse(aligned.image, aligned.truth))
        assert solver.frames.nbytes == scan.frames.nbytes // (2 if half else 1)
    assert errors[0] != errors[1] == pytest.approx(errors[0], rel=0.1)


def test_half_precision_refuses_what_it_cannot_hold(scan, backend):
    frames = scan.frames[:3].copy()
    frames[1, 5, 6] = 5e9
    full = scan.solver(backend)
    full.add_frames(scan.seq_nums[:3], frames, scan.translations_m[:3])
    assert full.frames.amplitude(1).max() == pytest.approx(5e9**0.5)
    with pytest.raises(ValueError, match=r"5e\+09 photons on a pixel: expected at most 4.29e\+09 with half"):
        scan.solver(backend, half_precision_frames=True).add_frames(
            scan.seq_nums[:3], frames, scan.translations_m[:3]
        )
