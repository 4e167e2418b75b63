"""``nsbluesky view``: look at a CXI file, or at the scan that a processing service is working on."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from nsbluesky.commands import output_file

__all__ = ["add_arguments", "run"]

WAIT_S = 10.0
"""How long a picture of a service waits for what the service says."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("file", type=Path, nargs="?", help="a CXI file; one that is being written is fine")
    what.add_argument("--live", metavar="ADDRESS", help="a processing service, as tcp://127.0.0.1:60610")
    parser.add_argument("--key", type=Path, metavar="FILE", help="key file, for a service on another machine")
    parser.add_argument("--screenshot", type=Path, metavar="PNG", help="save a picture of the window and exit")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Open the window, or save its picture without a screen."""
    if options.screenshot is not None:
        output_file(options.screenshot, *([options.file] if options.file is not None else []))
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
    return _view_service(options) if options.live is not None else _view_file(options)


def _view_file(options: argparse.Namespace) -> dict[str, Any]:
    from nsbluesky.viewer.cxi_window import CxiWindow
    from nsbluesky.viewer.qt import application

    app = application()
    window = CxiWindow(options.file)
    window.show()
    if options.screenshot is None:
        app.exec()
        return {"file": str(options.file)}
    window.save_screenshot(options.screenshot)
    window.close()
    return {"file": str(options.file), "picture": str(options.screenshot)}


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
        window.show()
        if options.screenshot is None:
            app.exec()
            return {"address": options.live}
        if not runs.wait_for_state(WAIT_S):
            raise ConnectionError(f"no answer from {options.live} in {WAIT_S:g} s: is 'nsbluesky serve' running?")
        window.save_screenshot(options.screenshot)
        window.close()
        return {"address": options.live, "picture": str(options.screenshot)}
    finally:
        runs.close()
