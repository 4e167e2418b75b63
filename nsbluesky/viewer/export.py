"""Export what a panel shows: the picture with its scale bar, the values, or the curves."""

from __future__ import annotations

import csv
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from nsbluesky.viewer.plot_panel import Panel
from nsbluesky.viewer.qt import QtCore, QtGui

__all__ = ["EXPORTS", "export_curves", "export_panel"]

EXPORTS = {
    ".png": "picture with axes, colour bar and scale bar (*.png)",
    ".tif": "values as 32 bit numbers (*.tif)",
    ".npy": "values for NumPy (*.npy)",
    ".csv": "curves (*.csv)",
}
PNG_SCALE = 2.0


def export_panel(path: str | Path, panel: Panel) -> None:
    """Write what a panel shows into a file, in the form that its suffix says (`EXPORTS`).

    Of an image with a logarithmic colour bar the values are log10.

    Raises
    ------
    ValueError
        For another suffix, or where the panel shows nothing of that kind.
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".png":
        _save_png(path, panel)
    elif suffix == ".csv":
        export_curves(path, panel)
    elif suffix in EXPORTS:
        shown = panel.picture()
        if shown is None:
            raise ValueError(f"{panel.title} shows no image: expected one for a {suffix} file; take .csv for curves")
        image, pixel_um = shown
        if suffix == ".npy":
            np.save(path, image)
        else:
            _save_tiff(path, image, pixel_um)
    else:
        raise ValueError(f"{path.name}: expected a name that ends in {', '.join(EXPORTS)}")


def export_curves(path: str | Path, panel: Panel) -> None:
    """Write the curves of a panel as columns of a CSV file, with their names and units in the first row.

    Raises
    ------
    ValueError
        Where there is no curve.
    OSError
        If the file cannot be written.
    """
    columns = panel.curves()
    if not columns:
        raise ValueError(f"{panel.title} shows no curves: expected one for a .csv file")
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip_longest(*(values.tolist() for values in columns.values()), fillvalue=""))


def _save_png(path: Path, panel: Panel) -> None:
    """Draw the panel without its buttons, twice as fine as on the screen."""
    size = panel.graphics.size()
    picture = QtGui.QImage(size * PNG_SCALE, QtGui.QImage.Format.Format_RGB32)
    picture.setDevicePixelRatio(PNG_SCALE)
    painter = QtGui.QPainter(picture)
    panel.graphics.render(painter, QtCore.QRectF(0, 0, size.width(), size.height()))
    painter.end()
    if not picture.save(str(path)):
        raise OSError(f"cannot write {path}: expected a file in a folder that exists and is writable")


def _save_tiff(path: Path, image: np.ndarray, pixel_um: float) -> None:
    """Write row 0 on top, as every other program shows it; on the stage, row 0 has the largest y."""
    values = image if image.ndim == 3 else image.astype(np.float32)
    flipped = values if np.isnan(pixel_um) else values[::-1]
    dpi = None if np.isnan(pixel_um) else (25_400 / pixel_um, 25_400 / pixel_um)
    options = {} if dpi is None or dpi[0] > 2**31 else {"dpi": dpi}
    Image.fromarray(np.ascontiguousarray(flipped)).save(path, "TIFF", **options)
