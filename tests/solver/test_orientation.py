"""Frames that are flipped or swapped against the stage are found, and put right."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_reconstruct import OBJECT_PIXEL_M, star, star_geometry  # noqa: F401

from nsbluesky.geometry import Geometry, Optic, orientation_after, oriented
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.mean_light import MeanLight
from nsbluesky.solver.orientation import MATRICES, OrientationSearch, judge, seen_by
from nsbluesky.solver.quality import contrast_correlation
from nsbluesky.solver.sweep import Sweep


def test_orientations_one_after_the_other_are_one():
    frame = np.arange(36).reshape(6, 6)
    for first in range(8):
        for then in range(8):
            at_once = oriented(frame, orientation_after(first, then))
            assert np.array_equal(at_once, oriented(oriented(frame, first), then))
            assert np.array_equal(oriented(frame, first), Geometry(1.0, 1.0, orientation=first).orient(frame))


def undone_by(orientation):
    return next(k for k in range(8) if orientation_after(orientation, k) == 0)


@pytest.mark.parametrize("turn", sorted(MATRICES))
def test_turned_frames_fit_at_turned_places(scan, backend, turn):
    """|F[P·O(r)]|² of the scan, oriented, is that of turned probe and object at the places that `seen_by` tells."""
    matrix = np.array(MATRICES[turn])
    store = FrameStore(48, backend)
    store.put([3, 4], scan.frames[[0, 0]], [(1000, -200), (1007, -190)])
    (first, second) = seen_by(store, matrix).corners_px[np.arange(2)]
    assert np.array_equal(second - first, matrix @ [7, 10])
    assert not seen_by(store, matrix).shifts_px[np.arange(2)].any()

    def turned(image):  # x → O(M⁻¹·x), about the pixel N//2
        return oriented(image, undone_by(turn))

    rng = np.random.default_rng(0)
    big = rng.normal(size=(64, 64)) + 1j * rng.normal(size=(64, 64))
    probe = rng.normal(size=(16, 16)) + 1j * rng.normal(size=(16, 16))
    probe[0] = probe[:, 0] = 0  # these rims have no opposite pixel

    def pattern(image, light, place):
        row, column = place + 32 - 8
        wave = light * image[row : row + 16, column : column + 16]
        return np.abs(np.fft.fftshift(np.fft.fft2(wave))) ** 2

    place = np.array([5, -3])
    stored = pattern(turned(big), turned(probe), matrix @ place)
    assert np.allclose(oriented(stored, turn), pattern(big, probe, place))


def solver_for(scan, backend, frames, **settings):
    solver = scan.solver(backend, **{"sweep_frames": 60, "sweep_candidates": 11, "passes_final": 8} | settings)
    solver.add_frames(scan.seq_nums, frames, scan.translations_m)
    return solver


def finished(solver):
    solver.finish()
    while not solver.finished:
        solver.step(1.0)
    return solver


@pytest.mark.parametrize(
    "orientation", [k if k in (0, 3, 5, 6) else pytest.param(k, marks=pytest.mark.nightly) for k in range(8)]
)
def test_each_of_the_eight_is_found_and_put_right(scan, backend, orientation):
    """The optic's defocus, of the right sign, decides within the pairs; turned by both flips, frames tell nothing."""
    told = dataclasses.replace(scan.geometry, optic=scan.geometry.optic.replace(defocus_m=0.7 * scan.defocus_m))
    scan = dataclasses.replace(scan, geometry=told)
    solver = finished(solver_for(scan, backend, oriented(scan.frames, orientation), sweep_candidates=7))
    found = solver.orientation
    assert found.certain and found.confidence > 0.2
    expected = 0 if orientation == 3 else undone_by(orientation)
    assert found.turn == solver.frame_orientation == expected
    image = solver.picture().object
    truth = scan.object.conj() if orientation == 3 else scan.object
    assert contrast_correlation(image, truth, margin_px=8) > 0.9
    assert solver.sweep is not None and solver.sweep.accepted


def test_frames_that_come_later_and_the_mask_are_turned_as_well(scan, backend):
    mask = np.zeros((48, 48), np.uint32)
    mask[30:34, 10:18] = 1
    frames = oriented(np.where(mask, 1e5, scan.frames), 4)
    solver = scan.solver(backend, sweep_frames=60, sweep_candidates=11, passes_final=8)
    solver.set_mask(oriented(mask, 4))
    solver.add_frames(scan.seq_nums[:60], frames[:60], scan.translations_m[:60])
    while solver.orientation is None:
        solver.step(0.0)
    assert solver.frame_orientation in (4, 7)
    solver.add_frames(scan.seq_nums[60:], frames[60:], scan.translations_m[60:])
    assert solver.frames.good.flags.c_contiguous, "else loops are compiled once more, in the middle of the scan"
    finished(solver)
    assert solver.state.r_factor < 0.11


def test_what_is_found_is_in_the_checkpoint(scan, backend, tmp_path):
    solver = solver_for(scan, backend, oriented(scan.frames, 1))
    while solver.is_searching or not solver.passes_done:
        solver.step(0.0)
    solver.save(tmp_path / "c")
    for before in (True, False):
        other = scan.solver(backend, sweep_frames=60, sweep_candidates=11, passes_final=8)
        if before:
            other.add_frames(scan.seq_nums, oriented(scan.frames, 1), scan.translations_m)
        other.load(tmp_path / "c")
        if not before:
            other.add_frames(scan.seq_nums, oriented(scan.frames, 1), scan.translations_m)
        assert other.frame_orientation == solver.frame_orientation != 0
        assert other.orientation == solver.orientation and other.num_unused == 0
        assert finished(other).state.r_factor < 0.1


