"""When will the image be good enough?  The resolution so far against the frames that it took."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["frames_for_resolution"]

LEAST_POINTS = 4
LEAST_GROWTH = 1.5
"""Points must span this factor of frames …"""

FARTHEST = 10.0
"""… and no prediction goes beyond so many times the frames there are."""

LEAST_CERTAINTY = 3.0
"""The exponent must be so many of its standard errors above 0."""


def frames_for_resolution(history: Sequence[tuple[int, float]], wanted_m: float) -> int | None:
    """Return how many frames a resolution will take; None until that can be told.

    A power law, resolution = a·n^−p, is fitted to the points.  There is no prediction from few points, from points
    that do not clearly fall, or far beyond what was seen.

    Parameters
    ----------
    history : sequence of (int, float)
        Frames used, and the resolution in metres with so many.
    wanted_m : float
    """
    points = np.array([(n, r) for n, r in history if n > 0 and np.isfinite(r) and r > 0], float).reshape(-1, 2)
    reached = points[points[:, 1] <= wanted_m]
    if len(reached):
        return int(reached[:, 0].min())
    if len(points) < LEAST_POINTS or points[:, 0].max() < LEAST_GROWTH * points[:, 0].min():
        return None
    frames, resolution = np.log(points).T
    basis = np.stack([np.ones_like(frames), frames], axis=1)
    (level, slope), *_ = np.linalg.lstsq(basis, resolution, rcond=None)
    scatter = np.sum((resolution - basis @ [level, slope]) ** 2) / (len(points) - 2)
    error = np.sqrt(scatter / np.sum((frames - frames.mean()) ** 2))
    if -slope <= LEAST_CERTAINTY * error or slope >= 0:
        return None
    needed = float(np.exp((np.log(wanted_m) - level) / slope))
    return round(needed) if needed <= FARTHEST * points[:, 0].max() else None
