"""What ends a command from outside interrupts it once, and is not lost in a callback."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from recorded_run import TIMEOUT_S

from nsbluesky.cli import main
from nsbluesky.commands import ended_by_ctrl_c, quality, telling_what_is_left
from nsbluesky.ended_by_signal import interruptible


@pytest.fixture(autouse=True)
def _hears_a_closed_terminal() -> Iterator[None]:
    """As without nohup, under which the tests may run."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def interrupt_a_callback(number: int) -> None:
    """Send a signal while C runs a function of Python: what that raises goes no further."""

    def callback() -> None:
        os.kill(os.getpid(), number)

    ctypes.CFUNCTYPE(None)(callback)()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_that_is_lost_in_a_callback_comes_again(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with interruptible() as ending, pytest.raises(KeyboardInterrupt):
        interrupt_a_callback(number)
        threading.Event().wait(TIMEOUT_S)
    assert ending.exit_code == 128 + number
    assert capsys.readouterr().err == ""


def test_an_error_after_a_signal_comes_from_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Numba's compiler complains of an object that its callback has not stored."""

    def run(options: object) -> None:
        with telling_what_is_left(lambda: "half of it is there"):
            interrupt_a_callback(signal.SIGINT)
            raise OSError("no compiled object yet")

    monkeypatch.setattr(quality, "run", run)
    assert main(["quality", "one.cxi"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "nsbluesky quality: interrupted; half of it is there\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_exec_that_is_interrupted_leaves_the_exit_code_alone(number: signal.Signals, tmp_path: Path) -> None:
    """Imports are full of them; ``python -m`` would send itself SIGINT at its end."""
    code = "import os, sys; from nsbluesky.cli import main; from nsbluesky.commands import quality\n"
    code += f"quality.run = lambda options: exec('os.kill(os.getpid(), {number.value})\\nwhile True: pass')\n"
    code += "sys.exit(main(['quality', 'one.cxi']))"
    (tmp_path / "interrupted.py").write_text(code)
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 128 + number, done.stderr


def test_what_comes_twice_does_not_interrupt_the_closing() -> None:
    closed = False
    with interruptible() as ending, pytest.raises(KeyboardInterrupt):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            closed = True
    assert closed
    assert ending.words == "ended by SIGTERM"


def test_handlers_are_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with interruptible(), ended_by_ctrl_c(lambda: None):
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_nohup_is_respected() -> None:
    code = "import os, signal; from nsbluesky.ended_by_signal import interruptible\n"
    code += "with interruptible(): os.kill(os.getpid(), signal.SIGHUP)\nprint('went on')"
    command = ["nohup", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.stdout == "went on\n", done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_runs_until_it_is_ended_ends_in_order(number: signal.Signals) -> None:
    stopped = threading.Event()
    with interruptible() as ending, ended_by_ctrl_c(stopped.set):
        os.kill(os.getpid(), number)
        assert stopped.wait(TIMEOUT_S)
    assert ending.number is None
