"""Steps that follow the dose: with few photons a frame says little, so it moves object and probe less."""

from __future__ import annotations

from typing import Any

from nsbluesky.backend import Backend
from nsbluesky.solver.frames import FrameStore

__all__ = ["DOSE_FRAMES", "caution", "counts_are_few", "dose_of", "photons_on_lit_pixels"]

DOSE_FRAMES = 64
"""Frames whose mean pattern tells the dose."""

FEW_PHOTONS = 2.0
"""Photons on a lit pixel at which regularisation doubles and momentum halves.  Of simulated scans with 1e3 … 1e7
photons a frame, only those with fewer gain from it."""

MANY_PHOTONS = 170.0
"""Photons on a lit pixel from which on amplitudes are followed.  Simulated objects, with the noise of photons, are
better by the likelihood of photons at every dose: with 135 photons by a quarter, with 270 by 15 %, with 1350 by 4 %.
A measured star with 196, whose noise is not that of photons alone, is fitted better by amplitudes."""


def counts_are_few(dose: float) -> bool:
    """Return whether the likelihood of photons serves better than that of amplitudes with equal noise."""
    return dose < MANY_PHOTONS


def photons_on_lit_pixels(mean_intensity: Any) -> float:
    """Return Σ Ī²/Σ Ī of a mean pattern: the photons that a pixel gets where most of the light is."""
    total = float(mean_intensity.sum())
    return float((mean_intensity**2).sum()) / total if total > 0 else 0.0


def dose_of(backend: Backend, frames: FrameStore) -> float:
    """Return the photons on a lit pixel in the mean pattern of the first frames in use."""
    return photons_on_lit_pixels(backend.to_numpy(frames.mean_intensity(frames.active[:DOSE_FRAMES])))


def caution(dose: float) -> float:
    """Return by how much regularisation is larger, and momentum smaller, than with plenty of light: 1 + few/dose."""
    return 1.0 + FEW_PHOTONS / max(dose, 0.01)
