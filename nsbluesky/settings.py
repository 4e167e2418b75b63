"""Settings of the whole chain: frozen dataclasses, validated where they are made, JSON in and out.

One definition serves the Python API, the command line (``--set solver.modes=3``), the documents of a derived run
and the windows.  Units stand in the names where they are not SI.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = [
    "MOST_PASSES",
    "CleaningSettings",
    "DetectorMode",
    "PipelineSettings",
    "Settings",
    "SettingsError",
    "SolverSettings",
]


class SettingsError(ValueError):
    """A setting that cannot be used; the message says which, what was expected and what to do."""


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise SettingsError(f"{name} = {value!r}: expected {expected}")


@dataclass(frozen=True)
class Settings:
    """What all settings can do: become JSON, come from JSON, and be changed by dotted names."""

    AT_ONCE: typing.ClassVar[frozenset[str]] = frozenset()
    """Fields that a run which goes on can change as well; the others are for the runs that start later."""

    LIMITS: typing.ClassVar[Mapping[str, tuple[int, int]]] = {}
    """The least and the most of numbers with which a typo would fill the memory, or begin what never ends."""

    def __post_init__(self) -> None:
        """Check what has limits."""
        for name, (least, most) in self.LIMITS.items():
            value = getattr(self, name)
            _require(least <= value <= most, name, value, f"{least} to {most}")

    def applies_at_once(self, name: str) -> bool:
        """Return whether a run that goes on can change a field, named with dots."""
        head, _, rest = name.partition(".")
        inner = getattr(self, head, None)
        return inner.applies_at_once(rest) if rest and isinstance(inner, Settings) else head in self.AT_ONCE

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types (nested dicts, lists, numbers, strings)."""
        return typing.cast(dict[str, Any], json.loads(self.to_json()))

    def to_json(self) -> str:
        """Return the settings as a JSON object."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make settings from a mapping; keys that are left out keep their defaults.

        Raises
        ------
        SettingsError
            For an unknown key, one that is missing, a wrong type or a value out of range.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        hints = _hints(cls)  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise SettingsError(f"unknown setting {unknown[0]!r}: expected one of {', '.join(fields)}")
        missing = [name for name, f in fields.items() if name not in values and _has_no_default(f)]
        if missing:
            raise SettingsError(f"{cls.__name__} without {', '.join(missing)}: expected all of them")
        return cls(**{name: _convert(name, value, hints[name]) for name, value in values.items()})

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; ``solver__modes`` or dotted names reach into nested settings."""
        nested: dict[str, dict[str, Any]] = {}
        own: dict[str, Any] = {}
        for name, value in changes.items():
            head, _, rest = name.replace("__", ".").partition(".")
            if rest:
                nested.setdefault(head, {})[rest] = value
            else:
                own[head] = value
        for head, inner in nested.items():
            part = own.get(head, getattr(self, head, None))
            if not isinstance(part, Settings):
                groups = _groups(self)
                expected = f"expected one of {groups}" if groups else f"there are none here, write {rest!r} alone"
                raise SettingsError(f"unknown group of settings {head!r}: {expected}")
            own[head] = part.replace(**inner)
        unknown = set(own) - {f.name for f in dataclasses.fields(self)}
        if unknown:
            names = ", ".join(f.name for f in dataclasses.fields(self))
            raise SettingsError(f"unknown setting {sorted(unknown)[0]!r}: expected one of {names}")
        hints = _hints(type(self))  # type: ignore[arg-type]
        checked = {k: v if isinstance(v, Settings) else _convert(k, v, hints[k]) for k, v in own.items()}
        return dataclasses.replace(self, **checked)

    def set_from_text(self, assignments: list[str]) -> Self:
        """Apply ``KEY=VALUE`` texts as the command line gives them; VALUE is JSON or a bare word."""
        changes: dict[str, Any] = {}
        for text in assignments:
            key, equals, value = text.partition("=")
            if not equals or not key:
                raise SettingsError(f"cannot read {text!r}: expected KEY=VALUE, as in solver.modes=3")
            try:
                changes[key.strip()] = json.loads(value)
            except json.JSONDecodeError:
                changes[key.strip()] = value
        return self.replace(**changes)


@functools.cache
def _hints(kind: type[Settings]) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _groups(settings: Settings) -> str:
    names = [f.name for f in dataclasses.fields(settings) if isinstance(getattr(settings, f.name), Settings)]
    return ", ".join(names)


