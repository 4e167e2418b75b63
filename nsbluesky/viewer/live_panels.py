"""The panels of the live window: each knows which parts of a LiveState it shows, and draws them."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.live_state import LiveState, Reconstruction
from nsbluesky.viewer.display import (
    display_phase,
    log10_image,
    measured_window,
    mode_powers,
    probe_mosaic,
    robust_range,
    symmetric_range,
    thin_out,
    to_host,
)
from nsbluesky.viewer.image_panel import ImagePanel, Panel
from nsbluesky.viewer.qt import QtCore, pg

__all__ = [
    "LIVE_PANELS",
    "CleanPanel",
    "LivePanel",
    "LowResolutionPanel",
    "ObjectAmplitudePanel",
    "ObjectPhasePanel",
    "ProbePanel",
    "QualityPanel",
    "RawPanel",
    "SweepPanel",
]

log = logging.getLogger(__name__)

MAX_OBJECT_PX = 1024
"""Larger objects are drawn with every k-th pixel, so that a redraw stays short."""
MAX_MODES = 4
DATA_COLOR, MARK_COLOR = "#1f8acb", "#e07b00"
"""Curves and what is marked on them: a blue and an orange that colour-blind people tell apart, on dark and light."""

Extent = tuple[float, float, float, float]


class LivePanel(Panel):
    """A panel of the live window: redraws only when a part of the state that it shows is a new one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._drawn: tuple[Any, ...] = ()

    @abstractmethod
    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """Return the parts of the state that this panel shows."""

    @abstractmethod
    def draw(self, state: LiveState) -> None:
        """Draw the state."""

    @abstractmethod
    def clear(self) -> None:
        """Show nothing: the run has just begun."""

    def needs(self, state: LiveState) -> bool:
        """Whether what is drawn is not the state's."""
        parts = self.parts(state)
        return len(parts) != len(self._drawn) or any(a is not b for a, b in zip(parts, self._drawn, strict=True))

    def show_state(self, state: LiveState) -> None:
        """Draw the state, or clear where nothing came yet; what cannot be drawn is told in the title."""
        self._drawn = self.parts(state)
        try:
            if self._drawn[0] is None:
                self.set_subtitle("")
                self.clear()
            else:
                self.draw(state)
        except Exception as error:  # the other panels must go on
            log.exception("%s cannot be drawn", self.title)
            self.set_subtitle(f"cannot be drawn: {error}")

    def redraw(self) -> None:
        """Draw again with the next state, as after a change of what to show."""
        self._drawn = ()


