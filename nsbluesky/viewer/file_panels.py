"""What the window on a file shows beside frames and object: points, errors, histogram, line profile and FRC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.news import number_text, numbered
from nsbluesky.solver.quality import FRC
from nsbluesky.viewer.display import half_period_text, length_text
from nsbluesky.viewer.image_panel import ImagePanel
from nsbluesky.viewer.panels.colors import DATA_COLOR, MARK_COLOR, SECOND_COLOR
from nsbluesky.viewer.panels.corrections import LEAST_UM, arrows, magnification
from nsbluesky.viewer.panels.quality import curve
from nsbluesky.viewer.plot_panel import Panel
from nsbluesky.viewer.qt import QtCore, pg

__all__ = ["ErrorPanel", "FrcPanel", "HistogramPanel", "PositionsPanel", "ProfilePanel"]

BINS = 128


class PositionsPanel(Panel):
    """Where the frames were taken, and the one that is shown; arrows to where they were found to lie.

    Parameters
    ----------
    translation_m : ndarray
        (N, 3) x, y, z of the sample.
    corrected_m : ndarray, optional
        (N, 2) x and y as corrected, NaN where unknown.
    """

    def __init__(
        self, translation_m: npt.NDArray[np.float64], corrected_m: npt.NDArray[np.float64] | None = None
    ) -> None:
        super().__init__("Positions", "stage x (µm)", "stage y (µm)")
        self._xy_um = translation_m[:, :2] * 1e6
        self.plot.getViewBox().setAspectLocked(True)
        self.plot.showGrid(x=True, y=True, alpha=0.3)
        self.points = pg.ScatterPlotItem(size=4, pen=None, brush=pg.mkBrush(DATA_COLOR))
        self.current = pg.ScatterPlotItem(size=13, brush=None, pen=pg.mkPen(MARK_COLOR, width=2))
        self.plot.addItem(self.points)
        self.plot.addItem(self.current)
        self.points.setData(x=self._xy_um[:, 0], y=self._xy_um[:, 1])
        self.set_blank(not len(self._xy_um))
        self.arrows = pg.PlotCurveItem(pen=pg.mkPen(MARK_COLOR, width=1.5), connect="pairs")
        self.plot.addItem(self.arrows)
        corrected_um = np.empty((0, 2)) if corrected_m is None else 1e6 * corrected_m[: len(self._xy_um)]
        self.set_subtitle(self._draw_corrections(corrected_um) or numbered(len(self._xy_um), "point"))
        self.graphics.setToolTip(
            "x and y of the sample (µm); ring: the frame that is shown; arrows: towards where it was found to lie, "
            "enlarged as the title says, where positions were refined"
        )

    def _draw_corrections(self, corrected_um: npt.NDArray[np.float64]) -> str:
        """Draw arrows, and return how long they are and how much enlarged."""
        known = np.isfinite(corrected_um).all(axis=1)
        told, found = self._xy_um[: len(corrected_um)][known], corrected_um[known]
        lengths = np.hypot(*(found - told).T)
        if not len(lengths) or lengths.max() < LEAST_UM:
            return ""
        factor = magnification(told, found)
        ends = arrows(told, told + factor * (found - told))
        self.arrows.setData(ends[:, 0], ends[:, 1])
        typical, largest = (length_text(float(f"{um:.2g}")) for um in (np.median(lengths), lengths.max()))
        return f"moved {typical} (≤ {largest}) · arrows × {factor:g}"

    def show_point(self, index: int) -> None:
        """Mark one point, counted from 0."""
        self.current.setData(x=self._xy_um[index : index + 1, 0], y=self._xy_um[index : index + 1, 1])


class ErrorPanel(Panel):
    """The error metric of each pass."""

    def __init__(self) -> None:
        super().__init__("Error", "pass", "error metric")
        self.graphics.setToolTip(
            "what the file tells of each pass, or of each picture of a live scan since whole frames were used: "
            "R = Σ||model|−A| / ΣA, A the measured amplitudes"
        )
        self.plot.showGrid(x=True, y=True, alpha=0.3)
        self.plot.getAxis("bottom").whole = True
        self.curve = curve()
        self.plot.addItem(self.curve)

    def show_errors(self, errors: npt.NDArray[np.float64]) -> None:
        """Draw the errors (k,), or say that there are none."""
        self.curve.setData(np.arange(1, len(errors) + 1), errors)
        self.set_blank(not len(errors))
        self.set_subtitle(f"{number_text(errors[-1], '.4g')} at the end" if len(errors) else "none in this file")


class HistogramPanel(Panel):
    """How often each value occurs in the image of another panel."""

    def __init__(self) -> None:
        super().__init__("Histogram", "value", "pixels")
        self.graphics.setToolTip(
            "pixels of each value of the object, or of the frame where there is none; σ: standard deviation"
        )
        self.steps = pg.PlotDataItem(stepMode="center", pen=pg.mkPen(DATA_COLOR, width=2), fillLevel=None)
        self.plot.addItem(self.steps)
        self.plot.showGrid(x=True, y=True, alpha=0.3)
        self.plot.getAxis("left").whole = True
        self.set_blank(True)

    def show_image(self, panel: ImagePanel) -> None:
        """Count the values of what a panel shows."""
        shown = panel.picture()
        values = np.empty(0) if shown is None or shown[0].ndim == 3 else shown[0][np.isfinite(shown[0])]
        self.set_blank(not values.size)
        if not values.size:
            self.steps.clear()
            self.set_subtitle("nothing to count")
            return
        counts, edges = np.histogram(values, BINS)
        self.steps.setData(edges, counts)
        self.plot.getAxis("bottom").setLabel(panel.value_label)
        told = f"mean {values.mean():.4g}, σ {values.std():.4g} {panel.unit}"
        self.set_subtitle(f"{told} · {panel.title}")


class ProfilePanel(Panel):
    """The values along a line that is drawn on the image of another panel."""

    def __init__(self) -> None:
        super().__init__("Line profile", "distance", "value")
        self.graphics.setToolTip("values along the line that is drawn on an image, linear between pixels")
        self.curve = curve(symbol_px=3)
        self.plot.addItem(self.curve)
        self.plot.showGrid(x=True, y=True, alpha=0.3)
        self.line: Any = None
        self._panel: ImagePanel | None = None
        self.set_blank(True)
        self.set_subtitle("draw a line (L)")

    def draw_on(self, panel: ImagePanel | None, ends: Sequence[tuple[float, float]] | None = None) -> None:
        """Put a line onto a panel, between two points of it, to be moved at its ends; None takes it away."""
        if self._panel is not None:
            self._panel.plot.removeItem(self.line)
        self._panel = panel
        if panel is None:
            self.curve.clear()
            self.set_blank(True)
            self.set_subtitle("draw a line (L)")
            return
        (x0, x1), (y0, y1) = panel.view.viewRange()
        middle = (y0 + y1) / 2
        ends = ends or [(0.75 * x0 + 0.25 * x1, middle), (0.25 * x0 + 0.75 * x1, middle)]
        self.line = pg.LineSegmentROI(ends, pen=pg.mkPen(MARK_COLOR, width=2))
        self.line.setZValue(5)
        self.line.sigRegionChanged.connect(self.refresh)
        panel.plot.addItem(self.line, ignoreBounds=True)
        self.refresh()

    def is_on(self, panel: ImagePanel) -> bool:
        """Whether the line is drawn on a panel."""
        return self._panel is panel

    def refresh(self) -> None:
        """Read the values along the line again."""
        panel = self._panel
        if panel is None:
            return
        (x0, y0), (x1, y1) = self.ends()
        distance, values = panel.values_along((x0, y0), (x1, y1))
        self.set_blank(not len(values))
        self.curve.setData(distance, values)
        self.plot.getAxis("bottom").setLabel("distance (µm)" if panel.scale_bar is not None else "distance (px)")
        self.plot.getAxis("left").setLabel(panel.value_label)
        length = float(np.hypot(x1 - x0, y1 - y0))
        self.set_subtitle(f"{panel.title} · {length:.4g} {'µm' if panel.scale_bar is not None else 'px'}")

    def ends(self) -> list[tuple[float, float]]:
        """Return both ends of the line in the units of the panel that it is drawn on."""
        places = (self.line.mapToParent(place) for _, place in self.line.getLocalHandlePositions())
        return [(place.x(), place.y()) for place in places]


class FrcPanel(Panel):
    """Fourier ring correlation between this file's picture and another's."""

    def __init__(self) -> None:
        super().__init__("FRC", "spatial frequency (1/µm)", "correlation")
        self.add_legend()
        self.curve = curve(name="FRC", symbol_px=3)
        self.half_bit = pg.PlotDataItem(pen=pg.mkPen(SECOND_COLOR, width=1.5), name="½ bit")
        self.mark = pg.InfiniteLine(pen=pg.mkPen(MARK_COLOR, width=2, style=QtCore.Qt.PenStyle.DashLine))
        for item in (self.curve, self.half_bit, self.mark):
            self.plot.addItem(item)
        self.mark.hide()
        self.plot.showGrid(x=True, y=True, alpha=0.3)
        self.plot.setYRange(-0.1, 1.05)
        self.set_blank(True)
        self.set_subtitle("compare with another file (Ctrl+D)")
        self.graphics.setToolTip("dashed: where the correlation falls below half a bit; half of its period is told")

    def show_frc(self, frc: FRC, correlation: float) -> None:
        """Draw a comparison."""
        frequency = frc.frequency_1_m * 1e-6
        self.curve.setData(frequency, frc.correlation)
        self.half_bit.setData(frequency, frc.half_bit)
        self.set_blank(False)
        found = np.isfinite(frc.resolution_m) and frc.resolution_m > 0
        self.mark.setVisible(found)
        if found:
            self.mark.setValue(0.5e-6 / frc.resolution_m)
        resolution = half_period_text(frc.resolution_m, is_pixel=not (frc.correlation < frc.half_bit).any())
        self.set_subtitle(f"half period {resolution} · contrast correlation {number_text(correlation)}")
