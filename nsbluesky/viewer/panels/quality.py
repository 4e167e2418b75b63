"""How good the picture is, the defocus that was found, and the light of each frame: the curves."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from nsbluesky.callbacks.live_parts import History
from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.callbacks.news import age_text, number_text, passes_text
from nsbluesky.viewer.display import half_period_text, photons_text
from nsbluesky.viewer.panels.base import LivePanel
from nsbluesky.viewer.panels.colors import COMING_COLOR, DATA_COLOR, MARK_COLOR, OTHER_COLOR, SECOND_COLOR
from nsbluesky.viewer.qt import QtCore, pg

__all__ = ["LightPanel", "QualityPanel", "SweepPanel", "curve"]


def curve(color: str = DATA_COLOR, symbol_px: int = 4, name: str | None = None) -> Any:
    """Return a line with dots at its points."""
    pen = pg.mkPen(color, width=2)
    return pg.PlotDataItem(pen=pen, symbol="o", symbolSize=symbol_px, symbolBrush=color, symbolPen=None, name=name)


class Curve(NamedTuple):
    """A curve to draw; where it is of an image, with the uses of frames up to each point, which fall where that began
    anew."""

    places: Any
    values: Any
    name: str
    uses: Any = None


NO_CURVE = Curve(np.empty(0), np.empty(0), "")

ROOM = 1.45
"""How much higher than its curves a plot is, for its legend."""


class QualityPanel(LivePanel):
    """How R comes down, also on pixels that are held out, and the resolution where the solver tells one."""

    CHOICES = ("frames", "time", "passes")
    LABELS = ("frames used", "time since start (s)", "passes")
    QUANTITIES = ("R", "resolution", "FRC")
    OFF = "not measured: see Processing"
    place = "right bottom"

    def __init__(self) -> None:
        super().__init__("Quality", self.LABELS[0], "R")
        self.graphics.setToolTip(
            "R = Σ||model|−A| / ΣA over the frames used, A the measured amplitudes; of the centre: on the central "
            "half of the detector, which alone is used at first and fits better; earlier image: R before the image "
            "began anew, as with the defocus or the orientation that was found; held out: on pixels that the solver "
            "does not use; by the name of a second engine: its R; resolution: half period (nm) up to which "
            "two halves of the frames agree (FRC, ½ bit and 1/7); FRC: how far they agree at each spatial frequency; "
            "Processing switches these on"
        )
        self.quantity = self.add_selector(list(self.QUANTITIES), "R factor, resolution (nm), or the FRC it is from")
        self.choice = self.add_selector(list(self.CHOICES), "what it is drawn against")
        for selector in (self.quantity, self.choice):
            selector.currentIndexChanged.connect(self.redraw)
        self.legend = self.add_legend()
        self.curve, self.second, self.coarse = curve(), curve(SECOND_COLOR), curve(COMING_COLOR)
        self.other, self.earlier = curve(OTHER_COLOR), curve(COMING_COLOR)
        self.earlier.setPen(pg.mkPen(COMING_COLOR, width=1, style=QtCore.Qt.PenStyle.DotLine))
        for item in self._curves:
            self.plot.addItem(item)
        self._room = pg.PlotCurveItem(pen=pg.mkPen(0, 0, 0, 0))
        self.plot.getViewBox().addItem(self._room)
        self.plot.showGrid(x=True, y=True, alpha=0.3)
        self.clear()

    @property
    def _curves(self) -> tuple[Any, ...]:
        return self.curve, self.second, self.coarse, self.other, self.earlier

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The history, the correlation of the halves, and the history of the second engine."""
        return state.reconstruction, state.history, state.frc, state.second_history

    def clear(self) -> None:
        """Show no curve."""
        for item in (*self._curves, self._room):
            item.clear()
        self.legend.clear()
        self.set_blank(True)

    def draw(self, state: LiveState) -> None:
        """Draw what is chosen."""
        history, index, quantity = state.history, self.choice.currentIndex(), self.quantity.currentText()
        self.choice.setEnabled(quantity != "FRC")
        if quantity == "FRC":
            self._draw_frc(state)
            return
        if quantity == "R":
            earlier = self._earlier(history)
            fine, held_out, coarse, former = (
                np.where(shown, values, np.nan)
                for shown, values in (
                    (~earlier & ~history.coarse, history.r_factor),
                    (~earlier, history.r_held_out),
                    (~earlier & history.coarse, history.r_factor),
                    (earlier, history.r_factor),
                )
            )
            curves = [
                self._of_history(history, fine, "R"),
                self._of_history(history, held_out, "held out"),
                self._of_history(history, coarse, "R of the centre"),
                self._of_second(state),
                self._of_history(history, former, "earlier image"),
            ]
            text = f"R {number_text(history.r_factor[-1])}" + (" of the centre" if history.coarse[-1] else "")
            if np.isfinite(history.r_held_out[-1]):
                text += f", held out {history.r_held_out[-1]:.3f}"
        else:
            half_bit, one_seventh = 1e9 * history.resolution_m, 1e9 * history.one_seventh_m
            curves = [
                self._of_history(history, half_bit, "½ bit"),
                self._of_history(history, one_seventh, "1/7"),
            ]
            text = self._resolution(state) if np.isfinite(half_bit[-1]) else self._why_none(state)
        self.label_axis("bottom", self.LABELS[index])
        self.plot.getAxis("bottom").whole = self.choice.currentText() == "frames"
        self.label_axis("left", "R" if quantity == "R" else "resolution (nm)")
        told = self._draw_curves(curves)
        self.set_subtitle(text)
        if told:
            self.title_label.setToolTip(f"{self.title_label.text()} after {passes_text(history.num_passes[-1])}")

    @staticmethod
    def _earlier(history: History) -> Any:
        """Return which points (k,) are of images that were given up: all before the uses of frames fell last."""
        falls = np.flatnonzero(np.diff(history.num_passes * history.num_frames) < 0)
        return np.arange(len(history.r_factor)) <= (falls[-1] if len(falls) else -1)

    def _of_history(self, history: History, values: Any, name: str) -> Curve:
        """Return a curve against what is chosen."""
        places = (history.num_frames, history.time_s, history.num_passes)[self.choice.currentIndex()]
        return Curve(places, values, name, history.num_passes * history.num_frames)

    def _of_second(self, state: LiveState) -> Curve:
        """Return R of the second engine on whole frames, where there is one."""
        if state.second is None:
            return NO_CURVE
        history = state.second_history
        fine = np.where(history.coarse, np.nan, history.r_factor)
        return self._of_history(history, fine, state.second.engine)

    def _draw_frc(self, state: LiveState) -> None:
        """Draw the correlation of the two halves over spatial frequency."""
        found, picture = state.frc, state.reconstruction
        self.label_axis("bottom", "spatial frequency (1/µm)")
        self.plot.getAxis("bottom").whole = False
        self.label_axis("left", "correlation")
        if found is None or picture is None:
            self._draw_curves([])
            self.set_subtitle(self._why_none(state))
            return
        frequency = 1e-6 * found.frequency_1_m
        self._draw_curves([Curve(frequency, found.correlation, "FRC"), Curve(frequency, found.half_bit, "½ bit")])
        self.set_subtitle(f"half period {self._resolution(state)}")

    @staticmethod
    def _resolution(state: LiveState) -> str:
        picture = state.reconstruction
        assert picture is not None
        is_pixel = math.isclose(picture.resolution_m, picture.pixel_size_m, rel_tol=1e-3)
        return half_period_text(picture.resolution_m, is_pixel=is_pixel)

    def _draw_curves(self, curves: list[Curve]) -> bool:
        """Draw what is known of the curves, name them, and return whether anything is."""
        self.legend.clear()
        first, highest = None, 0.0
        missing = [NO_CURVE] * (len(self._curves) - len(curves))
        for item, drawn in zip(self._curves, curves + missing, strict=True):
            known = np.isfinite(drawn.values)
            places, values = drawn.places[known], drawn.values[known]
            uses = places if drawn.uses is None else drawn.uses[known]
            on = np.diff(uses, append=np.inf) >= 0  # an image that begins anew begins its curve anew
            item.setData(places, values, name=drawn.name, connect=on)
            if known.any():
                self.legend.addItem(item, drawn.name)
                first = places[0] if first is None else first
                highest = max(highest, float(values.max()))
        self._keep_room(first, 1.0 if self.quantity.currentText() == "FRC" else ROOM * highest)
        self.set_blank(first is None)
        return first is not None

    def _keep_room(self, place: float | None, top: float) -> None:
        """Let what is seen of the plot begin at 0, and have room for the legend."""
        if place is None:
            self._room.clear()
        else:
            self._room.setData(x=np.full(2, place), y=np.array([0.0, top]))

    def _why_none(self, state: LiveState) -> str:
        settings = state.run.settings if state.run is not None else None
        off = settings is not None and settings.solver.quality_share == 0
        if off:
            return self.OFF
        return "the halves told none" if state.finished else "the halves have not told one yet"


