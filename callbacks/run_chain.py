"""The stages of one run, one after the other, each guarded: an error in one is told, and costs no other frame."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nsbluesky.callbacks.activity import RunActivity, StageClock
from nsbluesky.callbacks.derived_run import Document, num_bytes, split_page
from nsbluesky.callbacks.news import news_of, numbered
from nsbluesky.callbacks.stage import FramesFailed, RunContext, Stage
from nsbluesky.settings import SettingsError
from nsbluesky.streams import PRIMARY, holds_frames

__all__ = ["RunChain"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")

HEALTH_INTERVAL_S = 1.0
MAX_FAILURES_AT_WORK = 3
"""A stage that fails so often at work of its own is left out until the run ends."""


class RunChain:
    """Everything that happens with one run between its start document and the last derived document.

    Parameters
    ----------
    run : RunContext
    stages : sequence of type
        Classes of the stages, in the order of the data.
    """

    def __init__(self, run: RunContext, stages: Sequence[type[Stage]]) -> None:
        self.run = run
        self.stages: list[Stage] = []
        self.raw_stop: dict[str, Any] | None = None
        self.finished = False
        self.queued = 0
        """How many documents wait; told by the owner of the queue, shown in the health."""
        self._frame_times: deque[float] = deque(maxlen=64)
        self._num_frames = 0
        self._latency_s = 0.0
        self._bad: set[int] = set()
        self._errors: dict[str, str] = {}
        self._failures: Counter[str] = Counter()
        self._told = 0
        self._next_health = 0.0
        self._changes: deque[dict[str, Any]] = deque()
        for kind in stages:
            if (stage := self._asked(kind.name, partial(kind, run), None)) is not None:
                self.stages.append(stage)
        self._clocks = {stage.name: StageClock() for stage in self.stages}

    # ---- documents

    def start(self) -> Iterator[Document]:
        """Yield the derived start document and what the stages make of the raw one."""
        log.info("run %s: the processing begins", self.run.start["uid"][:8])
        yield from self._through(0, [("start", self.run.derived.start_document)])
        yield from self._through(0, [("start", dict(self.run.start))])

    def process(self, name: str, document: dict[str, Any]) -> Iterator[Document]:
        """Yield the derived documents that follow from a raw one."""
        if name == "stop":
            self.raw_stop = document
        yield from self._take_changes()
        yield from self._through(0, [(name, document)])
        yield from self._health()

    @property
    def has_work(self) -> bool:
        """Whether `work` would do something useful now."""
        return not self.finished and (self.raw_stop is not None or bool(self._changes or self._busy_stages()))

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Change settings of this run, by dotted names, before it goes on; from any thread."""
        self._changes.append(dict(changes))

    def _take_changes(self) -> Iterator[Document]:
        """Let the stages take over what was changed, and tell it in the derived run."""
        while self._changes:
            changes = self._changes.popleft()
            try:
                self.run.settings = self.run.settings.replace(**changes)
            except SettingsError as error:  # right for the next run, but not with what this one has
                self.run.warnings.append(f"settings of this run stay: {error}")
                continue
            for position, stage in enumerate(self.stages):
                yield from self._through(position + 1, self._guarded(stage, stage.configure(), None))
            yield from self.run.derived.event(
                "settings", settings=self.run.settings.to_json(), changes=json.dumps(changes)
            )

    def _busy_stages(self) -> list[tuple[int, Stage]]:
        return [
            (position, stage)
            for position, stage in enumerate(self.stages)
            if self._failures[stage.name] < MAX_FAILURES_AT_WORK
            and self._asked(stage.name, partial(getattr, stage, "has_work"), False)
        ]

    def _asked(self, name: str, question: Callable[[], _T], otherwise: _T) -> _T:
        """Return what a stage answers; where it raises instead, that is noted as if it were at work."""
        try:
            return question()
        except Exception as error:
            log.exception("%s failed", name)
            self._errors[name] = f"{name}: {error}"
            self._failures[name] += 1
            return otherwise

    def work(self, budget_s: float) -> Iterator[Document]:
        """Let each stage that has work use the time while no document waits; end the run when none is left."""
        yield from self._take_changes()
        for position, stage in self._busy_stages():
            yield from self._through(position + 1, self._guarded(stage, stage.work(budget_s), None))
        yield from self._health()
        if self.raw_stop is not None and not self._busy_stages():
            yield from self._finish()

    def subscriber_failed(self, who: str, error: Exception) -> Iterator[Document]:
        """Yield, the first time, that a subscriber to this run's documents failed."""
        if who not in self._errors and not self.finished:
            self._errors[who] = f"{who}: {error}"
            yield from self.run.derived.event("health", **self._state(who, "error", str(error)))

    def save(self) -> list[Path]:
        """Let the stages write down what they have, and return where."""
        with self.run.gate:
            written = [] if self.finished else [stage.save() for stage in self.stages]
        return [path for path in written if path is not None]

    def stop_now(self) -> Iterator[Document]:
        """End the run without waiting for what could still be done."""
        if not self.finished:
            yield from self._finish()

    def _finish(self) -> Iterator[Document]:
        self.finished = True
        with self.run.gate:
            for stage in self.stages:
                self._asked(stage.name, stage.close, None)
        yield from self._health(now=True)
        raw_stop = self.raw_stop or {}
        status = raw_stop.get("exit_status", "abort")
        why = [raw_stop["reason"]] if status != "success" and raw_stop.get("reason") else []
        problems = [f"{numbered(len(self.run.lost), 'frame')} lost"] if self.run.lost else []
        if self.run.lost and not (self._num_frames or self._errors):  # as where the disk is not mounted
            problems[0] += f" ({next(reversed(self.run.lost.values()))})"
        problems += [f"{numbered(len(self._bad), 'frame')} could not be processed"] if self._bad else []
        reason = "; ".join([*why, *problems, *self._errors.values()])
        log.info("run %s: the processing ends, %s", self.run.start["uid"][:8], reason or status)
        yield self.run.derived.stop(status, reason)

    # ---- the way through the stages

    def _through(self, position: int, documents: Iterable[Document]) -> Iterator[Document]:
        """Pass documents through the stages from `position` on, one at a time, and yield those of the derived run."""
        for name, document in documents:
            if position == len(self.stages):
                if self._is_derived(name, document):
                    self._note(name, document)
                    yield name, document
            else:
                yield from self._through(position + 1, [(name, document)])
                stage = self.stages[position]
                yield from self._through(
                    position + 1, self._guarded(stage, stage.process(name, document), (name, document))
                )

    def _guarded(self, stage: Stage, documents: Iterator[Document], cause: Document | None) -> Iterator[Document]:
        """Yield from a stage; after an error in a block of frames, try them one by one and list those that fail."""
        try:
            yield from self._timed(stage, documents, cause)
        except Exception as error:
            # a setting that cannot be, as of the start document, is no defect of the code: its place does not matter
            log.error("%s failed: %s", stage.name, error, exc_info=not isinstance(error, SettingsError))
            self._errors[stage.name] = f"{stage.name}: {error}"
            if isinstance(error, FramesFailed):
                self._bad.update(error.seq_nums)
            elif cause is None:
                self._failures[stage.name] += 1
            elif cause[0] == "event_page":
                page = cause[1]
                if len(page["seq_num"]) > 1:
                    for part in split_page(page):
                        yield from self._guarded(stage, stage.process("event_page", part), ("event_page", part))
                else:
                    self._bad.update(page["seq_num"])
            yield from self.run.derived.event("health", **self._state(stage.name, "error", str(error)))

    def _timed(self, stage: Stage, documents: Iterator[Document], cause: Document | None) -> Iterator[Document]:
        """Yield from a stage; its clock runs, and its block is watched, only while it works itself."""
        clock = self._clocks[stage.name]
        stream, seq_nums = self._block(cause)
        while True:
            with clock.running():
                self.run.watch.begin(self.run.start["uid"], stage.name, stream, seq_nums)
                try:
                    document = next(documents)
                    clock.count(num_bytes(document[1]))
                except StopIteration:
                    return
                finally:
                    self.run.watch.end()
            self._log_news(stage, *document)
            yield document

    def _log_news(self, stage: Stage, name: str, document: Mapping[str, Any]) -> None:
        news = news_of(self.run.derived.stream_of(document), document["data"]) if name == "event" else ""
        if news:
            logging.getLogger(type(stage).__module__).info("run %s: %s", self.run.start["uid"][:8], news)

    def _block(self, cause: Document | None) -> tuple[str, Sequence[int]]:
        """Return the stream of raw frames and the frames that a document is about."""
        if cause is None or cause[0] != "event_page":
            return "", ()
        stream = self.run.derived.stream_of(cause[1])
        return (stream if holds_frames(stream) else PRIMARY), cause[1]["seq_num"]

    def activity(self) -> RunActivity:
        """Return what the stages did so far; from any thread."""
        stages = []
        for stage in self.stages:
            clock, error = self._clocks[stage.name], self._errors.get(stage.name)
            if stage.is_wanted or clock.num_blocks or error is not None:
                told = None if error is None else error.removeprefix(f"{stage.name}: ")
                stages.append(clock.activity(stage.name, told))
        return RunActivity(self.run.start["uid"], self.run.derived.uid, self._num_frames, tuple(stages))

    def _is_derived(self, name: str, document: dict[str, Any]) -> bool:
        if name in ("start", "stop", "descriptor"):
            return self.run.derived.owns(document)
        return bool(self.run.derived.stream_of(document))

    # ---- health

    def _note(self, name: str, document: dict[str, Any]) -> None:
        if name == "event_page" and self.run.derived.stream_of(document) == "clean":
            now = time.time()
            self._num_frames += len(document["seq_num"])
            self._frame_times.extend(itertools.repeat(now, len(document["seq_num"])))
            self._latency_s = max(0.0, now - min(document["time"]))  # a clock may be set back in between
            self._bad.difference_update(document["seq_num"])

    def _state(self, stage: str, state: str, message: str) -> dict[str, Any]:
        times = self._frame_times
        until = times[-1] if self.raw_stop is not None and times else time.time()  # a scan that rests has no rate
        elapsed = until - times[0] if len(times) > 1 else 0.0
        return {
            "stage": stage,
            "state": state,
            "message": message,
            "rate_hz": (len(times) - 1) / elapsed if elapsed > 0 else 0.0,
            "queue": self.queued,
            "latency_s": self._latency_s,
            "num_frames": self._num_frames,
            "lost": sorted(self.run.lost),
            "bad": sorted(self._bad),
            "flagged": sorted(self.run.flagged),
        }

    def _health(self, now: bool = False) -> Iterator[Document]:
        """Yield new warnings, and once a second how the run is doing."""
        for message in self.run.warnings[self._told :]:
            self._told += 1
            yield from self.run.derived.event("health", **self._state("pipeline", "warning", message))
        if now or time.monotonic() >= self._next_health:
            self._next_health = time.monotonic() + HEALTH_INTERVAL_S
            for stage in self.stages:
                self._clocks[stage.name].look(self._asked(stage.name, partial(getattr, stage, "queue"), 0))
            message = "; ".join(f"frame {k}: {reason}" for k, reason in list(self.run.lost.items())[-3:])
            yield from self.run.derived.event("health", **self._state("pipeline", "ok", message))
