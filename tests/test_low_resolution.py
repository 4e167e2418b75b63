import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbluesky.low_resolution import LowResolutionAccumulator, grid_image, grid_pitch, moments

STEP = 58e-9


def raster(rows=12, columns=20):
    y, x = np.mgrid[:rows, :columns] * STEP
    return np.stack([x.ravel(), y.ravel()], axis=1)


def jittered():
    positions = raster(20, 20)
    return positions + np.random.default_rng(0).uniform(-0.3, 0.3, positions.shape) * STEP


def fermat(n=400):
    k = np.arange(n)
    radius, angle = STEP * np.sqrt(k / np.pi), k * np.radians(137.508)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def spiral(n=400):
    k = np.arange(1, n)
    radius = STEP * np.sqrt(k / np.pi)
    angle = 2 * np.pi * radius / STEP
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def cell_centers(image, extent):
    x0, x1, y0, y1 = extent
    rows, columns = image.shape[:2]
    x = x0 + (np.arange(columns) + 0.5) * (x1 - x0) / columns
    y = y0 + (np.arange(rows) + 0.5) * (y1 - y0) / rows
    return np.meshgrid(x, y)


def test_moments_of_frames_with_known_centres():
    frames = np.zeros((2, 9, 8), np.float32)
    frames[0, 4, 4] = 5  # the zero order
    frames[1, 6, 3] = 2
    frames[1, 6, 5] = 6
    total, row, column = moments(frames)
    np.testing.assert_allclose(total, [5, 8])
    np.testing.assert_allclose(row, [0, 2])
    np.testing.assert_allclose(column, [0, 0.5])


def test_moments_leave_the_mask_out_and_dark_frames_have_no_centre():
    frames = np.ones((2, 8, 8), np.float32)
    frames[1] = 0
    mask = np.zeros((8, 8), np.uint32)
    mask[:, 6] = 0x80
    total, row, column = moments(frames, mask)
    np.testing.assert_allclose(total, [56, 0])
    np.testing.assert_allclose([row[0], column[0]], [-0.5, (-4 * 8 + -2 * 8) / 56])
    assert np.isnan(row[1]) and np.isnan(column[1])


@pytest.mark.parametrize(
    ("positions", "tolerance"),
    [
        (raster(), 1e-9),
        (raster(1, 20), 1e-9),
        (raster(20, 1), 1e-9),
        (raster(1, 2), 1e-9),
        (raster() + np.random.default_rng(0).normal(0, 1e-9, (240, 2)), 0.01),
        (jittered(), 0.05),
        (fermat(), 0.05),
        (spiral(), 0.05),
        (np.concatenate([raster(), raster() + 1e-10]), 1e-2),
    ],
)
def test_pitch_is_one_cell_per_point(positions, tolerance):
    assert grid_pitch(positions) == pytest.approx(STEP, rel=tolerance)
    assert grid_pitch(positions + np.array([0.02, -0.003])) == pytest.approx(STEP, rel=max(tolerance, 1e-3)), (
        "far from 0"
    )
    rotated = positions @ np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    assert grid_pitch(rotated) == pytest.approx(STEP, rel=max(tolerance, 1e-3))


def test_a_raster_comes_back_point_by_point_whatever_its_order():
    positions = raster(12, 20)
    values = np.random.default_rng(0).normal(size=240)
    order = np.random.default_rng(1).permutation(240)
    image, extent = grid_image(positions[order], values[order])
    np.testing.assert_allclose(image, values.reshape(12, 20), rtol=1e-6)
    np.testing.assert_allclose(extent, np.array([-0.5, 19.5, -0.5, 11.5]) * STEP)


@pytest.mark.parametrize("positions", [jittered(), fermat(), spiral()], ids=["jittered", "fermat", "spiral"])
def test_scattered_points_make_an_image_without_holes(positions):
    values = positions[:, 0] + 2 * positions[:, 1]
    image, extent = grid_image(positions, values)
    x, y = cell_centers(image, extent)
    assert np.nanmax(np.abs(image - (x + 2 * y))) < 3 * STEP
    inside = np.hypot(x - positions[:, 0].mean(), y - positions[:, 1].mean()) < 0.9 * np.ptp(positions[:, 0]) / 2
    assert np.all(np.isfinite(image[inside]))


def test_what_was_not_measured_is_nan():
    positions = raster(10, 10)
    hole = np.all(np.abs(positions - 4.5 * STEP) < 2.6 * STEP, axis=1)
    image, _ = grid_image(positions[~hole], np.ones(np.count_nonzero(~hole)), STEP)
    assert np.isnan(image[4:6, 4:6]).all()
    assert np.isfinite(image[:2]).all()


def test_points_in_one_cell_average():
    positions = np.concatenate([raster(3, 3), raster(3, 3)[:1]])
    values = np.concatenate([np.zeros(9), [4.0]])
    image, _ = grid_image(positions, values)
    assert image[0, 0] == 2


def test_row_zero_is_the_smallest_y():
    image, extent = grid_image(raster(3, 2), raster(3, 2)[:, 1])
    assert image[0, 0] < image[-1, 0]
    assert extent[2] < extent[3]


