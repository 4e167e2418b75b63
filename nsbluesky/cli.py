"""The command line: ``nsbluesky COMMAND``; one module of `nsbluesky.commands` per command.

Every command returns a summary, printed as lines for people or as one JSON object with ``--json``; an error is one
clear line on standard error and a non-zero exit code, with a traceback only under ``--debug``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import math
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nsbluesky._version import __version__
from nsbluesky.commands import READER_HAS_GONE, CommandFailed
from nsbluesky.ended_by_signal import interruptible
from nsbluesky.heap import end_without_collection, no_collections

__all__ = ["main"]

COMMANDS = {
    "demo": "the whole job: simulated beamline, scan, live windows, catalog, CXI and a picture of the result",
    "profile": "the startup files of a beamline session, in a folder of the beamline's own",
    "ioc": "the simulated beamline alone, over EPICS Channel Access",
    "camera": "a virtual Fast CCD: sends raw frames as packets over UDP, at any rate, with faults",
    "grab": "the Fast CCD's packets to an HDF5 file, and a list of what was lost",
    "serve": "the processing in a process of its own, which nothing kills for long",
    "status": "what the processing service is doing",
    "abort": "end the processing of a run with what there is",
    "control": "let the processing service pause, resume, begin anew …",
    "keys": "make keys for a processing service that other machines may reach",
    "logs": "what the modules of the processing service have told",
    "resume": "finish the processing of a run after any crash, from its documents and frames",
    "replay": "send a recorded run through the processing again",
    "reconstruct": "reconstruct the object from any CXI file",
    "simulate": "a simulated scan from any picture",
    "raw2cxi": "clean raw FCCD frames of a CXI file or a recorded run",
    "view": "the windows: a file, a run, the catalog, the live processing, a rehearsal of any picture",
    "quality": "Fourier ring correlation, R factor and resolution of reconstructions",
    "import-star": "turn the Siemens star's published npz.bz2 file into CXI",
}


LAST_STANDARD_FILE = 2


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, without the usage of every option."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class _WithoutTracebacks(logging.Formatter):
    """Says of an error what it is, and not where it was raised."""

    def formatException(self, ei: Any) -> str:
        """Return the last line of the traceback."""
        return "".join(traceback.format_exception_only(ei[1])).strip()


class _NoRepeats(logging.Filter):
    """Lets pass once what is logged again and again, as of each block of frames that fails."""

    _last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record tells anything new."""
        before, self._last = self._last, record.getMessage()
        return before != self._last


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    is_process = arguments is None
    if is_process:
        _open_standard_files()
        end_without_collection()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    format_warning = warnings.formatwarning
    warnings.formatwarning = lambda message, *_: f"nsbluesky {name}: {message}\n"
    # of tiled's parameters; FastAPI hides it by a filter that other threads may take away
    warnings.filterwarnings("ignore", message="The 'alias' attribute with value")
    try:
        with interruptible(then_silent=is_process) as ending:
            try:
                with _printing():
                    options = _parse(arguments, name)
                _set_log_levels(options.debug)
                return _run(options)
            except (KeyboardInterrupt, Exception) as error:
                ending.see()
                if ending.number is None and not isinstance(error, KeyboardInterrupt):
                    if "--debug" in arguments:
                        raise
                    _say(f"nsbluesky {name}: {_reason(error)}")
                    return 1
                # an error after a signal comes from that, as of what was interrupted in a callback
                left = f"; {error}" if isinstance(error, KeyboardInterrupt) and error.args else ""
                _say(f"nsbluesky {name}: {ending.words}{left}")
                return ending.exit_code
    finally:
        warnings.formatwarning = format_warning
        if is_process:
            _let_go_of_errors()


def _let_go_of_errors() -> None:
    """Leave nothing to print at the end where that cannot be: Python would end with 120, whatever happened."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _open_standard_files() -> None:
    """Let nothing take the place of a standard file that is closed: what is printed would go into the next one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= LAST_STANDARD_FILE:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115


def _say(line: str) -> None:
    """Tell what is wrong; a terminal may be gone, a disk full."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Let everything that is printed out now, and end in silence where nobody reads on, as after ``| head``."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere
        if isinstance(error, BrokenPipeError):
            raise SystemExit(READER_HAS_GONE) from None
        raise


def _parse(arguments: Sequence[str], name: str) -> argparse.Namespace:
    parser = _Parser(prog="nsbluesky", description="Streaming ptychography for Bluesky.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for known, help_text in COMMANDS.items():
        command = subparsers.add_parser(known, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        command.add_argument("--json", action="store_true", help="print the summary as one JSON object")
        command.add_argument("--debug", action="store_true", help="log everything, show tracebacks")
        if known == name:  # the others are not imported: a command must not wait for what it does not need
            _module(name).add_arguments(command)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:  # of the command, whose options are in its own help
        subparsers.choices[options.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def _set_log_levels(debug: bool) -> None:
    level = logging.INFO if debug else logging.ERROR
    kind = logging.Formatter if debug else _WithoutTracebacks
    printed = logging.StreamHandler()
    printed.setLevel(level)  # Dask gives its loggers a level of their own
    printed.setFormatter(kind("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[printed])
    if not debug:
        printed.addFilter(_NoRepeats())
        logging.getLogger("bluesky").setLevel(logging.CRITICAL)  # what fails a plan is raised as well


def _run(options: argparse.Namespace) -> int:
    try:
        summary = _module(options.command).run(options)
    except CommandFailed as failure:
        _print_summary(failure.summary, options.json)
        _say(f"nsbluesky {options.command}: {failure}")
        return 1
    _print_summary(summary, options.json)
    return 0


def _module(command: str) -> Any:
    name = f"nsbluesky.commands.{command.replace('-', '_')}"
    with contextlib.nullcontext() if name in sys.modules else no_collections():  # a quarter of the time it takes
        return importlib.import_module(name)


def _reason(error: Exception) -> str:
    """Return one line."""
    reason = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        reason = f"{error.filename}: {error.strerror}"
    return " ".join(reason.split()) or type(error).__name__


@_printing()
def _print_summary(summary: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(_json_value(summary), allow_nan=False))
        return
    for name, value in _lines(summary):
        print(f"{name:<34} {_text_of(value)}")


def _lines(summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what has a line of its own; settings by the names that ``--set`` takes."""
    for name, value in summary.items():
        if isinstance(value, Mapping) and value:
            yield from _nested(value, "" if name == "settings" else f"{name.replace('_', ' ')} ")
        else:
            yield name.replace("_", " "), value


def _nested(values: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _nested(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text_of(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | Mapping) and not value:
        return "none"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "; ".join(value)
    return str(value)


def _json_value(value: Any) -> Any:
    """Return null for a number that JSON does not know, such as an infinite resolution."""
    if isinstance(value, Mapping):
        return {name: _json_value(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
