"""What every stage of the processing is: a generator of documents from documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from nsbluesky.backend import Backend
from nsbluesky.callbacks.block_watch import BlockWatch
from nsbluesky.callbacks.derived_run import DerivedRun, Document
from nsbluesky.callbacks.write_gate import WriteGate
from nsbluesky.geometry import Geometry
from nsbluesky.probe_library import ProbeLibrary
from nsbluesky.settings import PipelineSettings
from nsbluesky.solver.incremental import IncrementalSolver

__all__ = ["DocumentError", "FramesFailed", "RefuseRun", "RunContext", "Stage", "Workers"]


class DocumentError(ValueError):
    """A document, or what it refers to, cannot be used; the message says what and what to do."""


class FramesFailed(RuntimeError):
    """Frames that a stage held together cannot be processed; they are listed, and it goes on with the next ones.

    Parameters
    ----------
    message : str
    seq_nums : list of int
    """

    def __init__(self, message: str, seq_nums: list[int]) -> None:
        super().__init__(message)
        self.seq_nums = seq_nums


@dataclass(frozen=True)
class Workers:
    """Who works on blocks of frames.

    Attributes
    ----------
    executor : concurrent.futures.Executor
        Threads, processes, Dask's workers.
    directory : Path
        For what all blocks of a run need; the workers must see it, and the frames, under the same path.
    """

    executor: Executor
    directory: Path


@dataclass
class RunContext:
    """What the stages of one run share.

    Attributes
    ----------
    start : dict
        Start document of the raw run.
    settings : PipelineSettings
    given_geometry : Geometry or None
        In the place of what the start document tells.
    backend : Backend
    derived : DerivedRun
        Composes what the stages yield.
    lost : dict
        Why frames were lost: seq_num (of the primary stream) → reason.  A frame that comes after all is taken out.
    flagged : dict
        What is wrong with frames that were cleaned nevertheless: seq_num → `nsbluesky.cleaning.flags.FrameFlag`.
    warnings : list of str
        What a scientist should know and no error tells.
    roots : tuple of Path
        Folders that frames may be read from; empty allows any.
    watch : BlockWatch
        Is told which block is at work.
    workers : Workers or None
        Who cleans frames; None for the thread of the processing itself.
    gate : WriteGate
        Entered to write a file while the run goes on; `Stage.save` and `Stage.close` are called inside it.
    fit_frame : int or None
        The frame whose fit is told with each picture, by its seq_num; None for the newest.
    checkpoint : Path or None
        Where the image is kept while it is unfinished, for a process that takes over; None for nowhere.
    probes : ProbeLibrary or None
        Probes of earlier runs to begin with, and where that of this run is kept; None for neither.
    solver : IncrementalSolver or None
        What makes the image, for a second one beside it; None before the detector is known.
    image_is_final : bool
        Whether the last picture of the image was told, and nothing came since.
    """

    start: Mapping[str, Any]
    settings: PipelineSettings
    given_geometry: Geometry | None
    backend: Backend
    derived: DerivedRun
    lost: dict[int, str] = field(default_factory=dict)
    flagged: dict[int, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    roots: tuple[Path, ...] = ()
    watch: BlockWatch = field(default_factory=BlockWatch)
    workers: Workers | None = None
    gate: WriteGate = field(default_factory=WriteGate)
    fit_frame: int | None = None
    checkpoint: Path | None = None
    probes: ProbeLibrary | None = None
    solver: IncrementalSolver | None = None
    image_is_final: bool = False

    @cached_property
    def geometry(self) -> Geometry:
        """The experiment: as given, else as the start document tells.

        Raises
        ------
        SettingsError
            Where that tells no usable one: such a run has no stage but `RefuseRun`.
        """
        return self.given_geometry or Geometry.from_start(self.start)


class Stage:
    """One step of the processing of **one** run.

    A stage sees every document of the raw run and of the derived run so far, and adds its own to the derived run.
    Subclasses define ``on_start``, ``on_descriptor``, ``on_event`` …, generators of ``(name, document)`` pairs.

    Parameters
    ----------
    run : RunContext
        What the stages of this run share.
    """

    name: ClassVar[str]

    def __init__(self, run: RunContext) -> None:
        self.run = run

    def process(self, name: str, document: dict[str, Any]) -> Iterator[Document]:
        """Yield what follows from one document."""
        method: Callable[[dict[str, Any]], Iterator[Document]] | None = getattr(self, f"on_{name}", None)
        if method is not None:
            yield from method(document)

    @classmethod
    def check(cls, settings: PipelineSettings) -> None:
        """Refuse settings, by a `SettingsError`, that only this stage can tell are wrong."""

    def configure(self) -> Iterator[Document]:
        """Take over what has changed in the settings of the run, and yield what follows."""
        yield from ()

    def is_raw(self, document: Mapping[str, Any]) -> bool:
        """Return whether a descriptor or stop document belongs to the raw run."""
        return bool(document["run_start"] == self.run.start["uid"])

    @property
    def is_wanted(self) -> bool:
        """Whether the settings of the run ask for this stage; one that they do not ask for, and never did, is not
        told of."""
        return True

    @property
    def queue(self) -> int:
        """How many frames wait in this stage."""
        return 0

    @property
    def has_work(self) -> bool:
        """Whether `work` would do something useful now."""
        return False

    def work(self, budget_s: float) -> Iterator[Document]:
        """Work for about `budget_s` seconds without a new document, and yield what follows."""
        yield from ()

    def save(self) -> Path | None:
        """Write down what there is, for a process that takes over, and return where; None where there is nothing."""
        return None

    def close(self) -> None:
        """Let go of files and memory when the run is over."""

    def stream_of(self, document: Mapping[str, Any]) -> str:
        """Return the stream of the derived run that an event or event page belongs to; "" for other runs."""
        return self.run.derived.stream_of(document)


class RefuseRun(Stage):
    """The only stage of a run whose start document tells no usable geometry: it says so where errors are told."""

    name = "geometry"

    def on_start(self, document: dict[str, Any]) -> Iterator[Document]:
        """Raise what is wrong, once."""
        if document["uid"] == self.run.start["uid"]:
            _ = self.run.geometry
        yield from ()
