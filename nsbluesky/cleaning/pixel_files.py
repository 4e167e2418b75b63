"""What the settings say of single pixels of the assembled image: beamstop, flat field, and which are bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.layout import FCCDLayout
from nsbluesky.settings import CleaningSettings, SettingsError

__all__ = ["bad_pixels", "beamstop_transmission", "flat_field"]


def flat_field(settings: CleaningSettings, layout: FCCDLayout) -> npt.NDArray[np.float32] | None:
    """Return the relative sensitivity of every image pixel, or None where there is no such file.

    Raises
    ------
    SettingsError
        For a file that cannot be read, of another shape, or with values that are no sensitivities.
    """
    if not settings.flat_field:
        return None
    return _read("flat_field", settings.flat_field, layout)


def beamstop_transmission(
    settings: CleaningSettings, layout: FCCDLayout, center_px: tuple[float, float], pixel_size_m: float
) -> npt.NDArray[np.float32] | None:
    """Return what part of the light reaches every image pixel behind the beamstop; None where there is none.

    Parameters
    ----------
    settings : CleaningSettings
    layout : FCCDLayout
    center_px : (float, float)
        Row and column of the beamstop's middle: that of the zero order.
    pixel_size_m : float
        Detector pixel.

    Raises
    ------
    SettingsError
        As `flat_field`.
    """
    if settings.beamstop_shape:
        return _read("beamstop_shape", settings.beamstop_shape, layout)
    if not settings.beamstop_radius_m or settings.beamstop_transmission == 1:
        return None
    rows, columns = (np.arange(size) - c for size, c in zip(layout.image_shape, center_px, strict=True))
    inside = np.hypot(rows[:, np.newaxis], columns) * pixel_size_m <= settings.beamstop_radius_m
    return np.where(inside, settings.beamstop_transmission, 1).astype(np.float32)


def bad_pixels(settings: CleaningSettings, layout: FCCDLayout) -> npt.NDArray[np.bool_] | None:
    """Return which image pixels must not be used, or None where there is no such file.

    Raises
    ------
    SettingsError
        For a file that cannot be read, or of another shape.
    """
    if not settings.bad_pixels:
        return None
    bad: npt.NDArray[np.bool_] = _load("bad_pixels", settings.bad_pixels, layout, "biu") != 0
    return bad


def _read(name: str, path: str, layout: FCCDLayout) -> npt.NDArray[np.float32]:
    values = _load(name, path, layout, "fiu")
    if not (np.isfinite(values).all() and (values > 0).all()):
        bad = int((~(np.isfinite(values) & (values > 0))).sum())
        raise SettingsError(f"{name} = {path!r}: {bad} values are zero, negative or no number; expected all > 0")
    return np.asarray(values, np.float32)


def _load(name: str, path: str, layout: FCCDLayout, kinds: str) -> npt.NDArray[Any]:
    try:
        values: npt.NDArray[Any] = np.load(Path(path).expanduser(), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SettingsError(f"{name} = {path!r}: expected an .npy file ({error})") from error
    if values.shape != layout.image_shape or values.dtype.kind not in kinds:
        raise SettingsError(f"{name} = {path!r} holds {values.dtype} {values.shape}: expected {layout.image_shape}")
    return values
