"""What the menus of all windows are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nsbluesky.viewer.qt import QtGui, QtWidgets

__all__ = ["add_action"]


def add_action(menu: QtWidgets.QMenu, text: str, shortcut: str, slot: Callable[[], object]) -> Any:
    """Add an entry that calls `slot`, without the arguments that Qt gives, and return it.

    Parameters
    ----------
    menu : QMenu
    text : str
        With "&" before the letter that chooses it.
    shortcut : str
        As "Ctrl+S"; "" for none.
    slot : callable
    """
    action = menu.addAction(text)
    action.setShortcut(QtGui.QKeySequence(shortcut))
    action.triggered.connect(lambda *_: slot())
    return action