class LiveImagePanel(LivePanel, ImagePanel):
    """A live panel with an image: shown whole as it grows, until somebody zooms; the next run is whole again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._extent: Extent | None = None
        self._zoomed = False
        self.view.sigRangeChangedManually.connect(self._keep_zoom)

    def _keep_zoom(self) -> None:
        self._zoomed = True

    def clear(self) -> None:
        """Show no image."""
        self._extent = None
        self._zoomed = False
        self.item.clear()
        self.set_blank(True)

    def set_image(self, image: npt.NDArray[Any], extent: Extent, *args: Any, **kwargs: Any) -> None:
        """Draw an image, whole where nobody has zoomed."""
        super().set_image(image, extent, *args, **kwargs)
        if extent != self._extent and not self._zoomed:
            self._extent = extent
            self.show_all()


def pixel_extent(image: npt.NDArray[Any]) -> Extent:
    """Outer edges of an image whose pixel centres lie at whole numbers."""
    rows, columns = image.shape
    return -0.5, columns - 0.5, -0.5, rows - 0.5


def _in_um(extent_m: Extent) -> Extent:
    x0, x1, y0, y1 = extent_m
    return x0 * 1e6, x1 * 1e6, y0 * 1e6, y1 * 1e6


class RawPanel(LiveImagePanel):
    """The newest raw frame, as the camera gave it or without the dark, or the mean dark frame."""

    CHOICES = ("raw", "raw − dark", "dark mean")

    def __init__(self) -> None:
        super().__init__("Raw frame", "column (px)", "row (px)", row_0_on_top=True)
        self.choice = self.add_selector(list(self.CHOICES), "the newest frame as read, without the dark, or the dark")
        self.choice.currentIndexChanged.connect(self.redraw)
        self.graphics.setToolTip("as the camera gives it, overscan included; logarithmic; row 0 on top")

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """Frame and dark."""
        return state.raw, state.dark

    def draw(self, state: LiveState) -> None:
        """Draw the logarithm of the counts."""
        assert state.raw is not None
        image, text = to_host(state.raw.image), f"frame {state.raw.seq_num}"
        choice = self.choice.currentText()
        if choice != "raw" and state.dark is not None:
            mean = to_host(state.dark.mean)
            if choice == "dark mean":
                image, text = mean, f"dark, mean of {state.dark.num_frames}"
            elif mean.shape == image.shape:
                image, text = image - mean, f"frame {state.raw.seq_num} − dark"
        logarithm = log10_image(image, floor=1.0)
        span = robust_range(logarithm, (1.0, 99.9))
        self.set_image(logarithm, pixel_extent(image), span, colors="inferno", label="ADU", log=True)
        self.set_subtitle(text)


class CleanPanel(LiveImagePanel):
    """The newest clean frame in photons."""

    def __init__(self) -> None:
        super().__init__("Clean frame", "column (px)", "row (px)", row_0_on_top=True)
        self.graphics.setToolTip("photons per pixel, logarithmic; masked pixels grey; turned as the stage")

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """Frame and mask."""
        return state.clean, state.detector

    def draw(self, state: LiveState) -> None:
        """Draw the logarithm of the photons; what is masked is grey."""
        assert state.clean is not None
        photons = to_host(state.clean.image)
        logarithm = log10_image(photons, floor=0.1)
        if state.detector is not None:
            mask = to_host(state.detector.mask)
            if mask.shape == photons.shape:
                logarithm = np.where(mask == 0, logarithm, np.float32(np.nan))
        high = max(robust_range(logarithm, (0.0, 100.0))[1], 1.0)
        self.set_image(logarithm, pixel_extent(photons), (-1.0, high), colors="inferno", label="photons", log=True)
        self.set_subtitle(f"frame {state.clean.seq_num} · {float(photons.sum()):.3g} photons")


class LowResolutionPanel(LiveImagePanel):
    """Transmission or differential phase contrast on the stage, with the points measured so far."""

    CHOICES = ("transmission", "DPC x", "DPC y")
    FIELDS = ("transmission", "dpc_x", "dpc_y")

    def __init__(self) -> None:
        super().__init__("Low resolution", "stage x (µm)", "stage y (µm)", scale_bar=True)
        self.choice = self.add_selector(list(self.CHOICES), "transmission, or differential phase contrast (DPC)")
        self.choice.currentIndexChanged.connect(self.redraw)
        self.points = pg.ScatterPlotItem(size=2.5, pen=None, brush=pg.mkBrush(255, 255, 255, 110))
        self.current = pg.ScatterPlotItem(size=11, symbol="o", brush=None, pen=pg.mkPen(MARK_COLOR, width=2))
        for z, item in enumerate((self.points, self.current), start=1):
            item.setZValue(z)
            self.plot.addItem(item)
        self.graphics.setToolTip("dots: points measured so far; ring: the newest; grey: not measured")

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The image and the points; the points alone are enough to draw."""
        return state.positions_m if len(state.positions_m) else None, state.low_resolution

    def clear(self) -> None:
        """Show neither image nor points."""
        super().clear()
        self.points.clear()
        self.current.clear()

    def draw(self, state: LiveState) -> None:
        """Draw the chosen image and the points."""
        points_um = state.positions_m * 1e6
        self.points.setData(x=points_um[:, 0], y=points_um[:, 1])
        self.current.setData(x=points_um[-1:, 0], y=points_um[-1:, 1])
        total = state.run.num_points if state.run is not None else None
        self.set_subtitle(f"{len(points_um)}/{total}" if total else f"{len(points_um)} points")
        low = state.low_resolution
        if low is None:
            self.item.clear()
            self.set_blank(False)
            return
        field = self.FIELDS[self.choice.currentIndex()]
        image = to_host(getattr(low, field))
        # the selector names the image already; the colour bar has room for its unit
        label = low.units.get(field, self.choice.currentText())
        if field == "transmission":
            span, colors = robust_range(image), "cividis"
        else:
            span, colors = symmetric_range(image), "diverging"
        self.set_image(image, _in_um(low.extent_m), span, colors=colors, label=label)


