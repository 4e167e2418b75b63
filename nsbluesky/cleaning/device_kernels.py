"""The two fused kernels of the cleaning on a GPU, in CUDA, and the same in NumPy.

A frame's way is memory traffic: raw words are read once, the window is written once and read once, and what remains
is sixteen times smaller.  Everything else (overscan, interference, resampling) is array operations of the libraries.

The CUDA source uses nothing that C++ has not, so that a test compiles it for the host and compares it with its twin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Launch
from nsbluesky.cleaning.photons import keep_photons
from nsbluesky.cleaning.resample import rebin

__all__ = ["SOURCE", "twin_launch"]

SOURCE = r"""
extern "C" __global__
void load_window(
    const unsigned short* frames, const int* raw_rows, const int* halves, const int* columns, const float* dark,
    const float* offset, const unsigned char* good, float* values, unsigned char* doubtful,
    int n, int raw_height, int raw_width, int rows, int width, int per_adc,
    int value_bits, int middle, int full_bits, int full)
{
    const long long total = (long long)n * rows * width;
    const long long stride = (long long)gridDim.x * blockDim.x;
    const int adcs = width / per_adc;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += stride) {
        const int x = i % width;
        const long long line = i / width;
        const int r = line % rows;
        const int f = line / rows;
        const int pixel = r * width + x;
        float value = 0.0f;
        if (raw_rows[r] >= 0 && good[pixel]) {
            const int word = frames[((long long)f * raw_height + raw_rows[r]) * raw_width
                                    + columns[halves[r] * width + x]];
            const int code = middle ? word >> 13 : 0;
            const int gain = code == middle ? 1 : code == 6 ? 2 : 0;
            const bool error = code != 0 && gain == 0;
            const float pedestal = dark[(middle ? gain : 0) * rows * width + pixel];
            value = ((float)(word & value_bits) - pedestal) - offset[line * adcs + x / per_adc];
            if (middle)
                value *= error ? 0.0f : gain == 0 ? 1.0f : gain == 1 ? 4.0f : 8.0f;
            if (error || (word & full_bits) >= full)
                doubtful[f] = 1;
        }
        values[i] = value;
    }
}

extern "C" __global__
void sum_bins(
    const float* values, const float* weights, const float* scale, float* bins,
    int n, int rows, int width, int source, int target, int count, int num_bins, int bin_px, float threshold)
{
    const long long total = (long long)n * num_bins * num_bins;
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += stride) {
        const int bx = i % num_bins;
        const int by = (i / num_bins) % num_bins;
        const float* frame = values + (i / num_bins / num_bins) * rows * width;
        float sum = 0.0f;
        for (int r = by * bin_px; r < (by + 1) * bin_px; ++r) {
            for (int c = bx * bin_px; c < (bx + 1) * bin_px; ++c) {
                if (c < target || c >= target + count)
                    continue;
                const int x = c - target + source;
                const float value = frame[r * width + x];
                bool keep = !(threshold > 0.0f) || value > threshold;
                for (int down = r > 0 ? r - 1 : 0; !keep && down <= r + 1 && down < rows; ++down)
                    for (int right = x > 0 ? x - 1 : 0; right <= x + 1 && right < width; ++right)
                        keep = keep || frame[down * width + right] > threshold;
                if (keep)
                    sum += value * weights[r * width + x];
            }
        }
        bins[i] = sum * scale[by * num_bins + bx];
    }
}
"""


def twin_launch(name: str, size: int, *arguments: Any) -> None:
    """Do in NumPy what a kernel does."""
    twins: dict[str, Launch] = {"load_window": _load_window, "sum_bins": _sum_bins}
    twins[name](*arguments)


def _load_window(
    frames: npt.NDArray[np.uint16],
    raw_rows: npt.NDArray[np.int32],
    halves: npt.NDArray[np.int32],
    columns: npt.NDArray[np.int32],
    dark: npt.NDArray[np.float32],
    offset: npt.NDArray[np.float32],
    good: npt.NDArray[np.uint8],
    values: npt.NDArray[np.float32],
    doubtful: npt.NDArray[np.uint8],
    n: int,
    raw_height: int,
    raw_width: int,
    rows: int,
    width: int,
    per_adc: int,
    value_bits: int,
    middle: int,
    full_bits: int,
    full: int,
) -> None:
    """Write windows (n, rows, width) in ADU at gain ×8, and mark frames with saturated or unknown words.

    Parameters
    ----------
    frames : (n, raw_height, raw_width) uint16
    raw_rows, halves : (rows,) int32
        Raw row of each row of the window, −1 off the sensor; and its half.
    columns : (2, width) int32
        Raw column of each column of the window, by half.
    dark : (3, rows, width) float32
        Of gain ×8, of the middle and of the lowest one.
    offset : (n, rows, width / per_adc) float32
    good : (rows, width) uint8
    values : (n, rows, width) float32
        Written.
    doubtful : (n,) uint8
        Set to 1.
    value_bits, full_bits, full : int
        Bits of a word's value; a word is saturated where `word & full_bits` reaches `full`.
    middle : int
        Code of the middle gain; 0 without gain bits.
    """
    words = frames[:n, np.maximum(raw_rows, 0)[:, np.newaxis], columns[halves]]
    usable = (good != 0) & (raw_rows >= 0)[:, np.newaxis]
    codes = words >> 13 if middle else np.zeros_like(words)
    values[:n] = (words & value_bits) - np.choose((codes == middle) + 2 * (codes == 6) if middle else codes, dark)
    values[:n] -= np.repeat(offset[:n], per_adc, axis=2)
    bad = (words & full_bits) >= full
    if middle:
        factors = (codes == 0) + np.float32(4) * (codes == middle) + np.float32(8) * (codes == 6)
        values[:n] *= factors
        bad |= factors == 0
    values[:n] *= usable
    doubtful[:n] |= (bad & usable).any(axis=(1, 2))


def _sum_bins(
    values: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
    bins: npt.NDArray[np.float32],
    n: int,
    rows: int,
    width: int,
    source: int,
    target: int,
    count: int,
    num_bins: int,
    bin_px: int,
    threshold: float,
) -> None:
    """Write bins (n, num_bins, num_bins) in photons: what passes the threshold, weighted, cropped and summed.

    Parameters
    ----------
    values : (n, rows, width) float32
        ADU.
    weights : (rows, width) float32
        What to multiply by: the beamstop.
    scale : (num_bins, num_bins) float32
        Photons per ADU.
    bins : (n, num_bins, num_bins) float32
        Written.
    source, target, count : int
        First column of the width that lies in the square window, where it goes there, and how many columns do.
    bin_px : int
    threshold : float
        In ADU; 0 keeps everything.
    """
    kept = values[:n] * weights
    if threshold > 0:
        kept *= keep_photons(values[:n], threshold)
    square = np.zeros((n, rows, rows), np.float32)
    square[..., target : target + count] = kept[..., source : source + count]
    bins[:n] = rebin(square, num_bins) * scale
