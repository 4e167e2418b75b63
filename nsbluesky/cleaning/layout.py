"""Where image pixels, overscan columns and ADCs lie in a raw frame of the Fast CCD.

The raw frame of this project is the two-dimensional array (rows, columns) as it lies in the HDF5 file.  The top half
comes first and its row 0 is the sensor's outer edge, which is read first.  The bottom half is stored *as it lies in
the image*, turned by 180°: its outer edge, read first as well, is the last row of the array, and the columns of each
ADC run backwards.  Columns are grouped by ADC: data columns with the overscan columns of the same ADC beside them.
ADCs count from 0 along the top half from left to right, then on along the bottom half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.settings import CleaningSettings, DetectorMode, SettingsError

__all__ = ["LAYOUTS", "MODES", "FCCDLayout", "assemble", "by_adc", "get_layout", "layout_of"]


@dataclass(frozen=True)
class FCCDLayout:
    """One detector mode.

    Attributes
    ----------
    rows, columns : int
        Shape of the raw frame.
    columns_per_adc : int
        Raw columns of one ADC, overscan included.
    overscan_columns : tuple of int
        Which of them are overscan in the top half; on one side or on both, so that the data columns stay neighbours.
        In the bottom half, which is stored turned, they are the mirrored ones: see `for_half`.
    halves : tuple of (int, int)
        Raw rows (start, stop) of each independently read half, top first.
    good_rows : tuple of (int, int)
        Raw rows (start, stop) of each half that are image; the others are blank, junk or transfer rows.
    """

    rows: int
    columns: int
    columns_per_adc: int
    overscan_columns: tuple[int, ...]
    halves: tuple[tuple[int, int], ...]
    good_rows: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        """Check that the numbers fit together."""
        if self.rows < 2 or (self.rows % 2 and len(self.halves) == 2):
            raise ValueError(f"rows = {self.rows}: expected an even number, two halves")
        if self.columns_per_adc < 1 or self.columns < 1 or self.columns % self.columns_per_adc:
            raise ValueError(f"columns = {self.columns}: expected a multiple of {self.columns_per_adc} per ADC")
        if any(not 0 <= column < self.columns_per_adc for column in self.overscan_columns):
            raise ValueError(f"overscan_columns = {self.overscan_columns}: expected 0 to {self.columns_per_adc - 1}")
        data = self._data_columns
        if not data or data != list(range(data[0], data[-1] + 1)):
            raise ValueError(f"overscan_columns = {self.overscan_columns}: expected data columns that are neighbours")
        for (start, stop), (first, last) in zip(self.halves, self.good_rows, strict=True):
            if not 0 <= start <= first < last <= stop <= self.rows:
                raise ValueError(f"good_rows = {self.good_rows}: expected ranges within the halves {self.halves}")

    @property
    def _data_columns(self) -> list[int]:
        return [c for c in range(self.columns_per_adc) if c not in self.overscan_columns]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the raw frame."""
        return self.rows, self.columns

    def for_half(self, half: int) -> FCCDLayout:
        """Return the layout with `overscan_columns` and `data_columns` as they lie in one half."""
        mirrored = tuple(sorted(self.columns_per_adc - 1 - column for column in self.overscan_columns))
        if half == 0 or mirrored == self.overscan_columns:
            return self
        return replace(self, overscan_columns=mirrored)

    @property
    def data_columns(self) -> slice:
        """The data columns of each ADC of the top half."""
        return slice(self._data_columns[0], self._data_columns[-1] + 1)

    @property
    def data_columns_per_adc(self) -> int:
        """Number of data columns of each ADC."""
        return len(self._data_columns)

    @property
    def adcs_per_half(self) -> int:
        """Number of ADCs side by side."""
        return self.columns // self.columns_per_adc

    def clocks(self, half: int) -> npt.NDArray[np.intp]:
        """Return when each raw pixel of an ADC is read, (rows of the half, columns per ADC), counted in clocks.

        The bottom half is stored turned by 180° against the readout: its rows *and* the columns of each ADC run
        backwards in time.
        """
        start, stop = self.halves[half]
        clocks = np.arange((stop - start) * self.columns_per_adc).reshape(stop - start, self.columns_per_adc)
        return clocks if half == 0 else clocks[::-1, ::-1]

    @property
    def image_shape(self) -> tuple[int, int]:
        """Shape of the assembled image."""
        rows = sum(stop - start for start, stop in self.good_rows)
        return rows, self.adcs_per_half * self.data_columns_per_adc


