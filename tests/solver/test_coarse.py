"""The central half of the detector, and back to the fine grid."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.solver.coarse import CentralHalf, can_be_halved, central_light, coarsened, refined
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.state import SolverState

SIDE = 32


def band_limited(shape, rng, limit=0.1):
    """A complex image whose spectrum ends far below half the Nyquist frequency."""
    q = np.hypot(np.fft.fftfreq(shape[-2])[:, None], np.fft.fftfreq(shape[-1])[None])
    spectrum = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) * (q < limit)
    image = np.fft.ifft2(spectrum)
    return (image / np.abs(image).max()).astype(np.complex64)


def test_the_central_half_is_a_view_of_the_store(backend):
    rng = np.random.default_rng(0)
    store = FrameStore(SIDE, backend)
    frames = rng.poisson(30.0, (5, SIDE, SIDE)).astype(np.float32)
    frames[2, 16, 16] = np.nan
    store.put(range(5), frames, [(number * 3, 7) for number in range(5)], shifts_px=(0.2, -0.4))
    half = CentralHalf(store)
    centre = frames[:, 8:24, 8:24]
    slots = np.arange(5)
    out = half.amplitudes(slots, np.empty((5, 16, 16), np.float32))
    known = np.isfinite(centre)
    shown = np.fft.fftshift(out, axes=(1, 2))
    assert np.allclose(shown[known], np.sqrt(centre[known])) and (shown[~known] == -1).all()
    assert all(np.array_equal(half.amplitude(slot), out[slot]) for slot in slots)
    assert half.photons[slots] == pytest.approx(np.nansum(centre, axis=(1, 2)))
    assert half.amplitude_sums[slots] == pytest.approx(np.nansum(np.sqrt(centre), axis=(1, 2)), rel=1e-6)
    position = (store.corners_px[slots] + SIDE / 2 + store.shifts_px[slots]) / 2
    assert np.allclose(half.corners_px[slots] + SIDE / 4 + half.shifts_px[slots], position)
    assert np.abs(half.shifts_px[slots]).max() <= 0.5
    mask = np.ones((SIDE, SIDE), bool)
    mask[8, 8] = mask[0, 0] = False
    store.set_good(mask)
    assert half.good.sum() == 16 * 16 - 1
    store.weights[1] = 0
    store.put([7], frames[:1], (50, 50))
    assert half.active.tolist() == [0, 2, 3, 4, 5] and len(half) == 6


def test_amplitudes_have_the_mean_flux_and_background(backend):
    frame = np.full((SIDE, SIDE), 50.0, np.float32)
    frame[16, 16], frame[17, 17] = np.nan, 1.0
    store = FrameStore(SIDE, backend)
    store.put([0], frame[None], (0, 0))
    store.flux[0], store.backgrounds[0] = 1.25, 4.0
    for level in (store, CentralHalf(store)):
        out = level.amplitudes(np.arange(1), np.empty((1, level.frame_px, level.frame_px), np.float32))[0]
        assert out[0, 0] == -np.float32(1.25**-0.5) and out[1, 1] == 0  # not measured; no fewer photons than none
        assert np.allclose(np.delete(out.ravel(), [0, level.frame_px + 1]), 6.0)


def test_coarse_waves_have_the_central_far_field_of_the_fine_ones(backend):
    """Down and up again: a band-limited probe is itself, and the object's windows follow it."""
    rng = np.random.default_rng(1)
    probe = band_limited((1, SIDE, SIDE), rng)
    coarse = coarsened(backend, probe)
    image = 1 + 0.3 * band_limited((60, 52), rng, 0.05)
    state = refined(backend, SolverState(image[::2, ::2].copy(), coarse, (-5, 8), passes=4))
    assert state.passes == 0 and state.origin_px == (-11, 15)
    assert np.allclose(state.probe, probe, atol=1e-5)
    assert np.allclose(state.object[7:-7, 7:-7], image[6:-6, 6:-6], atol=5e-3)
    window = image[10 : 10 + SIDE, 14 : 14 + SIDE]
    fine_field = np.fft.fftshift(np.fft.fft2(probe[0] * window, norm="ortho"))
    half = SIDE // 2
    coarse_window = image[::2, ::2][5 : 5 + half, 7 : 7 + half]
    coarse_field = np.fft.fftshift(np.fft.fft2(coarse[0] * coarse_window, norm="ortho"))
    assert np.allclose(coarse_field[2:-2, 2:-2], fine_field[10:22, 10:22], atol=0.02 * np.abs(fine_field).max())


def test_a_fine_canvas_lies_along_rows(backend):
    """As loops over it go: transposed, a pass took twice as long on a processor, and a device's loops refuse it."""
    rng = np.random.default_rng(1)
    state = SolverState(band_limited((40, 44), rng), band_limited((1, 16, 16), rng), (0, 0))
    fine = refined(backend, state)
    assert fine.object.flags.c_contiguous and fine.probe.flags.c_contiguous
    assert fine.object.shape == (82, 90)


def test_what_can_be_halved():
    assert [side for side in range(60, 70) if can_be_halved(side)] == [60, 64, 68]
    pattern = np.zeros((8, 8))
    pattern[0, 0], pattern[4, 4] = 3, 1
    assert central_light(pattern) == 0.75
    assert central_light(np.zeros((8, 8))) == 0
