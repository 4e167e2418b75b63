"""The last lines of the log: of this process, or of a service's log files."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nsbluesky.viewer.qt import QtGui, QtWidgets

__all__ = ["LogLines", "LogPanel", "in_order", "module_of", "short_line", "tail_of_files"]

ALL_MODULES = "all modules"
MAX_LINES = 300
TAIL_BYTES = 16 * 1024

_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(,\d{3})?")


class LogLines(logging.Handler):
    """Keeps the last lines that the package logs, as the service's log files have them; any thread."""

    def __init__(self, max_lines: int = MAX_LINES) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(process)d %(name)s %(levelname)s %(message)s"))
        self._lines: deque[str] = deque(maxlen=max_lines)
        self._adding = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        with self._adding:
            self._lines.extend(self.format(record).splitlines())

    def __call__(self) -> list[str]:
        """Return the lines, oldest first."""
        with self._adding:
            return list(self._lines)


def tail_of_files(directory: Path, max_lines: int = MAX_LINES) -> list[str]:
    """Return the last lines of the logs in a folder, in the order of their times; none where there is no folder."""
    tails = []
    for path in sorted(directory.glob("*.log")) if directory.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # it is put aside just now, and begun anew with its next line
            tails.append(_tail(path))
    return in_order(*tails)[-max_lines:]


def _tail(path: Path) -> list[str]:
    """Return the whole lines among the last bytes of a file."""
    with path.open("rb") as file:
        skipped = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
        file.seek(skipped)
        lines = file.read().decode(errors="replace").splitlines()
    return lines[1:] if skipped else lines


def in_order(*logs: Iterable[str]) -> list[str]:
    """Return the lines of several logs in the order of their times; a traceback stays below its line."""
    records: list[tuple[str, list[str]]] = []
    for lines in logs:
        record: list[str] = []
        for line in lines:
            found = _TIME.match(line)
            if found is not None or not record:
                record = []
                records.append((found[0] if found else "", record))
            record.append(line)
    return [line for _, record in sorted(records, key=lambda each: each[0]) for line in record]


def module_of(line: str) -> str:
    """Return the module that logged a line, as "frame_cleaner"; "" where the line does not tell."""
    words = _words(line)
    return words[3].rpartition(".")[2] if words else ""


def short_line(line: str) -> str:
    """Return a line for a narrow panel: time of day, module, level where it is no mere information, and message."""
    words = _words(line)
    if not words:
        return line
    level, _, message = words[4].partition(" ")
    told = message if level == "INFO" else f"{level}: {message}"
    return f"{words[1].partition(',')[0]} {module_of(line)}: {told}"


def _words(line: str) -> list[str]:
    """Return date, time, process, logger and the rest of a line; nothing where it has another form."""
    words = line.split(maxsplit=4)
    return words if len(words) == 5 and words[2].isdecimal() else []


class LogPanel(QtWidgets.QWidget):
    """Shows lines, of all modules or one, and follows the newest until somebody scrolls up.

    Parameters
    ----------
    lines : callable
        Returns the lines, oldest first.
    """

    title = "Log"

    def __init__(self, lines: Callable[[], list[str]]) -> None:
        super().__init__()
        self._lines = lines
        self._shown: list[str] = []
        self.text = QtWidgets.QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setLineWrapMode(QtWidgets.QPlainTextEdit.LineWrapMode.NoWrap)
        self.text.setFont(QtGui.QFontDatabase.systemFont(QtGui.QFontDatabase.SystemFont.FixedFont))
        self.text.setToolTip("the last lines of the log: time of day, module, what it said")
        self.text.setPlaceholderText("nothing was logged yet")
        self.module = QtWidgets.QComboBox()
        self.module.addItem(ALL_MODULES)
        self.module.setToolTip("the module whose lines are shown")
        self.module.currentIndexChanged.connect(self._show)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.module)
        layout.addWidget(self.text)

    def refresh(self) -> None:
        """Read the lines again."""
        lines = self._lines()
        if lines == self._shown:
            return
        self._shown = lines
        self._list_modules(lines)
        self._show()

    def _list_modules(self, lines: Sequence[str]) -> None:
        """Offer the modules that have said something; the choice stays."""
        listed = {self.module.itemText(k) for k in range(self.module.count())}
        for name in sorted({module_of(line) for line in lines} - listed - {""}):
            self.module.addItem(name)

    def _show(self) -> None:
        chosen = self.module.currentText()
        lines = [short_line(line) for line in self._shown if chosen in (ALL_MODULES, module_of(line))]
        bar = self.text.verticalScrollBar()
        at_end, place = bar.value() >= bar.maximum() - 1, bar.value()
        self.text.setPlainText("\n".join(lines))
        bar.setValue(bar.maximum() if at_end else place)
