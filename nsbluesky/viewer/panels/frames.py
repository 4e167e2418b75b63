"""Raw frame, darks and clean frame, in the order of the light."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.callbacks.news import numbered
from nsbluesky.cleaning.layout import FCCDLayout, get_layout
from nsbluesky.settings import SettingsError
from nsbluesky.viewer.display import log10_image, photons_text, robust_range, to_host
from nsbluesky.viewer.panels.base import LiveImagePanel, pixel_extent
from nsbluesky.viewer.panels.colors import CENTER_COLOR
from nsbluesky.viewer.qt import pg

__all__ = ["CleanPanel", "DarkPanel", "RawPanel", "raw_places"]

Places = npt.NDArray[np.float64]


def raw_places(layout: FCCDLayout) -> tuple[Places, Places]:
    """Return the raw row of each image row, and the raw column of each image column (of the top half)."""
    rows = np.concatenate([np.arange(start, stop) for start, stop in layout.good_rows])
    first = np.arange(layout.adcs_per_half)[:, None] * layout.columns_per_adc
    data = layout.data_columns
    columns = (first + np.arange(data.start, data.stop)).ravel()
    return rows.astype(np.float64), columns.astype(np.float64)


class RawPanel(LiveImagePanel):
    """The newest raw frame, as the camera gave it or without the dark; centre and crop of the clean frames on it."""

    CHOICES = ("raw", "raw − dark")
    place = "left top"

    def __init__(self) -> None:
        super().__init__("Raw frame", "column (px)", "row (px)", row_0_on_top=True)
        self.choice = self.add_selector(list(self.CHOICES), "the newest frame as read, or without the mean dark")
        self.choice.currentIndexChanged.connect(self.redraw)
        self.graphics.setToolTip(
            "ADU per raw pixel, logarithmic, overscan included, row 0 on top; without the dark, bad pixels are grey; "
            "cross: centre of the clean frames, square: what they are cut out of"
        )
        self.center = pg.ScatterPlotItem(size=14, symbol="+", pen=pg.mkPen(CENTER_COLOR, width=2), brush=None)
        self.crop = pg.PlotCurveItem(pen=pg.mkPen(CENTER_COLOR, width=1.5))
        for item in (self.center, self.crop):
            item.setZValue(1)
            self.plot.addItem(item, ignoreBounds=True)

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """Frame, dark and where it is cut."""
        return state.raw, state.dark, state.detector

    def clear(self) -> None:
        """Show neither frame nor marks."""
        super().clear()
        self.center.clear()
        self.crop.clear()

    def draw(self, state: LiveState) -> None:
        """Draw the logarithm of the counts."""
        assert state.raw is not None
        image, text = to_host(state.raw.image), f"frame {state.raw.seq_num}"
        dark = state.darks.get(state.raw.exposure)
        if self.choice.currentText() != "raw" and dark is not None:
            mean = to_host(dark.mean)
            if mean.shape == image.shape:
                bad = to_host(dark.bad) != 0
                image = np.where(bad, np.float32(np.nan), image - mean)
                text = f"frame {state.raw.seq_num} − dark"
        logarithm = log10_image(image, floor=1.0)
        span = robust_range(logarithm, (1.0, 99.9))
        self.set_image(logarithm, pixel_extent(image), span, colors="inferno", label="ADU", log=True)
        self.set_subtitle(text)
        self._mark(state, image.shape)

    def _mark(self, state: LiveState, shape: tuple[int, ...]) -> None:
        """Draw centre and crop where the run tells how its frames lie on the raw ones."""
        settings = state.run.settings if state.run is not None else None
        if state.detector is None or settings is None:
            return
        try:
            layout = get_layout(settings.cleaning, shape)
        except SettingsError:  # told by the stage that cleans
            return
        rows, columns = raw_places(layout)
        row, column = state.detector.center_px
        half = settings.cleaning.crop_px / 2

        def place(at: float, places: Places) -> float:
            return float(np.interp(at, np.arange(len(places)), places))

        self.center.setData(x=[place(column, columns)], y=[place(row, rows)])
        left, right = place(column - half, columns), place(column + half - 1, columns)
        top, bottom = place(row - half, rows), place(row + half - 1, rows)
        self.crop.setData(x=[left, right, right, left, left], y=[top, top, bottom, bottom, top])


class DarkPanel(LiveImagePanel):
    """Mean and standard deviation of the darks, and the pixels that are left out."""

    CHOICES = ("mean", "deviation", "bad pixels")
    place = "left top"

    def __init__(self) -> None:
        super().__init__("Dark", "column (px)", "row (px)", row_0_on_top=True)
        self.choice = self.add_selector(
            list(self.CHOICES), "mean or standard deviation of the dark frames (ADU), or bad pixels"
        )
        self.choice.currentIndexChanged.connect(self.redraw)
        self.graphics.setToolTip("ADU per raw pixel over the dark frames; bad: left out of every clean frame")

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The dark, and whose it is."""
        return state.dark, state.run

    def draw(self, state: LiveState) -> None:
        """Draw what is chosen."""
        dark = state.dark
        assert dark is not None
        bad = to_host(dark.bad) != 0
        choice = self.choice.currentText()
        adcs = f", ADCs {', '.join(map(str, dark.bad_adcs))}" if dark.bad_adcs else ""
        self.bar.axis.whole = choice == "bad pixels"
        if choice == "bad pixels":
            image = bad.astype(np.float32)
            self.set_image(image, pixel_extent(image), (0.0, 1.0), colors="cividis", label="1: bad")
        else:
            image = to_host(dark.mean if choice == "mean" else dark.std)
            self.set_image(image, pixel_extent(image), robust_range(image), colors="inferno", label="ADU")
        told = state.run.darks_from if state.run is not None else ""
        whose = f" of run {told[:8]}" if told else ""
        times_s = state.run.exposures_s if state.run is not None else ()
        if 1 < len(times_s) > dark.exposure:
            whose += f" of {1e3 * times_s[dark.exposure]:g} ms"
        self.set_subtitle(f"{numbered(dark.num_frames, 'frame')}{whose} · {int(bad.sum())} bad{adcs}")


class CleanPanel(LiveImagePanel):
    """The newest clean frame in photons."""

    place = "left top"

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
        self.set_subtitle(f"frame {state.clean.seq_num} · {photons_text(float(np.nansum(photons)))}")
