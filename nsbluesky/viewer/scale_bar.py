"""A scale bar, as a picture of a sample needs one."""

from __future__ import annotations

from typing import Any

from nsbluesky.viewer.display import length_text, nice_length
from nsbluesky.viewer.qt import QtCore, QtWidgets, pg

__all__ = ["ScaleBar"]


class ScaleBar(pg.GraphicsWidget):  # type: ignore[misc]
    """A bar of a round length in the lower right corner of a view in µm; its length follows the zoom."""

    MARGIN_PX, HEIGHT_PX = 10.0, 5.0

    def __init__(self, view: Any) -> None:
        super().__init__(parent=view)
        self._view = view
        self._back = QtWidgets.QGraphicsRectItem(self)
        self._back.setBrush(pg.mkBrush(0, 0, 0, 150))
        self._back.setPen(pg.mkPen(None))
        self._rect = QtWidgets.QGraphicsRectItem(self)
        self._rect.setBrush(pg.mkBrush("w"))
        self._rect.setPen(pg.mkPen(None))
        self._text = QtWidgets.QGraphicsSimpleTextItem(self)
        self._text.setBrush(pg.mkBrush("w"))
        self.length_um = 0.0
        view.sigRangeChanged.connect(self._place)
        view.sigResized.connect(self._place)

    @property
    def text(self) -> str:
        """The text at the bar."""
        return str(self._text.text())

    @property
    def width_px(self) -> float:
        """The bar's length on the screen."""
        return float(self._rect.rect().width())

    def _place(self) -> None:
        box, (x_range, _) = self._view.boundingRect(), self._view.viewRange()
        width_um = x_range[1] - x_range[0]
        if not (box.width() > 0 and width_um > 0):
            return
        self.length_um = nice_length(width_um)
        length_px = self.length_um / width_um * box.width()
        self._text.setText(length_text(self.length_um))
        text = self._text.boundingRect()
        room = max(box.width() - 2 * self.MARGIN_PX, 1.0)
        small = min(1.0, room / text.width())  # in a narrow panel with large letters there is no room for all of it
        self._text.setScale(small)
        text = QtCore.QRectF(0.0, 0.0, small * text.width(), small * text.height())
        width = max(length_px, text.width())
        center = box.right() - self.MARGIN_PX - width / 2
        top = box.bottom() - self.MARGIN_PX - self.HEIGHT_PX
        self._rect.setRect(QtCore.QRectF(center - length_px / 2, top, length_px, self.HEIGHT_PX))
        self._text.setPos(center - text.width() / 2, top - text.height() - 1)
        frame = QtCore.QRectF(center - width / 2, top - text.height(), width, text.height() + self.HEIGHT_PX)
        self._back.setRect(frame.adjusted(-4, -2, 4, 4))