class SweepPanel(LivePanel):
    """The defocus sweep."""

    place = "right bottom"

    def __init__(self) -> None:
        super().__init__("Defocus", "defocus (µm)", "residual")
        self.curve = curve(symbol_px=5)
        self.mark = pg.InfiniteLine(pen=pg.mkPen(MARK_COLOR, width=2, style=QtCore.Qt.PenStyle.DashLine))
        self.plot.addItem(self.curve)
        self.plot.addItem(self.mark)
        self.mark.hide()
        self.warm = pg.InfiniteLine(angle=0, pen=pg.mkPen(SECOND_COLOR, width=2, style=QtCore.Qt.PenStyle.DashLine))
        self.plot.addItem(self.warm)
        self.warm.hide()
        self.plot.showGrid(x=True, y=True, alpha=0.3)
        self.set_blank(True)
        self.graphics.setToolTip(
            "residual of the candidates; dashed: the defocus found (µm); confidence 1 − minimum/median\n"
            "level line: residual of the earlier run's probe that the image began with"
        )

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The sweep."""
        return (state.sweep,)

    def clear(self) -> None:
        """Show no curve."""
        self.curve.clear()
        self.set_blank(True)
        self.mark.hide()
        self.warm.hide()

    def draw(self, state: LiveState) -> None:
        """Draw residual against defocus, and that of an earlier run's probe."""
        sweep = state.sweep
        assert sweep is not None
        self.curve.setData(sweep.sweep_defocus_m * 1e6, sweep.sweep_residual)
        self.set_blank(False)
        self.mark.setValue(sweep.defocus_m * 1e6)
        self.mark.show()
        self.warm.setVisible(math.isfinite(sweep.warm_residual))
        if math.isfinite(sweep.warm_residual):
            self.warm.setValue(sweep.warm_residual)
        found = [f"{sweep.defocus_m * 1e6:.3g} µm", f"confidence {sweep.confidence:.2f}"]
        if not (sweep.warm_run and sweep.warm_fits):
            found.append("taken" if sweep.accepted else "not taken")
        if sweep.warm_run:
            how = "fits best" if sweep.warm_fits else "fits no more"
            found.insert(1, f"probe of {sweep.warm_run[:8]}, {age_text(sweep.warm_age_s)} ago, {how}")
        self.set_subtitle(" · ".join(found))


