"""Counts that end somewhere are found by what frames show, and are left out as if a mask had told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from nsbluesky.backend import BackendError, get_backend
from nsbluesky.solver.amplitude_arrays import brightest_of
from nsbluesky.solver.amplitude_loops import find_brightest
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.light import NOT_MEASURED
from nsbluesky.solver.reconstruct import reconstruct
from nsbluesky.solver.saturation import LEAST_FRAMES, LEAST_PHOTONS, LEAST_PIXELS, FullScale

SIDE = 16


def seen(scale, brightest, piled_up=LEAST_PIXELS, photons=None):
    """Let frames be looked at that all have these amplitudes and sums."""
    count = len(brightest)
    sums = np.arange(1.0, count + 1) if photons is None else np.asarray(photons, np.float64)
    return scale.look(np.asarray(brightest, np.float32), np.full(count, piled_up), sums)


def cut_frames(scan, part=0.4):
    limit = np.float32(round(part * float(scan.frames.max())))
    return np.minimum(scan.frames, limit), float(limit)


def test_a_full_scale_is_where_several_pixels_of_several_frames_end():
    scale = FullScale()
    assert not seen(scale, [20.0] * (LEAST_FRAMES - 1))
    assert seen(scale, [12.0, 20.0], photons=[50.0, 60.0])
    assert scale.amplitude == 20.0
    assert not seen(scale, [20.0] * 5), "it is told once"


@pytest.mark.parametrize(
    ("brightest", "more"),
    [
        ([20.0] * 9, {"piled_up": LEAST_PIXELS - 1}),  # by chance
        ([20.0] * 9, {"photons": [7.0] * 9}),  # the same frame over and over, without noise
        ([20.0, 20.0, 21.0, 20.0, 20.0], {}),  # another has more
        ([np.sqrt(LEAST_PHOTONS) - 0.01] * 9, {}),  # all have few
        ([], {}),
    ],
)
def test_what_is_no_full_scale(brightest, more):
    scale = FullScale()
    assert not seen(scale, brightest, **more)
    assert scale.amplitude is None


def test_frames_below_what_another_has_count_for_nothing():
    scale = FullScale()
    assert not seen(scale, [20.0] * (LEAST_FRAMES - 1))
    assert not seen(scale, [21.0], photons=[70.0])
    assert seen(scale, [21.0] * LEAST_FRAMES)


@pytest.mark.parametrize("mean", [0.03, 3.0, 400.0])
def test_the_loops_count_what_the_arrays_do(mean):
    rng = np.random.default_rng(5)
    amplitudes = np.sqrt(rng.poisson(mean, (9, SIDE, SIDE))).astype(np.float32)
    amplitudes = np.minimum(amplitudes, np.float32(np.sqrt(round(1.02 * mean))))
    amplitudes[rng.random(amplitudes.shape) < 0.1] = NOT_MEASURED
    amplitudes[3] = 0
    amplitudes[4] = NOT_MEASURED
    good = (rng.random((SIDE, SIDE)) < 0.8).astype(np.float32)
    amplitudes[5, 2, 2], good[2, 2] = 1e3, 0  # which no frame uses
    most, piled_up = np.empty(9, np.float32), np.empty(9, np.int64)
    find_brightest(amplitudes, good, most, piled_up)
    for found, expected in zip((most, piled_up), brightest_of(np, amplitudes, good), strict=True):
        np.testing.assert_array_equal(found, expected)
    usable = amplitudes[0][(good > 0) & (amplitudes[0] >= 0)]
    top = int((usable == usable.max()).sum())
    assert most[0] == usable.max() and piled_up[0] == top - int((usable >= usable.max() - 0.5).sum() - top)


@pytest.mark.gpu
def test_a_device_counts_the_same():
    try:
        backend = get_backend("cupy")
    except BackendError as error:
        pytest.skip(str(error))
    amplitudes = np.sqrt(np.random.default_rng(2).poisson(9.0, (4, SIDE, SIDE))).astype(np.float32)
    good = np.ones((SIDE, SIDE), np.float32)
    there = brightest_of(backend.xp, backend.from_numpy(amplitudes), backend.from_numpy(good))
    for found, expected in zip(there, brightest_of(np, amplitudes, good), strict=True):
        np.testing.assert_array_equal(backend.to_numpy(found), expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_frames_that_are_here_and_those_that_come_are_cut(threads):
    backend = get_backend("numpy", threads=threads)
    photons = np.random.default_rng(0).poisson(100.0, (6, SIDE, SIDE)).astype(np.float32)
    photons[:, 4:7, 4:7] = 400.0
    photons[2, 4:7, 4:7] = 90.0
    cut = np.where(photons >= 400, np.nan, photons)
    stores = []
    for told in (photons, cut):
        store = FrameStore(SIDE, backend)
        store.put(np.arange(4), told[:4], np.zeros((4, 2), np.int64))
        if told is photons:
            assert not store.has_gaps
            store.end_at(20.0)
            assert store.has_gaps
        store.put([4, 5], told[4:], np.zeros((2, 2), np.int64))
        stores.append(store)
    found, expected = stores
    np.testing.assert_array_equal(found.photons_of(np.arange(6)), expected.photons_of(np.arange(6)))
    for name in ("photons", "amplitude_sums", "central_photons", "brightest"):
        np.testing.assert_array_equal(getattr(found, name)[:6], getattr(expected, name)[:6])
    found.end_at(None)
    found.put([6], photons[:1], np.zeros((1, 2), np.int64))
    assert found.brightest[6] == 20.0


def test_the_first_frame_that_is_cut_has_gaps(backend):
    store = FrameStore(SIDE, backend)
    store.end_at(20.0)
    store.put([0], np.full((1, SIDE, SIDE), 399.0, np.float32), [[0, 0]])
    assert not store.has_gaps
    store.put([1], np.full((1, SIDE, SIDE), 400.0, np.float32), [[0, 0]])
    assert store.has_gaps


def test_saturated_pixels_are_left_out_as_if_they_were_masked(scan, backend):
    frames, limit = cut_frames(scan)
    told = np.where(frames >= limit, np.float32(np.nan), frames)
    settings = scan.solver(backend, passes_final=6).settings
    found = []
    for these, warns in ((frames, True), (told, False)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            result = reconstruct(these, scan.translations_m, None, scan.geometry, settings, backend, probe=scan.probe)
        assert any(f"exactly {limit:.6g} photons" in str(one.message) for one in said) == warns
        assert result.full_scale == (pytest.approx(limit) if warns else None)
        found.append(result.picture.object)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("settings", [{"leave_out_pixels": False}, {"half_precision_frames": True}])
def test_pixels_are_used_that_shall_be(scan, backend, settings):
    frames, _ = cut_frames(scan)
    solver = scan.solver(backend, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solver.add_frames(scan.seq_nums, frames, scan.translations_m)
    assert solver.full_scale is None and not solver.frames.has_gaps


def test_whoever_changes_his_mind_has_the_frames_that_come_whole(scan, backend):
    frames, limit = cut_frames(scan)
    solver = scan.solver(backend)
    with pytest.warns(UserWarning, match="taken for saturated"):
        solver.add_frames(scan.seq_nums, frames, scan.translations_m)
    brightest = int(np.argmax(frames.max(axis=(1, 2))))
    (slot,) = (solver.frames.slots[int(number)] for number in scan.seq_nums[[brightest]])
    assert solver.frames.brightest[slot] < np.float32(np.sqrt(limit))
    solver.configure(solver.settings.replace(leave_out_pixels=False))
    assert solver.full_scale is None
    again = slice(brightest, brightest + 1)
    solver.add_frames(scan.seq_nums[again], frames[again], scan.translations_m[again])
    assert solver.frames.brightest[slot] == np.float32(np.sqrt(limit))


def test_a_second_solver_takes_the_full_scale_over(scan, backend):
    frames, limit = cut_frames(scan)
    half = len(frames) // 2
    first, second = scan.solver(backend), scan.solver(backend)
    with pytest.warns(UserWarning, match="taken for saturated"):
        first.add_frames(scan.seq_nums[:half], frames[:half], scan.translations_m[:half])
    while first.state is None:
        first.step(0.0)
    second.take_over(first)
    assert second.full_scale == pytest.approx(limit)
    for solver in (first, second):
        solver.add_frames(scan.seq_nums[half:], frames[half:], scan.translations_m[half:])
    np.testing.assert_array_equal(*(solver.frames.brightest[: len(frames)] for solver in (first, second)))


def test_a_masked_pixel_with_more_hides_no_full_scale(scan, backend):
    frames, limit = cut_frames(scan)
    frames[:, 3, 5] = 10 * limit
    mask = np.zeros(frames.shape[1:], np.uint32)
    mask[3, 5] = 4
    solver = scan.solver(backend)
    solver.set_mask(mask)
    with pytest.warns(UserWarning, match="taken for saturated"):
        solver.add_frames(scan.seq_nums, frames, scan.translations_m)
    assert solver.full_scale == pytest.approx(limit)


def test_a_hot_pixel_hides_it_until_it_is_left_out(scan, backend):
    frames, limit = cut_frames(scan)
    frames[:, 3, 5] = 50 * limit
    solver = scan.solver(backend)
    solver.add_frames(scan.seq_nums, frames, scan.translations_m)
    assert solver.full_scale is None
    with pytest.warns(UserWarning, match="taken for saturated"):
        while solver.state is None:
            solver.step(0.0)
    assert solver.odd_pixels[3, 5] and solver.full_scale == pytest.approx(limit)


def test_whoever_goes_on_knows_the_full_scale_before_the_frames_come(scan, backend, tmp_path):
    frames, limit = cut_frames(scan)
    solver = scan.solver(backend)
    with pytest.warns(UserWarning, match="taken for saturated"):
        solver.add_frames(scan.seq_nums, frames, scan.translations_m)
    solver.start_with(scan.probe)
    while not solver.passes_done:
        solver.step(0.0)
    solver.save(tmp_path / "checkpoint")
    again = scan.solver(backend)
    again.load(tmp_path / "checkpoint")
    assert again.full_scale == pytest.approx(limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.add_frames(scan.seq_nums[::-1], frames[::-1], scan.translations_m[::-1])
    order = [again.frames.slots[number] for number in scan.seq_nums]
    np.testing.assert_array_equal(again.frames.photons[order], solver.frames.photons[: len(frames)])
    assert (again.frames.uses[order] > 0).all(), "they are those of the checkpoint"
