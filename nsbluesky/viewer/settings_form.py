"""SettingsForm: a form made from a settings dataclass, which refuses in place what the dataclass refuses."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Callable
from typing import Any

from nsbluesky.settings import Settings, SettingsError
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets, Signal

__all__ = ["AT_ONCE_SIGN", "SettingsForm", "attribute_docs"]

AT_ONCE_SIGN = "↻"
WRONG_STYLE = "border: 1px solid #d0202f;"
ERROR_STYLE = "color: #d0202f;"

LARGE = 1e5
"""From here on numbers with a point are written with a power of ten."""

_MENTIONED = re.compile(r"`(\w+)`")
_ATTRIBUTE = re.compile(r"^(\w+(?:, \w+)*) : ")


def attribute_docs(kind: type) -> dict[str, str]:
    """Return what the docstring's section "Attributes" says about each field."""
    docs: dict[str, str] = {}
    names: list[str] = []
    lines = inspect.cleandoc(kind.__doc__ or "").partition("Attributes\n")[2].splitlines()[1:]
    for line in lines:
        found = _ATTRIBUTE.match(line)
        if found:
            names = found.group(1).split(", ")
            docs.update(dict.fromkeys(names, line.partition(" : ")[2] + "\n"))
        elif names:
            for name in names:
                docs[name] = f"{docs[name]}{line.strip()} "
    docs = {name: text.strip() for name, text in docs.items()}
    for text in list(docs.values()):  # some are told beside another
        for name in _MENTIONED.findall(text):
            docs.setdefault(name, text)
    return docs


class _Choice(QtWidgets.QComboBox):
    """A choice that leaves the wheel to the page that it lies on: who scrolls does not change a setting."""

    def wheelEvent(self, event: QtGui.QWheelEvent) -> None:
        """Let the page scroll."""
        event.ignore()


