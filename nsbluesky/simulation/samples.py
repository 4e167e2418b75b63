"""What lies in the beam: an object, the probe that lights it, and the experiment's geometry."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from nsbluesky.geometry import Geometry, Optic, wavelength_m
from nsbluesky.simulation.optics import diffuser_light, far_field, zone_plate_probe

__all__ = ["Sample", "from_picture", "gold_balls", "near_field_sample"]

FCCD_PIXEL_M = 30e-6
FCCD_BIN_PX = 8
PICTURE_PIXEL_M = 11e-9

# Outer zone, central stop and defocus fit the far field of the measured probe: an annulus from 4.4 to 9.6 pixels of
# 240 µm at 0.224 m, and the phase across it (the uncertainty is about 1 µm).  The diameter cannot be seen there;
# 240 µm is usual for this outer zone.
COSMIC_OPTIC = Optic(
    kind="zone_plate", diameter_m=240e-6, outer_zone_m=60e-9, central_stop_m=110e-6, defocus_m=1.75e-6
)


@dataclass(frozen=True, eq=False)
class Sample:
    """An object under a probe, with all that is needed to compute its diffraction.

    Attributes
    ----------
    object : (H, W) complex64
        Transmission; 1 beyond its edges.
    probe : (modes, N, N) complex64
        Incoherent modes in √photon for one nominal exposure, origin at N//2.
    pixel_m : float
        Pixel of object and probe.
    energy_eV, detector_distance_m : float
        Photon energy; sample to detector.
    detector_pixel_m : float
        Pixel of the detector, before binning.
    optic : Optic
        What the start document says about the lens.
    origin_px : (float, float)
        Row and column of the object on the probe's pixel N//2 at translation zero.
    field_px : (int, int)
        Rows and columns around the origin that are worth a scan.
    propagation : {"far", "near"}
    source_distance_m : float
        As in `nsbluesky.geometry.Geometry`; in the near field the detector's pixel is `pixel_m`, magnified.
    """

    object: npt.NDArray[np.complex64]
    probe: npt.NDArray[np.complex64]
    pixel_m: float
    energy_eV: float
    detector_distance_m: float
    optic: Optic
    origin_px: tuple[float, float]
    field_px: tuple[int, int]
    detector_pixel_m: float = FCCD_PIXEL_M
    propagation: Literal["far", "near"] = "far"
    source_distance_m: float = 0.0
    _frequency: npt.NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.object.ndim != 2 or self.probe.ndim != 3 or self.probe.shape[1] != self.probe.shape[2]:
            raise ValueError(
                f"object {self.object.shape}, probe {self.probe.shape}: expected (H, W) and (modes, N, N)"
            )
        object.__setattr__(self, "_frequency", np.fft.fftfreq(self.frame_px).astype(np.float32))

    @property
    def frame_px(self) -> int:
        """Side N of probe and exit wave in pixels."""
        return int(self.probe.shape[-1])

    @property
    def geometry(self) -> Geometry:
        """The experiment as a start document tells it."""
        return Geometry(
            self.energy_eV,
            self.detector_distance_m,
            self.detector_pixel_m,
            self.optic,
            propagation=self.propagation,
            source_distance_m=self.source_distance_m,
        )

    @property
    def detector_px(self) -> int:
        """Detector pixels per side of the frame: λz/(dx·p), the frequencies of the exit wave; N in the near field."""
        if self.propagation == "near":
            return self.frame_px
        fill = wavelength_m(self.energy_eV) * self.detector_distance_m / (self.pixel_m * self.detector_pixel_m)
        return round(fill)

    @property
    def photons(self) -> float:
        """Photons of one nominal exposure without an object."""
        return float(np.sum(np.abs(self.probe) ** 2, dtype=np.float64))

    @property
    def scan_range_m(self) -> tuple[float, float]:
        """Full range (x, y), centred on zero, over which the sample is worth scanning."""
        rows, columns = self.field_px
        return columns * self.pixel_m, rows * self.pixel_m

    def window(self, x_m: float, y_m: float) -> tuple[npt.NDArray[np.complex64], tuple[float, float]]:
        """Return the part of the object under the probe at sample translation (x, y), and the rest of a pixel.

        The window moves to row ``+y/dx`` and column ``+x/dx`` (`nsbluesky.geometry`).  It is cut at whole pixels; the
        rest (row, column), within ± ½, is what the probe has to move against it (`exit_waves`).
        """
        n = self.frame_px
        corner = np.array([self.origin_px[0] + y_m / self.pixel_m, self.origin_px[1] + x_m / self.pixel_m]) - n // 2
        whole = np.floor(corner + 0.5).astype(int)
        rest = corner - whole
        window = np.ones((n, n), np.complex64)
        (row, column), (height, width) = whole, self.object.shape
        rows, columns = slice(max(row, 0), min(row + n, height)), slice(max(column, 0), min(column + n, width))
        if rows.start < rows.stop and columns.start < columns.stop:
            window[rows.start - row : rows.stop - row, columns.start - column : columns.stop - column] = self.object[
                rows, columns
            ]
        return window, (float(rest[0]), float(rest[1]))

    def exit_waves(self, x_m: float, y_m: float) -> npt.NDArray[np.complex64]:
        """Return probe × object at sample translation (x, y), (modes, N, N).

        The part of a pixel is a Fourier shift of the *probe*, which is band-limited, so that the shift is exact; the
        exit wave as a whole is then shifted by less than a pixel, which no intensity in the far field can tell; in
        the near field it is shifted back.
        """
        window, (row, column) = self.window(x_m, y_m)
        tau = np.float32(2 * np.pi)
        along_rows = np.exp(-1j * tau * np.float32(row) * self._frequency)
        along_columns = np.exp(-1j * tau * np.float32(column) * self._frequency)
        ramp = along_rows[:, None] * along_columns
        waves = np.fft.ifft2(self._probe_spectrum * ramp) * window
        if self.propagation == "near":
            waves = np.fft.ifft2(np.fft.fft2(waves) * ramp.conj())
        return waves.astype(np.complex64, copy=False)

    @cached_property
    def _probe_spectrum(self) -> npt.NDArray[np.complex64]:
        return np.fft.fft2(self.probe).astype(np.complex64)


def gold_balls() -> Sample:
    """Return gold nanospheres as reconstructed from measured Fast CCD data, under the probe of that measurement.

    The data are those of CXIDB entry 65 (CC0).  The distance is chosen so that 104 × 104 clean pixels of 8 × 8
    detector pixels sample the object with the file's pixel of 11.128 nm.  The measured pattern was 2.85 clean pixels
    off centre; the ramp across the probe that says so is taken out, so that the light is centred on the zero order.
    """
    with (resources.files("nsbluesky.simulation") / "data" / "gold_balls.npz").open("rb") as file:
        arrays = dict(np.load(file))
    wavelength, pixel_m = float(arrays["wavelength"]), float(arrays["dx"])
    probe = _without_ramp(arrays["probe"])
    frame_px = probe.shape[-1]
    distance = pixel_m * frame_px * FCCD_BIN_PX * FCCD_PIXEL_M / wavelength
    corners = arrays["pix"]
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2 + frame_px // 2
    rows, columns = np.ptp(corners, axis=0)
    return Sample(
        object=arrays["object"],
        probe=probe,
        pixel_m=pixel_m,
        energy_eV=wavelength_m(1.0) / wavelength,  # λ·E is a constant
        detector_distance_m=distance,
        optic=COSMIC_OPTIC,
        origin_px=(float(middle[0]), float(middle[1])),
        field_px=(int(rows), int(columns)),
    )


def _without_ramp(probe: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
    """Return probe modes whose far field has its centre of mass at zero frequency, one ramp for all modes."""
    n = probe.shape[-1]
    intensity = np.sum(np.abs(far_field(probe)) ** 2, axis=0)
    index = np.arange(n) - n // 2
    row = np.sum(intensity * index[:, None]) / intensity.sum()
    column = np.sum(intensity * index) / intensity.sum()
    ramp = np.exp(-2j * np.pi * (row * index[:, None] + column * index) / n)
    return np.asarray(probe * ramp, np.complex64)


def from_picture(
    picture: str | Path | npt.NDArray[Any],
    *,
    field_px: int = 200,
    frame_px: int = 104,
    energy_eV: float = 1000.0,
    photons: float = 1e7,
    absorption: float = 0.3,
    phase_rad: float = 1.0,
    optic: Optic | None = None,
) -> Sample:
    """Return a sample from any picture: dark means thick.

    Parameters
    ----------
    picture : path or (rows, columns[, channels]) array
        Any picture; colours become grey, values are stretched to 0…1.
    field_px : int
        The picture's longer side in object pixels.
    frame_px : int
        Side of the clean frames and the probe.
    energy_eV : float
    photons : float
        Photons of one nominal exposure.
    absorption, phase_rad : float
        −log of the amplitude, and the phase lag, where the picture is black.
    optic : Optic, optional
        A zone plate of 60 nm, 12 µm out of focus, by default.

    Raises
    ------
    ValueError
        For something that is no picture.
    """
    thickness = 1 - _grey(picture, field_px)
    transmission = np.exp(-(absorption + 1j * phase_rad) * thickness)
    rows, columns = thickness.shape
    optic = optic or COSMIC_OPTIC.replace(defocus_m=12e-6)
    pixel_m = PICTURE_PIXEL_M
    probe = zone_plate_probe(optic, energy_eV=energy_eV, pixel_m=pixel_m, frame_px=frame_px, photons=photons)
    distance = pixel_m * frame_px * FCCD_BIN_PX * FCCD_PIXEL_M / wavelength_m(energy_eV)
    return Sample(
        object=transmission.astype(np.complex64),
        probe=probe[None],
        pixel_m=pixel_m,
        energy_eV=energy_eV,
        detector_distance_m=distance,
        optic=optic,
        origin_px=(rows / 2, columns / 2),
        field_px=(rows, columns),
    )


def near_field_sample(
    picture: str | Path | npt.NDArray[Any],
    *,
    field_px: int = 200,
    frame_px: int = 128,
    energy_eV: float = 17000.0,
    photons: float = 1e7,
    absorption: float = 0.1,
    phase_rad: float = 1.0,
    detector_distance_m: float = 0.5,
    source_distance_m: float = 0.008,
    detector_pixel_m: float = 6.5e-6,
) -> Sample:
    """Return a picture behind a diffuser, in light that diverges from a focus before it: dark means thick.

    Parameters
    ----------
    picture, field_px, frame_px, energy_eV, photons, absorption, phase_rad
        As in `from_picture`.
    detector_distance_m, source_distance_m : float
        Sample to detector, and focus to sample.
    detector_pixel_m : float

    Raises
    ------
    ValueError
        For something that is no picture, or where the detector is too far off for the near field.
    """
    thickness = 1 - _grey(picture, field_px)
    rows, columns = thickness.shape
    geometry = Geometry(
        energy_eV,
        detector_distance_m,
        detector_pixel_m,
        propagation="near",
        source_distance_m=source_distance_m,
    )
    pixel_m = geometry.object_pixel_m(frame_px)
    geometry.spread_px(frame_px, pixel_m)
    return Sample(
        object=np.exp(-(absorption + 1j * phase_rad) * thickness).astype(np.complex64),
        probe=diffuser_light(frame_px, photons)[None],
        pixel_m=pixel_m,
        energy_eV=energy_eV,
        detector_distance_m=detector_distance_m,
        optic=Optic(kind="diffuser"),
        origin_px=(rows / 2, columns / 2),
        field_px=(rows, columns),
        detector_pixel_m=detector_pixel_m,
        propagation="near",
        source_distance_m=source_distance_m,
    )


def read_picture(path: str | Path) -> Image.Image:
    """Return the picture of a file, loaded.

    Raises
    ------
    ValueError
        If it is no picture, or a damaged one.
    OSError
        If it cannot be opened.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path}: {error}; expected a picture, as PNG, TIFF or JPEG") from error


def _grey(picture: str | Path | npt.NDArray[Any], longer_px: int) -> npt.NDArray[np.float64]:
    """Return a picture as values 0…1 whose longer side has `longer_px` pixels."""
    if isinstance(picture, str | Path):
        values = np.asarray(read_picture(picture).convert("F"), dtype=np.float32)
    else:
        values = np.asarray(picture, dtype=np.float32)
        if values.ndim == 3:
            values = values.mean(axis=2)
    if values.ndim != 2 or values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError(f"picture of shape {np.shape(values)}: expected finite values (rows, columns[, channels])")
    low, high = float(values.min()), float(values.max())
    values = (values - low) / ((high - low) or 1.0)
    scale = longer_px / max(values.shape)
    size = max(round(values.shape[1] * scale), 1), max(round(values.shape[0] * scale), 1)
    if size != values.shape[::-1]:
        values = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.LANCZOS))
    return np.clip(values.astype(np.float64), 0, 1)  # Lanczos overshoots at edges
