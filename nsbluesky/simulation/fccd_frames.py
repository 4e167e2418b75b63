"""Raw frames of a simulated Fast CCD behind a simulated sample; the truth is known and saved beside the data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import scipy.fft

from nsbluesky.cleaning.layout import LAYOUTS, FCCDLayout, assemble
from nsbluesky.geometry import Geometry
from nsbluesky.settings import CleaningSettings, SettingsError
from nsbluesky.simulation.faults import DetectorFaults
from nsbluesky.simulation.fccd_detector import SimulatedDetector, SimulatedExposure, generator
from nsbluesky.simulation.fccd_electronics import MAX_VALUE, MAX_WORD
from nsbluesky.simulation.frame_faults import Delivery, FrameFaults, deliver
from nsbluesky.simulation.optics import fresnel
from nsbluesky.simulation.presets import DetectorModel, get_preset
from nsbluesky.simulation.samples import Sample

__all__ = ["NOMINAL_EXPOSURE_S", "FrameSimulator"]

NOMINAL_EXPOSURE_S = 0.01


class FrameSimulator:
    """Makes the frame of any sample position, the same for the same seed and index; safe to call on many threads.

    Parameters
    ----------
    sample : Sample
    layout : str
        A name in `nsbluesky.cleaning.layout.LAYOUTS`: full raw frames.  "none": plain images of the sample's
        `frame_px`, words that count photons, without any electronics: small and fast, for tests of a pipeline.
    seed : int
        Of the sensor, and with a frame's index of its noise.
    detector : DetectorModel or str
        What the detector does to the light, or the name of a preset in `nsbluesky.simulation.presets`.
    faults : DetectorFaults, optional
        Instead of the detector's.

    Attributes
    ----------
    center_px : (float, float)
        Row and column of the zero order on the assembled image: a few pixels off its middle, the middle pixel for the
        layout "none".
    """

    def __init__(
        self,
        sample: Sample,
        *,
        layout: str = "cosmic",
        seed: int = 0,
        detector: DetectorModel | str = "sensor",
        faults: DetectorFaults | None = None,
    ) -> None:
        if layout != "none" and layout not in LAYOUTS:
            raise SettingsError(f"layout = {layout!r}: expected one of {', '.join([*LAYOUTS, 'none'])}")
        self.sample = sample
        self.layout_name = layout
        self.seed = seed
        self.detector: SimulatedDetector | None = None
        n = sample.frame_px
        if sample.propagation == "near" and layout != "none":
            raise SettingsError(f"layout = {layout!r}: expected 'none' for a sample in the near field")
        if layout == "none":
            self.image_shape = (n, n)
            self.center_px = (float(n // 2), float(n // 2))
            self.adu_per_photon = 1.0
            return
        if sample.detector_px < 2 * n:
            raise ValueError(f"detector_px = {sample.detector_px}: expected at least 2 pixels per clean pixel ({n})")
        model = get_preset(detector) if isinstance(detector, str) else detector
        self.detector = SimulatedDetector(
            dataclasses.replace(model, detector_faults=faults or model.detector_faults),
            energy_eV=sample.energy_eV,
            pixel_m=sample.detector_pixel_m,
            layout=layout,
            seed=seed,
        )
        self.image_shape = LAYOUTS[layout].image_shape
        self.center_px = self.detector.center_px
        self.adu_per_photon = self.detector.adu_per_photon
        self._place = _Placement(sample.detector_px, n, self.center_px, self.image_shape)

    @property
    def layout(self) -> FCCDLayout | None:
        """The detector mode; None for plain images."""
        return None if self.detector is None else self.detector.layout

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a raw frame."""
        return self.image_shape if self.layout is None else self.layout.shape

    @property
    def geometry(self) -> Geometry:
        """The experiment as a start document tells it, with the pixel of the frames made here."""
        geometry = self.sample.geometry
        if self.layout is None:
            pixel = self.sample.detector_pixel_m * self.sample.detector_px / self.sample.frame_px
            return geometry.replace(pixel_size_m=pixel)
        return geometry

    @property
    def cleaning_settings(self) -> CleaningSettings:
        """Settings that bring the frames to the sample's own pixel; the centre is left to be found."""
        n = self.sample.frame_px
        if self.detector is None:
            return CleaningSettings(
                layout="none",
                adu_per_photon=self.adu_per_photon,
                photon_threshold=0.0,
                center_px=self.center_px,
                crop_px=n,
                frame_px=n,
            )
        model, side = self.detector.model, self.sample.detector_px
        electronics, light = model.electronics, model.light
        largest = self.detector.readout.largest
        return CleaningSettings(
            layout=self.layout_name,
            gain_words=electronics.gain.words,
            saturation_word=0 if largest in (MAX_WORD, MAX_VALUE) else largest,
            shadow_adcs=2 if electronics.shadow_adu and model.charge.full_well_photons else 0,
            spikes="lines" if electronics.interference.cycles_per_clock else "none",
            beamstop_radius_m=light.beamstop_radius_m,
            beamstop_transmission=light.beamstop_transmission if light.beamstop_radius_m else 1.0,
            crop_px=side,
            frame_px=n,
        )

    def expected_photons(self, x_m: float, y_m: float) -> npt.NDArray[np.float32]:
        """Return the mean photons of every image pixel in a nominal exposure, `image_shape` float32.

        The intensity at the pixels' centres; what lies beyond the frequencies of the object's pixel is dark.
        """
        waves = self.sample.exit_waves(x_m, y_m)
        if self.sample.propagation == "near":
            return _near_intensity(waves, self.sample.geometry.spread_px(self.sample.frame_px, self.sample.pixel_m))
        if self.detector is None:
            return _far_intensity(waves, self.sample.frame_px)
        return self._place.photons(waves)

    def expected_clean(
        self, x_m: float, y_m: float, settings: CleaningSettings | None = None
    ) -> npt.NDArray[np.float32]:
        """Return what a perfect cleaning would make of a perfect frame, (frame_px, frame_px) float32 photons."""
        settings = settings or self.cleaning_settings
        photons = self.expected_photons(x_m, y_m)
        crop, px, bin_px = settings.crop_px, settings.frame_px, settings.crop_px // settings.frame_px
        window = np.zeros((crop, crop), np.float32)
        source, target = zip(
            *(
                _overlap(_window_start(center, px, bin_px), crop, size)
                for center, size in zip(self.center_px, photons.shape, strict=True)
            ),
            strict=True,
        )
        window[target] = photons[source]
        bins: npt.NDArray[np.float32] = window.reshape(px, bin_px, px, bin_px).sum(axis=(1, 3))
        return bins

    def raw_frame(
        self,
        x_m: float,
        y_m: float,
        *,
        shutter_open: bool,
        exposure_s: float = NOMINAL_EXPOSURE_S,
        index: int,
    ) -> npt.NDArray[np.uint16]:
        """Return the words of `exposure`: the frame as the camera writes it, `shape` uint16."""
        return self.exposure(x_m, y_m, shutter_open=shutter_open, exposure_s=exposure_s, index=index).words

    def exposure(
        self,
        x_m: float,
        y_m: float,
        *,
        shutter_open: bool,
        exposure_s: float = NOMINAL_EXPOSURE_S,
        index: int,
    ) -> SimulatedExposure:
        """Return the frame with that index, and the photons that fell.

        Parameters
        ----------
        x_m, y_m : float
            Where the sample really is.
        shutter_open : bool
        exposure_s : float
            Photons are in proportion to it; a sample's probe is that of `NOMINAL_EXPOSURE_S`.
        index : int
            With the seed decides all noise.
        """
        mean = self.expected_photons(x_m, y_m) if shutter_open and exposure_s > 0 else None
        factor = exposure_s / NOMINAL_EXPOSURE_S
        if self.detector is not None:
            return self.detector.expose(mean, index=index, exposure_s=exposure_s, factor=factor)
        photons = np.zeros(self.image_shape, np.uint32)
        if mean is not None:
            photons = generator(self.seed, 1 + index).poisson(mean * np.float32(factor)).astype(np.uint32)
        words = np.minimum(photons, 65535).astype(np.uint16)
        return SimulatedExposure(words, photons, 1.0, np.zeros(0, np.int64))

    def delivery(self, num_frames: int) -> Delivery:
        """Return which of the frames 0 … `num_frames` − 1 arrive, in what order and under which numbers."""
        faults = FrameFaults() if self.detector is None else self.detector.model.frame_faults
        return deliver(faults, num_frames, generator(self.seed, 0, 1))

    def truth(self) -> dict[str, Any]:
        """Return all that a real experiment would not know, arrays and plain values by name."""
        sample = self.sample
        truth: dict[str, Any] = {
            "object": sample.object,
            "probe": sample.probe,
            "origin_px": np.array(sample.origin_px),
            "field_px": np.array(sample.field_px),
            "pixel_m": sample.pixel_m,
            "energy_eV": sample.energy_eV,
            "detector_distance_m": sample.detector_distance_m,
            "detector_pixel_m": self.geometry.pixel_size_m,
            "optic": json.dumps(dataclasses.asdict(sample.optic)),
            "center_px": np.array(self.center_px),
            "adu_per_photon": self.adu_per_photon,
            "nominal_exposure_s": NOMINAL_EXPOSURE_S,
            "layout": self.layout_name,
            "seed": self.seed,
        }
        if self.detector is not None:
            readout = self.detector.readout
            truth |= {
                "bad": readout.fault_map.bad,
                "bad_image": assemble(readout.fault_map.bad, readout.layout),
                "bad_adcs": readout.fault_map.bad_adcs,
                "interference_cycles_per_clock": np.array(readout.electronics.interference.cycles_per_clock),
                "interference_amplitude_adu": readout.amplitudes,
                "detector": json.dumps(dataclasses.asdict(self.detector.model)),
            }
            if self.detector.beamstop.size:
                truth["beamstop"] = self.detector.beamstop
        return truth

    def save_truth(self, path: str | Path) -> None:
        """Write `truth` to an HDF5 file, one dataset per name."""
        with h5py.File(path, "w") as file:
            for name, value in self.truth().items():
                file[name] = value


