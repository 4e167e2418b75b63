"""What the data leave open: scale, global phase, phase ramp and place of object and probe."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.solver.modes import probe_power
from nsbluesky.solver.state import SolverState

__all__ = ["align_phase", "phase_ramp", "ramp", "set_probe_power"]


SMALL = 0.1
"""A change of the scale by more than this, as a logarithm, is none of a pass."""


def set_probe_power(xp: Any, state: SolverState, photons: float, seen: Any = None) -> None:
    """Scale the probe to Σ|P|² = `photons` and the object by the inverse.

    Parameters
    ----------
    xp : module
    state : SolverState
    photons : float
        Of a mean frame.
    seen : (H, W) float32, optional
        How far pixels of the object follow, 0…1.  Noise drives a little of the scale from the object to the probe in
        each pass; what no light falls on is not driven, and scaled with the others it would grow without bound.
    """
    power = probe_power(xp, state.probe)
    if photons <= 0 or power <= 0:
        return
    factor = np.float32(np.sqrt(photons / power))
    state.probe *= factor
    if seen is None or abs(np.log(factor)) > SMALL:
        state.object /= factor
    else:
        state.object *= xp.exp(-np.log(factor) * seen)
    if state.variation is not None:
        state.variation = state.variation * factor


def phase_ramp(image: Any, weight: Any) -> tuple[float, float]:
    """Return the mean phase step from row to row and from column to column, in radians.

    Parameters
    ----------
    image : (H, W) complex
    weight : (H, W) float or bool
        0 where the image is not known.
    """
    weighted = image * weight
    down = complex((weighted[1:] * image[:-1].conj() * weight[:-1]).sum())
    right = complex((weighted[:, 1:] * image[:, :-1].conj() * weight[:, :-1]).sum())
    return float(np.angle(down)), float(np.angle(right))


def ramp(
    xp: Any, shape: tuple[int, ...], row_step: float, column_step: float, dtype: npt.DTypeLike = np.complex64
) -> Any:
    """Return a phase ramp (H, W) with these steps from row to row and from column to column, in radians."""
    rows, columns = xp.arange(shape[0])[:, None], xp.arange(shape[1])[None, :]
    return xp.exp(1j * (row_step * rows + column_step * columns)).astype(dtype, copy=False)


def align_phase(image: npt.NDArray[np.complex64], reference: npt.NDArray[np.complex64] | None) -> complex:
    """Return the phase factor that brings `image` nearest to `reference`, or its mean to a real number.

    NaN is left out.
    """
    overlap = complex(np.nansum(image if reference is None else image * reference.conj()))
    return overlap.conjugate() / abs(overlap) if overlap else 1.0 + 0.0j
