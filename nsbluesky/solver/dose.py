"""Steps that follow the dose: with few photons a frame says little, so it moves object and probe less."""

from __future__ import annotations

from typing import Any

__all__ = ["caution", "photons_on_lit_pixels"]

FEW_PHOTONS = 2.0
"""Photons on a lit pixel at which regularisation doubles and momentum halves.  Of simulated scans with 1e3 … 1e7
photons a frame, only those with fewer gain from it."""


def photons_on_lit_pixels(mean_intensity: Any) -> float:
    """Return Σ Ī²/Σ Ī of a mean pattern: the photons that a pixel gets where most of the light is."""
    total = float(mean_intensity.sum())
    return float((mean_intensity**2).sum()) / total if total > 0 else 0.0


def caution(dose: float) -> float:
    """Return by how much regularisation is larger, and momentum smaller, than with plenty of light: 1 + few/dose."""
    return 1.0 + FEW_PHOTONS / max(dose, 0.01)
