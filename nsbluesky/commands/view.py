"""``nsbluesky view``: look at a CXI file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from nsbluesky.commands import output_file

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("file", type=Path, help="a CXI file; one that is being written is fine")
    parser.add_argument("--screenshot", type=Path, metavar="PNG", help="save a picture of the window and exit")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Open the window, or save its picture without a screen."""
    if options.screenshot is not None:
        output_file(options.screenshot, options.file)
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
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