def test_no_points_are_refused():
    with pytest.raises(ValueError, match="at least one point"):
        grid_image(np.zeros((0, 2)), np.zeros(0))


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(1e-9, 1e3))
def test_any_points_give_a_bounded_image_that_holds_them(n, seed, scale):
    rng = np.random.default_rng(seed)
    positions = rng.normal(0, scale, (n, 2)) * 10 ** rng.uniform(-6, 0, 2)
    image, (x0, x1, y0, y1) = grid_image(positions, np.arange(n, dtype=float))
    assert image.size <= 2048**2
    assert x0 < positions[:, 0].min() and positions[:, 0].max() < x1
    assert y0 < positions[:, 1].min() and positions[:, 1].max() < y1
    assert np.nanmin(image) >= 0 and np.nanmax(image) <= n - 1


def frames_for(positions):
    """Frames whose sum and centre of mass tell where they were made."""
    frames = np.zeros((len(positions), 16, 16), np.float32)
    column, row = np.rint(positions / STEP).astype(int).T
    frames[np.arange(len(frames)), 8 + row % 4, 8 + column % 5] = 1 + row
    return frames


def test_accumulator_keys_on_seq_num_and_the_later_frame_wins():
    positions = raster(4, 5)
    frames = frames_for(positions)
    seq_num = np.arange(1, 21)
    order = np.random.default_rng(0).permutation(20)
    accumulator = LowResolutionAccumulator(np.zeros((16, 16), np.uint32))
    accumulator.add(seq_num[:3], 7 * frames[:3], positions[:3, 0] + STEP / 3, positions[:3, 1])
    for block in np.split(order, 4):
        accumulator.add(seq_num[block], frames[block], *positions[block].T)
    result = accumulator.result()
    rows, columns = np.indices((4, 5))
    assert result.num_frames == 20
    np.testing.assert_allclose(result.transmission, 1 + rows)
    np.testing.assert_allclose(result.dpc_y, rows)
    np.testing.assert_allclose(result.dpc_x, columns)
    np.testing.assert_allclose(result.extent_m, np.array([-0.5, 4.5, -0.5, 3.5]) * STEP)
    np.testing.assert_allclose(result.illumination, (frames.sum(axis=0) + 7 * frames[:3].sum(axis=0)) / 23, rtol=1e-6)
    assert {a.dtype for a in (result.transmission, result.dpc_x, result.illumination)} == {np.dtype(np.float32)}


def test_one_place_is_a_pixel_of_a_micrometre():
    accumulator = LowResolutionAccumulator(np.zeros((16, 16), np.uint32))
    accumulator.add([1], frames_for(np.zeros((1, 2))), [3e-6], [0.0])
    np.testing.assert_allclose(accumulator.result().extent_m, [2.5e-6, 3.5e-6, -5e-7, 5e-7])


@pytest.mark.parametrize("scale", [1, 1e-4])
def test_dark_field_is_what_falls_outside_of_the_light_of_the_optic(scale):
    frames = np.zeros((4, 16, 16), np.float32)
    frames[:, 6:10, 6:10] = 100
    frames[:, 3, 3] = frames[:, 3, 12] = 1  # below a fiftieth of the brightest: no light of the optic
    frames[2, 12, 12] = 7
    mask = np.zeros((16, 16), np.uint32)
    mask[3, 3] = 1
    accumulator = LowResolutionAccumulator(mask)
    for k in range(4):
        accumulator.add(np.array([k + 1]), scale * frames[k : k + 1], np.array([k * STEP]), np.zeros(1))
    np.testing.assert_allclose(accumulator.result().dark_field, np.array([[1, 1, 8, 1]]) * scale)


def test_pixels_and_positions_that_are_no_numbers_spoil_nothing_else():
    """A frame whose packets were lost, and one whose position the motor did not tell."""
    rng = np.random.default_rng(2)
    frames = rng.poisson(1, (25, 16, 16)).astype(np.float32)
    frames[:, 5:11, 5:11] += 100
    y, x = (place * STEP for place in np.divmod(np.arange(25.0), 5))
    whole, lossy = LowResolutionAccumulator(), LowResolutionAccumulator()
    whole.add(np.arange(25), frames, x, y)
    expected = whole.result()
    damaged, places = frames.copy(), x.copy()
    damaged[0, 2, 3] = damaged[7, 8, 8] = np.nan
    places[12] = np.nan
    lossy.add(np.arange(25), damaged, places, y)
    result = lossy.result()
    assert result.num_frames == lossy.num_frames == 24
    known = np.isfinite(result.dark_field)
    assert known.sum() >= 22 and not known[0, 0] and not known[1, 2]
    known[2, 2] = False
    np.testing.assert_allclose(result.dark_field[known], expected.dark_field[known], rtol=1e-6)
    np.testing.assert_allclose(result.illumination, frames.mean(axis=0), atol=6)


def test_a_scan_without_any_position_has_no_pictures():
    accumulator = LowResolutionAccumulator()
    accumulator.add(np.arange(2), np.ones((2, 8, 8), np.float32), np.full(2, np.nan), np.zeros(2))
    assert accumulator.num_frames == 0
    with pytest.raises(ValueError, match="at a position that is a number"):
        accumulator.result()


def test_accumulator_without_frames_says_so():
    accumulator = LowResolutionAccumulator()
    accumulator.add(np.zeros(0, int), np.zeros((0, 8, 8), np.float32), np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="no frames yet"):
        accumulator.result()
