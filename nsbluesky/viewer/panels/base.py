"""LivePanel: knows which parts of a LiveState it shows, and draws them where they are new."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.viewer.image_panel import ImagePanel
from nsbluesky.viewer.plot_panel import Panel

__all__ = ["Extent", "LiveImagePanel", "LivePanel", "extent_in_um", "pixel_extent"]

log = logging.getLogger(__name__)

Extent = tuple[float, float, float, float]


class LivePanel(Panel):
    """A panel of the live window: redraws only when a part of the state that it shows is a new one.

    A subclass has ``__init__`` without arguments, `parts`, `draw` and `clear`; where it lies in a new window is told
    by `place`.
    """

    place: str = "right"
    """Group of docks it belongs to at first: "left top", "left bottom", "center", "right top" or "right bottom"."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._drawn: tuple[Any, ...] = ()
        self._why_empty = ""
        self._run_uid = ""

    @abstractmethod
    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """Return the parts of the state that this panel shows; it stays empty while the first is None."""

    @abstractmethod
    def draw(self, state: LiveState) -> None:
        """Draw the state."""

    @abstractmethod
    def clear(self) -> None:
        """Show nothing: the run has just begun."""

    def why_empty(self, state: LiveState) -> str:
        """Return what the title says while there is nothing to draw."""
        nothing = "nothing came" if state.finished else "nothing yet"
        return f"{nothing}: see below what failed" if state.errors else nothing

    def needs(self, state: LiveState) -> bool:
        """Whether what is drawn, or said where nothing is, is not the state's."""
        parts = self.parts(state)
        if len(parts) != len(self._drawn) or any(a is not b for a, b in zip(parts, self._drawn, strict=True)):
            return True
        return parts[0] is None and self.why_empty(state) != self._why_empty

    def show_state(self, state: LiveState) -> None:
        """Draw the state, or clear where nothing came yet; what cannot be drawn is told in the title."""
        self._drawn = self.parts(state)
        drawn, self._run_uid = self._run_uid, state.run.uid if state.run is not None else ""
        try:
            if self._run_uid != drawn:  # nobody may have looked while the new run had nothing to show
                self.clear()
            if self._drawn[0] is None:
                self._why_empty = self.why_empty(state)
                self.set_subtitle(self._why_empty)
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
        self.view.sigResized.connect(self._fill)

    def _fill(self) -> None:
        """Show the image whole in the room that there is now, where nobody has zoomed."""
        if self._extent is not None and not self._zoomed:
            self.show_all()

    def _keep_zoom(self) -> None:
        self._zoomed = True

    def clear(self) -> None:
        """Show no image."""
        self._extent = None
        self._zoomed = False
        self.clear_image()

    def set_image(self, image: npt.NDArray[Any], extent: Extent, *args: Any, **kwargs: Any) -> None:
        """Draw an image, whole where nobody has zoomed."""
        super().set_image(image, extent, *args, **kwargs)
        if extent != self._extent and not self._zoomed:
            self._extent = extent
            self.show_all()

    def show_whole(self) -> None:
        """Forget the zoom."""
        self._zoomed = False
        self.show_all()


def pixel_extent(image: npt.NDArray[Any]) -> Extent:
    """Outer edges of an image whose pixel centres lie at whole numbers."""
    rows, columns = image.shape[:2]
    return -0.5, columns - 0.5, -0.5, rows - 0.5


def extent_in_um(extent_m: Extent) -> Extent:
    """Return edges in µm."""
    x0, x1, y0, y1 = np.multiply(extent_m, 1e6).tolist()
    return x0, x1, y0, y1
