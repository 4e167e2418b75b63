"""The parts of what a live window shows: one for each kind of document; arrays are pointers into the documents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.settings import PipelineSettings

__all__ = [
    "Corrections",
    "DarkStatistics",
    "DefocusSweep",
    "Detector",
    "Fit",
    "FloatArray",
    "Frame",
    "HalvesCorrelation",
    "History",
    "LowResolution",
    "RunInfo",
    "ShownPicture",
    "StageHealth",
]

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class RunInfo:
    """Which run is shown.

    Attributes
    ----------
    uid, raw_uid : str
        Of the derived run and of the run it was made from.
    label : str
        One line for people.
    num_points : int or None
        Frames the scan will have, where the plan told.
    start_time : float
        Seconds since 1970.
    planned_m : ndarray
        (n, 2) x and y of the points of the scan relative to its centre, in the order of measuring; (0, 2) where the
        plan did not tell them.
    exposures_s : tuple of float
        Exposure times of a point, a frame each; empty where nobody told.
    rate_hz : float or None
        Points a second of a fly scan; None for one that was measured point by point.
    darks_from : str
        uid of the earlier run whose darks this one has; "" where it has taken its own.
    settings : PipelineSettings or None
        How the run is processed, where the start document tells it in this version's words.
    sample : Any
        What the start document tells of the sample; None where it tells nothing.
    exit_status : str or None
        "success", "abort" or "fail" after the derived run's stop document.
    reason : str
        What the stop document tells: why the run did not succeed, lost frames and errors.
    """

    uid: str
    raw_uid: str
    label: str
    num_points: int | None
    start_time: float
    planned_m: FloatArray = field(default_factory=lambda: np.empty((0, 2)))
    exposures_s: tuple[float, ...] = ()
    rate_hz: float | None = None
    darks_from: str = ""
    settings: PipelineSettings | None = None
    sample: Any = None
    exit_status: str | None = None
    reason: str = ""

    @property
    def exposures(self) -> int:
        """Frames a point."""
        return max(len(self.exposures_s), 1)


@dataclass(frozen=True, eq=False)
class Frame:
    """The newest frame of a stream: `image` (rows, columns), raw in ADU or clean in photons.

    `exposure` tells, of a raw frame, which exposure of its point it is: 0, 1, ….
    """

    image: npt.NDArray[Any]
    seq_num: int
    exposure: int = 0


@dataclass(frozen=True, eq=False)
class DarkStatistics:
    """Mean and standard deviation of one exposure's darks (rows, columns) in ADU, bad pixels (1) and ADCs."""

    mean: FloatArray
    std: FloatArray
    bad: npt.NDArray[np.uint8]
    bad_adcs: tuple[int, ...]
    num_frames: int
    exposure: int = 0


@dataclass(frozen=True, eq=False)
class Detector:
    """Where clean frames were cut out: centre on the raw image in pixels, mask (ny, nx), pixel size in metres."""

    center_px: tuple[float, float]
    mask: npt.NDArray[Any]
    pixel_size_m: float


@dataclass(frozen=True, eq=False)
class LowResolution:
    """Low-resolution images (rows, columns), NaN where nothing was measured, row 0 at the smallest y.

    Attributes
    ----------
    transmission, dpc_x, dpc_y : ndarray
    extent_m : (float, float, float, float)
        Outer edges x0, x1, y0, y1.
    num_frames : int
    units : mapping
        Unit of each image, where the stream's descriptor names one.
    dark_field : ndarray or None
        None in runs of an earlier version.
    """

    transmission: FloatArray
    dpc_x: FloatArray
    dpc_y: FloatArray
    extent_m: tuple[float, float, float, float]
    num_frames: int
    units: Mapping[str, str]
    dark_field: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class DefocusSweep:
    """The defocus found, and how the probe of an earlier run fits.

    Attributes
    ----------
    defocus_m : float
        The best of the candidates.
    sweep_defocus_m, sweep_residual : ndarray
        (k,) metres and R of the candidates.
    confidence : float
        1 − minimum/median.
    accepted : bool
        Whether it was taken.
    warm_run : str
        uid of the run whose probe the image began with; "" where there was none.
    warm_age_s : float
        Between the beginnings of that run and this one.
    warm_residual : float
        Residual of that probe; NaN where there was none.
    warm_fits : bool
        Whether it fits best.
    """

    defocus_m: float
    sweep_defocus_m: FloatArray
    sweep_residual: FloatArray
    confidence: float
    accepted: bool
    warm_run: str = ""
    warm_age_s: float = math.nan
    warm_residual: float = math.nan
    warm_fits: bool = False


