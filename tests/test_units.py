"""Numbers in another unit than the one that a setting declares."""

from __future__ import annotations

from typing import Any

import pytest

from nsbluesky.geometry import Geometry, Optic
from nsbluesky.settings import CleaningSettings, Settings, SettingsError, SolverSettings
from nsbluesky.settings.units import require_exposure_s

GEOMETRY = Geometry(energy_eV=930.0, detector_distance_m=0.08, pixel_size_m=30e-6)


@pytest.mark.parametrize(
    ("settings", "name", "value", "told"),
    [
        (GEOMETRY, "energy_eV", 0.8, "if that is in keV, write 800"),
        (GEOMETRY, "energy_eV", 800e3, "expected electronvolts, 1 to 200000; if that is in meV, write 800"),
        (GEOMETRY, "detector_distance_m", 5000.0, "if that is in mm, write 5"),
        (GEOMETRY, "pixel_size_m", 30.0, "if that is in µm, write 3e-05"),
        (GEOMETRY, "optic.defocus_m", -12.0, "if that is in µm, write -1.2e-05"),
        (GEOMETRY, "optic.outer_zone_m", 60.0, "if that is in nm, write 6e-08"),
        (GEOMETRY, "optic.diameter_m", 240.0, "if that is in µm, write 0.00024"),
        (GEOMETRY, "optic.diameter_m", -240e-6, "expected ≥ 0"),
        (SolverSettings(), "defocus_m", 10.0, "if that is in µm, write 1e-05"),
        (SolverSettings(), "probe_radius_m", 1.5, "if that is in µm, write 1.5e-06"),
        (CleaningSettings(), "beamstop_radius_m", 2.0, "if that is in mm, write 0.002"),
    ],
)
def test_a_number_in_another_unit_is_refused_with_what_to_write(
    settings: Settings, name: str, value: float, told: str
) -> None:
    with pytest.raises(SettingsError) as error:
        settings.replace(**{name: value})
    assert str(error.value).startswith(f"{name.rpartition('.')[2]} = {value!r}: expected")
    assert told in str(error.value)


def test_what_is_not_finite_is_no_length() -> None:
    """Settings that are made in Python are not converted first."""
    for wrong in (float("nan"), float("inf")):
        made: tuple[tuple[type[Settings], dict[str, Any]], ...] = (
            (Optic, {"defocus_m": wrong}),
            (Optic, {"diameter_m": wrong}),
            (SolverSettings, {"defocus_m": wrong}),
            (CleaningSettings, {"beamstop_radius_m": wrong}),
        )
        for kind, values in made:
            with pytest.raises(SettingsError):
                kind(**values)


def test_what_beamlines_have_is_in_bounds() -> None:
    """From visible light to hard X-rays, with tubes of 30 m; no number of these is taken for one of another unit."""
    Geometry(1.6, 0.03, 5.5e-6)
    Geometry(90e3, 30.0, 172e-6, Optic("kb", diameter_m=0.1, defocus_m=0.1))
    SolverSettings(defocus_m=None)
    SolverSettings(defocus_m=-2e-3)
    for exposure_s in (1e-5, 600.0):
        require_exposure_s(exposure_s)


def test_exposures_are_told_in_seconds() -> None:
    with pytest.raises(SettingsError, match="if that is in ms, write 20"):
        require_exposure_s(20e3)
    for wrong in (0.0, -1.0, float("nan"), float("inf"), 1e-9):
        with pytest.raises(SettingsError, match="seconds"):
            require_exposure_s(wrong)
