"""Ctrl-C while a command works, as a terminal gives it to all processes: one line, what is left, and nobody stays.

So it is with SIGTERM, and where the terminal is closed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from recorded_run import TIMEOUT_S

from nsbluesky import session
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.catalog import Catalog
from nsbluesky.cli import main
from nsbluesky.commands import READER_HAS_GONE, demo, reconstruct, replay, telling_what_is_left
from nsbluesky.simulation import beamline

INTERRUPTED = 130


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ctrl-c") / "clean.cxi"
    assert main(["simulate", str(path), "--shape", "6x6", "--step-um", "0.06"]) == 0
    return path


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ctrl-c") / "raw.cxi"
    arguments = ["--raw", "--shape", "6x6", "--step-um", "0.06", "--darks", "5"]
    assert main(["simulate", str(path), *arguments]) == 0
    return path


@contextlib.contextmanager
def at_work(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, as a terminal's; none of it outlives the block."""
    command = [sys.executable, "-m", "nsbluesky.cli", *map(str, arguments)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_hear_signals
    )
    try:
        yield process
    finally:
        if is_alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _hear_signals() -> None:
    """As a shell lets its foreground jobs do; the tests may run in the background, or under nohup."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def is_alive(group: int) -> bool:
    """Whether there is a process of the group that has not ended."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just gone
            continue
        if int(its_group) == group and state != "Z":
            return True
    return False


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.01)


