"""Settings of the whole chain."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field

from nsbluesky.settings.base import Settings, require
from nsbluesky.settings.cleaning import CleaningSettings
from nsbluesky.settings.solver import SolverSettings

__all__ = ["PipelineSettings"]


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
        require(self.checkpoint_s >= 0, "checkpoint_s", self.checkpoint_s, "≥ 0")
