import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbluesky.cleaning.layout import LAYOUTS, FCCDLayout, assemble, by_adc, get_layout
from nsbluesky.settings import CleaningSettings, DetectorMode, SettingsError


@st.composite
def layouts(draw):
    per_adc = draw(st.integers(2, 6))
    overscan = draw(st.sampled_from([(), (0,), (per_adc - 1,), (0, per_adc - 1)]))
    overscan = overscan if len(set(overscan)) < per_adc else ()
    half = draw(st.integers(2, 9))
    start = draw(st.integers(0, half - 1))
    stop = draw(st.integers(start + 1, half))
    adcs = draw(st.integers(1, 4))
    return FCCDLayout(
        2 * half,
        adcs * per_adc,
        per_adc,
        overscan,
        ((0, half), (half, 2 * half)),
        ((start, stop), (2 * half - stop, 2 * half - start)),
    )


def scatter(image, layout):
    """The inverse of `assemble`, pixel by pixel."""
    raw = np.full(layout.shape, -1, image.dtype)
    per_adc = layout.columns_per_adc
    rows = [(half, r) for half, (start, stop) in enumerate(layout.good_rows) for r in range(start, stop)]
    for i, (half, r) in enumerate(rows):
        # the columns of the bottom half run backwards
        place = [c % per_adc if half == 0 else per_adc - 1 - c % per_adc for c in range(layout.columns)]
        raw[r, [c for c in range(layout.columns) if place[c] not in layout.overscan_columns]] = image[i]
    return raw


@given(layouts(), st.sampled_from([np.int32, np.float32, np.int8]))
def test_assemble_undoes_what_the_readout_does(layout, dtype):
    image = np.arange(np.prod(layout.image_shape)).reshape(layout.image_shape).astype(dtype)
    raw = scatter(image, layout)
    result = assemble(np.stack([raw, raw]), layout)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, [image, image])
    np.testing.assert_array_equal(assemble(raw, layout), image)


@pytest.mark.parametrize(
    ("name", "image_shape"),
    [("cosmic", (960, 960)), ("full_frame", (1920, 960)), ("csx", (960, 960)), ("csx_overscan", (960, 960))],
)
def test_layouts_give_square_halves(name, image_shape):
    layout = LAYOUTS[name]
    assert layout.image_shape == image_shape
    assert 2 * layout.adcs_per_half == 192
    top, bottom = layout.good_rows
    assert (layout.rows - bottom[1], layout.rows - bottom[0]) == top  # halves are mirror images


def test_cosmic_rows_and_columns_are_those_of_a_real_frame():
    layout = LAYOUTS["cosmic"]
    raw_row, raw_column = np.indices(layout.shape)
    rows, columns = assemble(raw_row, layout)[:, 0], assemble(raw_column, layout)[0]
    assert (rows[0], rows[479], rows[480], rows[-1]) == (5, 484, 555, 1034)
    assert not set(columns % 12) & {0, 11}


def test_by_adc_is_a_view():
    layout = LAYOUTS["cosmic"]
    frames = np.zeros((2, *layout.shape), np.uint16)
    by_adc(frames, layout)[1, 3, 2, 5] = 7
    assert frames[1, 3, 2 * 12 + 5] == 7


def test_none_takes_any_image_as_it_is():
    layout = get_layout(CleaningSettings(layout="none"), (7, 9))
    image = np.arange(63).reshape(7, 9)
    np.testing.assert_array_equal(assemble(image, layout), image)


def test_wrong_shape_names_the_layout_that_fits():
    with pytest.raises(SettingsError, match=r"cleaning\.layout=csx_overscan"):
        get_layout(CleaningSettings(), (1000, 1152))
    with pytest.raises(SettingsError, match=r"cleaning\.layout=none"):
        get_layout(CleaningSettings(), (64, 64))


def test_unknown_layout_lists_the_known():
    with pytest.raises(SettingsError, match="cosmic, cosmic_10_11"):
        get_layout(CleaningSettings(layout="eiger"), (4, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": 1153}, "multiple of 12"),
        ({"overscan_columns": (0, 5)}, "neighbours"),
        ({"overscan_columns": tuple(range(12))}, "neighbours"),
        ({"overscan_columns": (0, 12)}, "expected 0 to 11"),
        ({"good_rows": ((5, 530), (555, 1035))}, "within the halves"),
        ({"rows": 1041}, "even number"),
    ],
)
def test_layouts_that_cannot_be_are_refused(change, message):
    values = {
        "rows": 1040,
        "columns": 1152,
        "columns_per_adc": 12,
        "overscan_columns": (0, 11),
        "halves": ((0, 520), (520, 1040)),
        "good_rows": ((5, 485), (555, 1035)),
    }
    with pytest.raises(ValueError, match=message):
        FCCDLayout(**(values | change))


def test_a_detector_mode_is_a_few_lines_of_settings():
    mode = {"rows": 20, "columns": 24, "columns_per_adc": 6, "overscan_columns": [4, 5], "good_rows": [2, 9]}
    settings = CleaningSettings.from_dict({"detector_mode": mode})
    layout = get_layout(settings, (20, 24))
    assert layout.image_shape == (14, 16)
    assert layout.good_rows == ((2, 9), (11, 18))
    with pytest.raises(SettingsError, match="frames of 1040 × 1152 with detector_mode of 20 × 24"):
        get_layout(settings, (1040, 1152))
    with pytest.raises(SettingsError, match="detector_mode: columns = 25"):
        get_layout(settings.replace(detector_mode=DetectorMode(20, 25, 6, (), (2, 9))), (20, 25))


def test_the_bottom_half_is_read_backwards_in_rows_and_columns():
    layout = LAYOUTS["cosmic"]
    top, bottom = (layout.clocks(half) for half in (0, 1))
    np.testing.assert_array_equal(top.ravel(), np.arange(top.size))
    np.testing.assert_array_equal(bottom.ravel(), np.arange(bottom.size)[::-1])
    assert top.shape == bottom.shape == (layout.rows // 2, layout.columns_per_adc)


def test_frames_of_another_detector_are_told_all_that_is_to_be_set():
    settings = CleaningSettings()
    with pytest.raises(SettingsError, match=r"set cleaning.layout=none, and cleaning.crop_px=104 or less$"):
        get_layout(settings, (104, 110))
    with pytest.raises(SettingsError, match=r"set cleaning.layout=none$"):
        get_layout(settings, (1024, 1024))
    with pytest.raises(SettingsError, match=r"set cleaning.layout=csx$"):
        get_layout(settings, (1000, 960))
