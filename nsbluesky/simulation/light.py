"""What happens to the light on its way to the sensor: flux, beamstop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Light", "beamstop_transmission"]


@dataclass(frozen=True)
class Light:
    """The beam's flux and a beamstop.

    Attributes
    ----------
    flux_sigma : float
        Relative standard deviation of the flux from frame to frame.
    jumps : float
        Chance that a frame has another flux altogether.
    jump_flux : (float, float)
        Range of that flux.
    beamstop_radius_m, beamstop_edge_m : float
        A round beamstop before the sensor, on the zero order; 0: none.  The edge is the width over which its
        transmission goes to 1.
    beamstop_transmission : float
        Inside of it.
    """

    flux_sigma: float = 0.0
    jumps: float = 0.0
    jump_flux: tuple[float, float] = (0.0, 0.1)
    beamstop_radius_m: float = 0.0
    beamstop_transmission: float = 0.01
    beamstop_edge_m: float = 60e-6

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("flux_sigma", "beamstop_radius_m", "beamstop_edge_m"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)!r}: expected ≥ 0")
        if not 0 <= self.jumps <= 1:
            raise ValueError(f"jumps = {self.jumps!r}: expected a chance from 0 to 1")
        if not 0 <= self.jump_flux[0] <= self.jump_flux[1]:
            raise ValueError(f"jump_flux = {self.jump_flux!r}: expected a range from 0 on")
        if not 0 <= self.beamstop_transmission <= 1:
            raise ValueError(f"beamstop_transmission = {self.beamstop_transmission!r}: expected 0 to 1")

    def flux(self, rng: np.random.Generator) -> float:
        """Return a frame's flux relative to the mean."""
        if self.jumps and rng.random() < self.jumps:
            return float(rng.uniform(*self.jump_flux))
        return max(0.0, 1.0 + self.flux_sigma * float(rng.standard_normal())) if self.flux_sigma else 1.0


def beamstop_transmission(
    light: Light, shape: tuple[int, int], center_px: tuple[float, float], pixel_m: float
) -> npt.NDArray[np.float32]:
    """Return the transmission of every image pixel, `shape` float32; (0, 0) without a beamstop."""
    if not light.beamstop_radius_m:
        return np.zeros((0, 0), np.float32)
    row, column = (np.arange(size) - center for size, center in zip(shape, center_px, strict=True))
    radius_m = np.hypot(row[:, None], column) * pixel_m
    edge = max(light.beamstop_edge_m, 1e-3 * pixel_m)
    outside = np.clip((radius_m - light.beamstop_radius_m) / edge + 0.5, 0, 1)
    inside = light.beamstop_transmission
    transmission: npt.NDArray[np.float32] = (inside + (1 - inside) * outside).astype(np.float32)
    return transmission
