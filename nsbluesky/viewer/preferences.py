"""What windows remember from one time to the next, and the theme."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import platformdirs

from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets

__all__ = ["THEMES", "Theme", "apply_theme", "preferences", "theme_of"]

Theme = Literal["system", "light", "dark"]
THEMES: tuple[Theme, ...] = ("system", "light", "dark")

# window, text, base (of fields), button, highlight
_COLORS = {
    "light": ("#f3f3f3", "#1a1a1a", "#ffffff", "#e6e6e6", "#1f6fb0"),
    "dark": ("#242629", "#e8e8e8", "#191b1d", "#35383c", "#2f86c8"),
}


def preferences() -> QtCore.QSettings:
    """Return the user's preferences: ``windows.ini`` in ``$NSBLUESKY_CONFIG``, or in the user's config folder."""
    folder = Path(os.environ.get("NSBLUESKY_CONFIG") or platformdirs.user_config_dir("nsbluesky"))
    return QtCore.QSettings(str(folder / "windows.ini"), QtCore.QSettings.Format.IniFormat)


def theme_of(settings: QtCore.QSettings) -> Theme:
    """Return the theme that the user has chosen."""
    told = settings.value("theme")
    return next((theme for theme in THEMES if theme == told), "system")


def apply_theme(theme: Theme) -> None:
    """Show all windows of this application light or dark; "system" takes what the desktop has."""
    app = QtWidgets.QApplication.instance()
    assert isinstance(app, QtWidgets.QApplication)
    if theme == "system":
        app.setPalette(app.style().standardPalette())
        return
    app.setStyle("Fusion")
    window, text, base, button, highlight = (QtGui.QColor(color) for color in _COLORS[theme])
    palette = QtGui.QPalette()
    Role, Group = QtGui.QPalette.ColorRole, QtGui.QPalette.ColorGroup
    for roles, color in (
        ((Role.Window, Role.AlternateBase), window),
        ((Role.WindowText, Role.Text, Role.ButtonText, Role.ToolTipText), text),
        ((Role.Base, Role.ToolTipBase), base),
        ((Role.Button,), button),
        ((Role.Highlight, Role.Link), highlight),
        ((Role.HighlightedText,), QtGui.QColor("white")),
        ((Role.PlaceholderText,), QtGui.QColor("#808080")),
    ):
        for role in roles:
            palette.setColor(role, color)
    for role in (Role.WindowText, Role.Text, Role.ButtonText):
        palette.setColor(Group.Disabled, role, QtGui.QColor("#808080"))
    app.setPalette(palette)
