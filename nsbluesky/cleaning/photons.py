"""From ADU to photons: gain bits, ADU per photon, and the photon threshold."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from nsbluesky.settings import CleaningSettings

__all__ = ["ADU_PER_EV", "adu_per_photon", "decode_gain", "keep_photons"]

ADU_PER_EV = 0.034  # at gain ×8

VALUE_BITS = 0x1FFF
# By bits 15, 14 (gain) and 13 (error): what one ADU is worth at gain ×8; 0 for a word that cannot be used.
GAIN_FACTORS = (1.0, 0.0, 4.0, 0.0, 4.0, 0.0, 8.0, 0.0)


def adu_per_photon(settings: CleaningSettings, energy_eV: float) -> float:
    """Return ADU of one photon at gain ×8, from the settings or, where they say 0, from the energy."""
    return settings.adu_per_photon or ADU_PER_EV * energy_eV


def decode_gain(words: Any, xp: ModuleType = np) -> tuple[Any, Any]:
    """Split raw words with gain bits into values (uint16, 13 bits) and their factors (float32, 0 for bad words)."""
    factors = xp.asarray(GAIN_FACTORS, dtype=xp.float32)
    return words & np.uint16(VALUE_BITS), factors[words >> np.uint16(13)]


def keep_photons(values: Any, threshold: float) -> Any:
    """Return where any pixel of the 2 × 2 neighbourhoods of a pixel exceeds `threshold`, (n, rows, columns) bool.

    A pixel belongs to four neighbourhoods of 2 × 2, so what decides is the maximum over 3 × 3 pixels: a photon whose
    charge is shared between neighbours is kept whole.
    """
    keep = values > threshold
    _widen(keep)
    _widen(keep.swapaxes(-1, -2))
    return keep


def _widen(mask: Any) -> None:
    """Let True spread by one pixel along the last axis, in place."""
    before = mask.copy()
    mask[..., 1:] |= before[..., :-1]
    mask[..., :-1] |= before[..., 1:]