class SettingsForm(QtWidgets.QWidget):
    """A tab for each group of settings, a row for each field, the message of a wrong value below it.

    Parameters
    ----------
    settings : Settings
        What is shown at first.
    check : callable, optional
        Raises a `SettingsError` for settings that only their user can tell are wrong.
    mark_at_once : bool
        Fields that change a run which goes on (`Settings.AT_ONCE`) carry the sign `AT_ONCE_SIGN`.
    """

    changed = Signal()
    """Something was edited, right or wrong."""

    def __init__(
        self,
        settings: Settings,
        check: Callable[[Any], object] = lambda settings: None,
        *,
        mark_at_once: bool = False,
    ) -> None:
        super().__init__()
        self._marks = mark_at_once
        self.settings = settings
        self._check_use = check
        self.edited: Settings | None = settings
        """The settings as the form says; None where a value is wrong."""
        self.editors: dict[str, QtWidgets.QWidget] = {}
        self.messages: dict[str, QtWidgets.QLabel] = {}
        self._readers: dict[str, Callable[[], Any]] = {}
        self._writers: dict[str, Callable[[Any], None]] = {}
        self._last = ""
        tabs = QtWidgets.QTabWidget()
        tabs.setDocumentMode(True)
        for title, prefix, group in _groups(settings):
            tabs.addTab(self._page(prefix, group), title)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(tabs)

    def show_settings(self, settings: Settings, keep: dict[str, Any] | None = None) -> None:
        """Show other settings; what was edited is forgotten, but for what is to be kept of `changes`."""
        self.settings = self.edited = settings
        kept = keep or {}
        for name, write in self._writers.items():
            with QtCore.QSignalBlocker(self.editors[name]):
                write(kept[name] if name in kept else _value(settings, name))
        self._tell("", "")
        if kept:
            self._check(next(reversed(kept)))
        else:
            self.changed.emit()

    def changes(self) -> dict[str, Any]:
        """Return the fields that were edited, by dotted name, as JSON has them."""
        changes = {}
        for name, read in self._readers.items():
            value = read()
            if value != json.loads(json.dumps(_value(self.settings, name), default=dataclasses.asdict)):
                changes[name] = value
        return changes

    def _page(self, prefix: str, group: Settings) -> QtWidgets.QWidget:
        docs = attribute_docs(type(group))
        hints = typing.get_type_hints(type(group))
        page = QtWidgets.QWidget()
        form = QtWidgets.QFormLayout(page)
        form.setVerticalSpacing(2)
        form.setFieldGrowthPolicy(QtWidgets.QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            if isinstance(value, Settings):
                continue
            name = prefix + field.name
            editor = self._editor(name, hints[field.name], value)
            editor.setToolTip(docs.get(field.name, ""))
            at_once = self._marks and field.name in group.AT_ONCE
            label = QtWidgets.QLabel(f"{field.name} {AT_ONCE_SIGN}" if at_once else field.name)
            label.setToolTip(docs.get(field.name, "") + ("\nalso changes a run that goes on" if at_once else ""))
            message = QtWidgets.QLabel()
            message.setStyleSheet(ERROR_STYLE)
            message.setWordWrap(True)
            message.hide()
            form.addRow(label, editor)
            form.addRow(message)
            self.editors[name], self.messages[name] = editor, message
        scroll = QtWidgets.QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QtWidgets.QFrame.Shape.NoFrame)
        scroll.setWidget(page)
        return scroll

    def _editor(self, name: str, hint: Any, value: Any) -> QtWidgets.QWidget:
        if hint is bool:
            box = QtWidgets.QCheckBox()
            box.toggled.connect(lambda: self._check(name))
            self._readers[name], self._writers[name] = box.isChecked, box.setChecked
            box.setChecked(value)
            return box
        if typing.get_origin(hint) is typing.Literal:
            choice = _Choice()
            choice.addItems([str(option) for option in typing.get_args(hint)])
            choice.currentIndexChanged.connect(lambda: self._check(name))
            self._readers[name], self._writers[name] = choice.currentText, choice.setCurrentText
            choice.setCurrentText(value)
            return choice
        line = QtWidgets.QLineEdit()
        line.textEdited.connect(lambda: self._check(name))
        is_text = hint is str
        self._readers[name] = lambda: line.text() if is_text else _parsed(line.text())
        self._writers[name] = lambda value: line.setText(value if is_text else _written(value))
        self._writers[name](value)
        return line

    def _check(self, name: str) -> None:
        """Check all values together, since one may only fit another; the last edited one is told what is wrong."""
        try:
            edited = self.settings.replace(**self.changes())
            self._check_use(edited)
            self.edited = edited
        except SettingsError as error:
            self.edited = None
            self._tell(name, str(error))
        else:
            self._tell("", "")
        self.changed.emit()

    def _tell(self, name: str, text: str) -> None:
        if self._last and self._last != name:
            self.messages[self._last].hide()
            self.editors[self._last].setStyleSheet("")
        if name:
            self.messages[name].setText(text)
            self.messages[name].show()
            self.editors[name].setStyleSheet(WRONG_STYLE)
        self._last = name


def _groups(settings: Settings) -> list[tuple[str, str, Settings]]:
    """Return title, prefix of the names, and settings of each tab: the nested groups, then what is left."""
    names = [field.name for field in dataclasses.fields(settings)]
    nested = [name for name in names if isinstance(getattr(settings, name), Settings)]
    groups = [(name, f"{name}.", getattr(settings, name)) for name in reversed(nested)]
    return [*groups, ("general" if nested else "settings", "", settings)] if len(names) > len(nested) else groups


def _value(settings: Settings, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _parsed(text: str) -> Any:
    """Return what a text means: nothing, JSON, or a word."""
    text = text.strip()
    if not text:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _written(value: Any) -> str:
    if isinstance(value, float) and abs(value) >= LARGE and float(f"{value:g}") == value:
        return f"{value:g}"  # 1e+07: nobody counts the zeros of 10000000.0
    return "" if value is None else json.dumps(value, default=dataclasses.asdict)
