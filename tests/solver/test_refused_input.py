"""Input that cannot be right: each kind has an error, or a warning, that says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbluesky.settings import SettingsError, SolverSettings
from nsbluesky.solver.canvas import SMALL_CANVAS_PX
from nsbluesky.solver.engines import ENGINES, make_engine
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.plausibility import complaint_about_steps
from nsbluesky.solver.reconstruct import reconstruct
from nsbluesky.solver.state import SolverState

GRID = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2)
STEP_M = 60e-9


@pytest.fixture
def offline(scan, backend):
    def run(frames=scan.frames, translations_m=scan.translations_m, mask=None, **settings):
        chosen = SolverSettings(**{"modes": 1, "sweep_frames": 0, "passes_final": 4} | settings)
        geometry = scan.geometry.replace(optic__defocus_m=scan.defocus_m)
        geometry = geometry.replace(pixel_size_m=geometry.wavelength_m * 0.05 / (48 * 10e-9))
        return reconstruct(frames, translations_m, mask, geometry, chosen, backend)

    return run


def test_no_frames(offline):
    with pytest.raises(ValueError, match="none of the 0 frames can be used: expected photons"):
        offline(np.zeros((0, 48, 48), np.float32), np.zeros((0, 2)))


def test_one_frame_is_a_picture(offline, scan):
    result = offline(scan.frames[:1], scan.translations_m[:1])
    assert result.picture.num_frames == 1 and np.isfinite(result.picture.r_factor)


def test_nan_and_negative_intensities_are_not_measured_and_dark(offline, scan):
    frames = scan.frames.copy()
    frames[::3, 20:22, 20:22] = np.nan
    frames[1::3] -= 1
    result = offline(frames)
    assert result.rejected == {} and np.isfinite(result.picture.r_factor)
    with pytest.raises(ValueError, match="none of the 121 frames can be used"):
        offline(np.full_like(frames, np.nan))
    with pytest.raises(ValueError, match="none of the 121 frames can be used"):
        offline(np.full_like(frames, -5))


@pytest.mark.parametrize(
    ("factor", "unit"),
    [(1e3, "millimetres"), (1e6, "micrometres"), (1e9, "nanometres"), (1e8, "object pixels")],
)
def test_translations_in_another_unit(offline, scan, factor, unit):
    start = scan.translations_m - scan.translations_m.mean(axis=0)
    with pytest.raises(
        ValueError,
        match=rf"only \d of the 121 frames can be used: .* expected translations in metres; they look like .*{unit}",
    ):
        offline(translations_m=start * factor)


def test_a_canvas_is_no_larger_than_frames_can_cover(scan, backend):
    """Places a thousand times too far apart are refused while they come, before they fill the memory."""
    solver = scan.solver(backend)
    with pytest.warns(UserWarning, match="they look like millimetres"):
        for first in range(0, len(scan.frames), 8):
            part = slice(first, first + 8)
            solver.add_frames(scan.seq_nums[part], scan.frames[part], 1e3 * scan.translations_m[part])
    assert len(solver.rejected) > 0.9 * len(scan.frames)
    corners = solver.frames.corners_px[solver.frames.active]
    assert np.prod(np.ptp(corners, axis=0) + solver.frames.frame_px) <= SMALL_CANVAS_PX


def test_a_scan_of_one_place(scan, backend):
    """As with millimetres that are declared as micrometres, or an energy in keV, which makes pixels large."""
    translations_m = 1e-3 * scan.translations_m
    solver = scan.solver(backend)
    solver.add_frames(scan.seq_nums[:15], scan.frames[:15], translations_m[:15])
    with pytest.warns(UserWarning, match="all 23 frames so far lie within .*in the unit that is declared, and are"):
        solver.add_frames(scan.seq_nums[15:23], scan.frames[15:23], translations_m[15:23])
    solver.add_frames(scan.seq_nums[23:40], scan.frames[23:40], translations_m[23:40])  # told once


def test_most_frames_without_light_or_position(offline, scan):
    frames, translations_m = scan.frames.copy(), scan.translations_m.copy()
    frames[:40], translations_m[40:60] = 0, np.nan
    result = offline(frames, translations_m)
    assert len(result.rejected) == 60 and result.picture.num_frames == 61
    frames[60] = 0
    with pytest.raises(ValueError, match=r"only 60 of the 121 frames .*20 of them have no usable position"):
        offline(frames, translations_m)


def test_every_pixel_masked(offline):
    with pytest.raises(ValueError, match="the mask marks every pixel as bad: expected 0 or 0x1000"):
        offline(mask=np.full((48, 48), 4, np.uint32))


def test_no_modes():
    with pytest.raises(SettingsError, match="modes = 0: expected 1 to 64"):
        SolverSettings(modes=0)


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_a_window_off_the_object(backend, name):
    store = FrameStore(16, backend)
    store.put([77], np.ones((1, 16, 16)), (10, 30))
    state = SolverState(np.ones((40, 40), np.complex64), np.ones((1, 16, 16), np.complex64))
    engine = make_engine(SolverSettings(algorithm=name, modes=1), backend)
    engine.initialize(state, store)
    with pytest.raises(IndexError, match=r"windows of frames \[77\] lie off the canvas \(40, 40\): grow it"):
        engine.update(state, store, np.array([0]))


@given(st.floats(1e-9, 400e-9), st.sampled_from([1e3, 1e6, 1e9]))
def test_plausible_steps_pass_and_others_name_their_unit(step_m, factor):
    """A window of 48 pixels of 10 nm: steps up to 480 nm are taken for what they are."""
    assert complaint_about_steps(GRID * step_m, 48, 10e-9) is None
    complaint = complaint_about_steps(GRID * step_m * factor, 48, 10e-9)
    unit = {1e3: "millimetres", 1e6: "micrometres", 1e9: "nanometres"}[factor]
    if step_m >= 2.5e-9 and step_m * factor > 480e-9:
        assert complaint is not None and unit in complaint


def test_few_places_and_positions_that_are_no_numbers_say_nothing():
    assert complaint_about_steps(np.zeros((0, 2)), 48, 10e-9) is None
    assert complaint_about_steps(np.array([[0, 0], [1, 1.0]]), 48, 10e-9) is None
    assert complaint_about_steps(np.full((9, 2), np.nan), 48, 10e-9) is None
    assert "no usual unit" in (complaint_about_steps(GRID * 1e40, 48, 10e-9) or "")
