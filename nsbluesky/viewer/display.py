"""From measured arrays to what is drawn: ranges, logarithms, phases and scale bars; pure functions of arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Phase",
    "Span",
    "common_exponent",
    "count_text",
    "display_phase",
    "half_period_text",
    "length_text",
    "log10_image",
    "log10_range",
    "measured_window",
    "mode_powers",
    "nice_length",
    "photons_text",
    "power_text",
    "probe_mosaic",
    "remove_ramp",
    "robust_range",
    "symmetric_range",
    "thin_out",
    "to_host",
]

Span = tuple[float, float]
MAX_RANGE_SAMPLES = 65536
"""Values that percentiles are taken of."""
ROUNDING = 1e-6
"""Values that differ by no more than this part of them, and phases by as many radians, are one: float32 rounds."""


def to_host(array: Any) -> npt.NDArray[Any]:
    """Return a NumPy array; one that lives on a GPU is copied, others are not."""
    return np.asarray(array.get() if hasattr(array, "get") else array)


def thin_out(image: npt.NDArray[Any], max_px: int) -> npt.NDArray[Any]:
    """Return every k-th row and column (a view), so that no side exceeds `max_px`."""
    step = max(1, math.ceil(max(image.shape[-2:]) / max_px))
    return image[..., ::step, ::step]


def robust_range(image: npt.NDArray[Any], percentiles: Span = (1.0, 99.0), least: float = 0.0) -> Span:
    """Return the two percentiles of the finite values, of a regular sample where there are many; never empty.

    Of one value alone, a thousandth of it to both sides, and of zeros 0 to 1.  What is no more than `least` counts as
    none.
    """
    flat = image.ravel()
    flat = flat[:: max(1, flat.size // MAX_RANGE_SAMPLES)]
    flat = flat[np.isfinite(flat)]
    if not flat.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(flat, percentiles))
    if high - low > max(least, ROUNDING * max(abs(low), abs(high))):
        return low, high
    margin = abs(low) * 1e-3
    return (low - margin, high + margin) if margin > least else (0.0, 1.0)


def symmetric_range(image: npt.NDArray[Any]) -> Span:
    """Return the median ± the larger distance to percentiles 1 and 99, for a diverging colour map."""
    low, high = robust_range(image)
    flat = image[np.isfinite(image)]
    middle = float(np.median(flat)) if flat.size else 0.5 * (low + high)
    half = max(high - middle, middle - low)
    return middle - half, middle + half


def measured_window(image: npt.NDArray[Any]) -> tuple[slice, slice]:
    """Return the rows and columns that hold everything that is not NaN; all of them where nothing is measured."""
    finite = np.isfinite(image)
    rows, columns = np.flatnonzero(finite.any(axis=1)), np.flatnonzero(finite.any(axis=0))
    if not rows.size:
        return slice(0, image.shape[0]), slice(0, image.shape[1])
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def log10_image(image: npt.NDArray[Any], floor: float) -> npt.NDArray[np.float32]:
    """Return log10 of an image as float32; values below `floor` are drawn as `floor`."""
    logarithm: npt.NDArray[np.float32] = np.log10(np.maximum(image, floor), dtype=np.float32)
    return logarithm


def remove_ramp(image: npt.NDArray[np.complexfloating[Any]]) -> npt.NDArray[np.complex64]:
    """Return `image` without its mean phase slope and offset, which ptychography cannot tell; NaN stays NaN.

    The slope is the phase of the mean product of neighbours, so that wrapped phases do no harm.
    """
    filled = np.where(np.isfinite(image), image, np.complex64(0))
    slope_row = np.angle(np.vdot(filled[:-1], filled[1:]))
    slope_column = np.angle(np.vdot(filled[:, :-1], filled[:, 1:]))
    ramp_row = np.exp(-1j * slope_row * np.arange(image.shape[0])).astype(np.complex64)
    ramp_column = np.exp(-1j * slope_column * np.arange(image.shape[1])).astype(np.complex64)
    offset = np.exp(-1j * np.angle(ramp_row @ filled @ ramp_column)).astype(np.complex64)
    return np.asarray(image * ramp_row[:, None] * (ramp_column * offset), dtype=np.complex64)


def log10_range(logarithm: npt.NDArray[Any], floor: float, percentiles: Span) -> Span:
    """Return the range of a `log10_image` as `robust_range`; where all of it is at the floor, the decade above."""
    low, high = robust_range(logarithm, percentiles)
    darkest = math.log10(floor)
    return (darkest, darkest + 1) if low < darkest - ROUNDING else (low, high)


@dataclass(frozen=True, eq=False)
class Phase:
    """A phase to draw: radians (NaN where unmeasured), and whether it wraps around ±π."""

    image: npt.NDArray[np.float32]
    wrapped: bool

    @property
    def span(self) -> Span:
        """The range to draw: percentiles 0.5 and 99.5, or the whole circle where the phase wraps."""
        return (-math.pi, math.pi) if self.wrapped else robust_range(self.image, (0.5, 99.5), ROUNDING)

    @property
    def colormap(self) -> str:
        """Name of the colour map: a cyclic one where the phase wraps."""
        return "cyclic" if self.wrapped else "viridis"


def display_phase(image: npt.NDArray[np.complexfloating[Any]]) -> Phase:
    """Return the phase of an object without slope and offset, ready to draw."""
    phase = np.angle(remove_ramp(image)).astype(np.float32, copy=False)
    finite = phase[np.isfinite(phase)]
    wrapped = finite.size > 0 and float(np.mean(np.abs(finite) > 0.95 * math.pi)) > 0.005
    return Phase(phase, wrapped)


def mode_powers(probe: npt.NDArray[np.complexfloating[Any]]) -> npt.NDArray[np.float64]:
    """Return the share (modes,) of the power in each mode of a probe (modes, N, N); they add up to 1."""
    power = np.sum(np.abs(probe.reshape(len(probe), -1)) ** 2, axis=1, dtype=np.float64)
    total = power.sum()
    return np.asarray(power / total if total > 0 else power)


def probe_mosaic(probe: npt.NDArray[np.complexfloating[Any]]) -> npt.NDArray[np.float32]:
    """Return the amplitudes of all modes, two side by side, each scaled to its own maximum of 1; NaN is left free."""
    amplitude = np.abs(probe).astype(np.float32)
    peaks = amplitude.max(axis=(1, 2), keepdims=True)
    modes, n, _ = amplitude.shape
    columns = min(modes, 2)
    mosaic = np.full((math.ceil(modes / columns) * n, columns * n), np.nan, np.float32)
    for mode, image in enumerate(amplitude / np.where(peaks > 0, peaks, 1)):
        row, column = divmod(mode, columns)
        mosaic[row * n : (row + 1) * n, column * n : (column + 1) * n] = image
    return mosaic


def nice_length(width: float, share: float = 0.3) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is at most `share` of a width."""
    wanted = width * share
    power = 10.0 ** math.floor(math.log10(wanted))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= wanted * (1 + 1e-9))


