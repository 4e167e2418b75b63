"""Settings of the reconstruction."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass

from nsbluesky.settings.base import Settings, require
from nsbluesky.settings.units import MOST_DEFOCUS_M, require_metres

__all__ = ["MOST_PASSES", "SolverSettings"]

MOST_PASSES = 100_000
"""More of them are a typo: on the smallest scan they take hours."""

MOST_PROBE_M = 0.1

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
        Steps of a position within an object pixel, four times as many in passes without momentum; 1 rounds positions
        to whole pixels.
    batch, batch_final : int
        Spatially separated frames per update while the scan runs, and afterwards; less as long as there are few.
    alpha, beta : float
        WASP's weights of the object and probe denominators, larger in the last passes
        (`nsbluesky.solver.engines.wasp`).  The publication's 2 and 1 are slower to settle.
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
    passes_final : int or None
        Full passes after the last frame; None for as many as the image takes to settle
        (`nsbluesky.solver.settling`), and 10 where frames had their uses before.
    final_s : float
        Seconds for them while the scan is watched, once defocus and orientation are found; every frame is used, and
        the image has more than half of those told, or of 10, those while the scan ran included, however long that
        takes.
    sweep_frames : int
        Frames that the defocus sweep waits for, or the look at how shadows move in the near field; 0: there is none.
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
        (`nsbluesky.solver.orientation`, in the near field `nsbluesky.solver.shadow_motion`); else, and where the
        frames do not tell, they are taken as declared.
    leave_out_pixels : bool
        Leave out pixels of the detector that fit in no frame, hot or dead ones (`nsbluesky.solver.odd_pixels`), but
        for the near field; and of each frame those that are saturated (`nsbluesky.solver.saturation`), but for
        `half_precision_frames`.  Neither is done where frames lie in several processes.
    refine_positions : {"auto", "frames", "global", "none"}
        Correct the position of every frame, once two halves of each frame's pixels agree that they lie elsewhere
        (`nsbluesky.solver.scattering`), or from the start; scale, rotation and shear of the whole scan only; or
        nothing.  "auto" is "none" for an object of several states and where frames lie in several processes.
    refine_flux, refine_background : bool
        Correct the flux of every frame relative to the mean, where frames differ by more than photon noise explains;
        fit a background that is the same on all pixels, where it is a hundredth of the light or more, and what each
        frame has more or less of it.
    refine_start : int
        Uses of a frame before its position is corrected, and passes before its probe varies.
    probe_variation : int
        Modes in which the probe may change from frame to frame (`nsbluesky.solver.variation`), at most 8; with WASP,
        rPIE, mPIE and ePIE.  0 takes the probe for the same in all frames, until they ask for more.
    most_variation : int
        Once no further mode is worth it, and the frames still tell of more than there is, so many modes of variation
        are tried, and kept if they explain it (`nsbluesky.solver.further_modes`); 0 for none.
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
    alpha: float = 4.0
    beta: float = 0.2
    likelihood: typing.Literal["auto", "poisson", "amplitude"] = "auto"
    momentum: float = 0.8
    probe_start: int = 1
    newest_frames: int = 200
    coarse_uses: int = 12
    passes_final: int | None = None
    final_s: float = 3.0
    sweep_frames: int = 80
    sweep_range: float = 5.0
    sweep_candidates: int = 21
    sweep_passes: int = 3
    find_orientation: bool = True
    defocus_m: float | None = None
    leave_out_pixels: bool = True
    refine_positions: typing.Literal["auto", "frames", "global", "none"] = "auto"
    refine_flux: bool = True
    refine_background: bool = True
    refine_start: int = 3
    probe_variation: int = 0
    most_variation: int = 3
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
            "leave_out_pixels",
            "refine_positions",
            "refine_flux",
            "refine_background",
            "refine_start",
            "probe_variation",
            "most_variation",
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
        "most_variation": (0, 8),
        "seed": (0, 2**32 - 1),
    }

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        for name in ("object_most", "probe_radius_m"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "≥ 0 (0: no bound)")
        for name in ("alpha", "beta", "publish_hz", "sweep_range", "final_s"):
            require(getattr(self, name) > 0, name, getattr(self, name), "> 0")
        require(0 <= self.quality_share <= 1, "quality_share", self.quality_share, "0 to 1")
        if self.object_modes > 1:
            left = self.refine_positions in ("auto", "none")
            require(left, "refine_positions", self.refine_positions, "auto or none" + MANY_STATES)
            require(self.quality_share == 0, "quality_share", self.quality_share, "0" + MANY_STATES)
            for name, off in {"probe_variation": 0, "object_most": 0.0, "object_phase": "any"}.items():
                require(getattr(self, name) == off, name, getattr(self, name), f"{off}" + MANY_STATES)
        require_metres("probe_radius_m", self.probe_radius_m, MOST_PROBE_M)
        require_metres("defocus_m", self.defocus_m or 0.0, MOST_DEFOCUS_M)
        require(0 <= self.held_out <= 0.2, "held_out", self.held_out, "0 to 0.2")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "≥ 0 and below 1")
