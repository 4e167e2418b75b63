"""ComparedObject: another reconstruction beside that of a file, and how alike the two are."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

from nsbluesky.callbacks.live_parts import ShownPicture
from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.callbacks.news import number_text, numbered
from nsbluesky.cxi import CxiError, read_cxi
from nsbluesky.cxi.compare import Comparison, compare_images
from nsbluesky.viewer.comparison_panels import CorrelationPanel, DifferencePanel
from nsbluesky.viewer.file_panels import FrcPanel
from nsbluesky.viewer.file_state import reconstruction_of
from nsbluesky.viewer.panels import ObjectPanel
from nsbluesky.viewer.shown_file import ShownFile

__all__ = ["ComparedObject"]


class ComparedObject:
    """The panels of a comparison, and what they show.

    Parameters
    ----------
    file : ShownFile
        Whose newest picture is compared.
    own : ObjectPanel
        The object of that picture: the other one has its colours, and shows the same place.

    Attributes
    ----------
    path : Path or None
        The file that it is compared with.
    other : ObjectPanel
        The other object.
    difference : DifferencePanel
    correlation : CorrelationPanel
    frc : FrcPanel
    """

    def __init__(self, file: ShownFile, own: ObjectPanel) -> None:
        self.path: Path | None = None
        self.other = ObjectPanel("phase")
        self.other.set_subtitle("compare with another file (Ctrl+D)")
        self.difference, self.correlation, self.frc = DifferencePanel(), CorrelationPanel(), FrcPanel()
        self._file = file
        self._own = own
        self._state = LiveState()
        self._name = ""
        self.other.choice.currentIndexChanged.connect(lambda *_: self.draw())
        for zoomed, follower in ((own, self.other), (self.other, own)):
            zoomed.view.sigRangeChangedManually.connect(partial(self._follow, zoomed, follower))

    def compare(self, path: str | Path) -> None:
        """Show another file's newest picture, and draw FRC, difference and correlation of the two.

        Raises
        ------
        CxiError
            If one of them has no picture, or they cannot be compared.
        """
        with read_cxi(path) as data:
            images = data.images
            found = reconstruction_of(data, images[-1]) if images else None
        if not self._file.images or not images:
            without = self._file.data.path if not self._file.images else path
            raise CxiError(
                f"{without} has no reconstruction to compare: expected one in both files; reconstruct it first"
            )
        compared = compare_images(self._file.images[-1], images[-1])
        self.frc.show_frc(compared.frc, compared.contrast_correlation)
        self.path = Path(path)
        self._show(found, compared, self.path.name)

    def show_second_engine(self) -> None:
        """Show the file's picture by a second engine, where it has one, until another file is chosen.

        Their FRC is not drawn: it would tell no resolution, as both are of the same frames.
        """
        image = self._file.second_image
        if image is None:
            return
        found = reconstruction_of(self._file.data, image)
        frames = numbered(int(image.parameters.get("num_frames", found.num_frames)), "frame")
        name = f"{image.second_engine} · R {number_text(found.r_factor)} · {frames}"
        compared = None
        with contextlib.suppress(CxiError):  # too small to be compared: it is shown nevertheless
            compared = compare_images(self._file.images[-1], image) if self._file.images else None
        self._show(found, compared, name)

    def _show(self, found: ShownPicture | None, compared: Comparison | None, name: str) -> None:
        self._state, self._name = LiveState(reconstruction=found), name
        if compared is not None:
            self.difference.show_comparison(compared, name)
            self.correlation.show_comparison(compared)
        self.draw()

    def draw(self) -> None:
        """Draw the other object, in the colours of this one where both show the same quantity."""
        if self._state.reconstruction is not None:
            self.other.show_state(self._state)
            self.other.set_subtitle(self._name)
            self.other.use_colors_of(self._own)

    def _follow(self, zoomed: ObjectPanel, follower: ObjectPanel, *_: object) -> None:
        """Let both objects show the same place."""
        if self._state.reconstruction is not None:
            follower.view.setRange(zoomed.view.viewRect(), padding=0)
