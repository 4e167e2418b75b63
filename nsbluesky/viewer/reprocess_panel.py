"""ReprocessPanel: the same frames again with other settings, in a process of its own, for comparison."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsbluesky.settings import CleaningSettings, Settings, SettingsError, SolverSettings
from nsbluesky.solver.schedule import stages_of
from nsbluesky.viewer.qt import QtCore, QtWidgets, Signal
from nsbluesky.viewer.settings_form import SettingsForm

__all__ = [
    "RawSource",
    "ReprocessPanel",
    "ReprocessSettings",
    "clean_command",
    "reconstruct_command",
    "told_settings",
]

KILL_MS = 5000
COMMAND = [sys.executable, "-m", "nsbluesky.cli"]

_LINE_END = re.compile(rb"[\r\n]")
_PROGRESS = re.compile(r"(\d+)/(\d+) R (\S+)")


@dataclass(frozen=True)
class ReprocessSettings(Settings):
    """How frames are cleaned and reconstructed again."""

    cleaning: CleaningSettings = dataclasses.field(default_factory=CleaningSettings)
    solver: SolverSettings = dataclasses.field(default_factory=SolverSettings)


@dataclass(frozen=True)
class RawSource:
    """Where the raw frames are: the arguments that tell ``nsbluesky raw2cxi``."""

    arguments: tuple[str, ...]


def told_settings(parameters: Mapping[str, Any]) -> ReprocessSettings:
    """Return the settings that a picture of a file was made with, as far as it tells them in this version's words."""
    told = parameters.get("settings", {"solver": parameters})
    found = ReprocessSettings()
    for name in ("cleaning", "solver"):
        part = told.get(name) if isinstance(told, Mapping) else None
        if not isinstance(part, Mapping):  # not told, or by another program
            continue
        fields = {field.name for field in dataclasses.fields(getattr(found, name))}
        known = {key: value for key, value in part.items() if key in fields}
        try:
            found = found.replace(**{name: type(getattr(found, name)).from_dict(known)})
        except SettingsError:  # of another version
            continue
    return found


def reconstruct_command(
    source: Path, out: Path, settings: SolverSettings, use_probe: bool, also: Sequence[Path] = ()
) -> list[str]:
    """Return the arguments of the command that reconstructs a file again."""
    named = ("algorithm", "modes", "passes_final")
    return [
        "reconstruct",
        str(source),
        str(out),
        *("--algorithm", settings.algorithm, "--modes", str(settings.modes)),
        *([] if settings.passes_final is None else ["--passes", str(settings.passes_final)]),
        *(["--use-probe"] if use_probe else []),
        *(part for path in also for part in ("--also", str(path))),
        *_assignments(settings, SolverSettings(), "", named),
    ]


def clean_command(raw: RawSource, out: Path, settings: CleaningSettings) -> list[str]:
    """Return the arguments of the command that cleans raw frames again."""
    return ["raw2cxi", *raw.arguments, str(out), *_assignments(settings, CleaningSettings(), "cleaning.", ())]


def _assignments(settings: Settings, default: Settings, prefix: str, but: Sequence[str]) -> list[str]:
    """Return ``--set KEY=VALUE`` for the fields that are not the default."""
    values, usual = settings.to_dict(), default.to_dict()
    names = [name for name in values if name not in but and values[name] != usual[name]]
    return [part for name in names for part in ("--set", f"{prefix}{name}={json.dumps(values[name])}")]