class ObjectPanel(LiveImagePanel):
    """What both panels of the object share: its measured part, on the stage."""

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The reconstruction."""
        return (state.reconstruction,)

    def measured(self, picture: Reconstruction) -> tuple[npt.NDArray[np.complex64], Extent]:
        """Return the measured part of the object, thinned out where it is large, and its outer edges in µm."""
        image = thin_out(to_host(picture.object), MAX_OBJECT_PX)
        rows, columns = measured_window(image)
        x0, x1, y0, y1 = _in_um(picture.extent_m)
        dx, dy = (x1 - x0) / image.shape[1], (y1 - y0) / image.shape[0]
        extent = (x0 + columns.start * dx, x0 + columns.stop * dx, y0 + rows.start * dy, y0 + rows.stop * dy)
        return np.ascontiguousarray(image[rows, columns]), extent


class ObjectPhasePanel(ObjectPanel):
    """The object's phase."""

    def __init__(self) -> None:
        super().__init__("Object phase", "stage x (µm)", "stage y (µm)", scale_bar=True)
        self.graphics.setToolTip(
            "mean slope and offset removed; colours from percentile 0.5 to 99.5, cyclic over ±π where it wraps; "
            "grey: not measured"
        )

    def draw(self, state: LiveState) -> None:
        """Draw the phase without ramp and offset."""
        picture = state.reconstruction
        assert picture is not None
        image, extent = self.measured(picture)
        phase = display_phase(image)
        self.set_image(phase.image, extent, phase.span, colors=phase.colormap, label="phase (rad)")
        which = "final" if picture.final else f"{picture.num_frames} frames"
        covered = f" · {100 * picture.coverage:.0f} % covered" if np.isfinite(picture.coverage) else ""
        self.set_subtitle(which + covered)


class ObjectAmplitudePanel(ObjectPanel):
    """The object's amplitude."""

    def __init__(self) -> None:
        super().__init__("Object amplitude", "stage x (µm)", "stage y (µm)", scale_bar=True)
        self.graphics.setToolTip("relative to the probe; colours from percentile 0.5 to 99.5; grey: not measured")

    def draw(self, state: LiveState) -> None:
        """Draw the amplitude."""
        picture = state.reconstruction
        assert picture is not None
        image, extent = self.measured(picture)
        amplitude = np.abs(image)
        span = robust_range(amplitude, (0.5, 99.5))
        self.set_image(amplitude, extent, span, colors="cividis", label="amplitude (relative)")
        self.set_subtitle(f"pixel {picture.pixel_size_m * 1e9:.3g} nm")


