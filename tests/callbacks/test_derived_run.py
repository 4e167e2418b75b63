"""The documents of a derived run tell the units of what they hold."""

from __future__ import annotations

import pytest

from nsbluesky.callbacks.derived_run import units_of


@pytest.mark.parametrize(
    ("stream", "key", "units"),
    [
        ("frc", "frequency_1_m", "1/m"),
        ("frc", "correlation", ""),
        ("positions", "x_m", "m"),
        ("positions", "rotation_rad", "rad"),
        ("reconstruction", "newest_age_s", "s"),
        ("health", "rate_hz", "Hz"),
        ("detector", "center_row_px", "px"),
        ("dark_statistics", "mean", "ADU"),
        ("primary", "frame", "ADU"),
        ("clean", "frame", "photons"),
    ],
)
def test_units(stream: str, key: str, units: str) -> None:
    assert units_of(stream, key) == ({"units": units} if units else {})
