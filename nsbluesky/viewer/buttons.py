"""Rows of buttons that are told as a mapping of name to text and tooltip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from nsbluesky.viewer.qt import QtWidgets

__all__ = ["button_row"]

LEAST_WIDTH_PX = 40


def button_row(
    texts: Mapping[str, tuple[str, str]], pressed: Callable[[str], object], *, checkable: bool = False
) -> tuple[QtWidgets.QHBoxLayout, dict[str, QtWidgets.QPushButton]]:
    """Return buttons side by side, in their layout and by name.

    Parameters
    ----------
    texts : mapping of str to (str, str)
        Text and tooltip of each button, by name.
    pressed : callable
        Is given the name of the button that was pressed.
    checkable : bool
        The buttons stay down.
    """
    row = QtWidgets.QHBoxLayout()
    row.setSpacing(3)
    buttons: dict[str, QtWidgets.QPushButton] = {}
    for name, (text, tooltip) in texts.items():
        button = QtWidgets.QPushButton(text)
        button.setToolTip(tooltip)
        button.setMinimumWidth(LEAST_WIDTH_PX)
        button.setCheckable(checkable)
        button.clicked.connect(partial(_press, pressed, name))
        row.addWidget(button)
        buttons[name] = button
    return row, buttons


def _press(pressed: Callable[[str], object], name: str, *_: object) -> None:
    pressed(name)
