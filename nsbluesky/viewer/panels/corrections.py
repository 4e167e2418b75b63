"""Corrected positions as arrows on the points of the scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.viewer.display import length_text
from nsbluesky.viewer.panels.base import LivePanel
from nsbluesky.viewer.panels.colors import DATA_COLOR, MARK_COLOR
from nsbluesky.viewer.qt import pg

__all__ = ["LEAST_UM", "CorrectionsPanel", "arrows", "magnification"]

BARB, BARB_RAD = 0.3, np.radians(150)
"""Length of the two strokes of an arrow's head, in that of the arrow, and their angle to it."""
WANTED_LENGTH = 0.8
"""Length of a typical arrow, in distances between neighbours."""

LEAST_UM = 1e-6
"""Shorter corrections are rounding."""

Points = npt.NDArray[np.floating[Any]]


def magnification(told: Points, corrected: Points) -> float:
    """Return 1, 2, 5, 10 … times which typical corrections are about as long as points are apart; 1 at least."""
    lengths = np.hypot(*(corrected - told).T)
    typical = float(np.median(lengths)) if len(lengths) else 0.0
    typical = typical if typical > LEAST_UM else 0.0
    area = float(np.prod(np.ptp(told, axis=0))) if len(told) > 1 else 0.0
    if typical <= 0 or area <= 0:
        return 1.0
    wanted = WANTED_LENGTH * float(np.sqrt(area / len(told))) / typical
    power = 10.0 ** np.floor(np.log10(wanted))
    return max(1.0, *(float(factor * power) for factor in (1, 2, 5) if factor * power <= wanted))


def arrows(start: Points, stop: Points) -> Points:
    """Return the ends (6n, 2) of the strokes of arrows from `start` to `stop` (n, 2), two ends for each stroke."""
    along = stop - start
    strokes = [start, stop]
    for angle in (BARB_RAD, -BARB_RAD):
        cos, sin = np.cos(angle), np.sin(angle)
        strokes += [stop, stop + BARB * along @ np.array([[cos, sin], [-sin, cos]])]
    return np.stack(strokes, axis=1).reshape(-1, 2)


class CorrectionsPanel(LivePanel):
    """The points as the stage told them, and arrows to where the solver found them, many times enlarged."""

    place = "left bottom"

    def __init__(self) -> None:
        super().__init__("Positions", "stage x (µm)", "stage y (µm)")
        self.plot.getViewBox().setAspectLocked(True)
        self.plot.showGrid(x=True, y=True, alpha=0.3)
        self.points = pg.ScatterPlotItem(size=4, pen=None, brush=pg.mkBrush(DATA_COLOR))
        self.arrows = pg.PlotCurveItem(pen=pg.mkPen(MARK_COLOR, width=1.5), connect="pairs")
        for item in (self.points, self.arrows):
            self.plot.addItem(item)
        self.graphics.setToolTip(
            "dots: where the stage says it was (µm); arrows: towards where the solver found the frame, enlarged as "
            "the title says; refine_positions under Processing tells when frames are moved"
        )
        self.clear()

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The corrections."""
        return (state.corrections,)

    def why_empty(self, state: LiveState) -> str:
        """Say where corrections are switched on, or that none were needed."""
        settings = state.run.settings if state.run is not None else None
        if settings is not None and settings.solver.refine_positions == "none":
            return "not corrected: see Processing"
        if settings is not None and settings.solver.refine_positions == "auto" and state.finished:
            return "no errors found"
        return "no corrections" if state.finished else "no corrections yet"

    def clear(self) -> None:
        """Show no arrows."""
        self.points.clear()
        self.arrows.clear()
        self.set_blank(True)

    def draw(self, state: LiveState) -> None:
        """Draw an arrow for each frame."""
        found = state.corrections
        assert found is not None
        measured = np.isin(found.seq_nums, state.seq_nums)
        rows = np.searchsorted(state.seq_nums, found.seq_nums[measured])
        told, corrected = 1e6 * state.positions_m[rows], 1e6 * found.positions_m[measured]
        factor = magnification(told, corrected)
        ends = arrows(told, told + factor * (corrected - told))
        self.points.setData(x=told[:, 0], y=told[:, 1])
        self.arrows.setData(ends[:, 0], ends[:, 1])
        self.set_blank(False)
        largest = float(np.hypot(*(corrected - told).T).max(initial=0.0))
        if largest < LEAST_UM:
            self.set_subtitle("no errors found")
        else:
            error = length_text(float(f"{1e6 * found.scatter_m:.2g}"))
            self.set_subtitle(f"error {error}, at most {length_text(float(f'{largest:.2g}'))} · arrows × {factor:g}")
        (scale_x, scale_y), turn = found.scale, np.degrees(found.rotation_rad)
        self.title_label.setToolTip(
            f"{self.title_label.text()}\nscale x {scale_x:.4f}, y {scale_y:.4f}; rotation {turn:.3f}°; "
            f"shear {np.degrees(found.shear_rad):.3f}°"
        )