def _convert(name: str, value: Any, hint: Any) -> Any:
    """Convert one JSON value to the annotated type, or raise a SettingsError."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _convert(name, value, next(o for o in options if o is not type(None)))
    if isinstance(hint, type) and issubclass(hint, Settings):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise SettingsError(f"{name} = {value!r}: expected an object with the fields of {hint.__name__}")
        return hint.from_dict(value)
    if origin is tuple:
        args = typing.get_args(hint)
        if not isinstance(value, (list, tuple)):
            raise SettingsError(f"{name} = {value!r}: expected a list")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(name, v, args[0]) for v in value)
        if len(value) != len(args):
            raise SettingsError(f"{name} = {value!r}: expected {len(args)} values")
        return tuple(_convert(name, v, a) for v, a in zip(value, args, strict=True))
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise SettingsError(f"{name} = {value!r}: expected one of {', '.join(map(str, typing.get_args(hint)))}")
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise SettingsError(f"{name} = {value!r}: expected a finite number")
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise SettingsError(f"{name} = {value!r}: expected {hint.__name__}")
    return value


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
        _require(self.adu_per_photon >= 0, "adu_per_photon", self.adu_per_photon, "≥ 0 (0: from the energy)")
        _require(self.photon_threshold >= 0, "photon_threshold", self.photon_threshold, "≥ 0 photons")
        for name in ("bad_std_adu", "dark_drift_adu"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "> 0 ADU")
        for name in ("overscan_start_row", "beamstop_radius_m"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "≥ 0")
        _require(self.spike_sigmas > 0, "spike_sigmas", self.spike_sigmas, "> 0")
        transmission = self.beamstop_transmission
        _require(0 < transmission <= 1, "beamstop_transmission", transmission, "above 0 and at most 1")
        _require(1 <= self.frame_px <= self.crop_px, "frame_px", self.frame_px, f"1 to crop_px = {self.crop_px}")
        fits = self.downsample == "fourier" or self.crop_px % self.frame_px == 0
        _require(fits, "frame_px", self.frame_px, f"a divisor of crop_px = {self.crop_px}, or downsample = 'fourier'")
        _require(0 <= self.dark_flux < 1, "dark_flux", self.dark_flux, "≥ 0 and below 1")
        _require(self.bright_flux > 1, "bright_flux", self.bright_flux, "above 1")

    @property
    def pixel_ratio(self) -> float:
        """Detector pixels per side of a pixel of a clean frame."""
        return self.crop_px / self.frame_px


MOST_PASSES = 100_000
"""More of them are a typo: on the smallest scan they take hours."""

MANY_STATES = " where there are several object_modes"


@dataclass(frozen=True)
class SolverSettings(Settings):
    """How frames become an image.  Symbols as in Maiden, Mei & Li, Opt. Express 32, 21327 (2024).

    Attributes
    ----------
    algorithm : str
        Name of the engine in `nsbluesky.solver.engines.ENGINES`, or several with the passes of each, as in
        ``wasp:20,lsqml:50``: the first one runs while frames arrive, all one after another once no more come.
    modes : int
        Incoherent probe modes.
    most_modes : int
        Once every frame had many uses, modes are added where frames ask for them, up to so many
        (`nsbluesky.solver.further_modes`).  Frames have those uses, and the mode its trial, in some 60 passes.
    object_modes : int
        Incoherent states of the object: of a sample that changes while it is exposed.  The engines of batches (wasp,
        rpie, mpie, epie) know more than one; positions and half-sets need one.
    subpixel : int
        Steps of a position within an object pixel; 1 rounds positions to whole pixels.
    batch, batch_final : int
        Spatially separated frames per update while the scan runs, and afterwards; less as long as there are few.
    alpha, beta : float
        WASP's weights of the object and probe denominators.  The publication's 2 and 1 are slower to settle: on fresh
        seeds of simulated data at three doses, and on a measured star, 6 and 0.2 gave the better object each time.
    likelihood : {"auto", "poisson", "amplitude"}
        What WASP, rPIE, mPIE and ePIE follow: the likelihood of counted photons, or that of amplitudes with equal
        noise, as published; "auto" takes the first where photons are few (`nsbluesky.solver.dose`), and never in the
        near field.
    momentum : float
        WASP's momentum, 0 for none; less where there are few photons, and none in the last passes, which average
        photon noise (`nsbluesky.solver.dose`).  In the near field, what it lacks to 1 is halved.
    probe_start : int
        Full passes before the probe is updated.
    newest_frames : int
        Half of each batch is from so many of the newest frames while frames arrive; 0: only from those never used.
    coarse_uses : int
        Uses of each frame on the central half of the detector (`nsbluesky.solver.coarse`) before whole frames are
        used; half as many after a third of `final_s`, and a third where no frames come any more and a pass gains
        little.  0 begins with whole frames.
    passes_final : int
        Full passes after the last frame.
    final_s : float
        Seconds for them while the scan is watched, once defocus and orientation are found; every frame is used, and
        the image has more than half of them, those while the scan ran included, however long that takes.
    sweep_frames : int
        Frames that the defocus sweep waits for; 0 switches the sweep off.
    sweep_range : float
        The sweep covers ± this many depths of field λ/NA² around the optic's defocus.
    sweep_candidates, sweep_passes : int
        Number of candidates and passes over each; the best few get some more.
    defocus_m : float or None
        From the focus to the sample, positive downstream, in the place of what the optic and the sweep say; None
        leaves it to them.  Changed while a run goes on, the image begins anew.  Not used in the near field, as the
        sweep, orientation and coarse frames are not.
    find_orientation : bool
        After the sweep, look whether the frames are flipped or swapped against the stage
        (`nsbluesky.solver.orientation`); else, and where the frames do not tell, they are taken as declared.
    refine_positions : {"frames", "global", "none"}
        Correct the position of every frame; scale, rotation and shear of the whole scan only; or nothing.  Not the
        default: right positions stay, but frames that are not what they are said to be draw their neighbours to
        other places while they are in use, from which a few last passes do not always bring them back.
    refine_flux, refine_background : bool
        Correct the flux of every frame relative to the mean, where frames differ by more than photon noise explains;
        fit a background that is the same on all pixels, and what each frame has more or less of it.
    refine_start : int
        Uses of a frame before its position is corrected, and passes before its probe varies.
    probe_variation : int
        Modes in which the probe may change from frame to frame (`nsbluesky.solver.variation`), at most 8; with WASP,
        rPIE, mPIE and ePIE.  0 takes the probe for the same in all frames.
    object_most : float
        The most that the object lets through, as a part of the empty beam's amplitude: 1 where nothing amplifies; 0
        for no bound.
    object_phase : {"any", "negative", "positive"}
        Where the object's phase lies, relative to the empty beam.  Nearly all matter advances X-rays, which is a
        negative phase here.  Bounds of the object need empty places in the picture (`nsbluesky.solver.vacuum`).
    probe_radius_m : float
        The probe is dark further than this from the middle of its window; 0 for no bound.
    probe_pupil : bool
        The probe's far field is dark outside the optic's pupil, which the geometry tells.
    quality_share : float
        Frames used for the two half-sets that tell the resolution (`nsbluesky.solver.halves`), for each frame used
        for the image; 0 for none.
    held_out : float
        Part of the pixels of each frame that the solver does not use, so that they tell how well it predicts them: 0
        for none, else a pixel is held out of every so many frames, others of each.
    publish_hz : float
        Pictures a second at most.
    live : bool
        Reconstruct while the scan runs; False waits for the last frame, so that the result depends on the documents
        alone and not on when they came.
    half_precision_frames : bool
        Keep measured amplitudes as float16, for half the memory (`nsbluesky.solver.amplitude_chunks`); numbers in
        calculations stay float32.
    seed : int
        Seed of the order in which frames are used.
    """

    algorithm: str = "wasp"
    modes: int = 2
    most_modes: int = 4
    object_modes: int = 1
    subpixel: int = 4
    batch: int = 32
    batch_final: int = 32
    alpha: float = 6.0
    beta: float = 0.2
    likelihood: typing.Literal["auto", "poisson", "amplitude"] = "auto"
    momentum: float = 0.8
    probe_start: int = 1
    newest_frames: int = 200
    coarse_uses: int = 12
    passes_final: int = 10
    final_s: float = 3.0
    sweep_frames: int = 80
    sweep_range: float = 5.0
    sweep_candidates: int = 21
    sweep_passes: int = 3
    find_orientation: bool = True
    defocus_m: float | None = None
    refine_positions: typing.Literal["frames", "global", "none"] = "none"
    refine_flux: bool = True
    refine_background: bool = False
    refine_start: int = 3
    probe_variation: int = 0
    object_most: float = 0.0
    object_phase: typing.Literal["any", "negative", "positive"] = "any"
    probe_radius_m: float = 0.0
    probe_pupil: bool = False
    quality_share: float = 0.0
    held_out: float = 0.0
    publish_hz: float = 2.0
    live: bool = True
    half_precision_frames: bool = False
    seed: int = 0

    AT_ONCE = frozenset(
        {
            "algorithm",
            "modes",
            "most_modes",
            "batch",
            "batch_final",
            "alpha",
            "beta",
            "likelihood",
            "momentum",
            "probe_start",
            "passes_final",
            "final_s",
            "defocus_m",
            "refine_positions",
            "refine_flux",
            "refine_background",
            "refine_start",
            "probe_variation",
            "object_most",
            "object_phase",
            "probe_radius_m",
            "probe_pupil",
            "quality_share",
            "held_out",
            "publish_hz",
        }
    )

    LIMITS: typing.ClassVar[Mapping[str, tuple[int, int]]] = {
        "modes": (1, 64),
        "most_modes": (1, 64),
        "object_modes": (1, 16),
        "subpixel": (1, 64),
        "batch": (1, 4096),
        "batch_final": (1, 4096),
        "probe_start": (0, 2**31),
        "newest_frames": (0, 1_000_000),
        "coarse_uses": (0, MOST_PASSES),
        "passes_final": (0, MOST_PASSES),
        "sweep_frames": (0, 1_000_000),
        "sweep_candidates": (1, 1000),
        "sweep_passes": (1, 1000),
        "refine_start": (1, MOST_PASSES),
        "probe_variation": (0, 8),
        "seed": (0, 2**32 - 1),
    }

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        for name in ("object_most", "probe_radius_m"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "≥ 0 (0: no bound)")
        for name in ("alpha", "beta", "publish_hz", "sweep_range", "final_s"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "> 0")
        _require(0 <= self.quality_share <= 1, "quality_share", self.quality_share, "0 to 1")
        if self.object_modes > 1:
            _require(self.refine_positions == "none", "refine_positions", self.refine_positions, "none" + MANY_STATES)
            _require(self.quality_share == 0, "quality_share", self.quality_share, "0" + MANY_STATES)
            for name, off in {"probe_variation": 0, "object_most": 0.0, "object_phase": "any"}.items():
                _require(getattr(self, name) == off, name, getattr(self, name), f"{off}" + MANY_STATES)
        _require(0 <= self.held_out <= 0.2, "held_out", self.held_out, "0 to 0.2")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "≥ 0 and below 1")


@dataclass(frozen=True)
class PipelineSettings(Settings):
    """Settings of the whole chain.

    Attributes
    ----------
    cleaning, solver : Settings
        Settings of the stages.
    backend : {"auto", "numpy", "cupy"}
        Where arrays live; "auto" takes CuPy where a CUDA device is.
    block_frames : int
        Frames that are read and cleaned at once.
    queue_bytes : int
        Inline arrays that may wait in memory; what exceeds it waits in a file.
    checkpoint_s : float
        Seconds between two checkpoints of an image that forms, in the folder of the results; 0 for none.
    warm_start : bool
        Begin with the probe of an earlier run of the same setup, where one lies in the folder of the results
        (`nsbluesky.probe_library`), and keep this run's there.  The sweep notices a probe that fits no more; where
        there is none, or `SolverSettings.live` is off, neither is done.
    second_engine : str
        A schedule, as in `SolverSettings.algorithm`, by which the same frames are reconstructed beside the image, to
        compare both; empty for none.  It takes half of the solver's time while the scan runs, its last passes follow
        those of the image, and the frames are in memory twice.
    """

    cleaning: CleaningSettings = field(default_factory=CleaningSettings)
    solver: SolverSettings = field(default_factory=SolverSettings)
    backend: typing.Literal["auto", "numpy", "cupy"] = "auto"
    block_frames: int = 8
    queue_bytes: int = 256 * 1024 * 1024
    checkpoint_s: float = 30.0
    warm_start: bool = True
    second_engine: str = ""

    AT_ONCE = frozenset({"block_frames", "second_engine"})

    LIMITS: typing.ClassVar[Mapping[str, tuple[int, int]]] = {"block_frames": (1, 1024), "queue_bytes": (0, 2**40)}

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        _require(self.checkpoint_s >= 0, "checkpoint_s", self.checkpoint_s, "≥ 0")