def test_it_can_be_switched_off_and_few_frames_are_not_asked(scan, backend):
    left = finished(solver_for(scan, backend, oriented(scan.frames, 1), find_orientation=False))
    assert left.orientation is None and left.frame_orientation == 0
    few = scan.solver(backend, sweep_frames=10, sweep_candidates=3, passes_final=1)
    few.add_frames(scan.seq_nums[:12], scan.frames[:12], scan.translations_m[:12])
    assert finished(few).orientation is None


def test_what_does_not_stand_out_leaves_what_was_declared():

    def found(*least, defocus_m=0.0):
        tried = {turn: {-1e-6: 0.5, 0.0: r, 1e-6: 0.6} for turn, r in zip(MATRICES, least, strict=True)}
        tried[1] = {-1e-6: least[1], 0.0: 0.6, 1e-6: 0.5}
        return judge(tried, defocus_m)

    assert found(0.2, 0.3, 0.3, 0.3).certain and found(0.2, 0.3, 0.3, 0.3).turn == 0
    assert not found(0.29, 0.3, 0.3, 0.3).certain
    assert (found(0.3, 0.28, 0.3, 0.3).turn, found(0.3, 0.28, 0.3, 0.3).certain) == (0, False)
    assert found(0.3, 0.2, 0.3, 0.3).turn == 1
    assert found(0.3, 0.2, 0.3, 0.3, defocus_m=2e-6).turn == 2  # fits at −1 µm
    assert found(0.3, 0.2, 0.3, 0.3, defocus_m=-2e-6).turn == 1


@pytest.mark.parametrize("told_m", [0.0, 2e-6])
@pytest.mark.parametrize(
    ("turn", "best", "accepted"), [(4, 7, False), (4, 7, True), (0, 7, False), (6, 20, False), (0, 3, True)]
)
def test_the_best_defocus_lies_between_two_that_were_tried(scan, backend, turn, best, accepted, told_m):
    """Every other value of a sweep serves, until none stands out."""
    candidates_m = np.linspace(-5e-6, 5e-6, 21)
    residual = np.full(21, 0.4)
    if accepted:  # the sweep was misled, by the frames as declared
        residual[[2, 3, 4]] = 0.3
    sweep = Sweep(candidates_m, residual, float(candidates_m[np.argmin(residual)]), 0.3, accepted)
    search = OrientationSearch(
        scan.solver(backend).frames,
        np.arange(3),
        sweep,
        told_m,
        SolverSettings(),
        backend,
        light=MeanLight(np.ones((48, 48), np.float32), 1.0, 0.0),
        wavelength_m=1e-9,
        pixel_m=1e-8,
    )
    tried = {key: [] for key in MATRICES}

    class Trial:
        def __init__(self, matrix, some_m):
            number = next(key for key, known in MATRICES.items() if np.array_equal(known, matrix))
            tried[number] += some_m.tolist()
            apart = np.abs(some_m - candidates_m[best]) / 5e-7
            dip = np.where(apart < 0.1, 0.2, np.where(apart < 1.1, 0.03, 0.0))  # of a field that is narrow in defocus
            self.residual = 0.4 - (dip if number == turn else 0.0) - 1e-3 * number - 1e-9 * some_m

        def first_passes(self, passes):
            yield

    search._try_all = Trial
    for _ in search.run():
        pass
    assert search.found.certain
    assert search.found.turn in {turn, turn ^ 3}
    for values in tried.values():
        assert len(values) == len(set(values)), "none is tried twice"
        assert set(values) <= {*candidates_m, *-candidates_m}
        assert len(values) < len(candidates_m) * (2 if told_m else 1), "nor all of them"
        if (turn, best) == (0, 3):
            assert len(values) == (6 if told_m else 3), "the best few of a sweep that is right suffice"


def test_noise_is_no_reason_to_turn(backend):
    """A hundred frames of noise around one pattern."""
    rng = np.random.default_rng(1)
    light = 200 * np.exp(-((np.arange(48)[:, None] - 24) ** 2 + (np.arange(48) - 24) ** 2) / 60)
    frames = rng.poisson(light, (100, 48, 48))
    places = np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2) * 4e-8
    settings = SolverSettings(modes=1, sweep_frames=60, sweep_candidates=5, passes_final=1)
    geometry = Geometry(1000.0, 0.05, 30e-6, Optic(outer_zone_m=40e-9))
    solver = IncrementalSolver(settings, frame_px=48, pixel_m=1e-8, geometry=geometry, backend=backend)
    solver.add_frames(np.arange(100), frames, places)
    assert finished(solver).frame_orientation == 0


@pytest.mark.parametrize("orientation", [0, *(pytest.param(k, marks=pytest.mark.nightly) for k in (1, 6))])
def test_the_measured_star(star, backend, orientation):  # noqa: F811
    """Nothing is known of its optic: only the pair is told."""
    frames, places = star
    settings = SolverSettings(modes=1, sweep_frames=80, passes_final=1)
    solver = IncrementalSolver(
        settings, frame_px=128, pixel_m=OBJECT_PIXEL_M, geometry=star_geometry(Optic()), backend=backend
    )
    solver.add_frames(np.arange(80), oriented(frames[:80], orientation), places[:80])
    while solver.orientation is None:
        solver.step(0.0)
    assert solver.orientation.certain and solver.orientation.confidence > 0.15
    right = undone_by(orientation)
    assert solver.orientation.turn in ({0} if orientation == 0 else {right, right ^ 3})
