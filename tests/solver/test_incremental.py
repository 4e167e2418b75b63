"""The live solver: streaming, faults, and what a picture says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nsbluesky.settings import SettingsError
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.ordering import FrameQueue
from nsbluesky.solver.picture import render
from nsbluesky.solver.quality import align, contrast_correlation, nrmse
from nsbluesky.solver.state import SolverState


def run(solver, passes=None):
    """Work until there is nothing to do, or until `passes` more passes are done."""
    goal = None if passes is None or solver.state is None else solver.state.passes + passes
    while solver.has_work:
        solver.step(0.0)
        if passes is not None and solver.state is not None:
            goal = passes if goal is None else goal
            if solver.state.passes >= goal:
                return


def stream(solver, scan, order, tick=20, passes=4):
    for first in range(0, len(order), tick):
        part = order[first : first + tick]
        solver.add_frames(scan.seq_nums[part], scan.frames[part], scan.translations_m[part])
        run(solver, passes)


def scanned(picture, scan):
    """The part of a picture between the outermost frame centres."""
    x0, _, y0, _ = picture.extent_m
    low = np.ceil((scan.translations_m.min(axis=0) - [x0, y0]) / picture.pixel_m).astype(int)
    high = np.floor((scan.translations_m.max(axis=0) - [x0, y0]) / picture.pixel_m).astype(int)
    return picture.object[low[1] : high[1], low[0] : high[0]]


def finished(solver):
    solver.finish()
    run(solver)
    assert solver.finished
    return solver.picture()


@pytest.fixture
def live(scan, backend):
    """A solver whose optic is right, as after a good sweep."""
    solver = scan.solver(backend, num_points=len(scan.frames), told_m=scan.defocus_m)
    return solver


def test_a_stream_in_scan_order_gives_the_object(live, scan):
    stream(live, scan, np.arange(len(scan.frames)))
    picture = finished(live)
    assert contrast_correlation(scanned(picture, scan), scan.object) > 0.97
    assert picture.num_frames == len(scan.frames)
    assert picture.newest_seq_num == len(scan.frames)
    assert picture.coverage == 1
    assert picture.r_factor == pytest.approx(live.state.r_factor, rel=1e-6)


def test_the_sweep_finds_the_defocus_that_the_optic_has_wrong(scan, backend):
    solver = scan.solver(backend, sweep_frames=60, sweep_range=3, sweep_candidates=13, sweep_passes=6)
    stream(solver, scan, np.arange(len(scan.frames)))
    picture = finished(solver)
    assert solver.sweep.accepted
    depth_m = scan.defocus_m / 2
    assert solver.sweep.defocus_m == pytest.approx(scan.defocus_m, abs=0.5 * depth_m)
    assert solver.sweep.confidence == pytest.approx(1 - min(solver.sweep.residual) / np.median(solver.sweep.residual))
    assert contrast_correlation(scanned(picture, scan), scan.object) > 0.95


def test_a_picture_comes_before_the_sweep_has_ended(scan, backend):
    """From the optic's defocus, which is right here to half a depth of field: the state is kept, not begun anew."""
    solver = scan.solver(backend, sweep_frames=60, sweep_range=3, sweep_candidates=7, told_m=1.1 * scan.defocus_m)
    solver.add_frames(scan.seq_nums[:20], scan.frames[:20], scan.translations_m[:20])
    solver.step(0.0)
    assert solver.sweep is None and solver.picture().num_frames == 16
    solver.add_frames(scan.seq_nums[20:], scan.frames[20:], scan.translations_m[20:])
    pictures = 0
    while solver.sweep is None:
        solver.step(0.0)
        pictures += solver.state.passes > 0
    assert pictures > 100  # passes went on beside it
    assert solver.sweep.accepted
    assert contrast_correlation(scanned(finished(solver), scan), scan.object) > 0.95


def test_a_sweep_that_tells_nothing_keeps_the_optic_and_looks_again(scan, backend):
    """Frames without structure: no candidate stands out, at first over few frames, then over twice as many."""
    flat = np.random.default_rng(3).poisson(0.05, scan.frames.shape).astype(np.float32)
    solver = scan.solver(backend, sweep_frames=24, sweep_candidates=5, sweep_range=2, sweep_passes=1)
    solver.add_frames(scan.seq_nums[:30], flat[:30], scan.translations_m[:30])
    run(solver)
    first = solver.sweep
    assert not first.accepted and solver.state is not None
    solver.add_frames(scan.seq_nums[30:60], flat[30:60], scan.translations_m[30:60])
    run(solver)
    assert solver.sweep is not first


