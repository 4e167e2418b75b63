"""DockArea: panels that can be moved, stacked, closed and shown again, where the user left them."""

from __future__ import annotations

import itertools
from typing import Any

from nsbluesky.viewer.qt import QtCore, QtWidgets

__all__ = ["PLACES", "DockArea"]

COLUMNS = (("left top", "left bottom"), ("center", "center bottom"), ("right top", "right bottom"))
"""Groups of docks: columns of rows; the docks of a group are tabs."""
PLACES = tuple(place for column in COLUMNS for place in column)

WIDTHS_PX = (360, 560, 420)
HEIGHTS_PX = {
    "left top": 330,
    "left bottom": 330,
    "center": 440,
    "center bottom": 220,
    "right top": 330,
    "right bottom": 330,
}
VERSION = 1
"""Of the arrangement; one that an earlier version saved is not restored."""


class DockArea(QtWidgets.QMainWindow):
    """An area of docks; `add` all of them, then `arrange`.

    Attributes
    ----------
    docks : dict of str to QDockWidget
        By name.
    """

    def __init__(self) -> None:
        super().__init__(None, QtCore.Qt.WindowType.Widget)
        self.docks: dict[str, QtWidgets.QDockWidget] = {}
        self._places: dict[str, list[str]] = {place: [] for place in PLACES}
        self._in_front: set[str] = set()
        Option = QtWidgets.QMainWindow.DockOption
        self.setDockOptions(Option.AllowNestedDocks | Option.AllowTabbedDocks)
        self.setTabPosition(QtCore.Qt.DockWidgetArea.AllDockWidgetAreas, QtWidgets.QTabWidget.TabPosition.North)
        self.setDocumentMode(True)

    def add(self, name: str, title: str, widget: Any, place: str, header: Any = None) -> None:
        """Put a widget into a dock of a group; a `header` becomes the title bar at which it is moved."""
        dock = QtWidgets.QDockWidget(title, self)
        dock.setObjectName(name)
        dock.setWidget(widget)
        if header is not None:
            dock.setTitleBarWidget(header)
        dock.visibilityChanged.connect(lambda shown: self._note(name, shown))
        self.docks[name] = dock
        self._places[place if place in self._places else "right bottom"].append(name)

    def arrange(self) -> None:
        """Put every dock where it belongs at first."""
        for dock in self.docks.values():
            self.removeDockWidget(dock)
            dock.setFloating(False)
        first = {place: self.docks[names[0]] for place, names in self._places.items() if names}
        columns = [[first[place] for place in column if place in first] for column in COLUMNS]
        widths = [width for width, column in zip(WIDTHS_PX, columns, strict=True) if column]
        columns = [column for column in columns if column]
        Horizontal, Vertical = QtCore.Qt.Orientation.Horizontal, QtCore.Qt.Orientation.Vertical
        # columns first, then rows: a column that is split early would be cut through by the next one
        for number, (top, *_) in enumerate(columns):
            if number == 0:
                self.addDockWidget(QtCore.Qt.DockWidgetArea.LeftDockWidgetArea, top)
            else:
                self.splitDockWidget(columns[number - 1][0], top, Horizontal)
        for column in columns:
            for upper, lower in itertools.pairwise(column):
                self.splitDockWidget(upper, lower, Vertical)
        for place, names in self._places.items():
            for name in names:
                if self.docks[name] is not first[place]:
                    self.tabifyDockWidget(first[place], self.docks[name])
                self.docks[name].show()
        for dock in first.values():
            dock.raise_()
        self.resizeDocks([column[0] for column in columns], widths, Horizontal)
        self.resizeDocks(list(first.values()), [HEIGHTS_PX[place] for place in first], Vertical)

    def show_dock(self, name: str) -> None:
        """Bring a dock to the front."""
        self.docks[name].show()
        self.docks[name].raise_()

    def settle(self) -> None:
        """Lay everything out now, and let go of the tabs of earlier arrangements, as an event loop would."""
        QtWidgets.QApplication.processEvents()
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)

    def in_front(self, name: str) -> bool:
        """Whether a dock can be seen, and is no tab behind another."""
        return name in self._in_front

    def save(self) -> QtCore.QByteArray:
        """Return the arrangement."""
        return self.saveState(VERSION)

    def restore(self, arrangement: object) -> bool:
        """Arrange as it was saved; False where that cannot be done, or some docks were not there then."""
        if not (isinstance(arrangement, QtCore.QByteArray) and self.restoreState(arrangement, VERSION)):
            return False
        nowhere = QtCore.Qt.DockWidgetArea.NoDockWidgetArea
        return all(dock.isFloating() or self.dockWidgetArea(dock) != nowhere for dock in self.docks.values())

    def toggle_actions(self) -> list[Any]:
        """Return for each dock the action that shows and hides it."""
        return [dock.toggleViewAction() for dock in self.docks.values()]

    def _note(self, name: str, shown: bool) -> None:
        if shown:
            self._in_front.add(name)
        else:
            self._in_front.discard(name)
