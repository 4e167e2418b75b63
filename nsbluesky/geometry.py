"""Wavelengths, pixel sizes, windows and orientation: every sign and every scale has its one place here.

Far field.  A frame of N pixels of size p at distance z samples the object with dx = λ·z/(N·p).  The sample at
translation (x, y) shows the object window at row ``+y/dx`` and column ``+x/dx`` (CXI's default basis vectors; the
rule was verified on measured data).

Near field.  The detector sees the sample's shadow, magnified M = (z₁ + z)/z₁ times by light that diverges from a
point z₁ before the sample.  By the Fresnel scaling theorem it is what parallel light would make at the distance z/M
on pixels of dx = p/M (Paganin, Coherent X-Ray Optics, 2006, appendix B).  Rows and columns run as in the far field.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nsbluesky.settings import Settings, SettingsError
from nsbluesky.settings.base import require
from nsbluesky.settings.units import MOST_DEFOCUS_M, require_energy_eV, require_metres

__all__ = ["ELECTRON_VOLT_J", "Geometry", "Optic", "length_in_m", "orientation_after", "oriented", "wavelength_m"]

PLANCK_J_S = 6.62607015e-34
LIGHT_M_S = 299792458.0
ELECTRON_VOLT_J = 1.602176634e-19

MOST_DISTANCE_M = 1000.0
MOST_PIXEL_M = 5e-3
MOST_OPTIC_M = 0.5
"""Far beyond what is built: such numbers are in another unit."""

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

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        for name, unit in (("diameter_m", "µm"), ("outer_zone_m", "nm"), ("central_stop_m", "µm")):
            value = getattr(self, name)
            require(value >= 0, name, value, "≥ 0 (0: unknown)")
            require_metres(name, value, MOST_OPTIC_M, unit=unit)
        require_metres("defocus_m", self.defocus_m, MOST_DEFOCUS_M)


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
    propagation : {"far", "near"}
        What lies between sample and detector: so much space that the detector sees the Fourier transform of the exit
        wave; or so little that it sees the sample's shadow with Fresnel fringes.
    source_distance_m : float
        In the near field, from the point that the light diverges from, mostly a focus, to the sample; negative where
        it converges to a point behind the sample and the detector; 0 for parallel light.
    """

    energy_eV: float
    detector_distance_m: float
    pixel_size_m: float = 30e-6
    optic: Optic = Optic()
    orientation: int = 0
    propagation: Literal["far", "near"] = "far"
    source_distance_m: float = 0.0

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        for name in ("energy_eV", "detector_distance_m", "pixel_size_m"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise SettingsError(f"{name} = {value!r}: expected a positive number")
        require_energy_eV("energy_eV", self.energy_eV)
        require_metres("detector_distance_m", self.detector_distance_m, MOST_DISTANCE_M, unit="mm")
        require_metres("pixel_size_m", self.pixel_size_m, MOST_PIXEL_M)
        if self.orientation not in range(8):
            raise SettingsError(f"orientation = {self.orientation!r}: expected 0 to 7")
        if self.propagation not in ("far", "near"):
            raise SettingsError(f"propagation = {self.propagation!r}: expected far or near")
        source = self.source_distance_m
        if not math.isfinite(source) or -self.detector_distance_m <= source < 0:
            raise SettingsError(
                f"source_distance_m = {source!r}: expected a distance before the sample, 0 for parallel light, or a "
                f"negative one beyond the detector, {self.detector_distance_m:g} m behind the sample"
            )

    @classmethod
    def from_start(cls, start: Mapping[str, Any]) -> Geometry:
        """Read the geometry from the ``ptycho`` entry of a start document; other entries there are ignored.

        Raises
        ------
        SettingsError
            Where there is no such entry, or one of its values is missing or wrong.
        """
        entry = start.get("ptycho")
        if entry is not None and not isinstance(entry, Mapping):
            raise SettingsError(f"ptycho = {entry!r:.80} in the start document: expected its values by their names")
        if entry is None:
            raise SettingsError(
                "the start document has no 'ptycho' entry: run ptycho_scan, or add md={'ptycho': {...}}"
            )
        missing = [k for k in ("energy_eV", "detector_distance_m", "pixel_size_m") if k not in entry]
        if missing:
            raise SettingsError(
                f"ptycho.{missing[0]} is missing from the start document: add it to the scan's metadata"
            )
        known = {f.name for f in dataclasses.fields(cls)}
        return cls.from_dict({k: entry[k] for k in known if entry.get(k) is not None})

    @property
    def wavelength_m(self) -> float:
        """Wavelength in metres."""
        return wavelength_m(self.energy_eV)

    @property
    def is_near(self) -> bool:
        """Whether the detector stands in the near field."""
        return self.propagation == "near"

    @property
    def magnification(self) -> float:
        """M: how much larger than the sample its shadow is; 1 in parallel light."""
        return 1 + self.detector_distance_m / self.source_distance_m if self.source_distance_m else 1.0

    @property
    def effective_distance_m(self) -> float:
        """z/M, the distance at which parallel light makes the same near field, but for its size."""
        return self.detector_distance_m / self.magnification

    def object_pixel_m(self, crop_px: int, frame_px: int | None = None) -> float:
        """Return dx, the pixel of object and probe, for frames that span `crop_px` detector pixels.

        In the far field λ·z/(N·p), whatever the binning; in the near field p/M of the `frame_px` pixels to which the
        frame is binned (by default it is not).
        """
        if self.is_near:
            binned_m = self.pixel_size_m * crop_px / (crop_px if frame_px is None else frame_px)
            return binned_m / self.magnification
        return self.wavelength_m * self.detector_distance_m / (crop_px * self.pixel_size_m)

    def spread_px(self, frame_px: int, pixel_m: float) -> float:
        """Return λ·z/(M·dx²), over how many pixels the light of one object pixel spreads on its way to the detector.

        The transfer function of the near field is exp(−iπ·spread·|f|²) with f in cycles a pixel.

        Raises
        ------
        SettingsError
            Where that is more than the frame has: steps of its phase would exceed π, and light that leaves the frame
            on one side would come in on the other.
        """
        spread = self.wavelength_m * self.effective_distance_m / pixel_m**2
        if spread > frame_px:
            longest_m = frame_px * pixel_m**2 / self.wavelength_m
            raise SettingsError(
                f"the near field at {self.effective_distance_m:g} m (detector_distance_m / magnification) spreads a "
                f"pixel of {pixel_m:.4g} m over {spread:.0f} pixels: expected at most the {frame_px} of a frame, "
                f"{longest_m:.4g} m; take larger frames, or propagation = 'far'"
            )
        return spread

    def positions_px(
        self, translation_m: npt.ArrayLike, crop_px: int, frame_px: int | None = None
    ) -> npt.NDArray[np.float64]:
        """Convert sample translations (n, ≥ 2: x, y, …) in metres to window positions (n, 2: row, column) in pixels.

        The origin is the stage's; the solver places its canvas itself.
        """
        xy = np.atleast_2d(np.asarray(translation_m, dtype=np.float64))
        return xy[:, 1::-1] / self.object_pixel_m(crop_px, frame_px)

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


def orientation_back(orientation: int) -> int:
    """Return the orientation that undoes one."""
    return next(back for back in range(8) if orientation_after(orientation, back) == 0)