def test_a_picture_of_the_central_half_has_the_pixels_of_all_others(live, scan):
    """While the coarse level is used, the picture is on the grid of whole frames, at the same place."""
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    run(live, 8)
    assert live.is_coarse and live.state.probe.shape == (1, 24, 24)
    coarse = live.picture()
    picture = finished(live)
    assert not live.is_coarse and live.state.probe.shape == (1, 48, 48)
    assert coarse.pixel_m == picture.pixel_m and coarse.probe.shape == (1, 48, 48)
    assert np.allclose(coarse.extent_m, picture.extent_m, atol=3 * picture.pixel_m)
    assert contrast_correlation(scanned(coarse, scan), scan.object) > 0.9
    assert coarse.r_factor < 0.2


def test_r_is_of_the_frames_that_were_used(live, scan):
    """Not of those that have come during the pass, whose misfit nobody knows; 0 is no guess."""
    half = len(scan.frames) // 2
    live.add_frames(scan.seq_nums[:half], scan.frames[:half], scan.translations_m[:half])
    run(live, 3)
    live._turns.one_batch()  # of the next pass
    live.add_frames(scan.seq_nums[half:], scan.frames[half:], scan.translations_m[half:])
    passes = live.state.passes
    while live.state.passes == passes:
        live._turns.one_batch()
    frames = live.frames
    used = frames.active[frames.uses[frames.active] > 0]
    assert half < len(used) < len(scan.frames)
    expected = frames.residuals[used].sum() / frames.amplitude_sums[used].sum()
    assert live.state.r_factor == pytest.approx(expected, rel=1e-9)


def test_r_of_a_picture_counts_the_latest_batch(live, scan):
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    live.step(0.0)
    first = live.picture()
    assert 0 < first.num_frames < len(scan.frames)
    assert 0.05 < first.r_factor < 0.5
    frames = live.frames
    assert (frames.residuals[: len(frames)] > 0).sum() == first.num_frames


def test_r_is_coarse_until_whole_frames_had_a_pass(live, scan, monkeypatch):
    monkeypatch.setattr("nsbluesky.solver.rhythm.LITTLE_GAIN", -1.0)  # each pass is worth its time
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    live.finish()
    while live.state is None or live.is_coarse:
        live.step(0.0)
    coarse = live.state.r_factor
    assert live.r_is_coarse and not live.is_coarse
    while live.r_is_coarse:
        assert live.picture().r_factor == coarse, "while some frames were seen whole, R is not a mixture of both"
        live.step(0.0)
    assert live.state.r_factor > 1.5 * coarse
    assert live.picture().r_factor == pytest.approx(live.state.r_factor, rel=1e-9)


def test_r_is_not_called_coarse_where_whole_frames_were_used_from_the_start(backend, scan):
    solver = scan.solver(backend, coarse_uses=0, sweep_frames=0)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    solver.step(0.0)
    assert solver.state.passes == 0 and not solver.r_is_coarse
    assert 0.05 < solver.picture().r_factor < 0.5


@pytest.mark.parametrize(("time_left", "coarse_uses"), [(1.0, 12), (0.67, 12), (0.66, 6)])
def test_who_is_in_haste_sees_whole_frames_after_half_the_uses(live, scan, monkeypatch, time_left, coarse_uses):
    monkeypatch.setattr("nsbluesky.solver.rhythm.LITTLE_GAIN", -1.0)  # each pass is worth its time
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    live.finish()
    live.time_left = time_left
    while live.state is None or live.is_coarse:
        live.step(0.0)
    assert float(np.mean(live.frames.uses[live.frames.active])) == coarse_uses


@pytest.mark.parametrize(("frames_come", "coarse_uses"), [(False, 4), (True, 12)])
def test_the_central_half_is_left_when_it_gains_little_and_frames_are_all_there(
    live, scan, monkeypatch, frames_come, coarse_uses
):
    monkeypatch.setattr("nsbluesky.solver.rhythm.LITTLE_GAIN", 1.0)  # no pass is worth its time
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    live.start_with(scan.probe)
    if not frames_come:
        live.finish()
    while live.is_coarse:
        live.step(0.0)
    assert float(np.mean(live.frames.uses[live.frames.active])) == coarse_uses


@pytest.mark.parametrize("time_left", [0.25, 0.24])
def test_in_haste_a_settled_image_rests(scan, backend, monkeypatch, time_left):
    """`rests`: of each full pass, whether it was without momentum; of ten the last two are anyway."""
    live = scan.solver(backend, num_points=len(scan.frames), told_m=scan.defocus_m, passes_final=10)
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    while live.state is None or live.is_coarse or live.state.passes < 5:
        live.step(0.0)
    assert not live.is_settled
    rests, engine = [], live._image.working_image.engine
    rest = engine.rest

    def told(resting, *, at_end):
        assert at_end
        rests.append(resting)
        rest(resting, at_end=at_end)

    monkeypatch.setattr(engine, "rest", told)
    live.time_left = time_left
    live.finish()
    run(live)
    assert live.is_settled
    if time_left < 0.25:  # one pass more, and more than half of the ten are done
        assert rests == [False] + 9 * [True]
    else:
        assert rests == 8 * [False] + 2 * [True]