class ReprocessPanel(QtWidgets.QWidget):
    """A form, Run and Cancel, and how far it is.

    Parameters
    ----------
    clean : path or None
        A file with clean frames.
    raw : RawSource, optional
        Where the raw frames are: with other cleaning they are cleaned again first.
    settings : ReprocessSettings
        What is shown at first.
    can_use_probe : bool
        Whether the file has a probe to begin with.
    """

    title = "Reprocess"
    finished = Signal(object)
    """Path of the new file."""

    def __init__(
        self,
        clean: Path | None,
        raw: RawSource | None,
        settings: ReprocessSettings,
        can_use_probe: bool = False,
    ) -> None:
        super().__init__()
        self._clean, self._raw, self._settings = clean, raw, settings
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._number = 0
        self._waiting: list[list[str]] = []
        self._out = Path()
        self._torn = b""
        self._last_line = ""
        self._cancelled = False
        self.form = SettingsForm(settings if raw is not None else settings.solver, self._check)
        self.use_probe = QtWidgets.QCheckBox("begin with the file's probe")
        self.use_probe.setEnabled(can_use_probe)
        self.use_probe.setToolTip("no defocus sweep then")
        self.also = QtWidgets.QLineEdit()
        self.also.setPlaceholderText("no other file")
        self.also.setToolTip("a file whose frames are used as well, as those of points that were measured again")
        choose = QtWidgets.QToolButton()
        choose.setText("…")
        choose.setToolTip("choose the file")
        choose.clicked.connect(self._choose)
        self.run = QtWidgets.QPushButton("Run")
        self.run.setToolTip("reconstruct again, in a process of its own, and compare")
        self.cancel = QtWidgets.QPushButton("Cancel")
        self.cancel.setToolTip("end that process; nothing of it is kept")
        self.cancel.setEnabled(False)
        self.bar = QtWidgets.QProgressBar()
        self.bar.setFormat("%v of %m passes")
        self.status = QtWidgets.QLabel("")
        self.status.setWordWrap(True)
        more = QtWidgets.QHBoxLayout()
        for widget in (QtWidgets.QLabel("also frames of"), self.also, choose):
            more.addWidget(widget)
        buttons = QtWidgets.QHBoxLayout()
        buttons.addWidget(self.run)
        buttons.addWidget(self.cancel)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(4, 2, 4, 2)
        layout.addWidget(self.form, 1)
        layout.addWidget(self.use_probe)
        layout.addLayout(more)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.status)
        self.process = QtCore.QProcess(self)
        self.process.readyReadStandardError.connect(self._read)
        self.process.finished.connect(self._end)
        self.process.errorOccurred.connect(self._fail)
        self.run.clicked.connect(self._run)
        self.cancel.clicked.connect(self._cancel)
        self.form.changed.connect(self._mark)
        self._mark()

    @property
    def running(self) -> bool:
        """Whether a process is at work."""
        return bool(self.process.state() != QtCore.QProcess.ProcessState.NotRunning)

    def commands(self, folder: Path, number: int) -> list[list[str]]:
        """Return the arguments of the commands that do what the form says; the last one writes the new file."""
        settings = self.form.edited
        solver = settings.solver if isinstance(settings, ReprocessSettings) else settings
        assert isinstance(solver, SolverSettings)
        commands, source = [], self._clean
        again = isinstance(settings, ReprocessSettings) and settings.cleaning != self._settings.cleaning
        if self._raw is not None and (again or source is None):
            assert isinstance(settings, ReprocessSettings)
            source = folder / f"clean-{number}.cxi"
            commands.append(clean_command(self._raw, source, settings.cleaning))
        assert source is not None
        out = folder / f"{(self._clean or source).stem}-{number}.cxi"
        also = [Path(self.also.text())] if self.also.text().strip() else []
        return [*commands, reconstruct_command(source, out, solver, self.use_probe.isChecked(), also)]

    def close(self) -> bool:
        """End the process, and remove the files that it made."""
        self._cancel()
        if self.running:
            self.process.waitForFinished(KILL_MS)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        return bool(super().close())

    def _check(self, settings: Any) -> None:
        solver = settings.solver if isinstance(settings, ReprocessSettings) else settings
        stages_of(solver)

    def _choose(self) -> None:
        path, _ = QtWidgets.QFileDialog.getOpenFileName(self, "Also frames of", "", "CXI files (*.cxi)")
        if path:
            self.also.setText(path)

    def _mark(self) -> None:
        self.run.setEnabled(self.form.edited is not None and not self.running)
        self.cancel.setEnabled(self.running)

    def _run(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="nsbluesky-")
        self._number += 1
        self._waiting = self.commands(Path(self._folder.name), self._number)
        self._out = Path(self._waiting[-1][2])
        self._cancelled = False
        self.status.setToolTip("\n".join(shlex.join(["nsbluesky", *command]) for command in self._waiting))
        self._next()

    def _next(self) -> None:
        """Start the next command."""
        command = self._waiting.pop(0)
        self.bar.setRange(0, 0)
        self.status.setText("cleaning …" if command[0] == "raw2cxi" else "reading …")
        more = ["--json", *(["--progress"] if command[0] == "reconstruct" else [])]
        self._torn, self._last_line = b"", ""
        self.process.start(COMMAND[0], [*COMMAND[1:], *command, *more])
        self._mark()

    def _read(self, ended: bool = False) -> None:
        """Take what came on standard error; of a line that is not whole yet, the rest is to come."""
        *lines, self._torn = _LINE_END.split(self._torn + bytes(self.process.readAllStandardError().data()))
        for line in [*lines, self._torn] if ended else lines:
            self._take_line(line.decode(errors="replace").strip())

    def _take_line(self, line: str) -> None:
        if found := _PROGRESS.fullmatch(line):
            self.bar.setRange(0, int(found[2]))
            self.bar.setValue(int(found[1]))
            self.status.setText(f"R {found[3]}")
        else:
            self._last_line = line or self._last_line

    def _cancel(self) -> None:
        self._waiting.clear()
        if self.running:
            self._cancelled = True
            self.process.kill()

    def _fail(self, error: Any) -> None:
        if error == QtCore.QProcess.ProcessError.FailedToStart:
            self._waiting.clear()
            self._empty_bar()
            self.status.setText(f"{COMMAND[0]} cannot be started: {self.process.errorString()}")
            self._mark()

    def _empty_bar(self) -> None:
        self.bar.setRange(0, 1)
        self.bar.setValue(0)

    def _end(self, code: int, *_: object) -> None:
        self._read(ended=True)
        self._empty_bar()
        if self._cancelled:
            self.status.setText("cancelled")
        elif code != 0:
            self._waiting.clear()
            self.status.setText(self._last_line or f"the process ended with code {code}")
        elif self._waiting:
            self._next()
            return
        else:
            self.bar.setValue(1)
            self.status.setText(f"done: {self._out.name}, compared with this file")
            self.finished.emit(self._out)
        self._mark()
