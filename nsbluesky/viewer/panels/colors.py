"""Colours of curves and marks: told apart by colour-blind people, on light and on dark."""

from __future__ import annotations

__all__ = ["CENTER_COLOR", "COMING_COLOR", "DATA_COLOR", "MARK_COLOR", "OTHER_COLOR", "SECOND_COLOR"]

DATA_COLOR = "#1f8acb"
"""Blue: data."""
SECOND_COLOR = "#009e73"
"""Green: a second curve."""
OTHER_COLOR = "#cc79a7"
"""Purple: what another engine made."""
MARK_COLOR = "#e07b00"
"""Orange: what is marked on data, as the current position."""
CENTER_COLOR = "#56d0e8"
"""Light blue: marks on dark images."""
COMING_COLOR = "#b0b0b0"
"""Grey: what is still to come."""