def test_a_picture_is_of_as_many_uses_as_a_pass_has_at_any_moment(live, scan):
    """In the middle of a pass there is the noise of the frames that were used last: it is not shown."""

    def error(image):
        aligned = align(image, scan.object, 12)
        return nrmse(aligned.image, aligned.truth)

    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    while live.state is None or live.is_coarse or live.state.passes < 4:
        live.step(0.0)
    shown, bare = [], []
    while live.state.passes < 6:
        live.step(0.0)
        before = live.state.object.copy()
        shown.append(error(live.picture().object))
        assert np.array_equal(live.state.object, before)  # it goes on as if nobody had looked
        live._image.working_image.engine.shown = lambda state: state
        bare.append(error(live.picture().object))
        del live._image.working_image.engine.shown
    assert bare[-1] == pytest.approx(shown[-1], rel=1e-6)  # a pass ends with the average itself
    assert max(shown) < 0.8 * max(bare)
    assert max(shown) < 1.1 * min(shown)


@pytest.mark.parametrize(("count", "expected"), [(10, 16), (100, 16), (400, 25), (1600, 32)])
def test_batches_grow_with_the_number_of_frames(scan, backend, monkeypatch, count, expected):
    solver = scan.solver(backend, sweep_frames=0)
    repeated = np.resize(np.arange(len(scan.frames)), count)
    solver.add_frames(np.arange(count), scan.frames[repeated], scan.translations_m[repeated])
    sizes = []
    next_batch = FrameQueue.next_batch
    monkeypatch.setattr(
        FrameQueue, "next_batch", lambda queue, count: sizes.append(count) or next_batch(queue, count)
    )
    solver.num_points = count
    if count < 16:
        assert not solver.has_work
        solver.add_frames([100], scan.frames[:1], scan.translations_m[:1])
        assert not solver.has_work
        return
    solver.step(0.0)
    assert sizes == [expected]


@pytest.mark.parametrize(("count", "expected"), [(36, 4), (400, 16), (1600, 32)])
def test_last_passes_over_few_frames_have_many_batches_until_they_rest(scan, backend, monkeypatch, count, expected):
    solver = scan.solver(backend, sweep_frames=0, coarse_uses=0, passes_final=2)
    repeated = np.resize(np.arange(len(scan.frames)), count)
    solver.add_frames(np.arange(count), scan.frames[repeated], scan.translations_m[repeated])
    solver.finish()
    sizes = []
    next_batch = FrameQueue.next_batch
    monkeypatch.setattr(
        FrameQueue, "next_batch", lambda queue, count: sizes.append(count) or next_batch(queue, count)
    )
    run(solver)
    assert sizes == math.ceil(count / expected) * [expected] + math.ceil(count / 32) * [32]


def test_of_several_engines_all_have_their_passes_before_the_image_is_settled(scan, backend):
    solver = scan.solver(backend, algorithm="wasp:3,cg:2", coarse_uses=0)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    solver.finish()
    settled = []
    while solver.has_work:
        solver.step(0.0)
        settled.append((solver.passes_done, solver.is_settled))
    assert set(settled) == {(0, False), (1, False), (2, False), (3, False), (4, False), (5, True)}


def test_light_beyond_the_central_half_is_used_from_the_start(scan, backend):
    bright_rim = scan.frames.copy()
    bright_rim[:, :8] += scan.frames.mean() * 4
    solver = scan.solver(backend)
    solver.add_frames(scan.seq_nums, bright_rim, scan.translations_m)
    solver.step(0.0)
    assert not solver.is_coarse


def test_a_schedule_ends_with_its_last_engine(live, scan, backend):
    solver = scan.solver(backend, algorithm="wasp:6,cg:8", passes_final=3, told_m=scan.defocus_m)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    assert solver.passes_wanted == 14
    solver.finish()
    engines = []
    while not solver.finished:
        solver.step(0.0)
        engines.append(solver._image.working_image.engine.name)
    assert engines[0] == "wasp" and engines[-1] == "cg"
    assert solver.passes_done == 14
    plain = scan.solver(backend, algorithm="wasp:14", told_m=scan.defocus_m)
    plain.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    assert solver.state.r_factor < finished(plain).r_factor


