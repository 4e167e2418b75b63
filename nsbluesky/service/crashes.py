"""What a crash leaves behind: the block that was at work, and in how many crashes each frame was.

The process writes its block into a file that is mapped into memory, so that it is there however the process ends; the
supervisor reads it and counts.  The next process reads a suspected frame alone, and leaves out one that was at work
in two crashes; a run that the processing dies on again and again is given up.
"""

from __future__ import annotations

import json
import logging
import mmap
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from nsbluesky.callbacks.block_watch import BlockWatch
from nsbluesky.service.finished import FinishedRun, FinishedRuns
from nsbluesky.whole_file import write_whole

__all__ = ["MAX_CRASHES", "BlockJournal", "CrashRecord"]

log = logging.getLogger(__name__)

BLOCK = "block-at-work-{}"
"""With the process id of the supervisor: services of two sessions may share a folder of results."""
RECORD = "crashes.json"
SIZE = 4096
MAX_SEQ_NUMS = 256
RETRY_S = 10.0
"""Time between two tries to have the file, where a disk is full."""

MAX_CRASHES = 8
"""A run that the processing died on so often is given up."""


class BlockJournal(BlockWatch):
    """Keeps the block at work in a file, and knows the suspects of former crashes.

    Without space for the file the work goes on, and a crash blames no frame.

    Parameters
    ----------
    directory : path
        Of the results.
    supervisor : int
        Process id of who counts the crashes.
    """

    def __init__(self, directory: Path, supervisor: int) -> None:
        self._path = directory / BLOCK.format(supervisor)
        self._map: mmap.mmap | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._next_try = 0.0
        self._trouble = ""
        self._open()
        self._suspects = CrashRecord(directory, supervisor).suspects()

    def begin(self, run: str, stage: str, stream: str, seq_nums: Sequence[int]) -> None:
        """Write the block."""
        block = [run, stage, stream, [int(k) for k in seq_nums[:MAX_SEQ_NUMS]]]
        content = json.dumps(block).encode()[: SIZE - 1]
        with self._lock:
            if self._map is None and not self._closed and time.monotonic() >= self._next_try:
                self._open()
            if self._map is not None:
                self._map[: len(content) + 1] = content + b"\0"

    def end(self) -> None:
        """Write that there is none."""
        with self._lock:
            if self._map is not None:
                self._map[:1] = b"\0"

    def _open(self) -> None:
        """Have the file in memory; one that is there already needs no space."""
        self._next_try = time.monotonic() + RETRY_S
        try:
            if not self._path.exists() or self._path.stat().st_size != SIZE:
                self._path.write_bytes(bytes(SIZE))
            with self._path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), SIZE)
            self._map[:1] = b"\0"
        except OSError as error:
            if str(error) != self._trouble:
                log.error("the block at work cannot be written down, a crash would blame no frame: %s", error)
            self._trouble = str(error)

    def close(self) -> None:
        """Remove the file: the process ends as it should.  A thread that is still at work writes nothing more."""
        with self._lock:
            self._closed = True
            if self._map is not None:
                self._map.close()
                self._map = None
            self._path.unlink(missing_ok=True)

    def tries(self, run: str, stream: str, seq_num: int) -> int:
        """Return in how many crashes a frame was at work."""
        return self._suspects.get(run, {}).get(f"{stream}/{seq_num}", 0)


class CrashRecord:
    """Counts crashes by run and frame, in a file.

    Parameters
    ----------
    directory : path
        Of the results.
    supervisor : int
        Process id of who counts.
    """

    def __init__(self, directory: Path, supervisor: int) -> None:
        self._directory = directory
        self._path = directory / RECORD
        self._block_path = directory / BLOCK.format(supervisor)

    def suspects(self) -> dict[str, dict[str, int]]:
        """Return, by run, in how many crashes each ``stream/seq_num`` was at work; "" counts all of the run's."""
        try:
            told: dict[str, dict[str, int]] = json.loads(self._path.read_text())
            return told
        except (OSError, ValueError):
            return {}

    def note_crash(self, reason: str, *, of_frames: bool = True) -> str:
        """Count what was at work when the process died, and return it in words; give a run up where it is time.

        Parameters
        ----------
        reason : str
            What the process died of.
        of_frames : bool
            Whether a frame may be to blame, or only the run: for want of memory it is not one frame.
        """
        block = self._block()
        if block is None:
            return ""
        run, stage, stream, seq_nums = block
        suspects = self.suspects()
        counts = suspects.setdefault(run, {})
        for key in ("", *(f"{stream}/{k}" for k in seq_nums if of_frames)):
            counts[key] = counts.get(key, 0) + 1
        write_whole(self._path, json.dumps(suspects))
        if counts[""] >= MAX_CRASHES:
            reason = f"given up: the processing died {counts['']} times, at last in {stage} ({reason})"
            FinishedRuns(self._directory).add(FinishedRun(run, exit_status="fail", reason=reason))
        return f"in {stage}" + (f", {stream} {min(seq_nums)} to {max(seq_nums)}" if seq_nums else "")

    def _block(self) -> tuple[str, str, str, list[int]] | None:
        try:
            content = self._block_path.read_bytes().partition(b"\0")[0]
            run, stage, stream, seq_nums = json.loads(content)
            return str(run), str(stage), str(stream), [int(k) for k in seq_nums]
        except (OSError, ValueError, TypeError):
            return None
