"""Can it be right?  Steps that no scan would have tell of another unit; windows that overlap too little, of no image.

What is not determined by its data fits them well: R is low, and the image is nonsense.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from nsbluesky.settings import SolverSettings

__all__ = [
    "complaint_about_overlap",
    "complaint_about_range",
    "complaint_about_steps",
    "measured_per_unknown",
    "refuse_lost_scan",
]

UNITS = {"millimetres": 1e-3, "micrometres": 1e-6, "nanometres": 1e-9, "object pixels": None}
"""What translations may have been given in, and its length in metres; that of a pixel depends on the geometry."""

LEAST_PLACES = 16
LEAST_RANGE_PX = 2.0
"""So many frames within so few object pixels are no scan, but its numbers in another unit."""

LEAST_STEP_PX = 0.25
"""A scan with smaller steps than this, in object pixels, would measure the same place again and again."""

LEAST_MEASURED = 2.0
"""Numbers that are measured for each one that is looked for.

The object's error in simulated scans, of which the defocus is known: 0.013 with 13, 0.023 with 4.4, 0.05 with 2.0,
0.17 with 1.2, and R 0.08 in all.  Measured scans that give a picture have 16 and more.
"""

FEW_FRAMES = 32
"""A scan of fewer frames is mostly its rim, which has hardly any light: to count its pixels tells nothing."""

CELLS = 32
"""Windows are counted on a grid of so many cells a side."""


def complaint_about_steps(translations_m: npt.NDArray[np.float64], frame_px: int, pixel_m: float) -> str | None:
    """Return what is wrong with translations (n, 2) whose steps are wider than a frame, or None.

    The step is the median distance to the nearest other place.  Fewer than three places tell nothing.

    Parameters
    ----------
    translations_m : (n, 2) float64
        Supposed to be metres.
    frame_px : int
        Side N of a frame; N·dx is what a window spans of the sample.
    pixel_m : float
        Object pixel dx.
    """
    finite = translations_m[np.isfinite(translations_m).all(axis=1)]
    places = np.unique(finite, axis=0)
    if len(places) < 3:
        return None
    nearest = np.asarray(cKDTree(places).query(places, k=2)[0])[:, 1]
    step, window_m = float(np.median(nearest)), frame_px * pixel_m
    if step <= window_m:
        return None
    likely = [name for name, length in UNITS.items() if _is_plausible(step * (length or pixel_m), window_m, pixel_m)]
    hint = f"they look like {' or '.join(likely)}" if likely else "no usual unit makes sense of them"
    return (
        f"neighbouring frames lie {step:.3g} m apart, but a frame shows only {window_m:.3g} m of the sample: "
        f"expected translations in metres; {hint}"
    )


def complaint_about_range(places_px: npt.NDArray[np.float64], pixel_m: float) -> str | None:
    """Return what is wrong with a scan whose places (n, 2), in object pixels, are all the same, or None."""
    range_px = float(np.ptp(places_px, axis=0).max()) if len(places_px) >= LEAST_PLACES else np.inf
    if range_px >= LEAST_RANGE_PX:
        return None
    return (
        f"all {len(places_px)} frames so far lie within {range_px * pixel_m:.3g} m, but a pixel of the object is "
        f"{pixel_m:.3g} m wide: expected a scan over many of them; are the translations in the unit that is "
        "declared, and are energy, detector distance and detector pixel right?"
    )


def measured_per_unknown(
    corners_px: npt.NDArray[np.int64], good: npt.NDArray[np.bool_], settings: SolverSettings
) -> float:
    """Return how many numbers are measured for each one that is looked for.

    Measured are the good pixels of all frames; looked for, real and imaginary part of each pixel of the probe's
    modes, and of the object wherever a window lies.

    Parameters
    ----------
    corners_px : (n, 2) int
        First row and column of the windows of frames with light, at least one.
    good : (N, N) bool
    settings : SolverSettings
        Tell the modes of the light and the states of the object.
    """
    fields = settings.modes + settings.probe_variation
    unknown = 2 * (_windows_covered(corners_px, len(good)) * settings.object_modes + fields)
    return len(corners_px) * float(np.mean(good)) / unknown


def complaint_about_overlap(
    corners_px: npt.NDArray[np.int64], good: npt.NDArray[np.bool_], settings: SolverSettings, *, is_near: bool
) -> str | None:
    """Return why a whole scan does not determine its image, or None where it does, or has few frames.

    Parameters
    ----------
    corners_px, good, settings
        As in `measured_per_unknown`.
    is_near : bool
        Whether frames are of the near field.
    """
    if len(corners_px) < FEW_FRAMES:
        return None
    factor = measured_per_unknown(corners_px, good, settings)
    if factor >= LEAST_MEASURED:
        return None
    near = "" if is_near else "; if it was the near field and nothing says so, declare it: --source-distance-m"
    return (
        f"the image is not determined by its data: {len(corners_px)} frames measure {factor:.2g} numbers for each "
        f"one that is looked for, expected {LEAST_MEASURED:g} at least, and R is low whatever the image shows: take "
        f"smaller steps, a wider beam in wider windows, or fewer modes{near}"
    )


def refuse_lost_scan(
    rejected: Mapping[int, str],
    weights: npt.NDArray[np.float64],
    translations_m: npt.NDArray[np.float64],
    frame_px: int,
    pixel_m: float,
) -> None:
    """Raise a ValueError where most frames, of those with a weight, cannot be used.

    Parameters
    ----------
    rejected : dict of int to str
        Indices of frames that cannot be used, and why.
    weights : (n,) float64
    translations_m : (n, 2) float64
    frame_px, pixel_m
        As in `complaint_about_steps`.
    """
    wanted = int(np.count_nonzero(weights > 0))
    reasons = Counter(why for index, why in rejected.items() if weights[index] > 0)
    used = wanted - reasons.total()
    if used and 2 * used >= wanted:
        return
    hint = "expected photons, finite positions and weights above 0"
    complaint = complaint_about_steps(translations_m, frame_px, pixel_m)
    if complaint is not None:
        hint = f"{complaint}; convert them, and write them into the file again"
    elif used:
        hint = f"{', '.join(f'{number} of them have {why}' for why, number in reasons.items())}; {hint}"
    what = f"{used or 'none'} of the {len(weights)} frames can be used"
    raise ValueError(f"{'only ' if used else ''}{what}: {hint}")


def _is_plausible(step_m: float, window_m: float, pixel_m: float) -> bool:
    return LEAST_STEP_PX * pixel_m <= step_m <= window_m


def _windows_covered(corners_px: npt.NDArray[np.int64], frame_px: int) -> float:
    """Return the area where any window lies, in windows."""
    cells = np.rint((corners_px - corners_px.min(axis=0)) * (CELLS / frame_px)).astype(np.int64)
    edges = np.zeros(cells.max(axis=0) + CELLS + 1, np.int32)
    for sign, row, column in ((1, 0, 0), (-1, CELLS, 0), (-1, 0, CELLS), (1, CELLS, CELLS)):
        np.add.at(edges, (cells[:, 0] + row, cells[:, 1] + column), sign)
    return float(np.count_nonzero(edges.cumsum(axis=0).cumsum(axis=1))) / CELLS**2