def test_two_modes_fit_two_mode_data_better_than_one(two_mode_scan, backend):
    found = {}
    for modes in (1, 2):
        solver = two_mode_scan.solver(backend, modes=modes, most_modes=modes, told_m=two_mode_scan.defocus_m)
        stream(solver, two_mode_scan, np.arange(len(two_mode_scan.frames)))
        found[modes] = finished(solver)
    correlation = {m: contrast_correlation(scanned(p, two_mode_scan), two_mode_scan.object) for m, p in found.items()}
    assert found[2].r_factor < 0.9 * found[1].r_factor
    assert correlation[2] > correlation[1]
    assert found[2].probe.shape == (2, 48, 48)
    power = (np.abs(found[2].probe) ** 2).sum(axis=(1, 2))
    assert power[0] > power[1] > 0
    overlap = np.vdot(found[2].probe[0], found[2].probe[1])
    assert abs(overlap) < 1e-3 * np.sqrt(power[0] * power[1])


def test_the_extent_puts_the_object_where_the_stage_was(live, scan):
    """A dark blot at a known place of the truth appears at the stage coordinates of that place."""
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    picture = finished(live)
    corner_m = scan.translations_m.min(axis=0) - 24 * 10e-9  # the truth's first pixel on the stage
    x0, x1, y0, y1 = picture.extent_m
    rows, columns = picture.object.shape
    assert x1 - x0 == pytest.approx(columns * picture.pixel_m)
    assert y1 - y0 == pytest.approx(rows * picture.pixel_m)
    offset = np.rint((np.array([y0, x0]) - corner_m[::-1]) / picture.pixel_m).astype(int)
    there = scan.object[offset[0] : offset[0] + rows, offset[1] : offset[1] + columns]
    known = np.isfinite(picture.object)
    a, b = picture.object[known], there[known]
    a, b = a - a.mean(), b - b.mean()
    assert abs(np.vdot(a, b)) / np.linalg.norm(a) / np.linalg.norm(b) > 0.9  # no registration


def error_of(picture, scan):
    aligned = align(scanned(picture, scan), scan.object)
    return nrmse(aligned.image, aligned.truth)


@pytest.fixture(scope="module")
def orderly_error(scan, backend):
    orderly = scan.solver(backend, told_m=scan.defocus_m)
    stream(orderly, scan, np.arange(len(scan.frames)))
    return error_of(finished(orderly), scan)


@pytest.mark.parametrize("fault", ["late", "doubled", "shuffled", "missing", "withdrawn"])
def test_faults_of_the_stream_leave_the_image_as_it_is(live, scan, orderly_error, fault):
    """The error against the truth is that of the orderly run within a fifth, or as frames are fewer."""
    rng = np.random.default_rng(1)
    count = len(scan.frames)
    order = np.arange(count)
    if fault == "late":
        order = np.concatenate([order[:40], order[60:], order[40:60]])
    elif fault == "doubled":
        order = np.repeat(order, 2)
    elif fault == "shuffled":
        order = rng.permutation(count)
    elif fault == "missing":
        order = np.sort(rng.permutation(count)[: int(0.9 * count)])
    if fault == "withdrawn":
        garbage = rng.poisson(100.0, (5, 48, 48)).astype(np.float32)
        live.add_frames(np.arange(900, 905), garbage, scan.translations_m[:5])
    stream(live, scan, order)
    if fault == "withdrawn":
        live.withdraw(np.arange(900, 905))
    assert live.num_frames == len(set(order.tolist()))
    faulty = error_of(finished(live), scan)
    assert faulty < 1.2 * np.sqrt(count / live.num_frames) * orderly_error


def test_a_frame_that_comes_again_replaces_the_first(live, scan):
    wrong = scan.frames.copy()
    wrong[10:20] = wrong[30:40]
    live.add_frames(scan.seq_nums, wrong, scan.translations_m)
    run(live, 5)
    live.add_frames(scan.seq_nums[10:20], scan.frames[10:20], scan.translations_m[10:20])
    assert live.num_frames == len(scan.frames)
    picture = finished(live)
    live_again = scan.solver(live._backend, told_m=scan.defocus_m)
    live_again.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    run(live_again, 5)
    assert picture.r_factor == pytest.approx(finished(live_again).r_factor, rel=0.03)


def test_of_a_frame_that_comes_twice_at_once_the_last_counts(live, scan):
    places = scan.translations_m[[4, 5, 4]].copy()
    places[0] = np.nan
    live.add_frames([5, 6, 5], scan.frames[[0, 1, 2]], places)
    assert live.rejected == {} and live.num_frames == 2
    assert live.frames.photons[live.frames.slots[5]] == pytest.approx(scan.frames[2].sum())
    live.add_frames([], scan.frames[:0], scan.translations_m[:0])
    assert live.num_frames == 2


