"""Wavelengths, pixel sizes, windows and orientation: every sign and every scale has its one place here.

Far field.  A frame of N pixels of size p at distance z samples the object with dx = λ·z/(N·p).  The sample at
translation (x, y) shows the object window at row ``+y/dx`` and column ``+x/dx`` (CXI's default basis vectors; the
rule was verified on measured data).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.settings import Settings, SettingsError

__all__ = ["ELECTRON_VOLT_J", "Geometry", "Optic", "length_in_m", "orientation_after", "oriented", "wavelength_m"]

PLANCK_J_S = 6.62607015e-34
LIGHT_M_S = 299792458.0
ELECTRON_VOLT_J = 1.602176634e-19

_METRES = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "micron": 1e-6, "microns": 1e-6, "nm": 1e-9}


def wavelength_m(energy_eV: float) -> float:
    """Return the wavelength in metres of light of the given photon energy in eV."""
    return PLANCK_J_S * LIGHT_M_S / (energy_eV * ELECTRON_VOLT_J)


def length_in_m(value: npt.ArrayLike, unit: str) -> npt.NDArray[np.float64]:
    """Convert lengths to metres.

    Raises
    ------
    ValueError
        For a unit that is no length: positions are converted, never assumed.
    """
    try:
        factor = _METRES[unit.strip()]
    except KeyError:
        known = ", ".join(_METRES)
        raise ValueError(f"positions in {unit!r}: expected one of {known}; set the motor record's EGU") from None
    return np.asarray(value, dtype=np.float64) * factor


@dataclass(frozen=True)
class Optic(Settings):
    """The lens that makes the probe; lengths in metres, 0 where unknown.

    A Fresnel zone plate of diameter D and outermost zone Δr has the focal length f = D·Δr/λ and the numerical
    aperture λ/(2Δr).  `defocus_m` is the distance from the focus to the sample, positive downstream.
    """

    kind: str = "zone_plate"
    diameter_m: float = 0.0
    outer_zone_m: float = 0.0
    central_stop_m: float = 0.0
    defocus_m: float = 0.0


@dataclass(frozen=True)
class Geometry(Settings):
    """The experiment as the solver needs it, from the run's start document (`Geometry.from_start`).

    Attributes
    ----------
    energy_eV : float
        Photon energy.
    detector_distance_m : float
        Sample to detector.
    pixel_size_m : float
        Pixel of the *detector*, before binning.
    optic : Optic
        The lens.
    orientation : int
        0…7: bit 0 flips rows, bit 1 flips columns, bit 2 swaps the axes (first) of a frame to match the stage.
    """

    energy_eV: float
    detector_distance_m: float
    pixel_size_m: float = 30e-6
    optic: Optic = Optic()
    orientation: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("energy_eV", "detector_distance_m", "pixel_size_m"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise SettingsError(f"{name} = {value!r}: expected a positive number")
        if self.orientation not in range(8):
            raise SettingsError(f"orientation = {self.orientation!r}: expected 0 to 7")

    @classmethod
    def from_start(cls, start: Mapping[str, Any]) -> Geometry:
        """Read the geometry from the ``ptycho`` entry of a start document; other entries there are ignored.

        Raises
        ------
        SettingsError
            Where there is no such entry, or one of its values is missing or wrong.
        """
        entry = start.get("ptycho")
        if not isinstance(entry, Mapping):
            raise SettingsError(
                "the start document has no 'ptycho' entry: run ptycho_scan, or add md={'ptycho': {...}}"
            )
        missing = [k for k in ("energy_eV", "detector_distance_m", "pixel_size_m") if k not in entry]
        if missing:
            raise SettingsError(
                f"ptycho.{missing[0]} is missing from the start document: add it to the scan's metadata"
            )
        known = ("energy_eV", "detector_distance_m", "pixel_size_m", "optic", "orientation")
        return cls.from_dict({k: entry[k] for k in known if entry.get(k) is not None})

    @property
    def wavelength_m(self) -> float:
        """Wavelength in metres."""
        return wavelength_m(self.energy_eV)

    def object_pixel_m(self, crop_px: int) -> float:
        """Return dx = λ·z/(N·p), the pixel of object and probe, for frames that span `crop_px` detector pixels."""
        return self.wavelength_m * self.detector_distance_m / (crop_px * self.pixel_size_m)

    def positions_px(self, translation_m: npt.ArrayLike, crop_px: int) -> npt.NDArray[np.float64]:
        """Convert sample translations (n, ≥ 2: x, y, …) in metres to window positions (n, 2: row, column) in pixels.

        The origin is the stage's; the solver places its canvas itself.
        """
        xy = np.atleast_2d(np.asarray(translation_m, dtype=np.float64))
        return xy[:, 1::-1] / self.object_pixel_m(crop_px)

    def orient(self, frames: Any) -> Any:
        """Flip and swap the last two axes of frames as `orientation` says; see `oriented`."""
        return oriented(frames, self.orientation)


def oriented(frames: Any, orientation: int) -> Any:
    """Flip and swap the last two axes of frames (…, N, N) as in `Geometry.orientation`; zero frequency stays at N//2.

    A flip takes index i to (N − i) mod N for even N, so that the zero order keeps its pixel.
    """
    if orientation & 4:
        frames = frames.swapaxes(-1, -2)
    for bit, axis in ((1, -2), (2, -1)):
        if orientation & bit:
            side = frames.shape[axis]
            frames = frames.take((2 * (side // 2) - np.arange(side)) % side, axis=axis)
    return frames


def orientation_after(first: int, then: int) -> int:
    """Return the orientation that does at once what two do, one after the other."""
    flips = first & 3
    if then & 4:  # a swap after flips is a swap before flips of the other axes
        flips = (flips & 1) << 1 | flips >> 1
    return (first ^ then) & 4 | flips ^ (then & 3)
