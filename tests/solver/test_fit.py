"""The model of a frame is what the frame was made of."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.solver.fit import modelled_frame, unexplained_part
from nsbluesky.solver.light import NOT_MEASURED
from nsbluesky.solver.propagation import FarField


@pytest.fixture
def settled(scan, backend):
    solver = scan.solver(backend)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    solver.start_with(scan.probe)
    solver.finish()
    while solver.has_work:
        solver.step(0.0)
    return solver


def test_the_model_agrees_with_the_frame(settled, scan):
    fit = settled.fit(7)
    np.testing.assert_allclose(fit.data, np.maximum(scan.frames[6], 0), rtol=1e-5)
    assert fit.seq_num == 7
    assert fit.model.sum() == pytest.approx(fit.data.sum(), rel=0.05)
    others = [settled.fit(k).model for k in (20, 60, 100)]
    misfit = np.abs(np.sqrt(fit.model) - np.sqrt(fit.data)).sum()
    assert fit.r_factor == pytest.approx(misfit / np.sqrt(fit.data).sum(), rel=1e-4)
    assert all(misfit < np.abs(np.sqrt(other) - np.sqrt(fit.data)).sum() for other in others)


def test_the_newest_frame_by_default_and_none_that_is_not_in_use(settled, scan):
    assert settled.fit().seq_num == len(scan.frames)
    settled.withdraw([len(scan.frames)])
    assert settled.fit().seq_num == len(scan.frames) - 1
    assert settled.fit(len(scan.frames)) is None
    assert settled.fit(10_000) is None


def test_there_is_no_fit_before_there_is_an_image(scan, backend):
    assert scan.solver(backend).fit() is None


def test_pixels_that_were_not_measured_are_left_out(scan, backend):
    mask = np.zeros(scan.frames.shape[1:], np.uint32)
    mask[3, 5] = 1
    frames = scan.frames.copy()
    frames[0, 4, 6] = np.nan
    solver = scan.solver(backend)
    solver.set_mask(mask)
    solver.add_frames(scan.seq_nums, frames, scan.translations_m)
    solver.start_with(scan.probe)
    solver.finish()
    solver.step(0.0)
    solver.step(0.5)
    data = solver.fit(1).data
    assert np.argwhere(np.isnan(data)).tolist() == [[3, 5], [4, 6]]
    assert NOT_MEASURED not in data


def test_a_finished_picture_models_frames_as_the_solver_does(settled, scan, backend):
    picture = settled.picture()
    x0, _, y0, _ = picture.extent_m
    middle = len(scan.frames) // 2
    fit = settled.fit(int(scan.seq_nums[middle]))
    model = modelled_frame(
        backend,
        FarField(backend),
        picture.object,
        picture.probe,
        picture.pixel_m,
        (x0, y0),
        tuple(scan.translations_m[middle]),
    )
    amplitude, expected = np.sqrt(model), np.sqrt(fit.model)
    assert np.abs(amplitude - expected).sum() < 0.05 * expected.sum()


def test_a_place_off_the_object_sees_the_bare_probe(backend):
    probe = np.zeros((1, 8, 8), np.complex64)
    probe[0, 4, 4] = 3
    nothing = np.full((4, 4), np.nan, np.complex64)
    model = modelled_frame(backend, FarField(backend), nothing, probe, 1e-8, (0.0, 0.0), (1e-5, 1e-5))
    np.testing.assert_allclose(model, 9 / 64, rtol=1e-5)


def test_the_object_explains_its_frames_and_no_others(settled, scan, backend):
    state, frames = settled.state, settled.frames
    assert np.median([unexplained_part(backend, state, frames, slot) for slot in range(len(scan.frames))]) < 0.3
    frames.put(scan.seq_nums[:1], scan.frames[99:100], frames.corners_px[:1])
    assert unexplained_part(backend, state, frames, 0) > 0.5
