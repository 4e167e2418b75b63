"""Settings: JSON in and out, dotted names, and one clear error for each wrong value."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbluesky.settings import CleaningSettings, DetectorMode, PipelineSettings, SettingsError, SolverSettings

positive = st.floats(min_value=1e-6, max_value=1e6)
count = st.integers(min_value=1, max_value=10_000)
index = st.integers(min_value=0, max_value=2**31)


@st.composite
def cleaning_settings(draw: st.DrawFn) -> CleaningSettings:
    bin_px, frame_px = draw(st.integers(1, 16)), draw(st.integers(8, 200))
    return CleaningSettings(
        layout=draw(st.text(max_size=12)),
        gain_words=draw(st.sampled_from(["plain", "csxtools", "middle_0x4000", "13_bits"])),
        adu_per_photon=draw(st.floats(0, 1e4)),
        overscan=draw(st.sampled_from(["quadratic", "median", "none"])),
        photon_threshold=draw(st.floats(0, 1e4)),
        center_px=draw(st.none() | st.tuples(positive, positive)),
        center_frames=draw(count),
        crop_px=bin_px * frame_px,
        frame_px=frame_px,
        downsample=draw(st.sampled_from(["rebin", "fourier"])),
        detector_mode=draw(st.none() | st.just(DetectorMode(100, 120, 12, (0, 11), (5, 45)))),
    )


@st.composite
def pipeline_settings(draw: st.DrawFn) -> PipelineSettings:
    return PipelineSettings(
        cleaning=draw(cleaning_settings()),
        solver=SolverSettings(
            modes=draw(count), alpha=draw(positive), beta=draw(positive), sweep_frames=draw(index), seed=draw(index)
        ),
        backend=draw(st.sampled_from(["auto", "numpy", "cupy"])),
        block_frames=draw(count),
        queue_bytes=draw(index),
    )


@given(pipeline_settings())
def test_settings_come_back_from_json_as_they_went(settings: PipelineSettings) -> None:
    assert PipelineSettings.from_dict(json.loads(settings.to_json())) == settings


@given(pipeline_settings())
def test_to_dict_holds_plain_json_types_only(settings: PipelineSettings) -> None:
    values = settings.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_a_field_that_is_left_out_keeps_its_default() -> None:
    settings = PipelineSettings.from_dict({"solver": {"modes": 5}})
    assert settings == PipelineSettings(solver=SolverSettings(modes=5))


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SolverSettings().modes = 3  # type: ignore[misc]


WRONG_CLEANING = [
    ("adu_per_photon", -1.0, "≥ 0"),
    ("photon_threshold", -0.1, "≥ 0 photons"),
    ("bad_std_adu", 0.0, "> 0 ADU"),
    ("center_frames", 0, "at least 1"),
    ("crop_px", 4, "at least 8 pixels"),
    ("frame_px", 0, "1 to crop_px = 832"),
    ("frame_px", 100, "a divisor of crop_px = 832"),
    ("dark_flux", 1.0, "below 1"),
    ("bright_flux", 1.0, "above 1"),
    ("saturation_word", 70000, "0 to 65535"),
    ("beamstop_transmission", 0.0, "above 0"),
    ("overscan_start_row", -1, "≥ 0"),
    ("overscan", "cubic", "one of quadratic, median, minimum, none"),
    ("layout", 3, "str"),
    ("subtract_dark", 1, "bool"),
    ("crop_px", 832.5, "int"),
    ("crop_px", True, "int"),
    ("photon_threshold", "0.5", "float"),
    ("center_px", 480, "a list"),
    ("center_px", [1.0, 2.0, 3.0], "2 values"),
]

WRONG_SOLVER = [
    *[(name, 0, "at least 1") for name in ("modes", "batch", "batch_final", "sweep_candidates", "sweep_passes")],
    *[(name, -1, "≥ 0") for name in ("probe_start", "passes_final", "sweep_frames", "seed")],
    *[(name, 0.0, "> 0") for name in ("alpha", "beta", "publish_hz", "sweep_range")],
]


@pytest.mark.parametrize(("name", "value", "expected"), WRONG_CLEANING)
def test_wrong_cleaning_value_is_named_with_what_was_expected(name: str, value: Any, expected: str) -> None:
    _check_message(name, value, expected, lambda: CleaningSettings.from_dict({name: value}))
    _check_message(name, value, expected, lambda: PipelineSettings().replace(**{f"cleaning.{name}": value}))


@pytest.mark.parametrize(("name", "value", "expected"), WRONG_SOLVER)
def test_wrong_solver_value_is_named_with_what_was_expected(name: str, value: Any, expected: str) -> None:
    _check_message(name, value, expected, lambda: SolverSettings.from_dict({name: value}))


@pytest.mark.parametrize(
    ("name", "value", "expected"), [("block_frames", 0, "at least 1"), ("queue_bytes", -1, "≥ 0")]
)
def test_wrong_pipeline_value_is_named_with_what_was_expected(name: str, value: Any, expected: str) -> None:
    _check_message(name, value, expected, lambda: PipelineSettings.from_dict({name: value}))


def _check_message(name: str, value: Any, expected: str, make: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        make()
    message = str(caught.value)
    assert message.startswith(f"{name} = {value!r}: expected ")
    assert expected in message


@pytest.mark.parametrize(
    "text",
    [
        "nan",
        "-inf",
        "inf",
    ],
)
def test_a_number_that_is_none_is_refused(text: str) -> None:
    for name in ("photon_threshold", "adu_per_photon", "bad_std_adu"):
        with pytest.raises(SettingsError, match=f"{name} = {text}"):
            CleaningSettings.from_dict({name: float(text)})


def test_an_unknown_setting_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"unknown setting 'mode': expected one of algorithm, modes, "):
        SolverSettings.from_dict({"mode": 2})
    with pytest.raises(SettingsError, match=r"unknown setting 'mode': expected one of algorithm, modes, "):
        PipelineSettings().replace(solver__mode=2)
    with pytest.raises(SettingsError, match="unknown group of settings 'solve': expected one of cleaning, solver"):
        PipelineSettings().replace(solve__modes=2)


def test_a_setting_without_default_must_be_told() -> None:
    with pytest.raises(SettingsError, match="DetectorMode without columns, columns_per_adc, "):
        CleaningSettings().replace(detector_mode={"rows": 10})


def test_a_group_must_be_an_object() -> None:
    with pytest.raises(SettingsError, match="solver = 3: expected an object with the fields of SolverSettings"):
        PipelineSettings.from_dict({"solver": 3})


def test_texts_of_the_command_line_change_only_what_they_name() -> None:
    settings = PipelineSettings().set_from_text(
        ["solver.modes=3", "cleaning.overscan=median", "cleaning.center_px=[480.5, 479]", "backend=numpy"]
    )
    assert settings == PipelineSettings(
        cleaning=CleaningSettings(overscan="median", center_px=(480.5, 479.0)),
        solver=SolverSettings(modes=3),
        backend="numpy",
    )


def test_null_takes_an_optional_value_back() -> None:
    settings = PipelineSettings(cleaning=CleaningSettings(center_px=(1.0, 2.0)))
    assert settings.set_from_text(["cleaning.center_px=null"]).cleaning.center_px is None


def test_several_texts_of_one_group_are_checked_together() -> None:
    """Neither crop_px = 700 nor frame_px = 100 goes with the other's default, both together do."""
    settings = PipelineSettings().set_from_text(["cleaning.crop_px=700", "cleaning.frame_px=100"])
    assert settings.cleaning.pixel_ratio == 7


@pytest.mark.parametrize("text", ["solver.modes", "=3", ""])
def test_a_text_without_key_or_value_shows_how_to_write_it(text: str) -> None:
    with pytest.raises(SettingsError, match=r"expected KEY=VALUE, as in solver\.modes=3"):
        PipelineSettings().set_from_text([text])