def _window_start(center: float, frame_px: int, bin_px: int) -> int:
    """Return the first pixel of the window with the zero order nearest to the middle of bin N//2."""
    return int(np.floor(center - (frame_px // 2) * bin_px - (bin_px - 1) / 2 + 0.5))


def _overlap(start: int, length: int, size: int) -> tuple[slice, slice]:
    """Return where a window (start, length) meets an axis of `size` pixels: on the axis, and in the window."""
    first, last = max(start, 0), min(start + length, size)
    return slice(first, last), slice(first - start, last - start)


def _near_intensity(waves: npt.NDArray[np.complex64], spread_px: float) -> npt.NDArray[np.float32]:
    """Return Σ|Fresnel|² of exit waves (modes, N, N)."""
    intensity: npt.NDArray[np.float32] = np.sum(np.abs(fresnel(waves, spread_px)) ** 2, axis=0).astype(np.float32)
    return intensity


def _far_intensity(waves: npt.NDArray[np.complex64], side: int) -> npt.NDArray[np.float32]:
    """Return Σ|FFT|² at `side` frequencies per axis, zero frequency at side//2."""
    spectrum = scipy.fft.fft2(waves, s=(side, side), overwrite_x=True)
    intensity = np.sum(spectrum.real**2 + spectrum.imag**2, axis=0) / np.float32(side * side)
    shifted: npt.NDArray[np.float32] = np.fft.fftshift(intensity)
    return shifted


class _Placement:
    """Spreads a far field over the detector's pixels around a centre that need not be a whole pixel.

    An intensity is band-limited: its transform, the autocorrelation of the exit wave, ends at ± N pixels.  So the
    pattern on 2N × 2N frequencies says all, and its values at any others follow exactly: a shift is a ramp on the
    autocorrelation, a finer grid is a longer inverse transform of it.
    """

    def __init__(self, side: int, wave_px: int, center_px: tuple[float, float], image_shape: tuple[int, int]) -> None:
        self._side, self._n = side, wave_px
        starts = [int(np.floor(c - side / 2 + 0.5)) for c in center_px]
        self._image_shape = image_shape
        overlaps = [_overlap(start, side, size) for start, size in zip(starts, image_shape, strict=True)]
        self._image, self._pattern = (tuple(part) for part in zip(*overlaps, strict=True))
        row, column = (c - start for c, start in zip(center_px, starts, strict=True))
        lags = np.fft.fftfreq(2 * wave_px, 1 / (2 * wave_px))
        along_rows = np.exp(-2j * np.pi * row * lags / side)
        along_columns = np.exp(-2j * np.pi * column * lags[:wave_px] / side)
        self._ramp = (along_columns[:, None] * along_rows / (2 * wave_px) ** 2).astype(np.complex64)

    def photons(self, waves: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
        """Return the photons of every image pixel from exit waves (modes, N, N)."""
        n, side = self._n, self._side
        spectrum = scipy.fft.fft2(waves, s=(2 * n, 2 * n))
        intensity = np.sum(spectrum.real**2 + spectrum.imag**2, axis=0)
        # Columns first: the inverse transform along rows then runs over contiguous memory, and only over lags ≠ 0.
        lags = scipy.fft.rfft2(intensity)[:, :n].T * self._ramp
        padded = np.zeros((n, side), np.complex64)
        padded[:, :n] = lags[:, :n]
        padded[:, -n + 1 :] = lags[:, n + 1 :]
        rows = np.ascontiguousarray(scipy.fft.ifft(padded, axis=1, overwrite_x=True).T)
        pattern = scipy.fft.irfft(rows, n=side, axis=1, overwrite_x=True)
        image = np.zeros(self._image_shape, np.float32)
        np.maximum(pattern[self._pattern], 0, out=image[self._image])  # rounding leaves tiny negatives
        return image