@dataclass(frozen=True, eq=False)
class Corrections:
    """Where the solver found that frames lie.

    Attributes
    ----------
    seq_nums : ndarray
        (n,) numbers of the frames.
    positions_m : ndarray
        (n, 2) x and y as corrected.
    scatter_m : float
        Estimated error of the told positions along one axis.
    scale : (float, float)
        Of the whole scan along x and y.
    rotation_rad, shear_rad : float
    """

    seq_nums: npt.NDArray[np.int64]
    positions_m: FloatArray
    scatter_m: float
    scale: tuple[float, float]
    rotation_rad: float
    shear_rad: float


@dataclass(frozen=True, eq=False)
class Fit:
    """A frame beside its model, photons (rows, columns), NaN in `data` where nothing was measured; and its R."""

    seq_num: int
    data: FloatArray
    model: FloatArray
    r_factor: float


@dataclass(frozen=True, eq=False)
class HalvesCorrelation:
    """Fourier ring correlation of two halves of the frames, and its ½-bit limit, by spatial frequency; (k,) each."""

    frequency_1_m: FloatArray
    correlation: FloatArray
    half_bit: FloatArray


@dataclass(frozen=True, eq=False)
class ShownPicture:
    """A picture of the object with its probe: the newest one of a run, or one of a file.

    Attributes
    ----------
    object : ndarray
        (H, W) complex64, NaN where coverage is too low, row 0 at the smallest y.
    probe : ndarray
        (modes, N, N) complex64.
    pixel_size_m : float
    extent_m : (float, float, float, float)
        Outer edges x0, x1, y0, y1 of `object`.
    r_factor, num_frames, num_passes, coverage, newest_age_s : float
        R = Σ||model|−A|/ΣA, frames used, passes over them, covered share of the scan, age of the newest frame.
    final : bool
        True for the last picture of the run.
    coarse : bool
        True until whole frames had a pass: `r_factor` is of the central half of the detector then.
    resolution_m, one_seventh_m : float
        Half period up to which two halves of the frames agree, by ½ bit and by 1/7; NaN where that is not told.
    r_held_out : float
        R on pixels that the solver does not use; NaN where none are held out.
    engine : str
        The schedule that a second engine follows; "" for the image itself.
    """

    object: npt.NDArray[np.complex64]
    probe: npt.NDArray[np.complex64]
    pixel_size_m: float
    extent_m: tuple[float, float, float, float]
    r_factor: float
    num_frames: int
    num_passes: float
    coverage: float
    newest_age_s: float
    final: bool
    coarse: bool = False
    resolution_m: float = math.nan
    one_seventh_m: float = math.nan
    r_held_out: float = math.nan
    engine: str = ""


@dataclass(frozen=True, eq=False)
class History:
    """How the picture became better: arrays (k,) of seconds since the run began and what `ShownPicture` tells."""

    time_s: FloatArray = field(default_factory=lambda: np.empty(0))
    num_frames: FloatArray = field(default_factory=lambda: np.empty(0))
    num_passes: FloatArray = field(default_factory=lambda: np.empty(0))
    r_factor: FloatArray = field(default_factory=lambda: np.empty(0))
    r_held_out: FloatArray = field(default_factory=lambda: np.empty(0))
    coarse: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))
    resolution_m: FloatArray = field(default_factory=lambda: np.empty(0))
    one_seventh_m: FloatArray = field(default_factory=lambda: np.empty(0))

    def extended(self, time_s: float, picture: ShownPicture) -> History:
        """Return the history with one picture more."""
        return History(
            np.append(self.time_s, time_s),
            np.append(self.num_frames, picture.num_frames),
            np.append(self.num_passes, picture.num_passes),
            np.append(self.r_factor, picture.r_factor),
            np.append(self.r_held_out, picture.r_held_out),
            np.append(self.coarse, picture.coarse),
            np.append(self.resolution_m, picture.resolution_m),
            np.append(self.one_seventh_m, picture.one_seventh_m),
        )


@dataclass(frozen=True)
class StageHealth:
    """How a stage does: `state` is "ok", "warning" or "error", `message` the newest that told more than "ok"."""

    stage: str
    state: str
    message: str = ""
    rate_hz: float = 0.0
    queue: int = 0
    latency_s: float = 0.0
    num_frames: int = 0
