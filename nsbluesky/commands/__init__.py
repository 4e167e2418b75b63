"""The commands of the command line: each module has ``add_arguments(parser)`` and ``run(options) -> summary``."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsbluesky.ended_by_signal import by_signals, ended

if TYPE_CHECKING:
    from nsbluesky.catalog import Catalog
    from nsbluesky.folder_lock import FolderLock
    from nsbluesky.service.access import Credentials

__all__ = [
    "CommandFailed",
    "add_service_arguments",
    "ended_by_ctrl_c",
    "input_catalog",
    "input_folder",
    "input_log",
    "only_one_in",
    "only_one_writes",
    "output_file",
    "output_folder",
    "output_picture",
    "parse_address",
    "parse_count",
    "parse_number",
    "parse_port",
    "parse_shape",
    "parse_workers",
    "service_credentials",
    "tell_progress",
]

READER_HAS_GONE = 141
"""Exit code of what a shell ends by SIGPIPE."""

MOST_WORKERS_A_PROCESSOR = 16


class CommandFailed(Exception):
    """A command ran, but its result is not what it must be; carries the summary all the same."""

    def __init__(self, message: str, summary: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.summary = summary


def parse_shape(text: str) -> tuple[int, int]:
    """Return rows and columns from a text as 20x20."""
    rows, _, columns = text.lower().partition("x")
    if not (rows.isdigit() and columns.isdigit() and int(rows) > 0 and int(columns) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: expected ROWSxCOLUMNS, as in 20x20")
    return int(rows), int(columns)


def parse_count(text: str) -> int:
    """Return a number from 0 on, that fits into 63 bits."""
    if not (text.isdecimal() and len(text) < 20 and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text!r:.40}: expected a whole number from 0 on, and below 2⁶³")
    return int(text)


def parse_number(text: str) -> float:
    """Return a number that is finite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a finite number")
    return value


def parse_port(text: str) -> int:
    """Return the number of a UDP port; 0 for any that is free."""
    if not (text.isdecimal() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port, 0 to 65535")
    return int(text)


def parse_workers(text: str) -> int:
    """Return a number of processes or threads, of which a typo must not start more than a machine can bear."""
    value, most = parse_count(text), MOST_WORKERS_A_PROCESSOR * (os.cpu_count() or 1)
    if value > most:
        raise argparse.ArgumentTypeError(f"{text!r}: expected at most {most}, for the processors that are here")
    return value


def parse_address(text: str) -> str:
    """Return the address of a service."""
    from nsbluesky.service.access import AccessError, check_address

    try:
        check_address(text)
    except AccessError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def output_file(path: Path, *others: Path) -> Path:
    """Return `path`, which can be written and is none of the `others`; its folder is made where missing.

    Commands call it first: minutes of work must not end at a folder that cannot be written.  A device, as /dev/null,
    would be replaced by the file.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(
            f"{path} is a device or a pipe: expected a file to write, which takes the place of an older one"
        )
    return _another_file(path, *others)


def _another_file(path: Path, *others: Path) -> Path:
    same = (
        path.samefile(other) if path.exists() and other.exists() else path.resolve() == other.resolve()
        for other in others
    )
    if any(same):
        raise ValueError(f"{path} is what the command reads, or writes already: expected another file to write")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: expected a file to write")
    output_folder(path.parent)
    return path


def output_picture(path: Path, *others: Path) -> Path:
    """Return `path` as `output_file` does; nothing but PNG is written, and it replaces no device."""
    path = _another_file(path, *others)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: expected a name that ends in .png, for the picture is PNG")
    return path


def output_folder(path: Path) -> Path:
    """Return the absolute path of a folder that can be written; it is made where missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f"cannot write into {path} ({error.strerror}): expected a writable folder") from error
    return path.resolve()


def only_one_in(folder: Path, command: str) -> FolderLock:
    """Return what keeps other commands out of a folder of results: two at work on a run spoil each other's files."""
    from nsbluesky.folder_lock import FolderLock

    return FolderLock(folder, f"nsbluesky {command}", "wait for its end, or give another --out")


def only_one_writes(out: Path, command: str) -> FolderLock:
    """Return what keeps other commands away from a file that is long in the making, and from its checkpoint."""
    from nsbluesky.folder_lock import FolderLock

    whole, advice = out.resolve(), "wait for its end, or write another file"
    return FolderLock(whole.parent, f"nsbluesky {command}", advice, file=whole.name)


def input_folder(path: Path) -> Path:
    """Return a folder that was named to be read; one that is not there would look as if there were nothing in it."""
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder; check its name")
    return path


def input_log(path: Path | None) -> Path:
    """Return the folder of a document log, the session's by default; one that was named must be there."""
    from nsbluesky.folders import data_directory

    return data_directory() / "documents" if path is None else input_folder(path)


@contextmanager
def input_catalog(path: Path | None) -> Iterator[Catalog]:
    """Give a catalog that is read, the session's by default; one that was named and is not there is not made."""
    if path is not None and not (input_folder(path) / "catalog.db").is_file():
        raise ValueError(f"{path} holds no catalog: expected a folder with catalog.db")
    from nsbluesky.catalog import open_catalog

    with open_catalog(path) as catalog:
        yield catalog


@contextmanager
def ended_by_ctrl_c(stop: Callable[[], object]) -> Iterator[None]:
    """Let the first Ctrl-C end the work of the block in order, by a call of `stop`; a second one interrupts it.

    SIGTERM and the closing of the terminal end it as well, as often as they come.
    """

    def first(number: int, frame: object) -> None:
        if number == signal.SIGINT:
            signal.signal(number, before)
        stop()

    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    with by_signals(first):
        signal.signal(signal.SIGINT, first)  # also where a script has started the command in the background
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def telling_what_is_left(left: Callable[[], str]) -> Iterator[None]:
    """Let a signal that ends the block, see `nsbluesky.ended_by_signal`, tell what is left of its work.

    Parameters
    ----------
    left : callable
        Returns that, when the block has been interrupted.  In the middle of a lock's own work that comes out as a
        RuntimeError of the lock ("release unlocked lock"), and in a callback as another error.
    """
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        of_a_lock = isinstance(error, RuntimeError) and isinstance(error.__context__, KeyboardInterrupt)
        if (interrupted and error.args) or not (ended() or interrupted or of_a_lock):
            raise
        raise KeyboardInterrupt(left()) from None


def tell_progress(line: str) -> None:
    """Tell a program, or whoever waits, how far the work is; where nobody reads on, it ends as after ``| head``.

    A disk that is full of such lines, or a terminal that is gone, costs the lines and not the work.
    """
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise SystemExit(READER_HAS_GONE) from None
    except OSError:
        pass


def add_service_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which processing service is meant."""
    from nsbluesky.service.settings import DEFAULT_ADDRESS

    parser.add_argument(
        "--address", type=parse_address, default=DEFAULT_ADDRESS, help="of the processing service (%(default)s)"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="key file, for a service on another machine")


def service_credentials(options: argparse.Namespace) -> Credentials | None:
    """Return what these options show to the service; None for what this user has on this machine."""
    from nsbluesky.service.access import Credentials

    return None if options.key is None else Credentials.read(options.key)