def interrupted(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> list[str]:
    """Press Ctrl-C, and return the lines that the command and its workers have said since, when all have gone."""
    os.killpg(process.pid, number)
    _, told = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + number, told
    wait_until(lambda: not is_alive(process.pid))
    return told.splitlines()


def read_until(process: subprocess.Popen[str], beginning: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(beginning):
            return
    raise AssertionError(f"no line began with {beginning}")


def own_lines(told: list[str]) -> list[str]:
    """What is no progress."""
    return [line for line in told if " R " not in line]


def test_a_reconstruction_tells_its_checkpoint(clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "image.cxi"
    options = ["--passes", "2000", "--progress", "--set", "sweep_frames=0"]
    with at_work("reconstruct", clean, out, *options, "--checkpoint-s", "0") as process:
        read_until(process, "2/2000 R ")
        told = own_lines(interrupted(process))
    assert told == [f"nsbluesky reconstruct: interrupted; --resume goes on from {out}.checkpoint"]
    assert [path.name for path in tmp_path.iterdir()] == ["image.cxi.checkpoint"]
    (tmp_path / "image.cxi.checkpoint").unlink()
    told_without = f"{out} was not written, and there is no checkpoint yet to go on from"
    assert reconstruct._left(out, tmp_path / "image.cxi.checkpoint") == told_without


def test_sigterm_ends_a_reconstruction_as_ctrl_c_does(clean: Path, tmp_path: Path) -> None:
    """A batch system sends it where the time is over; neither the lock nor the joined frames stay."""
    out, again = tmp_path / "image.cxi", tmp_path / "again.cxi"
    shutil.copy(clean, again)
    options = [
        "--also",
        str(again),
        "--passes",
        "2000",
        "--progress",
        "--set",
        "sweep_frames=0",
        "--checkpoint-s",
        "0",
    ]
    with at_work("reconstruct", clean, out, *options, "--checkpoint-s", "0") as process:
        read_until(process, "2/2000 R ")
        told = own_lines(interrupted(process, signal.SIGTERM))
    assert told == [f"nsbluesky reconstruct: ended by SIGTERM; --resume goes on from {out}.checkpoint"]
    assert {path.name for path in tmp_path.iterdir()} == {"again.cxi", "image.cxi.checkpoint"}


def test_whoever_closes_the_pipe_of_the_progress_ends_a_reconstruction(clean: Path, tmp_path: Path) -> None:
    options = ["--passes", "2000", "--progress", "--set", "sweep_frames=0"]
    with at_work("reconstruct", clean, tmp_path / "image.cxi", *options) as process:
        read_until(process, "1/2000 R ")
        assert process.stderr is not None
        process.stderr.close()
        process.stderr = None
        assert process.wait(TIMEOUT_S) == READER_HAS_GONE
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_of_progress_ends_no_reconstruction(clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "image.cxi"
    options = ["--passes", "2", "--progress", "--set", "sweep_frames=0"]
    command = [sys.executable, "-m", "nsbluesky.cli", "reconstruct", str(clean), str(out), *options]
    with Path("/dev/full").open("w") as full:
        assert subprocess.run(command, stdout=subprocess.DEVNULL, stderr=full, timeout=TIMEOUT_S).returncode == 0
    assert out.exists()


def test_an_error_is_never_told_where_the_result_is_expected(tmp_path: Path) -> None:
    """With standard error closed, print would take standard output for it."""
    command = f"exec {sys.executable} -m nsbluesky.cli quality {tmp_path}/missing.cxi 2>&-"
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, timeout=TIMEOUT_S)
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.nightly
def test_a_reconstruction_without_a_checkpoint_leaves_nothing(clean: Path, tmp_path: Path) -> None:
    """The first one would come after a minute."""
    out = tmp_path / "image.cxi"
    with at_work("reconstruct", clean, out, "--passes", "2000", "--progress", "--set", "sweep_frames=0") as process:
        read_until(process, "2/2000 R ")
        told = own_lines(interrupted(process))
    assert told == [
        f"nsbluesky reconstruct: interrupted; {out} was not written, and there is no checkpoint yet to go on from"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nightly
def test_workers_of_a_reconstruction_end_in_silence(clean: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    out = tmp_path / "image.cxi"
    options = ["--passes", "2000", "--workers", "2", "--progress", "--checkpoint-s", "0", "--set", "sweep_frames=0"]
    with at_work("reconstruct", clean, out, *options) as process:
        read_until(process, "3/2000 R ")
        told = own_lines(interrupted(process))
    assert told == [f"nsbluesky reconstruct: interrupted; --resume goes on from {out}.checkpoint"]


@pytest.mark.parametrize(
    "workers", [pytest.param((), marks=pytest.mark.nightly), ("--processes",)], ids=["threads", "processes"]
)
def test_a_conversion_tells_what_is_clean(raw: Path, tmp_path: Path, workers: tuple[str, ...]) -> None:
    out, unfinished = tmp_path / "clean.cxi", tmp_path / "clean.cxi.unfinished"
    options = ["--set", "block_frames=1", "--workers", "2", *workers]
    with at_work("raw2cxi", raw, out, *options) as process:
        wait_until(lambda: any(unfinished.glob("block-*.npz")) or process.poll() is not None)
        told = interrupted(process)
    assert told == [f"nsbluesky raw2cxi: interrupted; --resume goes on with what lies in {unfinished}"]
    assert [path.name for path in tmp_path.iterdir()] == ["clean.cxi.unfinished"]
    assert main(["raw2cxi", str(raw), str(out), *options, "--resume"]) == 0


def test_a_closed_terminal_ends_a_conversion_and_its_workers_in_silence(raw: Path, tmp_path: Path) -> None:
    """The terminal tells all processes of the group; the workers leave it to the command to end them."""
    unfinished = tmp_path / "clean.cxi.unfinished"
    options = ["--set", "block_frames=1", "--workers", "2", "--processes"]
    with at_work("raw2cxi", raw, tmp_path / "clean.cxi", *options) as process:
        wait_until(lambda: any(unfinished.glob("block-*.npz")) or process.poll() is not None)
        told = interrupted(process, signal.SIGHUP)
    how = "ended, for the terminal was closed (SIGHUP)"
    assert told == [f"nsbluesky raw2cxi: {how}; --resume goes on with what lies in {unfinished}"]


def test_what_is_left_of_a_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(PtychoPipeline(directory=tmp_path)) as pipeline:
        assert pipeline.cxi is not None
        assert replay._left(pipeline, tmp_path, "one") == f"nothing was written into {tmp_path}"
        monkeypatch.setitem(pipeline.cxi.paths, "one", tmp_path / "one_clean.cxi")
        told = f"{tmp_path}/one_clean.cxi holds the frames that were clean, and no final image"
        assert replay._left(pipeline, tmp_path, "one") == told
        (tmp_path / "one.checkpoint").touch()
        assert replay._left(pipeline, tmp_path, "one") == f"the same command goes on from {tmp_path}/one.checkpoint"


def test_what_is_left_of_a_demo(tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "earlier.jsonl").touch()
    known = demo._runs_in(tmp_path)
    assert demo._left(tmp_path, known) == "no run had begun"
    (documents / "0123456789abcdef.jsonl").touch()
    told = f"nsbluesky replay 01234567 --log {documents} makes an image of the frames that were taken"
    assert demo._left(tmp_path, known) == told


def test_what_writes_the_catalog_of_a_demo_starts_long_before_its_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C waits till the run is in the catalog, and would wait for the start of that process else."""
    begun: list[str] = []

    def interrupted(beamline: object) -> None:
        begun.append("site")
        raise KeyboardInterrupt

    monkeypatch.setattr(beamline, "SimulatedBeamline", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(Catalog, "start_writing", lambda catalog: begun.append("catalog"))
    monkeypatch.setattr(demo, "_warm_up", lambda settings: threading.Thread())
    monkeypatch.setattr(session, "simulated_site", interrupted)
    assert main(["demo", "--offscreen", "--out", str(tmp_path)]) == INTERRUPTED
    assert begun == ["catalog", "site"]


def test_what_is_left_is_asked_when_it_is_interrupted() -> None:
    left = ["nothing"]
    with pytest.raises(KeyboardInterrupt, match="half of it"), telling_what_is_left(lambda: left[-1]):
        left.append("half of it")
        raise KeyboardInterrupt


def test_the_inner_one_knows_more() -> None:
    with (
        pytest.raises(KeyboardInterrupt, match="a checkpoint"),
        telling_what_is_left(lambda: "nothing"),
        telling_what_is_left(lambda: "a checkpoint"),
    ):
        raise KeyboardInterrupt


def test_ctrl_c_in_the_middle_of_a_lock_s_work_is_an_interruption() -> None:
    """A condition that is interrupted while it takes its lock again releases what it does not have."""
    with pytest.raises(KeyboardInterrupt, match="a half"), telling_what_is_left(lambda: "a half"):
        try:
            raise KeyboardInterrupt
        finally:
            threading.Lock().release()
    with pytest.raises(RuntimeError, match="release unlocked lock"), telling_what_is_left(lambda: "a half"):
        threading.Lock().release()
