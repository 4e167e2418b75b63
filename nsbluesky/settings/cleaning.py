"""Settings of the cleaning of raw frames."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass

from nsbluesky.settings.base import Settings, require
from nsbluesky.settings.units import require_metres

__all__ = ["CleaningSettings", "DetectorMode"]

MOST_BEAMSTOP_M = 0.5


@dataclass(frozen=True)
class DetectorMode(Settings):
    """A detector mode that is not among `nsbluesky.cleaning.layout.LAYOUTS`, as a few lines of settings.

    Attributes
    ----------
    rows, columns : int
        Shape of the raw frame: two halves of `rows` / 2, each read from its outer edge.
    columns_per_adc : int
        Raw columns of one ADC, overscan included.
    overscan_columns : tuple of int
        Which of them are overscan.
    good_rows : (int, int)
        Raw rows (start, stop) of the top half that are image; the bottom half is its mirror image.
    """

    rows: int
    columns: int
    columns_per_adc: int
    overscan_columns: tuple[int, ...]
    good_rows: tuple[int, int]


@dataclass(frozen=True)
class CleaningSettings(Settings):
    """How raw FCCD frames become photons on a square, centred grid; in the order of the steps.

    Attributes
    ----------
    layout : str
        Name of the detector mode in `nsbluesky.cleaning.layout.LAYOUTS`; "none" for frames that are images already.
    detector_mode : DetectorMode or None
        Another mode, in the place of a named one.
    gain_words : {"plain", "csxtools", "middle_0x4000", "13_bits"}
        What a raw word is: a plain 16-bit number at fixed gain; gain bits, an error bit and 13 bits of value, with
        0x8000 or 0x4000 for the middle gain, by source; or 13 bits below constant top bits (ACME).
    adu_per_photon : float
        ADU of one photon at gain ×8; 0.034 ADU/eV gives 30 at 930 eV.  0 takes it from the energy.
    subtract_dark : bool
        Whether the mean dark frame is subtracted; its bad pixels are left out either way.
    bad_std_adu : float
        A pixel or ADC is bad where its dark standard deviation exceeds the median by this, or is zero.
    dark_drift_adu : float
        A warning is given where the overscan has moved by this (median over ADCs) since the darks were taken.
    rolling_darks : int
        Dark frames taken again during a scan replace older ones as soon as there are so many newer ones.
    bad_pixels : str
        Path of an ``.npy`` file that is not zero for image pixels that must not be used; "" for none.  Pixels with
        the largest word, or a negative one, in all of the first frames need none, but with a Fast CCD.
    flat_field : str
        Path of an ``.npy`` file with the relative sensitivity of every image pixel; "" for none.
    saturation_word : int
        Raw words from here on are saturated; 0 takes the largest that `gain_words` and the words' width allow.
    saturation_dilation_px : int
        Neighbours of a saturated pixel that are not trusted either.
    shadow_adcs : int
        ADCs to either side of a saturated one that its charge may shadow: not trusted in the saturated rows.
    overscan : {"quadratic", "median", "minimum", "none"}
        Offset per ADC and row from the overscan columns: quadratic least squares along the readout, running median
        over 21 rows of their mean or (ACME) of their minimum, or no offset.
    overscan_start_row : int
        First row (along the readout, in each half) of the quadratic fit; the exponential start is left out of it.
    overscan_decay : bool
        Whether the fit has a term for the exponential start of the readout, where rows from there are used.
    spikes : {"lines", "fourier", "none"}
        Removal of periodic interference along the readout: a least-squares fit of the few frequencies that a Fourier
        transform of the background finds, or filtering of each ADC's Fourier transform (the publication's way).
    spike_sigmas : float
        How far a line must stand out of the spectrum's noise.
    photons : {"threshold", "counting", "none"}
        Values below a threshold become 0; or each pixel becomes a whole number of photons; or all stays.
    photon_threshold : float
        In photons; 0 keeps everything.  A pixel is kept where any pixel of its 2 × 2 neighbourhoods exceeds it.
    beamstop_radius_m : float
        Radius of the semi-transparent beamstop on the detector; 0 for none.
    beamstop_transmission : float
        Its transmission: what was measured behind it is divided by this.
    beamstop_shape : str
        Path of an ``.npy`` file with its measured transmission on the assembled image; "" for a disk.
    center_px : (float, float) or None
        Row and column of the zero order on the assembled image; None finds it on the first frames.
    center_frames : int
        Frames whose mean gives the centre.
    crop_px : int
        Side of the square cut out around the centre, in detector pixels; what lies off the sensor is masked.
    frame_px : int
        Side of a clean frame; `crop_px` / `frame_px` detector pixels become one of its pixels.
    downsample : {"rebin", "fourier"}
        Sums of square bins, where `frame_px` divides `crop_px`; or band-limited resampling, at any ratio.
    lag_filter : {"soft_disk", "gaussian"}
        What the Fourier transform of a frame is multiplied by in resampling: 1 up to 85 % of the longest lag and a
        soft edge, or a Gaussian that is 0.6 % there.
    dark_flux, bright_flux : float
        A frame is flagged where its photons are below or above this fraction of the scan's median.
    """

    layout: str = "cosmic"
    detector_mode: DetectorMode | None = None
    gain_words: typing.Literal["plain", "csxtools", "middle_0x4000", "13_bits"] = "plain"
    adu_per_photon: float = 0.0
    subtract_dark: bool = True
    bad_std_adu: float = 50.0
    dark_drift_adu: float = 10.0
    rolling_darks: int = 10
    bad_pixels: str = ""
    flat_field: str = ""
    saturation_word: int = 0
    saturation_dilation_px: int = 1
    shadow_adcs: int = 0
    overscan: typing.Literal["quadratic", "median", "minimum", "none"] = "quadratic"
    overscan_start_row: int = 0
    overscan_decay: bool = False
    spikes: typing.Literal["lines", "fourier", "none"] = "lines"
    spike_sigmas: float = 6.0
    photons: typing.Literal["threshold", "counting", "none"] = "threshold"
    photon_threshold: float = 0.5
    beamstop_radius_m: float = 0.0
    beamstop_transmission: float = 1.0
    beamstop_shape: str = ""
    center_px: tuple[float, float] | None = None
    center_frames: int = 16
    crop_px: int = 832
    frame_px: int = 104
    downsample: typing.Literal["rebin", "fourier"] = "rebin"
    lag_filter: typing.Literal["soft_disk", "gaussian"] = "soft_disk"
    dark_flux: float = 0.2
    bright_flux: float = 5.0

    AT_ONCE = frozenset(
        {
            "subtract_dark",
            "dark_drift_adu",
            "saturation_word",
            "saturation_dilation_px",
            "shadow_adcs",
            "overscan",
            "overscan_start_row",
            "overscan_decay",
            "spikes",
            "spike_sigmas",
            "photons",
            "photon_threshold",
            "dark_flux",
            "bright_flux",
        }
    )
    """Frames that are clean already stay as they are."""

    LIMITS: typing.ClassVar[Mapping[str, tuple[int, int]]] = {
        "rolling_darks": (1, 10_000),
        "saturation_word": (0, 0xFFFFFFFF),
        "saturation_dilation_px": (0, 100),
        "shadow_adcs": (0, 100),
        "center_frames": (1, 1000),
        "crop_px": (8, 8192),
    }

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        require(self.adu_per_photon >= 0, "adu_per_photon", self.adu_per_photon, "≥ 0 (0: from the energy)")
        require(self.photon_threshold >= 0, "photon_threshold", self.photon_threshold, "≥ 0 photons")
        for name in ("bad_std_adu", "dark_drift_adu"):
            require(getattr(self, name) > 0, name, getattr(self, name), "> 0 ADU")
        for name in ("overscan_start_row", "beamstop_radius_m"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "≥ 0")
        require_metres("beamstop_radius_m", self.beamstop_radius_m, MOST_BEAMSTOP_M, unit="mm")
        require(self.spike_sigmas > 0, "spike_sigmas", self.spike_sigmas, "> 0")
        transmission = self.beamstop_transmission
        require(0 < transmission <= 1, "beamstop_transmission", transmission, "above 0 and at most 1")
        require(1 <= self.frame_px <= self.crop_px, "frame_px", self.frame_px, f"1 to crop_px = {self.crop_px}")
        fits = self.downsample == "fourier" or self.crop_px % self.frame_px == 0
        require(fits, "frame_px", self.frame_px, f"a divisor of crop_px = {self.crop_px}, or downsample = 'fourier'")
        require(0 <= self.dark_flux < 1, "dark_flux", self.dark_flux, "≥ 0 and below 1")
        require(self.bright_flux > 1, "bright_flux", self.bright_flux, "above 1")

    @property
    def pixel_ratio(self) -> float:
        """Detector pixels per side of a pixel of a clean frame."""
        return self.crop_px / self.frame_px