def test_withdrawn_frames_are_used_no_more_and_can_come_back(live, scan):
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    garbage = np.random.default_rng(0).poisson(100.0, (5, 48, 48)).astype(np.float32)
    live.add_frames(np.arange(900, 905), garbage, scan.translations_m[:5])
    run(live, 3)
    live.withdraw([900, 901, 902, 903, 904, 12345])
    assert live.num_frames == len(scan.frames)
    picture = finished(live)
    assert picture.newest_seq_num == len(scan.frames)
    assert contrast_correlation(scanned(picture, scan), scan.object) > 0.9
    live.set_weight([900], [0.5])
    assert live.num_frames == len(scan.frames) + 1
    assert live.has_work


def test_frames_elsewhere_or_with_another_flux_are_left_out_and_do_no_harm(live, scan):
    frames = scan.frames.copy()
    frames[12] *= 0.02
    frames[[56, 87]] = frames[[87, 56]]
    live.add_frames(scan.seq_nums, frames, scan.translations_m)
    picture = finished(live)
    assert {13, 57, 88} <= set(live.rejected) and len(live.rejected) <= 5
    assert live.rejected[13].startswith("does not fit the others: R ")
    assert picture.num_frames == len(frames) - len(live.rejected)
    assert contrast_correlation(scanned(picture, scan), scan.object) > 0.9


def test_nan_negative_and_empty_frames_do_no_harm(live, scan):
    frames = scan.frames.copy()
    frames[3, 10:14, 20:30] = np.nan
    frames[4, 24, 24] = np.inf
    frames[5] -= 0.5
    frames[6] = 0
    frames[7] = np.nan
    live.add_frames(scan.seq_nums, frames, scan.translations_m)
    assert set(live.rejected) == {7, 8}
    assert live.num_frames == len(frames) - 2
    picture = finished(live)
    assert np.isfinite(picture.r_factor)
    assert np.isfinite(live.state.object).all() and np.isfinite(live.state.probe).all()
    assert contrast_correlation(scanned(picture, scan), scan.object) > 0.9


def test_a_position_that_cannot_be_is_rejected(live, scan):
    places = scan.translations_m.copy()
    places[2] = np.nan
    places[3, 0] = 1.0  # a metre away
    live.add_frames(scan.seq_nums, scan.frames, places)
    assert set(live.rejected) == {3, 4}
    live.add_frames(scan.seq_nums[2:4], scan.frames[2:4], scan.translations_m[2:4])
    assert live.rejected == {} and live.num_frames == len(scan.frames)


@pytest.mark.parametrize("weight", [0, 1])
def test_a_wrong_position_that_comes_first_keeps_out_no_others(live, scan, weight):
    places, weights = scan.translations_m.copy(), np.ones(len(scan.frames))
    places[0], weights[0] = 1.0, weight
    live.add_frames(scan.seq_nums[:8], scan.frames[:8], places[:8], weights[:8])
    live.add_frames(scan.seq_nums[8:], scan.frames[8:], places[8:])
    assert set(live.rejected) == {1} and live.num_frames == len(scan.frames) - 1


def test_a_frame_too_far_off_gets_no_weight(live, scan):
    """It came before the others, with weight 0, and would need a canvas of terabytes now."""
    live.add_frames([999], scan.frames[:1], scan.translations_m[:1] + 1, weights=[0])
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    run(live, 1)
    live.set_weight([999], [1])
    assert live.rejected == {999: "no usable position"} and live.num_frames == len(scan.frames)


def test_a_frame_that_comes_again_without_weight_is_withdrawn(live, scan):
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    assert finished(live).num_frames == len(scan.frames)
    live.add_frames(scan.seq_nums[60:61], scan.frames[60:61], scan.translations_m[60:61], weights=[0])
    assert live.has_work and live.passes_done == 0, "the image is to lose what it had from it"
    assert finished(live).num_frames == len(scan.frames) - 1
    live.add_frames([999], scan.frames[:1], scan.translations_m[:1], weights=[0])
    assert not live.has_work, "one that was never used leaves nothing"


def test_many_frames_at_one_position(live, scan):
    rng = np.random.default_rng(2)
    again = rng.poisson(np.broadcast_to(scan.frames[60], (40, 48, 48))).astype(np.float32)
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    live.add_frames(np.arange(500, 540), again, np.broadcast_to(scan.translations_m[60], (40, 2)))
    picture = finished(live)
    shown = scanned(picture, scan)
    assert np.isfinite(shown).mean() > 0.99  # the place measured often does not outshine the rest
    assert contrast_correlation(shown, scan.object) > 0.9


