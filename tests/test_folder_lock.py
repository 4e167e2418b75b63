"""A folder that one process at a time works in."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nsbluesky.folder_lock import NAME, FolderInUse, FolderLock

HOLD = """
import sys
from pathlib import Path
from nsbluesky.folder_lock import FolderLock

with FolderLock(Path(sys.argv[1]), "a test"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder_of(folder: Path) -> subprocess.Popen[str]:
    """A process that holds a folder until it reads a line."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_next_one_is_told_who_is_there_and_what_to_do(tmp_path: Path) -> None:
    first = holder_of(tmp_path)
    told = re.escape(f"{tmp_path} is in use by process {first.pid} (a test): take another")
    with pytest.raises(FolderInUse, match=told), FolderLock(tmp_path, "another test", "take another"):
        raise AssertionError("it was let in")
    assert (tmp_path / NAME).read_text().startswith(f"{first.pid}\n"), "what the first one wrote stays"
    first.communicate("\n")
    assert list(tmp_path.iterdir()) == []
    with FolderLock(tmp_path, "another test"):
        assert (tmp_path / NAME).read_text().startswith(f"{os.getpid()}\n")


def test_one_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    first = holder_of(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert (tmp_path / NAME).exists()
    with FolderLock(tmp_path, "a test"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_the_holder_starts_does_not_hold_it(tmp_path: Path) -> None:
    with FolderLock(tmp_path, "a test"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with FolderLock(tmp_path, "a test"):
        assert child.poll() is None
    child.communicate(b"\n")


def test_a_file_that_is_removed_in_that_moment_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The former holder has removed it after it was opened: a third one would make a new file, and be let in."""
    flock, taken = fcntl.flock, list[int]()

    def slow(file: int, operation: int) -> None:
        if not taken:
            (tmp_path / NAME).unlink()
        taken.append(file)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    with FolderLock(tmp_path, "a test"):
        assert len(taken) == 2
        with pytest.raises(FolderInUse), FolderLock(tmp_path, "another test"):
            pass


def test_the_end_of_one_removes_no_file_of_the_next(tmp_path: Path) -> None:
    """A conversion removes its folder, and another one may have begun in a new one by then."""
    first = FolderLock(tmp_path / "folder", "a test")
    with first:
        (tmp_path / "folder" / NAME).unlink()
        (tmp_path / "folder").rmdir()
        second = holder_of(tmp_path / "folder")
    with pytest.raises(FolderInUse, match=f"process {second.pid}"), FolderLock(tmp_path / "folder", "a test"):
        pass
    second.communicate("\n")


def test_where_a_disk_knows_no_locks_nobody_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(file: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with FolderLock(tmp_path, "a test"), FolderLock(tmp_path, "another test"):
        pass
