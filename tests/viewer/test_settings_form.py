"""The form shows every setting, refuses in place what the settings refuse, and gives back what was changed."""

from __future__ import annotations

import dataclasses

import pytest
from pytestqt.qtbot import QtBot

from nsbluesky.rehearsal import RehearsalSettings
from nsbluesky.settings import CleaningSettings, PipelineSettings, Settings, SolverSettings
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets
from nsbluesky.viewer.settings_form import SettingsForm, attribute_docs


@pytest.fixture
def form(qtbot: QtBot) -> SettingsForm:
    form = SettingsForm(PipelineSettings())
    qtbot.addWidget(form)
    form.show()
    return form


def type_into(qtbot: QtBot, form: SettingsForm, name: str, text: str) -> None:
    line = form.editors[name]
    assert isinstance(line, QtWidgets.QLineEdit)
    line.selectAll()
    qtbot.keyClicks(line, text)


def test_every_setting_has_a_row_and_what_it_means(form: SettingsForm) -> None:
    settings = PipelineSettings()
    names = {
        f"{group}.{f.name}" for group in ("cleaning", "solver") for f in dataclasses.fields(getattr(settings, group))
    }
    names |= {f.name for f in dataclasses.fields(settings)} - {"cleaning", "solver"}
    assert set(form.editors) == names
    assert all(editor.toolTip() for editor in form.editors.values())
    assert form.changes() == {}
    assert form.edited == settings


@pytest.mark.parametrize("kind", [PipelineSettings, CleaningSettings, SolverSettings])
def test_the_docstring_tells_what_a_field_means(kind: type[Settings]) -> None:
    docs = attribute_docs(kind)
    assert {f.name for f in dataclasses.fields(kind)} <= set(docs)  # type: ignore[arg-type]
    assert attribute_docs(SolverSettings)["modes"] == "int\nIncoherent probe modes."


def test_what_is_typed_and_chosen_comes_back(form: SettingsForm, qtbot: QtBot) -> None:
    type_into(qtbot, form, "solver.modes", "3")
    type_into(qtbot, form, "cleaning.center_px", "[500, 511.5]")
    form.editors["solver.live"].click()  # type: ignore[attr-defined]
    qtbot.keyClick(form.editors["cleaning.overscan"], QtCore.Qt.Key.Key_M)  # "median"
    assert form.changes() == {
        "solver.modes": 3,
        "cleaning.center_px": [500, 511.5],
        "solver.live": False,
        "cleaning.overscan": "median",
    }
    assert form.edited == PipelineSettings().replace(**form.changes())


def test_large_numbers_are_written_so_that_nobody_counts_zeros(qtbot: QtBot) -> None:
    form = SettingsForm(RehearsalSettings(photons=2e7))
    qtbot.addWidget(form)
    assert form.editors["photons"].text() == "2e+07"  # type: ignore[attr-defined]
    assert form.editors["energy_eV"].text() == "1000.0"  # type: ignore[attr-defined]
    assert form.changes() == {}
    form.show_settings(RehearsalSettings(photons=12345678.0))
    assert form.editors["photons"].text() == "12345678.0"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("solver.modes", "0", "modes = 0: expected 1 to 64"),
        ("solver.modes", "two", "modes = 'two': expected a whole number"),
        ("solver.alpha", "-1", "alpha = -1.0: expected > 0"),
        ("cleaning.center_px", "[1]", "center_px = [1]: expected 2 values"),
        ("cleaning.frame_px", "100", "frame_px = 100: expected a divisor of crop_px = 832"),
        ("queue_bytes", "", "queue_bytes = None: expected a whole number"),
    ],
)
def test_a_wrong_value_is_refused_where_it_was_typed(
    form: SettingsForm, qtbot: QtBot, name: str, text: str, message: str
) -> None:
    type_into(qtbot, form, name, text or " ")
    assert form.edited is None
    assert message in form.messages[name].text()
    assert not form.messages[name].isHidden()
    form.show_settings(form.settings)
    assert form.messages[name].isHidden()
    assert form.edited == PipelineSettings()


def test_the_wheel_scrolls_the_page_and_changes_no_choice(form: SettingsForm) -> None:
    choice = form.editors["solver.likelihood"]
    at = QtCore.QPointF(choice.rect().center())
    turned = QtGui.QWheelEvent(
        at,
        choice.mapToGlobal(at),
        QtCore.QPoint(),
        QtCore.QPoint(0, -120),
        QtCore.Qt.MouseButton.NoButton,
        QtCore.Qt.KeyboardModifier.NoModifier,
        QtCore.Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QtWidgets.QApplication.sendEvent(choice, turned)
    assert form.changes() == {}
    assert not turned.isAccepted()


def test_two_values_that_only_fit_together(form: SettingsForm, qtbot: QtBot) -> None:
    type_into(qtbot, form, "cleaning.crop_px", "800")
    assert form.edited is None
    assert not form.messages["cleaning.crop_px"].isHidden()
    type_into(qtbot, form, "cleaning.frame_px", "100")
    assert form.edited is not None
    assert all(message.isHidden() for message in form.messages.values())