def test_masked_pixels_are_not_believed(live, scan):
    mask = np.zeros((48, 48), np.uint32)
    mask[5:9, :] = 0x4
    mask[30, 30] = 0x1000  # counts as good
    frames = scan.frames.copy()
    frames[:, 5:9, :] = 1e4
    live.set_mask(mask)
    live.add_frames(scan.seq_nums, frames, scan.translations_m)
    assert live.frames.good.sum() == 48 * 44
    assert contrast_correlation(scanned(finished(live), scan), scan.object) > 0.9


def test_a_mask_may_come_after_the_frames(live, scan):
    live.add_frames(scan.seq_nums[:3], scan.frames[:3], scan.translations_m[:3])
    before = live.frames.photons[:3].copy()
    mask = np.ones((48, 48), np.uint32)
    mask[24, 24] = 0
    live.set_mask(mask)
    assert live.frames.photons[:3] == pytest.approx(scan.frames[:3, 24, 24], rel=1e-5)
    assert (before > live.frames.photons[:3]).all()


def test_a_step_without_frames_returns_and_finishes(live):
    assert not live.has_work
    live.step(0.1)
    assert live.state is None
    live.finish()
    assert live.finished
    with pytest.raises(RuntimeError, match="no picture yet"):
        live.picture()


def test_a_scan_shorter_than_the_sweep_wants(scan, backend):
    solver = scan.solver(backend, sweep_frames=80, sweep_candidates=5, sweep_passes=2)
    solver.add_frames(scan.seq_nums[:12], scan.frames[:12], scan.translations_m[:12])
    assert not solver.has_work
    picture = finished(solver)
    assert solver.sweep is not None and picture.num_frames == 12


def test_an_abort_keeps_everything_and_late_frames_are_welcome(live, scan):
    half = len(scan.frames) // 2
    live.add_frames(scan.seq_nums[:half], scan.frames[:half], scan.translations_m[:half])
    first = finished(live)
    assert first.num_frames == half and first.coverage == pytest.approx(half / len(scan.frames))
    live.add_frames(scan.seq_nums[half:], scan.frames[half:], scan.translations_m[half:])
    assert not live.finished
    run(live)
    second = live.picture()
    assert second.num_frames == len(scan.frames)
    assert second.object.size > 1.2 * first.object.size  # the canvas grew


def test_growth_before_the_canvas_keeps_what_is_there(live, scan):
    """Rows that come from the far end first: the canvas grows towards smaller rows and columns."""
    stream(live, scan, np.arange(len(scan.frames))[::-1])
    assert contrast_correlation(scanned(finished(live), scan), scan.object) > 0.97


def test_the_live_picture_does_not_flicker(live, scan):
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    run(live, 5)
    before = live.picture()
    live.state.object *= np.exp(2.0j).astype(np.complex64)
    live.state.probe *= np.exp(-2.0j).astype(np.complex64)
    after = live.picture()
    known = np.isfinite(before.object) & np.isfinite(after.object)
    assert np.allclose(after.object[known], before.object[known], atol=1e-4)


def test_a_picture_is_the_same_whatever_the_data_leave_open(backend):
    """Ramp and phase go from the object into the probe, also where the canvas has grown since the picture before."""
    rng = np.random.default_rng(4)
    store = FrameStore(16, backend)
    slots = store.put([3, 9], np.ones((2, 16, 16)), [[1, 2], [9, 8]])
    store.uses[slots] = [1, 2]
    rows, columns = np.arange(40)[:, None], np.arange(40)[None]
    image = np.exp(0.1j * rng.normal(size=(40, 40)))
    probe = np.exp(-((rows[:16] - 8) ** 2 + (columns[:, :16] - 8) ** 2) / 8 + 0.03j * rows[:16] ** 2)[None]

    def shown(ramp, margin, previous):
        turned = np.pad(image * np.exp(1j * ramp * (rows + 2 * columns) + 1j), margin, constant_values=1)
        straight = probe * np.exp(-1j * ramp * (rows[:16] + 2 * columns[:, :16]) - 1j)
        origin_px = (-2 - margin, -3 - margin)
        state = SolverState(turned.astype(np.complex64), straight.astype(np.complex64), origin_px)
        return render(backend, state, store, pixel_m=1e-8, num_points=None, previous=previous)

    first = shown(0.0, 0, None)
    assert (first.num_frames, first.num_passes, first.newest_seq_num) == (2, 1.5, 9)
    known = np.isfinite(first.object)
    assert first.coverage == pytest.approx(known.mean()) and known.any(axis=0).all() and known.any(axis=1).all()
    row, column = round(first.extent_m[2] / 1e-8) + 2, round(first.extent_m[0] / 1e-8) + 3
    there = image[row : row + known.shape[0], column : column + known.shape[1]]
    assert abs(np.vdot(first.object[known], there[known])) > 0.99 * known.sum()
    for again in (shown(0.1, 0, first), shown(-0.1, 5, first)):
        assert again.extent_m == pytest.approx(first.extent_m)
        np.testing.assert_allclose(again.object[known], first.object[known], atol=1e-3)
        assert abs(np.vdot(again.probe, first.probe)) > 0.999 * np.linalg.norm(first.probe) ** 2
    for slot in slots:
        uses, store.uses[slot] = store.uses[slot], 0
        part = shown(0.0, 0, first)
        store.uses[slot] = uses
        row, column = (round((part.extent_m[k] - first.extent_m[k]) / 1e-8) for k in (2, 0))
        assert part.object.shape < first.object.shape and (row > 0) == (column > 0) == (slot == slots[0])
        for whole in (first, shown(0.0, 0, part)):
            common = whole.object[row : row + part.object.shape[0], column : column + part.object.shape[1]]
            assert abs(np.angle(np.nansum(part.object * common.conj()))) < 1e-3


