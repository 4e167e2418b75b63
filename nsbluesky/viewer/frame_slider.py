"""FrameSlider: goes through the frames of a file, by mouse and by keys that were pressed elsewhere."""

from __future__ import annotations

from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets

__all__ = ["FrameSlider"]

PAGES = 20
"""Strokes of Page Down from the first frame to the last."""

_Action = QtWidgets.QAbstractSlider.SliderAction
STEPS: dict[int, _Action] = {
    QtCore.Qt.Key.Key_Left: _Action.SliderSingleStepSub,
    QtCore.Qt.Key.Key_Right: _Action.SliderSingleStepAdd,
    QtCore.Qt.Key.Key_PageUp: _Action.SliderPageStepSub,
    QtCore.Qt.Key.Key_PageDown: _Action.SliderPageStepAdd,
    QtCore.Qt.Key.Key_Home: _Action.SliderToMinimum,
    QtCore.Qt.Key.Key_End: _Action.SliderToMaximum,
}
KEYPAD = QtCore.Qt.KeyboardModifier.KeypadModifier


class FrameSlider(QtWidgets.QSlider):
    """A slider over so many frames, counted from 0."""

    def __init__(self, count: int) -> None:
        super().__init__(QtCore.Qt.Orientation.Horizontal)
        self.setRange(0, max(count - 1, 0))
        self.setPageStep(max(count // PAGES, 1))
        self.setToolTip("frame; arrow keys, Page Up and Page Down, Home and End")

    @property
    def is_at_end(self) -> bool:
        """Whether it stands at the last frame."""
        return bool(self.value() == self.maximum())

    def take_key(self, event: QtGui.QKeyEvent) -> bool:
        """Do what a key says that the window was given; return whether it says anything here."""
        step = STEPS.get(event.key()) if not event.modifiers() & ~KEYPAD else None
        if step is not None:
            self.triggerAction(step)
        return step is not None
