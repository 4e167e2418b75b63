"""The list of keys of a window."""

from __future__ import annotations

from collections.abc import Iterable

from nsbluesky.viewer.qt import QtWidgets

__all__ = ["show_keys"]


def show_keys(window: QtWidgets.QWidget, keys: Iterable[tuple[str, str]]) -> None:
    """Show what keys, and clicks, do in a window, till it is answered."""
    rows = "".join(f"<tr><td><b>{key}</b>&nbsp;&nbsp;</td><td>{what}</td></tr>" for key, what in keys)
    QtWidgets.QMessageBox.information(window, "Keys", f"<table>{rows}</table>")
