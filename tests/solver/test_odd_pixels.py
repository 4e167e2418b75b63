"""Hot, flickering and dead pixels that no mask tells of are found and left out; right ones are not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_scan import SIDE, Scan, finished, object_error, simulate, solved

from nsbluesky.backend import Backend
from nsbluesky.geometry import orientation_back, oriented
from nsbluesky.solver.odd_pixels import OddPixels, _standing_out, is_time_for_second_look, is_time_to_look

ODD = {"hot": (9, 12), "dead": (22, 30), "flickering": (40, 17), "beside it": (40, 18)}
QUICK = {"passes_final": 12, "coarse_uses": 2}


def spoilt(scan: Scan) -> tuple[Scan, Any]:
    """The scan with odd pixels, and where they are (N, N) bool."""
    rng = np.random.default_rng(2)
    frames, odd = scan.frames.copy(), np.zeros((SIDE, SIDE), bool)
    count = len(frames)
    frames[:, *ODD["hot"]] = rng.poisson(4000, count)
    frames[:, *ODD["dead"]] = 0
    for name in ("flickering", "beside it"):
        frames[:, *ODD[name]] += rng.poisson(3000, count) * (rng.random(count) < 0.3)
    for place in ODD.values():
        odd[place] = True
    return dataclasses.replace(scan, frames=frames), odd


def test_odd_pixels_are_found_and_the_image_is_as_good_as_with_a_mask(scan: Scan, backend: Backend) -> None:
    bad, odd = spoilt(scan)
    solver = solved(bad, backend, **QUICK)
    np.testing.assert_array_equal(solver.odd_pixels, odd)
    masked = bad.solver(backend, told_m=bad.defocus_m, **QUICK)
    masked.set_mask(odd.astype(np.uint32))
    masked.add_frames(bad.seq_nums, bad.frames, bad.translations_m)
    finished(masked)
    assert not masked.odd_pixels.any(), "pixels that are masked are not looked at"
    left_in = solved(bad, backend, **QUICK, leave_out_pixels=False)
    assert not left_in.odd_pixels.any()
    found, known, spoils = (object_error(one, bad) for one in (solver, masked, left_in))
    assert found < 1.1 * known
    assert spoils > 2 * known
    fit = solver.fit(1)
    assert fit is not None
    np.testing.assert_array_equal(np.isnan(fit.data), odd)


@pytest.mark.parametrize(
    "how",
    [{}, {"photons": 3e4}, {"photons": 3e3}, {"modes": 2}, {"lines": 5}],
    ids=["as usual", "few photons", "very few", "two modes in a model of one", "few frames"],
)
def test_right_pixels_stay(how: dict[str, Any], backend: Backend) -> None:
    solver = solved(simulate(**how), backend, passes_final=16)
    assert solver.state is not None and solver.state.passes >= 16
    assert not solver.odd_pixels.any()


def test_where_many_stand_out_none_is_left_out(scan: Scan, backend: Backend) -> None:
    """It is the model that is wrong."""
    rng = np.random.default_rng(3)
    frames = scan.frames.copy()
    frames[:, rng.random((SIDE, SIDE)) < 0.02] += 3000
    assert not solved(dataclasses.replace(scan, frames=frames), backend, **QUICK).odd_pixels.any()


def test_few_frames_do_not_tell(scan: Scan, backend: Backend) -> None:
    bad, _ = spoilt(scan)
    solver = bad.solver(backend, told_m=bad.defocus_m, **QUICK)
    solver.add_frames(bad.seq_nums[:12], bad.frames[:12], bad.translations_m[:12])
    assert not finished(solver).odd_pixels.any()


def test_the_image_settles_anew_without_them(scan: Scan, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that come when the image rests already."""
    monkeypatch.setattr("nsbluesky.solver.odd_pixels.is_time_to_look", lambda passes: passes in (late, late + 1))
    late = 10**6
    bad, odd = spoilt(scan)
    late = solved(bad, backend).passes_done - 2
    solver = solved(bad, backend)
    np.testing.assert_array_equal(solver.odd_pixels, odd)
    assert solver.passes_done >= late + 15, "two changes of the image, and the passes that rest"