def _two_halves(
    rows: int, columns: int, per_adc: int, overscan: tuple[int, ...], good: tuple[int, int]
) -> FCCDLayout:
    """Return the layout of two mirrored halves; `good` are the good rows of the top half."""
    start, stop = good
    halves = ((0, rows // 2), (rows // 2, rows))
    return FCCDLayout(rows, columns, per_adc, overscan, halves, (good, (rows - stop, rows - start)))


MODES: dict[str, DetectorMode] = {
    "cosmic": DetectorMode(1040, 1152, 12, (0, 11), (5, 485)),
    "cosmic_10_11": DetectorMode(1040, 1152, 12, (10, 11), (5, 485)),
    "cosmic_0_1": DetectorMode(1040, 1152, 12, (0, 1), (5, 485)),
    "full_frame": DetectorMode(1940, 1152, 12, (0, 11), (5, 965)),
    "full_frame_blank": DetectorMode(2000, 1152, 12, (0, 11), (5, 965)),
    "csx": DetectorMode(1000, 960, 10, (), (5, 485)),
    "csx_overscan": DetectorMode(1000, 1152, 12, (0, 11), (5, 485)),
}
"""The known detector modes, as data: another one is a few lines of the setting `cleaning.detector_mode`."""


def layout_of(mode: DetectorMode) -> FCCDLayout:
    """Return the layout of a mode.

    Raises
    ------
    SettingsError
        Where its numbers do not fit together.
    """
    try:
        return _two_halves(mode.rows, mode.columns, mode.columns_per_adc, mode.overscan_columns, mode.good_rows)
    except ValueError as error:
        raise SettingsError(f"detector_mode: {error}") from error


LAYOUTS: dict[str, FCCDLayout] = {name: layout_of(mode) for name, mode in MODES.items()}


def get_layout(settings: CleaningSettings, shape: Sequence[int]) -> FCCDLayout:
    """Return the layout that the settings name or describe, and check that frames of `shape` (rows, columns) fit it.

    "none" is the layout of frames that are images already: one block without overscan, whatever its shape.

    Raises
    ------
    SettingsError
        For an unknown name, a mode that cannot be, or frames of another shape.
    """
    rows, columns = shape
    name = settings.layout
    if settings.detector_mode is not None:
        layout = layout_of(settings.detector_mode)
        if layout.shape != (rows, columns):
            raise SettingsError(
                f"frames of {rows} × {columns} with detector_mode of {layout.rows} × {layout.columns}: "
                "expected the same"
            )
        return layout
    if name == "none":
        return FCCDLayout(rows, columns, columns, (), ((0, rows),), ((0, rows),))
    if name not in LAYOUTS:
        raise SettingsError(f"layout = {name!r}: expected one of {', '.join([*LAYOUTS, 'none'])}")
    layout = LAYOUTS[name]
    if layout.shape != (rows, columns):
        fitting = [n for n, other in LAYOUTS.items() if other.shape == (rows, columns)]
        largest = min(rows, columns)
        window = f", and cleaning.crop_px={largest} or less" if settings.crop_px > largest else ""
        raise SettingsError(
            f"frames of {rows} × {columns} with layout {name!r}: expected {layout.rows} × {layout.columns}; "
            f"set cleaning.layout={fitting[0] if fitting else f'none{window}'}"
        )
    return layout


def by_adc(frames: Any, layout: FCCDLayout) -> Any:
    """Return a view of raw frames (…, rows, columns) as (…, rows, ADCs side by side, columns per ADC)."""
    return frames.reshape(*frames.shape[:-1], layout.adcs_per_half, layout.columns_per_adc)


def assemble(frames: Any, layout: FCCDLayout, xp: ModuleType = np) -> Any:
    """Return the image (…, *layout.image_shape) in raw frames (…, rows, columns), overscan and blank rows left out.

    Works for anything that has a value per raw pixel, of any dtype.
    """
    blocks = by_adc(frames, layout)
    halves = [
        blocks[..., start:stop, :, layout.for_half(half).data_columns]
        for half, (start, stop) in enumerate(layout.good_rows)
    ]
    good = xp.concatenate(halves, axis=-3)
    return good.reshape(*frames.shape[:-2], *layout.image_shape)