class ProbePanel(LiveImagePanel):
    """The probe's modes side by side, each with its share of the power."""

    def __init__(self) -> None:
        super().__init__("Probe", "µm", "µm", scale_bar=True)
        back = pg.mkBrush(0, 0, 0, 150)
        self.labels = [pg.TextItem(anchor=(0.5, 0.0), color="w", fill=back) for _ in range(MAX_MODES)]
        for label in self.labels:
            self.plot.addItem(label, ignoreBounds=True)
            label.setZValue(1)
            label.hide()
        self.graphics.setToolTip(f"amplitude of the first {MAX_MODES} modes, each scaled to its own maximum")

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The reconstruction."""
        return (state.reconstruction,)

    def clear(self) -> None:
        """Show no modes."""
        super().clear()
        for label in self.labels:
            label.hide()

    def draw(self, state: LiveState) -> None:
        """Draw the amplitudes and write the powers."""
        picture = state.reconstruction
        assert picture is not None
        probe = to_host(picture.probe)
        powers = mode_powers(probe)[:MAX_MODES]
        mosaic = probe_mosaic(probe[:MAX_MODES])
        side_um = probe.shape[-1] * picture.pixel_size_m * 1e6
        extent = (0.0, side_um * len(powers), 0.0, side_um)
        self.set_image(mosaic, extent, (0.0, 1.0), colors="inferno", label="amplitude / maximum")
        for mode, label in enumerate(self.labels):
            label.setVisible(mode < len(powers))
            if mode < len(powers):
                label.setText(f"{100 * powers[mode]:.1f} %")
                label.setPos((mode + 0.5) * side_um, side_um)
        self.set_subtitle(f"{len(probe)} mode" + ("s" if len(probe) > 1 else ""))


class QualityPanel(LivePanel):
    """How R comes down."""

    CHOICES = ("frames", "time", "passes")
    LABELS = ("frames used", "time since start (s)", "passes")

    def __init__(self) -> None:
        super().__init__("R factor", self.LABELS[0], "R")
        self.graphics.setToolTip("R = Σ||model|−A| / ΣA over the frames used, A the measured amplitudes")
        self.choice = self.add_selector(list(self.CHOICES), "what R is drawn against")
        self.choice.currentIndexChanged.connect(self.redraw)
        self.curve = pg.PlotDataItem(
            pen=pg.mkPen(DATA_COLOR, width=2), symbol="o", symbolSize=4, symbolBrush=DATA_COLOR, symbolPen=None
        )
        self.plot.addItem(self.curve)
        self.plot.showGrid(x=True, y=True, alpha=0.3)
        self.set_blank(True)

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The history."""
        return state.reconstruction, state.history

    def clear(self) -> None:
        """Show no curve."""
        self.curve.clear()
        self.set_blank(True)

    def draw(self, state: LiveState) -> None:
        """Draw R against what is chosen."""
        history = state.history
        index = self.choice.currentIndex()
        against = (history.num_frames, history.time_s, history.num_passes)[index]
        self.plot.getAxis("bottom").setLabel(self.LABELS[index])
        self.curve.setData(against, history.r_factor)
        self.set_blank(False)
        self.set_subtitle(f"{history.r_factor[-1]:.3f} after {history.num_passes[-1]:.3g} passes")


class SweepPanel(LivePanel):
    """The defocus sweep."""

    def __init__(self) -> None:
        super().__init__("Defocus", "defocus (µm)", "residual")
        self.curve = pg.PlotDataItem(
            pen=pg.mkPen(DATA_COLOR, width=2), symbol="o", symbolSize=5, symbolBrush=DATA_COLOR, symbolPen=None
        )
        self.mark = pg.InfiniteLine(pen=pg.mkPen(MARK_COLOR, width=2, style=QtCore.Qt.PenStyle.DashLine))
        self.plot.addItem(self.curve)
        self.plot.addItem(self.mark)
        self.mark.hide()
        self.plot.showGrid(x=True, y=True, alpha=0.3)
        self.set_blank(True)
        self.graphics.setToolTip(
            "residual of the candidates; dashed: the defocus found; confidence 1 − minimum/median"
        )

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The sweep."""
        return (state.sweep,)

    def clear(self) -> None:
        """Show no curve."""
        self.curve.clear()
        self.set_blank(True)
        self.mark.hide()

    def draw(self, state: LiveState) -> None:
        """Draw residual against defocus."""
        sweep = state.sweep
        assert sweep is not None
        self.curve.setData(sweep.sweep_defocus_m * 1e6, sweep.sweep_residual)
        self.set_blank(False)
        self.mark.setValue(sweep.defocus_m * 1e6)
        self.mark.show()
        taken = "taken" if sweep.accepted else "not taken"
        self.set_subtitle(f"{sweep.defocus_m * 1e6:.3g} µm · confidence {sweep.confidence:.2f} · {taken}")


LIVE_PANELS: tuple[type[LivePanel], ...] = (
    RawPanel,
    CleanPanel,
    ObjectPhasePanel,
    ObjectAmplitudePanel,
    LowResolutionPanel,
    ProbePanel,
    QualityPanel,
    SweepPanel,
)
"""In the order in which they are laid out, four to a row."""
