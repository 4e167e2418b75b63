"""Whether an image still moves to its place, or has come there and follows the noise of its batches.

Successive changes of an image that moves point the same way.  Of one that has settled they do not: it is its place
and the noise of the latest batches, so that two changes in a row are c-b and b-a of independent a, b, c, and their
correlation is -1/2.  Unlike R, this tells when an image has settled at any dose, and where its model is not complete.

Simulated frames of 64² with 1e6 photons each, that came so fast that each had been used once or twice, settled within
34 uses in the usual case of 400, 75 where positions lie 10 px apart, 81 where no optic was told, and 190 where there
are 16: with errors of 0.0069, 0.017, 0.0077 and 0.019.  40 uses of each had left 0.0069, 0.043, 0.043 and 0.26.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nsbluesky.backend import Backend
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.gauge import phase_ramp, ramp
from nsbluesky.solver.picture import illumination
from nsbluesky.solver.state import SolverState

__all__ = ["SETTLED", "Settling"]

SETTLED = -1 / 4
"""Correlation of two changes in a row below which an image has settled: half of what noise alone makes of it."""

EVEN = 0.5
"""Part of the brightest illumination from which on all pixels count alike."""


class Settling:
    """Keeps the latest objects, and compares their changes.

    Parameters
    ----------
    backend : Backend
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._objects: list[Any] = []
        self._place: tuple[int, ...] = ()

    def reset(self) -> None:
        """Forget all objects."""
        self._objects = []

    def contents(self) -> dict[str, Any]:
        """Return the latest objects, for a checkpoint."""
        images = [self._backend.to_numpy(image) for image in self._objects]
        return {"place": list(self._place), "objects": np.array(images, np.complex64)}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned."""
        self._place = tuple(contents["place"])
        self._objects = [self._backend.from_numpy(image) for image in contents["objects"]]

    def correlation(self, state: SolverState, frames: FrameStore) -> float:
        """Return the correlation of the latest two changes of the object, the one up to now included.

        Of an object of several states, that of the one which moves most: the weaker ones come to their places last.
        NaN until there were two changes.  Scale, global phase and phase ramp, which data leave open, make no change.
        """
        place = (*state.origin_px, *state.shape)
        if place != self._place:
            self._objects, self._place = [], place
        earlier, now = self._objects, state.objects.copy()
        self._objects = [*earlier[-1:], now]
        if len(earlier) < 2:
            return math.nan
        xp = self._backend.xp
        lit = illumination(self._backend, state, frames, frames.active)
        weight = xp.minimum(lit, np.float32(EVEN) * lit.max())
        before, last = earlier
        return max(self._of_one(*images, weight) for images in zip(before, last, now, strict=True))

    def _of_one(self, before: Any, last: Any, now: Any, weight: Any) -> float:
        """Return the correlation of the changes of one state (H, W)."""
        xp = self._backend.xp
        before, last = (self._aligned(image, now, weight) for image in (before, last))
        first, second = last - before, now - last
        product = float((weight * (second * first.conj()).real).sum())
        power = float((weight * xp.abs(first) ** 2).sum()) * float((weight * xp.abs(second) ** 2).sum())
        return product / math.sqrt(power) if power > 0 else SETTLED - 1

    def _aligned(self, image: Any, reference: Any, weight: Any) -> Any:
        """Return `image` with the scale, phase and phase ramp that bring it nearest to `reference`."""
        xp = self._backend.xp
        rows, columns = phase_ramp(image * reference.conj(), weight)
        image = image * ramp(xp, image.shape, -rows, -columns)
        power = float((weight * xp.abs(image) ** 2).sum())
        overlap = complex((weight * image.conj() * reference).sum())
        return image * np.complex64(overlap / power) if power > 0 else image
