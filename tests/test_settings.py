"""Settings: JSON in and out, dotted names, and one clear error for each wrong value."""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbluesky.rehearsal import RehearsalSettings
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.settings import (
    CleaningSettings,
    DetectorMode,
    PipelineSettings,
    Settings,
    SettingsError,
    SolverSettings,
)
from nsbluesky.simulation.ioc_settings import BeamlineSettings

positive = st.floats(min_value=1e-6, max_value=1e6)


def within(settings: type[Settings], name: str) -> st.SearchStrategy[int]:
    return st.integers(*settings.LIMITS[name])


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
        center_frames=draw(within(CleaningSettings, "center_frames")),
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
            alpha=draw(positive),
            beta=draw(positive),
            **{name: draw(within(SolverSettings, name)) for name in ("modes", "sweep_frames", "seed")},
        ),
        backend=draw(st.sampled_from(["auto", "numpy", "cupy"])),
        block_frames=draw(within(PipelineSettings, "block_frames")),
        queue_bytes=draw(within(PipelineSettings, "queue_bytes")),
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
    ("crop_px", 4, "8 to 8192"),
    ("frame_px", 0, "1 to crop_px = 832"),
    ("frame_px", 100, "a divisor of crop_px = 832"),
    ("dark_flux", 1.0, "below 1"),
    ("bright_flux", 1.0, "above 1"),
    ("beamstop_transmission", 0.0, "above 0"),
    ("overscan_start_row", -1, "≥ 0"),
    ("overscan", "cubic", "one of quadratic, median, minimum, none"),
    ("layout", 3, "a text"),
    ("subtract_dark", 1, "true or false"),
    ("crop_px", 832.5, "a whole number"),
    ("crop_px", True, "a whole number"),
    ("photon_threshold", "0.5", "a number"),
    ("center_px", 480, "a list"),
    ("center_px", [1.0, 2.0, 3.0], "2 values"),
]

WRONG_SOLVER = [
    ("modes", 10**9, "1 to 64"),
    *[(name, 0.0, "> 0") for name in ("alpha", "beta", "publish_hz", "sweep_range")],
]


@pytest.mark.parametrize(("name", "value", "expected"), WRONG_CLEANING)
def test_wrong_cleaning_value_is_named_with_what_was_expected(name: str, value: Any, expected: str) -> None:
    _check_message(name, value, expected, lambda: CleaningSettings.from_dict({name: value}))
    _check_message(name, value, expected, lambda: PipelineSettings().replace(**{f"cleaning.{name}": value}))


@pytest.mark.parametrize(("name", "value", "expected"), WRONG_SOLVER)
def test_wrong_solver_value_is_named_with_what_was_expected(name: str, value: Any, expected: str) -> None:
    _check_message(name, value, expected, lambda: SolverSettings.from_dict({name: value}))


WITH_LIMITS = [
    PipelineSettings(),
    CleaningSettings(),
    SolverSettings(),
    RehearsalSettings(),
    BeamlineSettings("frames"),
    ServiceSettings("results", ("/",)),
]


@pytest.mark.parametrize("settings", WITH_LIMITS, ids=lambda settings: type(settings).__name__)
def test_a_typo_of_a_number_is_refused(settings: Settings) -> None:
    """It would fill the memory, or begin what never ends."""
    assert settings.LIMITS
    for name, (least, most) in settings.LIMITS.items():
        for value in (least - 1, most + 1, 10**40):
            _check_message(name, value, f"{least} to {most}", functools.partial(settings.replace, **{name: value}))


def test_what_is_counted_has_limits() -> None:
    """A new number of pixels, frames, modes or passes must not be forgotten."""
    for settings in (PipelineSettings, CleaningSettings, SolverSettings):
        hints = typing.get_type_hints(settings)
        counts = {field.name for field in dataclasses.fields(settings) if hints[field.name] is int}
        assert counts - set(settings.LIMITS) <= {"overscan_start_row", "frame_px"}, "limited by the detector, crop_px"


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
    with pytest.raises(
        SettingsError, match="unknown group of settings 'solver': there are none here, write 'modes' al"
    ):
        SolverSettings().replace(solver__modes=2)


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
