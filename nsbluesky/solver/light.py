"""How much light frames had, and how much was expected: what every pass over them tells beside its updates.

Sums over the good pixels of a frame, with measured amplitudes A, those of the model G = √I, the background b
within I, and the mask m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["NOT_MEASURED", "PHOTON_NOISE", "SUMS", "LightSums", "UpdateReport", "light_sums", "residuals_of"]

SUMS = 5

PHOTON_NOISE = 0.25
"""Variance of √photons where photons are counted."""

NOT_MEASURED = -1.0
"""Amplitude of a pixel that a frame did not measure (NaN or infinite photons)."""


@dataclass(frozen=True)
class LightSums:
    """The sums of some frames.

    Attributes
    ----------
    residual : (n,) float64
        Σ m·|G − A|.
    misfit : (n,) float64
        Σ m·(A − G)²; ¼ a pixel where photons are counted and all else is right.
    pixels : (n,) float64
        Σ m, good pixels.
    light : (n,) float64
        Σ m·(I − b), the photons of the model but for the background.
    excess : (n,) float64
        Σ m·(A² − I), photons that were counted beyond those.
    """

    residual: npt.NDArray[np.float64]
    misfit: npt.NDArray[np.float64]
    pixels: npt.NDArray[np.float64]
    light: npt.NDArray[np.float64]
    excess: npt.NDArray[np.float64]

    @classmethod
    def of(cls, sums: npt.NDArray[np.floating[Any]]) -> Self:
        """Return columns (n, SUMS) by their names."""
        return cls(*sums.T.astype(np.float64))


def residuals_of(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return Σ m·|G − A| (n,) of columns (n, SUMS)."""
    return sums[:, 0].astype(np.float32)


def light_sums(xp: Any, amplitude: Any, intensity: Any, background: float, usable: Any) -> Any:
    """Return the columns (n, SUMS) for A (n, N, N), I (n, N, N), b and m (n, N, N), over arrays."""
    difference = (amplitude - xp.sqrt(intensity)) * usable
    terms = [
        xp.abs(difference),
        difference**2,
        usable,
        usable * (intensity - amplitude.dtype.type(background)),
        usable * (amplitude**2 - intensity),
    ]
    return xp.stack([term.sum(axis=(1, 2)) for term in terms], axis=1)


class UpdateReport:
    """Misfit and light of the frames of an update, from before it; they may still be on their way from a device.

    Parameters
    ----------
    fetch : callable
        Waits and returns the residuals Σ m·|G − A| (n,) float32, and the light sums (n, SUMS) float64 or None; called
        once.
    """

    def __init__(self, fetch: Callable[[], tuple[npt.NDArray[np.float32], npt.NDArray[np.float64] | None]]) -> None:
        self._fetch = fetch
        self._found: tuple[npt.NDArray[np.float32], npt.NDArray[np.float64] | None] | None = None

    def wait(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64] | None]:
        """Return residuals and light sums."""
        if self._found is None:
            self._found = self._fetch()
        return self._found

    @property
    def residual(self) -> npt.NDArray[np.float32]:
        """Σ m·|G − A| (n,)."""
        return self.wait()[0]

    @property
    def light(self) -> npt.NDArray[np.float64] | None:
        """The light sums (n, SUMS), or None from engines that do not form them."""
        return self.wait()[1]
