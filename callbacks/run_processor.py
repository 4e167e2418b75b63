"""RunProcessor: a callback that processes runs on a thread of its own and can never slow or fail a scan."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, cast

import event_model

from nsbluesky.backend import Backend, BackendError, get_backend
from nsbluesky.callbacks.activity import RunActivity
from nsbluesky.callbacks.block_watch import BlockWatch
from nsbluesky.callbacks.derived_run import DerivedRun, Document
from nsbluesky.callbacks.document_queue import SWITCH_INTERVAL_S, DocumentQueue, QueuedDocument
from nsbluesky.callbacks.run_chain import RunChain
from nsbluesky.callbacks.stage import RefuseRun, RunContext, Stage, Workers
from nsbluesky.callbacks.subscribers import DocumentCallback, Subscribers
from nsbluesky.callbacks.warm_up import warm_up
from nsbluesky.callbacks.write_gate import GivenUp, WriteGate
from nsbluesky.document_log import UID
from nsbluesky.geometry import Geometry
from nsbluesky.probe_library import ProbeLibrary
from nsbluesky.run_index import RunIndex
from nsbluesky.settings import PipelineSettings, SettingsError
from nsbluesky.solver.checkpoint import remove_checkpoint

__all__ = ["RunProcessor"]

log = logging.getLogger(__name__)

WORK_SLICE_S = 0.1
"""How long stages may work before documents are looked at again."""


LEFT_TO_THE_SCAN = 1
"""Processors that are not computed on while a scan runs."""

MIN_WORK_S = 1e-3
"""Less than this is no work but waiting, for a file that is not written yet."""

MAX_ENDED = 2
"""While so many ended runs wait for their last passes, documents of later ones wait, so that a queue of scans that is
faster than the processing costs time and not memory."""

IDLE_WAIT_S = 0.02
"""How long to wait for a document where there is nothing to do."""

DOCUMENTS_SLICE_S = 0.5
"""How long documents may be worked off before stages with work of their own get a turn."""

CLOSE_S = 5.0
"""How long `RunProcessor.close` waits for what the thread is at."""


class RunProcessor:
    """A Bluesky callback that passes runs through stages on its own thread.

    Subscribe it to the RunEngine or feed it with any documents; subscribe other callbacks to it, which receive the
    documents of the derived runs.  Runs without a ``ptycho`` entry in their start document are left alone.

    Parameters
    ----------
    settings : PipelineSettings, optional
    geometry : Geometry, optional
        Instead of what the start document tells, and for runs whose start document tells nothing.
    roots : sequence of path
        Folders that frames may be read from; empty allows any.
    watch : BlockWatch, optional
        Is told which block is at work.
    workers : Workers, optional
        Clean frames in the place of this processor's thread.
    checkpoints : path, optional
        Folder of the checkpoints of unfinished images, as ``RUN.checkpoint``; without, there are none.
    probes : ProbeLibrary, optional
        Where runs find a probe to begin with and leave their own; without, each begins from its own frames.

    Notes
    -----
    Calling it only puts the document into a queue: microseconds, never an exception.  Errors of stages and of
    subscribed callbacks are logged and told in the derived run's ``health`` stream.  Making one lets Python's threads
    change more often (`sys.setswitchinterval`), so that the RunEngine's need not wait for the processing's.
    """

    stages: ClassVar[tuple[type[Stage], ...]] = ()

    def __init__(
        self,
        settings: PipelineSettings | None = None,
        *,
        geometry: Geometry | None = None,
        roots: Sequence[str | Path] = (),
        watch: BlockWatch | None = None,
        workers: Workers | None = None,
        checkpoints: str | Path | None = None,
        probes: ProbeLibrary | None = None,
    ) -> None:
        self.workers = workers
        self._checkpoints = None if checkpoints is None else Path(checkpoints)
        self._probes = probes
        self._to_save: queue.SimpleQueue[Future[dict[str, list[Path]]]] = queue.SimpleQueue()
        self.settings = self._checked(settings or PipelineSettings())
        self.geometry = geometry
        self.roots = tuple(Path(root) for root in roots)
        self.watch = watch or BlockWatch()
        self.backend = get_backend(self.settings.backend)
        self._subscribers = Subscribers()
        self.gate = WriteGate()
        """Shut by `close`."""
        self._queue = DocumentQueue(self.settings.queue_bytes)
        self._index = RunIndex()
        self._chains: list[RunChain] = []
        self._changed = threading.Condition()
        self._put = 0
        self._done = 0
        self._started: set[str] = set()
        self._ended: dict[str, None] = {}
        self._aborted: set[str] = set()
        """Of the ended runs, those whose last passes nobody waits for."""
        self._next_turn = 0.0
        """When stages may work again: documents that wait have a turn in between."""
        self._fit_frame: int | None = None
        self._warming: tuple[Iterator[None], threading.Event] = iter(()), threading.Event()
        self._closing = threading.Event()
        self._going_on = threading.Event()
        self._going_on.set()
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
        name = f"nsbluesky-{type(self).__name__}"
        self._thread = threading.Thread(target=self._run_or_tell, name=name, daemon=True)
        self._thread.start()

    # ---- for the user

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Take a document; returns at once."""
        if self._closing.is_set():
            return
        with self._changed:
            if name == "start":
                uid = str(document.get("uid"))
                if uid in self._started:  # it comes again, as from a proxy that repeats: the run goes on
                    return
                self._started.add(uid)
            elif name == "stop":
                uid = str(document.get("run_start"))
                self._started.discard(uid)
                self._ended[uid] = None
            self._put += 1
        self._queue.put(name, document)

    def subscribe(self, callback: DocumentCallback) -> int:
        """Call `callback` with each derived document, on the processing thread; returns a token."""
        return self._subscribers.add(callback)

    def unsubscribe(self, token: int) -> None:
        """Stop calling the callback of that token."""
        self._subscribers.remove(token)

    def configure(self, changes: Mapping[str, Any]) -> PipelineSettings:
        """Change settings by dotted names, and return all: of the runs that start from now on.

        What `Settings.AT_ONCE` names changes as well for the runs that go on; from any thread.

        Raises
        ------
        SettingsError
            For a name or a value that cannot be; nothing is changed then.
        """
        settings = self._checked(self.settings.replace(**changes))
        if settings.backend != self.settings.backend:
            try:
                self.backend = get_backend(settings.backend)
            except BackendError as error:
                raise SettingsError(str(error)) from error
        self.settings = settings
        at_once = {name: value for name, value in changes.items() if settings.applies_at_once(name)}
        for chain in list(self._chains) if at_once else ():
            chain.configure(at_once)
        return settings

    def _checked(self, settings: PipelineSettings) -> PipelineSettings:
        for stage in self.make_stages():
            stage.check(settings)
        return settings

    def show_fit(self, seq_num: int | None) -> None:
        """Tell with each picture how this frame is modelled; None for the newest.  From any thread."""
        self._fit_frame = seq_num
        for chain in list(self._chains):
            chain.run.fit_frame = seq_num

    def make_stages(self) -> tuple[type[Stage], ...]:
        """Return the stages of a run."""
        return self.stages

    def warm_up(self) -> threading.Event:
        """Compile what runs will need, while there is none; returns an event that is set when that is done.

        From then on the first frames of a run are processed as fast as later ones.  Documents that come meanwhile
        go first.
        """
        warm = threading.Event()
        self._warming = warm_up(self.stages, self.settings, self.backend), warm
        return warm

    @property
    def alive(self) -> bool:
        """Whether documents are still worked off; no error should end that before `close`."""
        return self._thread.is_alive()

    @property
    def queued(self) -> int:
        """How many documents wait."""
        return len(self._queue)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all documents are worked off and all ended runs are finished; False when time ran out."""
        with self._changed:
            return self._changed.wait_for(self._idle, timeout)

    @property
    def unfinished(self) -> list[str]:
        """The uids of the runs that have ended and are not processed yet; none once this is closed."""
        with self._changed:
            return [] if self._closing.is_set() else list(self._ended)

    def abort(self) -> None:
        """End the processing of all runs that have ended by now with what there is; no others are touched.

        A run has ended when its stop document was put in, also where it waits in the queue.
        """
        with self._changed:
            self._aborted.update(self._ended)

    @property
    def paused(self) -> bool:
        """Whether the processing is paused; documents wait meanwhile."""
        return not self._going_on.is_set()

    def pause(self) -> None:
        """Pause the processing after what it does just now."""
        self._going_on.clear()

    def resume(self) -> None:
        """Go on."""
        self._going_on.set()

    def save(self, timeout: float) -> dict[str, list[Path]]:
        """Write checkpoints of all runs now, and return where, by the uid of the raw run.

        Raises
        ------
        TimeoutError
            If the processing is paused, or busy for longer than `timeout` seconds; they are written later.
        """
        written: Future[dict[str, list[Path]]] = Future()
        self._to_save.put(written)
        return written.result(timeout)

    def forget(self, uid: str) -> None:
        """Remove the checkpoint of a run that is to begin anew; call `close` first."""
        path = self._checkpoint_of(uid)
        if path is not None:
            remove_checkpoint(path)

    def activity(self) -> list[RunActivity]:
        """Return what each run is doing; from any thread."""
        return [chain.activity() for chain in list(self._chains)]

    def close(self, timeout: float | None = 60.0) -> bool:
        """Finish what is queued, within `timeout` seconds, and end the thread; True if nothing was left undone.

        A thread that is busy for longer writes nothing any more, and tells nobody, once it is through.
        """
        complete = self.wait(timeout)
        self._closing.set()
        self._going_on.set()
        self._thread.join(CLOSE_S)
        self.gate.shut()
        self._queue.close()
        return complete

    # ---- the processing thread

    def _idle(self) -> bool:
        return self._done == self._put and not any(chain.raw_stop is not None for chain in self._chains)

    def _run_or_tell(self) -> None:
        try:
            self._run()
        except GivenUp:
            pass
        except Exception:
            log.exception("The processing has ended")

    def _run(self) -> None:
        while not self._closing.is_set():
            self._going_on.wait()
            self._save()
            self._share_processors()
            busy = self._work_in_turn()
            if sum(chain.raw_stop is not None for chain in self._chains) >= MAX_ENDED:
                self._next_turn = 0.0
                self._closing.wait(0 if busy else IDLE_WAIT_S)
            else:
                self._take_document(busy)

    def _share_processors(self) -> None:
        """Leave some of them to a scan while one runs."""
        scanning = any(chain.raw_stop is None for chain in self._chains)
        for backend in (self.backend, *(chain.run.backend for chain in self._chains)):
            backend.idle_threads = _idle_in_scans(backend) if scanning else 0

    def _work_in_turn(self) -> bool:
        """Let stages do work of their own where it is their turn; return whether there was any to speak of."""
        working = [chain for chain in self._chains if chain.has_work]
        started = time.monotonic()
        if not working or started < self._next_turn:
            return False
        self._work(working)
        ended = time.monotonic()
        self._next_turn = ended + DOCUMENTS_SLICE_S
        return ended - started > MIN_WORK_S

    def _take_document(self, busy: bool) -> None:
        """Work off the next document; without one it is the stages' turn again."""
        item: QueuedDocument | None = None
        try:
            item = self._queue.get(timeout=0 if busy else IDLE_WAIT_S)
            self._route(item.name, item.document)
        except queue.Empty:
            self._next_turn = 0.0
            if not busy:
                self._warm_up_further()
            return
        except Exception:  # a document of the wrong form, or one that is lost, must not end the thread
            log.exception("A document could not be processed")
        with self._changed:
            self._done += 1
            if item is not None and item.name == "stop":
                run = item.document.get("run_start")
                if all(chain.run.start["uid"] != run for chain in self._chains):
                    self._forget_ended(str(run))  # a run that is left alone
            self._changed.notify_all()

    def _forget_ended(self, uid: str) -> None:
        """Nothing is left to do for a run; call it with `_changed` held."""
        self._ended.pop(uid, None)
        self._aborted.discard(uid)

    def _warm_up_further(self) -> None:
        warming, warm = self._warming
        if next(warming, False) is False:
            warm.set()

    def _save(self) -> None:
        while not self._to_save.empty():
            asked = self._to_save.get()
            try:
                asked.set_result({chain.run.start["uid"]: chain.save() for chain in self._chains})
            except Exception as error:
                asked.set_exception(error)

    def _checkpoint_of(self, uid: str) -> Path | None:
        if self._checkpoints is None or not UID.fullmatch(uid):  # which names a file
            return None
        return self._checkpoints / f"{uid}.checkpoint"

    def _work(self, chains: Sequence[RunChain]) -> None:
        for chain in chains:
            chain.queued = self.queued
            is_aborted = chain.raw_stop is not None and chain.run.start["uid"] in self._aborted
            self._emit(chain, chain.stop_now() if is_aborted else chain.work(WORK_SLICE_S))
        with self._changed:
            self._chains = [chain for chain in self._chains if not chain.finished]
            for chain in chains:
                if chain.finished:
                    self._forget_ended(chain.run.start["uid"])
            self._changed.notify_all()

    def _route(self, name: str, document: dict[str, Any]) -> None:
        """Give a document to its run, events and datums as pages.

        event-model's `RunRouter` would do that, but keeps the uids of the files of all runs for ever, and copies
        every frame that lies in an event.
        """
        uids = self._index.runs_of(name, document)
        if name == "start" and uids:
            self._begin_run(document)
            return
        if name == "event":
            name, document = "event_page", dict(event_model.pack_event_page(cast(event_model.Event, document)))
        elif name == "datum":
            name, document = "datum_page", dict(event_model.pack_datum_page(cast(event_model.Datum, document)))
        for chain in [chain for chain in self._chains if chain.run.start["uid"] in uids]:
            chain.queued = self.queued
            self._emit(chain, chain.process(name, document))

    def _begin_run(self, start: dict[str, Any]) -> None:
        """Make the stages for a new run."""
        if self.geometry is None and "ptycho" not in start:
            return
        derived = DerivedRun(start, self.settings)
        run = RunContext(
            start,
            self.settings,
            self.geometry,
            self.backend,
            derived,
            roots=self.roots,
            watch=self.watch,
            workers=self.workers,
            gate=self.gate,
            fit_frame=self._fit_frame,
            checkpoint=self._checkpoint_of(start["uid"]),
            probes=self._probes,
        )
        stages = self.make_stages()
        try:
            _ = run.geometry
        except SettingsError:
            stages = (RefuseRun,)
        chain = RunChain(run, stages)
        self._chains.append(chain)
        chain.queued = self.queued
        self._emit(chain, chain.start())

    def _emit(self, chain: RunChain, documents: Iterable[Document]) -> None:
        for name, document in documents:
            with self.gate:
                failures = self._subscribers.tell(name, document)
            for callback, error in failures:
                log.error("%r failed on a %s document", callback, name, exc_info=error)
                who = getattr(callback, "__name__", type(callback).__name__)
                self._emit(chain, chain.subscriber_failed(who, error))

    def __repr__(self) -> str:
        """Return the class and what waits."""
        return f"<{type(self).__name__}: {self.queued} documents wait, {len(self._chains)} runs>"


def _idle_in_scans(backend: Backend) -> int:
    """Return how many threads leave their processor to others while a scan runs."""
    return max(0, backend.threads - (len(os.sched_getaffinity(0)) - LEFT_TO_THE_SCAN))