@pytest.mark.parametrize("settings", [{"passes_final": 3}, {"algorithm": "wasp:2,cg:1"}])
def test_work_ends_when_nothing_new_comes(scan, backend, settings):
    solver = scan.solver(backend, told_m=scan.defocus_m, **settings)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    run(solver)
    assert not solver.has_work and not solver.finished
    assert solver.state.passes == solver.passes_wanted == 3


def test_wrong_shapes_are_refused(live, scan):
    with pytest.raises(ValueError, match=r"frames of shape \(2, 47, 48\)"):
        live.add_frames([1, 2], np.zeros((2, 47, 48)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="translations of shape"):
        live.add_frames([1, 2], np.zeros((2, 48, 48)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="mask of shape"):
        live.set_mask(np.zeros((4, 4)))


def test_an_unknown_algorithm_is_named(scan, backend):
    with pytest.raises(SettingsError, match="'magic': expected one of wasp"):
        scan.solver(backend, algorithm="magic")


def test_memory_is_one_copy_of_the_frames(live, scan):
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    assert live.frames.nbytes == scan.frames.nbytes


def test_the_number_of_threads_does_not_change_the_answer(scan, monkeypatch):
    from nsbluesky.backend import get_backend

    monkeypatch.setattr("nsbluesky.solver.engines.base.PART_PIXELS", 1)  # small frames, too, are shared then
    monkeypatch.setattr("nsbluesky.solver.windows.BAND_PIXELS", 1)
    found = []
    for threads in (1, 3):
        solver = scan.solver(
            get_backend("numpy", threads=threads),
            passes_final=3,
            coarse_uses=0,
            batch_final=16,
            told_m=scan.defocus_m,
        )
        solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
        found.append(finished(solver).object)
    known = np.isfinite(found[0]) & np.isfinite(found[1])
    assert np.allclose(found[0][known], found[1][known], atol=2e-3)


def test_everything_stays_in_single_precision(live, scan):
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    picture = finished(live)
    assert live.state.object.dtype == live.state.probe.dtype == np.complex64
    assert picture.object.dtype == picture.probe.dtype == np.complex64


def test_frames_of_weight_0_wait_and_gaps_are_left_out(live, scan):
    """What cleaning says of a frame: weight 0 for an unusable one, NaN where a frame did not measure."""
    rng = np.random.default_rng(6)
    frames, weights = scan.frames.copy(), np.ones(len(scan.frames))
    weights[[5, 60, len(weights) - 1]] = 0
    frames[5] = rng.poisson(1e3, frames[5].shape)
    frames[7][rng.random(frames[7].shape) < 0.1] = np.nan
    frames[8] = np.nan
    live.add_frames(scan.seq_nums, frames, scan.translations_m, weights=weights)
    assert live.num_frames == len(frames) - 4 and live.rejected == {9: "no photons"}
    run(live, 6)
    live.set_weight(scan.seq_nums[[60, len(weights) - 1]], [1.0, 0.5])
    assert live.num_frames == len(frames) - 2 and live.num_unused == 2
    picture = finished(live)
    assert picture.num_frames == len(frames) - 2
    assert contrast_correlation(scanned(picture, scan), scan.object) > 0.97


def test_a_frame_may_lose_its_weight_and_lie_anywhere(live, scan):
    """A frame of weight 0 does not make the canvas grow; once it has a weight, it does."""
    live.add_frames(scan.seq_nums[:30], scan.frames[:30], scan.translations_m[:30])
    run(live, 2)
    shape = live.state.object.shape
    far = scan.translations_m[:1] + 100 * live.pixel_m
    live.add_frames([999], scan.frames[:1], far, weights=[0])
    assert live.state.object.shape == shape and live.num_unused == 0
    live.set_weight([999], [1])
    assert live.state.object.shape > shape
    run(live, 2)
    live.add_frames([999], scan.frames[:1], far, weights=[0])  # measured again, and found unusable
    assert live.num_frames == 30
    live.withdraw(scan.seq_nums[:30])
    live.add_frames([998], scan.frames[:1], far, weights=[0])
    assert live.num_frames == 0 and not live.has_work


def test_an_image_that_begins_anew_judges_all_frames_anew(scan, backend):
    """One frame lies elsewhere; what the first image said of it does not count for the second."""
    places_m = scan.translations_m.copy()
    places_m[60] = scan.translations_m[0]
    solver = scan.solver(backend, defocus_m=scan.defocus_m)
    solver.add_frames(scan.seq_nums, scan.frames, places_m)
    solver.add_frames([999], np.zeros_like(scan.frames[:1]), places_m[:1])
    finished(solver)
    assert sorted(solver.rejected) == [61, 999]
    solver.configure(solver.settings.replace(defocus_m=1.01 * scan.defocus_m))
    assert sorted(solver.rejected) == [999], "there is no light in it, whatever the image"
    assert 60 in solver.frames.active
    finished(solver)
    assert sorted(solver.rejected) == [61, 999]


@pytest.mark.parametrize("coarse_uses", [0, 4])
def test_an_image_that_begins_anew_with_a_known_probe_is_as_one_that_began_with_it(scan, backend, coarse_uses):
    """Half-sets, a mode that was on trial and passes that were done belong to the image before."""
    uses, r_factors = [], []
    for begun in (True, False):
        solver = scan.solver(
            backend, coarse_uses=coarse_uses, passes_final=4, quality_share=1.0, told_m=2 * scan.defocus_m
        )
        solver.add_frames(scan.seq_nums[:64], scan.frames[:64], scan.translations_m[:64])
        if begun:
            run(solver)
            trying = {"tries": "modes", "before": 0.5, "judged_at": 99, "variation": 3}
            solver._image._further_modes.restore(trying)
        solver.withdraw(scan.seq_nums[:22])  # the canvas becomes smaller
        solver.start_with(scan.probe)
        assert not solver._image._further_modes.is_trying, "it would take a mode of this probe away"
        assert solver._image._further_modes.variation == 0
        finished(solver)
        assert np.isfinite(solver.quality().half_bit_m)
        uses.append(solver.frames.uses[solver.frames.active])
        r_factors.append(solver.state.r_factor)
    np.testing.assert_array_equal(*uses)
    assert r_factors[0] == pytest.approx(r_factors[1], rel=0.02)


# ---- a second engine on the same frames


@pytest.mark.parametrize("turned", [0, 5])
def test_another_solver_takes_over_frames_orientation_and_probe(live, scan, backend, turned):
    """What it makes of them is the same object, though it is another engine and begins with none of it."""
    frames = scan.frames.copy()
    frames[3][:8] = np.nan
    live.add_frames(scan.seq_nums, frames, scan.translations_m)
    live.add_frames([998], np.zeros_like(frames[:1]), scan.translations_m[:1])
    live.add_frames([999], frames[:1], [[np.nan, 0]])
    live.set_weight(scan.seq_nums[[5]], [0])
    first = finished(live)
    live._intake.turn(turned)  # as after a search
    second = scan.solver(backend, algorithm="rpie", coarse_uses=0)
    second.take_over(live)
    assert second.rejected == live.rejected and second.num_frames == live.num_frames
    assert second.frame_orientation == live.frame_orientation == turned
    there = np.arange(len(scan.frames))
    np.testing.assert_allclose(second.frames.photons_of(there), live.frames.photons_of(there), rtol=1e-6)
    np.testing.assert_array_equal(second.frames.told_px[there], live.frames.told_px[there])
    if not turned:
        assert (second.state.object == 1).all()
        picture = finished(second)
        assert picture.object.shape == first.object.shape
        assert contrast_correlation(scanned(picture, scan), scan.object) > 0.97


def test_taking_over_needs_an_image_and_no_frames_of_ones_own(live, scan, backend):
    second = scan.solver(backend)
    with pytest.raises(ValueError, match="has no image yet"):
        second.take_over(live)
    live.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    run(live, 1)
    with pytest.raises(ValueError, match="frames already"):
        live.take_over(live)