def common_exponent(span: Span) -> int:
    """Return the power of ten that is written once at an axis; 0 where numbers are short without."""
    largest = max(abs(span[0]), abs(span[1]))
    return 0 if largest == 0 or 1e-2 <= largest < 1e4 else math.floor(math.log10(largest))


def power_text(exponent: int) -> str:
    """Write a power of ten: "10⁷"."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def count_text(count: float) -> str:
    """Write a large number for people: "950", "1.11·10⁷"; "no" where it is not known."""
    if not math.isfinite(count):
        return "no"
    exponent = common_exponent((count, count))
    return f"{count / 10**exponent:.2f}·{power_text(exponent)}" if exponent > 0 else f"{count:.0f}"


def photons_text(count: float) -> str:
    """Write a number of photons for people: "1 photon", "1.11·10⁷ photons"."""
    text = count_text(count)
    return f"{text} photon" if text == "1" else f"{text} photons"


def half_period_text(resolution_m: float, *, is_pixel: bool) -> str:
    """Write a resolution; one pixel, where the correlation stays above its threshold, is no more than a bound."""
    if not math.isfinite(resolution_m):
        return "not resolved"
    return f"{1e9 * resolution_m:.3g} nm{', the pixel' if is_pixel else ''}"


def length_text(length_um: float) -> str:
    """Write a length for people: "500 nm", "2 µm"."""
    return f"{length_um:g} µm" if length_um >= 1 else f"{1000 * length_um:g} nm"