class LightPanel(LivePanel):
    """The photons of each frame, those that look suspicious marked."""

    place = "right bottom"

    def __init__(self) -> None:
        super().__init__("Light", "frame", "photons")
        self.plot.getAxis("bottom").whole = True
        self.points = pg.PlotDataItem(
            pen=None, symbol="o", symbolSize=4, symbolBrush=DATA_COLOR, symbolPen=None, name="photons"
        )
        self.flagged = pg.ScatterPlotItem(size=10, brush=None, pen=pg.mkPen(MARK_COLOR, width=2))
        self.plot.addItem(self.points)
        self.plot.addItem(self.flagged)
        self.median = pg.InfiniteLine(angle=0, pen=pg.mkPen(SECOND_COLOR, style=QtCore.Qt.PenStyle.DashLine))
        self.plot.addItem(self.median, ignoreBounds=True)
        self.plot.showGrid(x=True, y=True, alpha=0.3)
        self.graphics.setToolTip("photons of each clean frame by seq_num; ring: flagged; dashed: median")
        self.clear()

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The light and what is flagged."""
        return state.photons if np.isfinite(state.photons).any() else None, state.flagged

    def clear(self) -> None:
        """Show no points."""
        self.points.clear()
        self.flagged.clear()
        self.median.hide()
        self.set_blank(True)

    def draw(self, state: LiveState) -> None:
        """Draw photons against the number of the frame."""
        lit = np.isfinite(state.photons)
        seq_nums, photons = state.seq_nums[lit], state.photons[lit]
        median = float(np.median(photons))
        self.points.setData(seq_nums, photons)
        self.label_axis("left", "photons", photons)
        flagged = np.isin(seq_nums, state.flagged)
        self.flagged.setData(x=seq_nums[flagged], y=photons[flagged])
        self.median.setValue(median)
        self.median.show()
        self.set_blank(False)
        self.set_subtitle(f"median {photons_text(median)} · {int(flagged.sum())} flagged")
