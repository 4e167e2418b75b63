"""The low-resolution image on the stage, and the region of the next scan picked on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.callbacks.news import numbered
from nsbluesky.viewer.display import robust_range, symmetric_range, to_host
from nsbluesky.viewer.panels.base import LiveImagePanel, extent_in_um
from nsbluesky.viewer.panels.colors import COMING_COLOR, DATA_COLOR, MARK_COLOR
from nsbluesky.viewer.qt import QtCore, Signal, pg

__all__ = ["LowResolutionPanel", "Region"]


ON_IMAGE, ON_NOTHING = pg.mkBrush(255, 255, 255, 200), pg.mkBrush(DATA_COLOR)
"""Of the measured points."""


@dataclass(frozen=True)
class Region:
    """A rectangle on the stage in µm."""

    x0: float
    x1: float
    y0: float
    y1: float


class LowResolutionPanel(LiveImagePanel):
    """Transmission, differential phase contrast or dark field on the stage, with measured and coming points."""

    CHOICES = ("transmission", "DPC x", "DPC y", "dark field")
    FIELDS = ("transmission", "dpc_x", "dpc_y", "dark_field")
    place = "left bottom"

    region_picked = Signal(object)
    """The region, whenever the mouse lets go of it; None when it is taken away."""
    frame_clicked = Signal(int, bool)
    """The number of the frame whose point was clicked, and whether Shift was held."""

    def __init__(self) -> None:
        super().__init__("Low resolution", "stage x (µm)", "stage y (µm)", scale_bar=True)
        self.choice = self.add_selector(
            list(self.CHOICES), "transmission, differential phase contrast (DPC), or what is scattered (dark field)"
        )
        self.choice.currentIndexChanged.connect(self.redraw)
        self.pick = self.add_button("region", "draw the region of the next scan (R)", checkable=True)
        self.pick.toggled.connect(self._show_region)
        self.coming = pg.ScatterPlotItem(size=3, pen=pg.mkPen(COMING_COLOR, width=1), brush=None)
        self.points = pg.ScatterPlotItem(size=3.5, pen=pg.mkPen(0, 0, 0, 110), brush=ON_IMAGE)
        self.current = pg.ScatterPlotItem(size=11, symbol="o", brush=None, pen=pg.mkPen(MARK_COLOR, width=2))
        self.points.sigClicked.connect(self._click)
        self.current.setAcceptedMouseButtons(QtCore.Qt.MouseButton.NoButton)
        for z, item in enumerate((self.coming, self.points, self.current), start=1):
            item.setZValue(z)
            self.plot.addItem(item)
        self.roi = pg.RectROI((0, 0), (1, 1), pen=pg.mkPen(MARK_COLOR, width=2), hoverPen=pg.mkPen("w", width=2))
        self.roi.addScaleHandle((0, 0), (1, 1))
        self.roi.setZValue(5)
        self.roi.sigRegionChangeFinished.connect(lambda: self.region_picked.emit(self.region))
        self.graphics.setToolTip(
            "dots: points measured; circles: points to come; ring: the newest point; grey: not measured; a click on "
            "a point shows the fit of its frame, with Shift it is put among those to be taken again"
        )

    @property
    def region(self) -> Region | None:
        """The region that is drawn."""
        if not self.pick.isChecked():
            return None
        at, size = self.roi.pos(), self.roi.size()
        xs, ys = sorted((at.x(), at.x() + size.x())), sorted((at.y(), at.y() + size.y()))
        return Region(xs[0], xs[1], ys[0], ys[1])

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The image and the points; the points alone are enough to draw."""
        return state.positions_m if len(state.positions_m) else None, state.low_resolution

    def clear(self) -> None:
        """Show neither image nor points."""
        super().clear()
        for item in (self.coming, self.points, self.current):
            item.clear()

    def draw(self, state: LiveState) -> None:
        """Draw the chosen image and the points."""
        points_um, coming_um = state.positions_m * 1e6, state.coming_m * 1e6
        self.points.setData(x=points_um[:, 0], y=points_um[:, 1], data=state.seq_nums)
        self.current.setData(x=points_um[-1:, 0], y=points_um[-1:, 1])
        self.coming.setData(x=coming_um[:, 0], y=coming_um[:, 1])
        total = state.run.num_points if state.run is not None else None
        self.set_subtitle(f"{len(points_um)}/{total}" if total else numbered(len(points_um), "point"))
        low = state.low_resolution
        field = self.FIELDS[self.choice.currentIndex()]
        image = None if low is None else getattr(low, field)
        if low is None or image is None:
            self.item.clear()
            self.points.setBrush(ON_NOTHING)
            self.set_blank(False)
            self.bar.setOpacity(0.0)
            self._back.hide()
            if low is not None:
                self.set_subtitle(f"no {self.choice.currentText()} in this run")
            return
        image = to_host(image)
        # the selector names the image already; the colour bar has room for its unit
        label = low.units.get(field, self.choice.currentText())
        if field.startswith("dpc"):
            span, colors = symmetric_range(image), "diverging"
        else:
            span, colors = robust_range(image), "cividis"
        self.points.setBrush(ON_IMAGE)
        self.set_image(image, extent_in_um(low.extent_m), span, colors=colors, label=label)

    def _click(self, _: object, points: Any, event: Any) -> None:
        """Tell which frame was clicked, the last one where several lie on each other."""
        shift = bool(event.modifiers() & QtCore.Qt.KeyboardModifier.ShiftModifier)
        self.frame_clicked.emit(int(points[-1].data()), shift)

    def _show_region(self, shown: bool) -> None:
        if not shown:
            self.plot.removeItem(self.roi)
            self.region_picked.emit(None)
            return
        (x0, x1), (y0, y1) = self.view.viewRange()
        with QtCore.QSignalBlocker(self.roi):
            self.roi.setPos((0.7 * x0 + 0.3 * x1, 0.7 * y0 + 0.3 * y1), finish=False)
            self.roi.setSize((0.4 * (x1 - x0), 0.4 * (y1 - y0)), finish=False)
        self.plot.addItem(self.roi, ignoreBounds=True)
        self.region_picked.emit(self.region)

    def set_region(self, region: Region) -> None:
        """Draw a region."""
        self.pick.setChecked(True)
        self.roi.setPos((region.x0, region.y0), finish=False)
        self.roi.setSize(np.subtract((region.x1, region.y1), (region.x0, region.y0)))