def test_what_is_odd_in_one_look_alone_stays(scan: Scan, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks come after 2, 4, 8, … passes, and after half as many again where there was something."""
    at = {"first": (5, 5), "both": (6, 9), "second": (7, 13)}
    looks = [["first", "both"], ["both", "second"], [], []]
    passes = []

    def found(_: object, state: Any, *__: object) -> Any:
        passes.append(state.passes)
        odd = np.zeros((SIDE, SIDE), bool)
        for name in looks[len(passes) - 1]:
            odd[at[name]] = True
        return odd

    monkeypatch.setattr("nsbluesky.solver.odd_pixels.odd_pixels", found)
    solver = solved(scan, backend, **QUICK)
    assert passes == [2, 3, 4, 8]
    assert np.argwhere(solver.odd_pixels).tolist() == [list(at["both"])]


def test_the_probe_begins_without_hot_pixels(scan: Scan, backend: Backend) -> None:
    """Two side by side, too."""
    bad, _ = spoilt(scan)
    beside = ODD["hot"][0], ODD["hot"][1] + 1
    bad.frames[:, *beside] = bad.frames[:, *ODD["hot"]]
    solver = bad.solver(backend, told_m=bad.defocus_m, coarse_uses=0)
    solver.add_frames(bad.seq_nums, bad.frames, bad.translations_m)
    while solver.state is None:
        solver.step(0.0)
    assert solver.odd_pixels[ODD["hot"]] and solver.odd_pixels[beside]
    assert solver.state.passes == 0


def test_the_image_settles_anew_without_a_pixel_that_became_hot(
    scan: Scan, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = solved(scan, backend, **QUICK)
    assert solver.state is not None
    dropped: list[Any] = []
    pixels = OddPixels(solver.frames, dropped.append, solver.settings)
    solver.state.passes = 64
    assert not pixels.look(solver.state) and not dropped
    hot = np.zeros((SIDE, SIDE), bool)
    hot[3, 4] = True
    monkeypatch.setattr("nsbluesky.solver.odd_pixels.lonely_pixels", lambda *_: hot)
    assert pixels.look(solver.state) and dropped == [hot]


@pytest.mark.parametrize(
    ("misfit", "unexplained", "is_odd"), [(6.0, 0.5, True), (6.0, 0.05, False), (2.1, 0.5, False)], ids=str
)
def test_what_scans_without_odd_pixels_have_is_not_odd(misfit: float, unexplained: float, is_odd: bool) -> None:
    """Twenty times the misfit around it, but explained, as a zero order; seven times, as on the measured star."""
    around, light = np.full((SIDE, SIDE), 0.3, np.float32), np.ones((SIDE, SIDE), np.float32)
    difference = np.full_like(around, 0.5)
    around[20, 20], difference[20, 20] = misfit, unexplained
    assert np.argwhere(_standing_out(difference, around, light)).tolist() == [[20, 20]] * is_odd


def test_a_pixel_beside_masked_ones_is_not_lonely(scan: Scan, backend: Backend) -> None:
    """What they have counted is not known."""
    solver = scan.solver(backend, told_m=scan.defocus_m, **QUICK)
    mask = np.zeros((SIDE, SIDE), np.uint32)
    middle = SIDE // 2
    mask[middle - 1 : middle + 2, middle + 3 : middle + 6] = 1
    mask[middle, middle + 4] = 0  # one in the bright ring that is alone in a gap
    solver.set_mask(mask)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    assert not finished(solver).odd_pixels.any()


def test_they_are_used_again_where_that_is_wanted(scan: Scan, backend: Backend) -> None:
    bad, _ = spoilt(scan)
    solver = solved(bad, backend, **QUICK)
    solver.configure(solver.settings.replace(leave_out_pixels=False))
    assert not solver.odd_pixels.any()
    fit = solver.fit(1)
    assert fit is not None and np.isfinite(fit.data).all()


def test_frames_that_are_turned_have_them_elsewhere(scan: Scan, backend: Backend) -> None:
    """Frames that were declared the wrong way round: pixels are told as in frames that come."""
    bad, odd = spoilt(scan)
    wrong = dataclasses.replace(bad, frames=oriented(bad.frames, orientation_back(6)))
    solver = solved(wrong, backend, sweep_frames=60, **QUICK)
    assert solver.frame_orientation == 6
    np.testing.assert_array_equal(solver.odd_pixels, oriented(odd, orientation_back(6)))


@pytest.mark.parametrize("orientation", range(8))
def test_an_orientation_is_undone(orientation: int) -> None:
    image = np.arange(36).reshape(6, 6)
    np.testing.assert_array_equal(oriented(oriented(image, orientation), orientation_back(orientation)), image)


@pytest.mark.parametrize("passes", [2, 5], ids=["between two looks", "after them"])
def test_a_checkpoint_knows_them(passes: int, scan: Scan, backend: Backend, tmp_path: Path) -> None:
    bad, odd = spoilt(scan)

    def begun() -> Any:
        solver = bad.solver(backend, told_m=bad.defocus_m, **QUICK)
        solver.add_frames(bad.seq_nums, bad.frames, bad.translations_m)
        solver.finish()
        return solver

    first = begun()
    while first.passes_done < passes:
        first.step(0.0)
    first.save(tmp_path / "checkpoint")
    again = begun()
    again.load(tmp_path / "checkpoint")
    np.testing.assert_array_equal(again.odd_pixels, first.odd_pixels)
    assert (first.odd_pixels == odd).all() == (passes == 5)
    np.testing.assert_array_equal(finished(again).picture().object, finished(first).picture().object)


def test_looks_become_rarer() -> None:
    assert [passes for passes in range(70) if is_time_to_look(passes)] == [2, 4, 8, 16, 32, 64]
    assert [passes for passes in range(70) if is_time_for_second_look(passes)] == [3, 6, 12, 24, 48]
