"""Whether a number can be in the unit that a setting declares: 10 m from focus to sample is a number in µm.

The bounds are far beyond what any beamline has, so that they only meet numbers of another unit.
"""

from __future__ import annotations

import math

from nsbluesky.settings.base import SettingsError

__all__ = ["ENERGY_RANGE_EV", "MOST_DEFOCUS_M", "require_energy_eV", "require_exposure_s", "require_metres"]

ENERGY_RANGE_EV = (1.0, 2e5)
"""From the near infrared to hard X-rays."""

MOST_DEFOCUS_M = 0.5

LEAST_EXPOSURE_S, MOST_EXPOSURE_S = 1e-6, 1e4

_PARTS = {"µm": 1e-6, "mm": 1e-3, "nm": 1e-9}


def require_metres(name: str, value: float, most_m: float, *, unit: str = "µm") -> None:
    """Raise a SettingsError about a length that is longer than it can be.

    Parameters
    ----------
    name : str
    value : float
        Of either sign.
    most_m : float
        The longest one that can be.
    unit : {"µm", "mm", "nm"}
        What such a length is mostly told in.
    """
    if not abs(value) <= most_m:  # nor NaN
        raise SettingsError(
            f"{name} = {value!r}: expected metres, at most {most_m:g}; if that is in {unit}, write "
            f"{value * _PARTS[unit]:g}"
        )


def require_energy_eV(name: str, value: float) -> None:
    """Raise a SettingsError about a photon energy that is none in electronvolts."""
    least, most = ENERGY_RANGE_EV
    if value < least:
        told = f"if that is in keV, write {value * 1e3:g}"
    elif value > most:
        told = f"if that is in meV, write {value / 1e3:g}"
    else:
        return
    raise SettingsError(f"{name} = {value!r}: expected electronvolts, {least:g} to {most:.0f}; {told}")


def require_exposure_s(value: float) -> None:
    """Raise a SettingsError about an exposure that is none in seconds."""
    if not (math.isfinite(value) and value > 0):
        raise SettingsError(f"exposure of {value!r} s: expected a positive number of seconds")
    if not LEAST_EXPOSURE_S <= value <= MOST_EXPOSURE_S:
        hint = f"; if that is in ms, write {value / 1e3:g}" if value > MOST_EXPOSURE_S else ""
        raise SettingsError(
            f"exposure of {value!r} s: expected {LEAST_EXPOSURE_S:g} to {MOST_EXPOSURE_S:.0f} seconds{hint}"
        )
