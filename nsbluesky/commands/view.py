"""``nsbluesky view``: look at a CXI file, at recorded runs, or at what a processing service is working on."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any

from nsbluesky.commands import ended_by_ctrl_c, input_catalog, output_picture, parse_address

__all__ = ["add_arguments", "run"]

WAIT_S = 10.0
"""How long a picture of a service waits for what the service says."""

LISTEN_MS = 200
"""How long Ctrl-C waits for an idle window at most."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("file", type=Path, nargs="?", help="a CXI file; one that is being written is fine")
    what.add_argument(
        "--live", type=parse_address, metavar="ADDRESS", help="a processing service, as tcp://127.0.0.1:60610"
    )
    what.add_argument(
        "--run", metavar="UID", help="a run from raw frames to object; its first characters, or latest, will do"
    )
    what.add_argument("--runs", action="store_true", help="the runs in the catalog: search them, open them")
    what.add_argument(
        "--picture",
        nargs="?",
        const="",
        metavar="FILE",
        help="rehearse a scan of any picture, as from an SEM; without FILE it is chosen in the window",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="with --run and --runs: folder of catalog and results (the user's)"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="key file, for a service on another machine")
    parser.add_argument("--screenshot", type=Path, metavar="PNG", help="save a picture of the window and exit")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Open the window, or save its picture without a screen."""
    if options.screenshot is not None:
        output_picture(options.screenshot, *([options.file] if options.file is not None else []))
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
    if options.live is not None:
        return _view_service(options)
    if options.runs:
        return _view_runs(options)
    if options.picture is not None:
        return _view_picture(options)
    if options.run is not None:
        return _view_run(options)
    return _view_file(options)


def _data(options: argparse.Namespace) -> Path:
    from nsbluesky.folders import data_directory

    return data_directory() if options.data is None else Path(options.data)


def _uid_of_run(run: str, log: Path) -> str:
    """Return the uid of a run in the document log; of one that has only its files, what is known of the uid."""
    from nsbluesky.document_log import LATEST, SUFFIX, UID, find_log

    known = run == LATEST or not UID.fullmatch(run) or any(log.glob(f"{run}*{SUFFIX}"))
    return find_log(run, log).stem if known else run


def _file_of_run(uid: str, data: Path) -> Path:
    from nsbluesky.run_table import image_file

    path = image_file(uid, data)
    if path is None:
        raise ValueError(
            f"run {uid} has no CXI file below {data}: expected one; "
            f"make one with 'nsbluesky replay {uid}', or name another folder with --data"
        )
    return path


def _raw_of_run(uid: str, data: Path) -> tuple[Any, Any]:
    """Return the raw frames of a recorded run and where they are; None for both where nobody knows them any more."""
    from nsbluesky.conversion.browse import ScanBrowser
    from nsbluesky.conversion.run_scan import scan_of_run
    from nsbluesky.replay import documents_of
    from nsbluesky.viewer.reprocess_panel import RawSource

    log = data / "documents"
    try:
        scan = scan_of_run(documents_of(uid, log))
    except (LookupError, OSError, ValueError) as error:  # whatever is wrong with the record: the image can be seen
        logging.getLogger(__name__).info("no raw frames of run %s: %s", uid, error)
        return None, None
    return ScanBrowser(scan), RawSource(("--run", uid, "--log", str(log)))


def _view_run(options: argparse.Namespace) -> dict[str, Any]:
    from nsbluesky.viewer.cxi_window import CxiWindow
    from nsbluesky.viewer.qt import application

    data = _data(options)
    uid = _uid_of_run(options.run, data / "documents")
    path = _file_of_run(uid, data)
    app = application()
    raw, source = _raw_of_run(uid, data)
    _show(app, CxiWindow(path, raw, source), options.screenshot)
    return _summary(options, file=str(path), raw_frames=raw is not None)


def _view_runs(options: argparse.Namespace) -> dict[str, Any]:
    from nsbluesky.run_table import runs_of_catalog
    from nsbluesky.viewer.qt import application
    from nsbluesky.viewer.run_browser import RunBrowser

    app = application()
    data = _data(options)
    with input_catalog(None if options.data is None else data / "catalog") as catalog:
        browser = RunBrowser(lambda: runs_of_catalog(catalog.scans), data, lambda uid: _raw_of_run(uid, data))
        _show(app, browser, options.screenshot)
        return _summary(options, runs=len(browser.shown))


def _view_picture(options: argparse.Namespace) -> dict[str, Any]:
    from nsbluesky.simulation.samples import read_picture
    from nsbluesky.viewer.qt import application
    from nsbluesky.viewer.rehearsal_window import RehearsalWindow

    if options.picture:
        read_picture(options.picture)  # of what is none the window would only tell, and wait for another one
    app = application()
    window = RehearsalWindow(options.picture or None)
    _show(app, window, options.screenshot)
    return _summary(options, **({"file": options.picture} if options.picture else {}))


def _show(app: Any, window: Any, screenshot: Path | None) -> None:
    """Show a window until it is closed, or Ctrl-C closes it, or save its picture; it is gone afterwards.

    One that was there when Python ends could crash as Qt takes it down.
    """
    from nsbluesky.viewer.qt import QtCore

    window.show()
    if screenshot is None:
        listening = QtCore.QTimer()  # Python hears a signal only while it runs
        listening.timeout.connect(lambda: None)
        listening.start(LISTEN_MS)
        with ended_by_ctrl_c(window.close):
            app.exec()
    else:
        window.save_screenshot(screenshot)
        window.close()
    window.deleteLater()
    app.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)


def _summary(options: argparse.Namespace, **told: Any) -> dict[str, Any]:
    return told if options.screenshot is None else {**told, "picture": str(options.screenshot)}


def _view_file(options: argparse.Namespace) -> dict[str, Any]:
    from nsbluesky.viewer.cxi_window import CxiWindow
    from nsbluesky.viewer.qt import application

    app = application()
    _show(app, CxiWindow(options.file), options.screenshot)
    return _summary(options, file=str(options.file))


def _view_service(options: argparse.Namespace) -> dict[str, Any]:
    from nsbluesky.folders import state_directory
    from nsbluesky.service.access import Credentials, is_loopback
    from nsbluesky.service.remote_processing import RemoteProcessing
    from nsbluesky.service.subscriber import DerivedRuns
    from nsbluesky.viewer.live import LiveWindow
    from nsbluesky.viewer.log_tail import tail_of_files
    from nsbluesky.viewer.modules import modules_of_heartbeat
    from nsbluesky.viewer.qt import application

    app = application()
    credentials = None if options.key is None else Credentials.read(options.key)
    runs = DerivedRuns(options.live, credentials)
    try:
        window = LiveWindow(
            runs.live,
            modules=lambda: modules_of_heartbeat(runs.heartbeat),
            log_lines=lambda: tail_of_files(state_directory() / "logs") if is_loopback(options.live) else [],
            processing=RemoteProcessing(options.live, credentials),
        )
        if options.screenshot is not None and not runs.wait_for_state(WAIT_S):
            raise ConnectionError(f"no answer from {options.live} in {WAIT_S:g} s: is 'nsbluesky serve' running?")
        _show(app, window, options.screenshot)
        return _summary(options, address=options.live)
    finally:
        runs.close()
