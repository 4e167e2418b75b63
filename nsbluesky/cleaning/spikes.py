"""Periodic interference along the readout: its frequencies, found once a scan, and its removal from every frame.

A few lines of fixed frequency in the clock, of another phase in every frame and another amplitude in every ADC.  The
frequencies are known from many frames, far better than one frame's Fourier transform resolves them.  What is left to
find in a frame is one complex amplitude per line and ADC, which some thousand background pixels give by linear least
squares; pixels with light are left out of the sums, so nothing has to be filled in.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage

from nsbluesky.cleaning.layout import FCCDLayout, by_adc

__all__ = [
    "NO_LINES",
    "InterferenceLines",
    "SpikeFit",
    "background_sequences",
    "find_lines",
    "remove_spikes",
    "remove_spikes_fourier",
    "spike_fits",
]

# Of an ADC's pixels, at least so many must be background for its amplitudes to be trusted.
LEAST_BACKGROUND = 0.1
# Beyond so many sigmas of the read noise a pixel has light, once the lines are gone.
NOISE_SIGMAS = 4.0

MEDIAN_BINS = 101  # of the spectrum's local level
LOWEST_CYCLES = 12  # per sequence: what is slower is drift
APART_BINS = 4  # two lines closer than this are one; the main lobe of a Hann window ends after two bins
MAX_LINES = 8
MAX_SEQUENCES = 1536  # more do not find more, and take longer
DRIFT_ROWS = 40  # blocks whose medians follow drift
CLIP_SIGMAS = 6.0
FOURIER_ITERATIONS = 2


@dataclass(frozen=True, eq=False)
class InterferenceLines:
    """The frequencies of the interference.

    Attributes
    ----------
    frequencies : (lines,) float64
        In cycles per clock, between 0 and 0.5, strongest first.
    amplitudes_adu : (lines,) float64
        Root mean square over ADCs and frames of the lines' amplitudes.
    """

    frequencies: npt.NDArray[np.float64]
    amplitudes_adu: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.frequencies)


NO_LINES = InterferenceLines(np.zeros(0), np.zeros(0))


def background_sequences(
    frames: npt.NDArray[np.uint16],
    dark_mean: npt.NDArray[np.float32],
    bad: npt.NDArray[np.bool_],
    layout: FCCDLayout,
    limit_adu: float,
) -> npt.NDArray[np.float32]:
    """Return what each ADC reads without light, in the order of time.

    Parameters
    ----------
    frames : (n, rows, columns) uint16
        Raw values without gain bits: dark frames, or frames with light.
    dark_mean, bad : (rows, columns) float32 and bool
        Mean dark frame and bad pixels.
    layout : FCCDLayout
    limit_adu : float
        Pixels from here on have light: they become 0, and sequences with more than a few of them are left out.

    Returns
    -------
    (sequences, clocks) float32
        ADU.  Drift and each column's mean are subtracted.  All columns of an ADC, overscan too: time has no gaps.
    """
    per_adc = layout.columns_per_adc
    found = []
    for half, (start, stop) in enumerate(layout.good_rows):
        first = layout.halves[half][0]
        order = np.argsort(layout.clocks(half)[start - first : stop - first], axis=None)
        values = by_adc(frames[:, start:stop] - dark_mean[start:stop], layout)
        usable = by_adc(~bad[start:stop], layout)
        sequences = values.transpose(0, 2, 1, 3).reshape(len(frames), layout.adcs_per_half, -1)[..., order]
        good = usable.transpose(1, 0, 2).reshape(layout.adcs_per_half, -1)[:, order]
        adcs = np.flatnonzero(good.mean(axis=1) > 0.9)
        block = np.where(good[adcs], sequences[:, adcs], np.nan).reshape(-1, good.shape[1])
        found.append(block)
    sequences = np.concatenate(found)
    if len(sequences) == 0:
        return sequences
    sequences = sequences[:: -(-len(sequences) // MAX_SEQUENCES)]
    sequences -= _drift(sequences, DRIFT_ROWS * per_adc)
    light = ~(np.abs(sequences) < limit_adu)
    few = light.mean(axis=1) < 0.2
    sequences, light = sequences[few], light[few]
    sequences[light] = 0
    counts = (~light).reshape(len(light), -1, per_adc).sum(axis=1)
    columns = sequences.reshape(len(light), -1, per_adc)
    columns -= (columns.sum(axis=1) / np.maximum(counts, 1))[:, np.newaxis]
    sequences[light] = 0
    return np.asarray(sequences)


def _drift(sequences: npt.NDArray[np.float32], length: int) -> npt.NDArray[np.float32]:
    """Return the medians of blocks of about `length` clocks, linear in between."""
    clocks = sequences.shape[1]
    edges = np.linspace(0, clocks, max(clocks // length, 1) + 1).astype(int)
    middles = (edges[1:] + edges[:-1] - 1) / 2
    with np.errstate(all="ignore"):
        blocks = [np.nanmedian(sequences[:, a:b], axis=1) for a, b in itertools.pairwise(edges)]
    medians = np.nan_to_num(np.stack(blocks, axis=1))
    place = np.clip(np.interp(np.arange(clocks), middles, np.arange(len(middles))), 0, len(middles) - 1)
    left = np.minimum(place.astype(int), max(len(middles) - 2, 0))
    right = np.minimum(left + 1, len(middles) - 1)
    share = (place - left).astype(np.float32)
    drift: npt.NDArray[np.float32] = (medians[:, left] * (1 - share) + medians[:, right] * share).astype(np.float32)
    return drift


def find_lines(
    sequences: npt.NDArray[np.floating[Any]], sigmas: float, columns_per_adc: int = 0
) -> InterferenceLines:
    """Return the narrow lines that stand out of the mean power spectrum of background sequences.

    Parameters
    ----------
    sequences : (sequences, clocks) float
        ADU along time, without drift; see `background_sequences`.
    sigmas : float
        A line's power stands out of the local level by so many standard deviations of the spectrum's noise.
    columns_per_adc : int
        Clocks of a row.  What repeats row by row is no interference: light falls on data columns alone, and what
        of it stays below the limit of the background looks like lines at this period and its harmonics.  0: none.

    Notes
    -----
    Each sequence is windowed (Hann) and its power spectrum averaged over ADCs and frames, whose phases have nothing
    to do with each other.  A maximum is then refined on the periodogram between the bins: it is the least-squares
    frequency (Rife & Boorstyn, IEEE Trans. Inf. Theory 20, 591 (1974)).
    """
    if len(sequences) == 0 or sequences.shape[1] < 4 * MEDIAN_BINS:
        return NO_LINES
    count, clocks = sequences.shape
    window = np.hanning(clocks + 2)[1:-1].astype(np.float32)
    scale = 1.4826 * np.median(np.abs(sequences), axis=1, keepdims=True) + np.float32(1e-6)
    limit = CLIP_SIGMAS * scale
    # noisy ADCs say less: each counts by its own noise
    windowed = (np.clip(sequences, -limit, limit) * (window / scale)).astype(np.float32)
    power = np.zeros(clocks // 2 + 1)
    for start in range(0, count, 64):
        power += (np.abs(scipy.fft.rfft(windowed[start : start + 64], axis=1)) ** 2).sum(axis=0)
    power /= count
    level = scipy.ndimage.median_filter(power, MEDIAN_BINS, mode="nearest")
    excess = power / np.maximum(level, 1e-30) - 1
    noise = 1.4826 * np.median(np.abs(excess[LOWEST_CYCLES:]))
    excess[:LOWEST_CYCLES] = 0
    for harmonic in range(1, columns_per_adc // 2 + 1):
        at = round(harmonic * clocks / columns_per_adc)
        excess[max(at - LOWEST_CYCLES, 0) : at + LOWEST_CYCLES + 1] = 0
    peaks: list[int] = []
    for k in np.argsort(excess)[::-1]:
        if excess[k] < sigmas * noise or len(peaks) == MAX_LINES:
            break
        if excess[k] < excess[max(k - 1, 0) : k + 2].max() or any(abs(k - other) < APART_BINS for other in peaks):
            continue
        peaks.append(int(k))
    if not peaks:
        return NO_LINES
    frequencies = np.array([_refine(windowed, k / clocks) for k in peaks])
    unit = np.exp(-2j * np.pi * np.outer(np.arange(clocks), frequencies))
    amplitudes = np.abs((sequences * window) @ unit) * (2 / window.sum())
    return InterferenceLines(frequencies, np.sqrt((amplitudes**2).mean(axis=0)))


def _refine(windowed: npt.NDArray[np.float32], frequency: float) -> float:
    """Return the maximum of the summed periodogram near `frequency`, by parabolas of shrinking width."""
    clocks = windowed.shape[1]
    times = np.arange(clocks) - (clocks - 1) / 2
    for width in (0.5, 0.1, 0.02):
        offsets = frequency + np.array([-1.0, 0.0, 1.0]) * width / clocks
        unit = 2 * np.pi * np.outer(times, offsets)
        real, imaginary = windowed @ np.cos(unit).astype(np.float32), windowed @ np.sin(unit).astype(np.float32)
        before, here, after = (real.astype(np.float64) ** 2 + imaginary.astype(np.float64) ** 2).sum(axis=0)
        curvature = before - 2 * here + after
        if curvature < 0:
            shift = 0.5 * (before - after) / curvature
            frequency += float(np.clip(shift, -2, 2)) * width / clocks
    return frequency


@dataclass(frozen=True, eq=False)
class SpikeFit:
    """The interference's basis on the wanted rows of one half, the same for each of its ADCs.

    Attributes
    ----------
    image_rows : slice
        Where the rows lie in the window.
    row_basis : (2·lines, rows) float32
        cos and sin of each line at the rows' clocks.
    column_basis : (2·lines, columns) float32
        The same at the clocks of an ADC's data columns, which add to the rows'.
    basis : (2·lines, rows, columns) float32
        cos and sin at every pixel.
    limits_adu : (float, float)
        Pixels up to here are background to the first and to the second fit.
    """

    image_rows: slice
    row_basis: Any
    column_basis: Any
    basis: Any
    limits_adu: tuple[float, float]

    def pairs(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return `full`, `pair_rows` and `pair_columns` of `nsbluesky.cleaning.spike_loops`.

        Products of cosines and sines of two lines are cosines and sines of the sum and of the difference of their
        phases.  So of each two lines, and of each with itself but for the difference, which is 1: exp(i(φₖ + φₘ)) and
        exp(i(φₖ − φₘ)), m ≤ k, each as a real and an imaginary part; the rows end with the 1.
        """
        flat = self.basis.reshape(len(self.basis), -1).astype(np.float64)
        rows, columns = (self._pair_waves(a) for a in (self.row_basis, self.column_basis))
        return flat @ flat.T, np.concatenate([rows, np.ones((1, rows.shape[1]), np.float32)]), columns

    @staticmethod
    def _pair_waves(basis: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        waves = basis[0::2].astype(np.float64) + 1j * basis[1::2]
        pairs = []
        for k, wave in enumerate(waves):
            for m in range(k + 1):
                pairs += [wave * waves[m]] if m == k else [wave * waves[m], wave * waves[m].conj()]
        return np.array([part for pair in pairs for part in (pair.real, pair.imag)], np.float32)


def spike_fits(
    lines: InterferenceLines,
    layout: FCCDLayout,
    parts: list[tuple[slice, slice]],
    *,
    adu_per_photon: float,
    noise_adu: float,
    xp: ModuleType = np,
) -> tuple[SpikeFit, ...]:
    """Prepare `remove_spikes` on a window.

    Parameters
    ----------
    lines : InterferenceLines
    layout : FCCDLayout
    parts : list of (slice, slice)
        For each half that the window touches its raw rows, and where they lie in the window.
    adu_per_photon : float
        Background is what lies below one photon; or below the noise and the lines' peaks, where they are higher.
    noise_adu : float
        Read noise.

    Returns
    -------
    tuple of SpikeFit
        One for each half; none where there are no lines.
    """
    fits: list[SpikeFit] = []
    for raw_rows, image_rows in parts if len(lines) else []:
        half = next(k for k, (start, stop) in enumerate(layout.halves) if start <= raw_rows.start < stop)
        start = layout.halves[half][0]
        wanted = slice(raw_rows.start - start, raw_rows.stop - start)
        clocks = layout.clocks(half)[wanted, layout.for_half(half).data_columns]
        rows = clocks[:, 0] - clocks[0, 0]
        columns = clocks[0] - clocks[0, 0]
        row_basis, column_basis, basis = (
            _cos_sin(lines, times) for times in (rows, columns, rows[:, np.newaxis] + columns)
        )
        closer = NOISE_SIGMAS * noise_adu
        limit = max(adu_per_photon, closer + np.sqrt(2) * float(lines.amplitudes_adu.sum()))
        row_basis, column_basis, basis = (xp.asarray(a) for a in (row_basis, column_basis, basis))
        fits.append(SpikeFit(image_rows, row_basis, column_basis, basis, (limit, closer)))
    return tuple(fits)


def _cos_sin(lines: InterferenceLines, times: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    phases = 2 * np.pi * np.multiply.outer(lines.frequencies, times)
    pairs = np.stack([np.cos(phases), np.sin(phases)], axis=1).astype(np.float32)
    return pairs.reshape(-1, *times.shape)


def remove_spikes(values: Any, fits: tuple[SpikeFit, ...], good: Any = None, xp: ModuleType = np) -> None:
    """Subtract the interference from `values` (n, rows, width) in ADU, in place.

    Parameters
    ----------
    values : (n, rows, width) float32
        Whole ADCs side by side, without dark and offset.
    fits : tuple of SpikeFit
        Of `spike_fits` for the same window.
    good : (rows, width), optional
        0 for pixels that tell nothing.  The interference is subtracted from them as from all others.
    xp : module
        NumPy or CuPy.

    Notes
    -----
    Two fits.  The first takes for background what lies below one photon.  That choice is not free of what is sought:
    near the limit, the crests of the interference are left out and its troughs kept, and too small an amplitude comes
    out where pixels have a part of a photon's charge.  The second fit, of the remainder, chooses with the lines gone
    and closer to the noise.

    An ADC with little background keeps its interference: an amplitude found on a few pixels around the light would
    be biased by it.
    """
    for fit in fits:
        columns = fit.basis.shape[2]
        part = values[:, fit.image_rows]
        part = part.reshape(*part.shape[:2], -1, columns)
        usable = None if good is None else (good[fit.image_rows] != 0).reshape(*part.shape[1:])
        for limit in fit.limits_adu:
            background = xp.abs(part) < limit
            if usable is not None:
                background &= usable
            amplitudes = _amplitudes(part, background, fit.basis, xp)
            part -= xp.tensordot(amplitudes, fit.basis, 1).transpose(0, 2, 1, 3)


def _amplitudes(part: Any, background: Any, basis: Any, xp: ModuleType) -> Any:
    """Return the amplitudes (n, ADCs, 2·lines) of least squares over the background of each ADC."""
    size = len(basis)
    weights = background.astype(xp.float32)
    products = (basis[:, np.newaxis] * basis).reshape(size * size, -1)
    flat = basis.reshape(size, -1)
    n, rows, adcs, columns = part.shape
    by_pixel = [a.transpose(0, 2, 1, 3).reshape(n, adcs, rows * columns) for a in (weights, weights * part)]
    normal = (by_pixel[0] @ products.T).reshape(n, adcs, size, size)
    moments = by_pixel[1] @ flat.T
    enough = by_pixel[0].mean(axis=-1) >= LEAST_BACKGROUND
    # Where there is too little, any solvable system will do.
    normal = xp.where(enough[..., np.newaxis, np.newaxis], normal, xp.eye(size, dtype=xp.float32))
    solved = xp.linalg.solve(normal, moments[..., np.newaxis])[..., 0]
    return xp.where(enough[..., np.newaxis], solved, xp.float32(0)).astype(xp.float32)


def remove_spikes_fourier(
    values: Any,
    layout: FCCDLayout,
    parts: list[tuple[slice, slice]],
    *,
    limit_adu: float,
    sigmas: float,
    xp: ModuleType = np,
) -> None:
    """Subtract the interference by filtering each ADC's Fourier transform along time, in place.

    The publication's way: it needs no frequencies and follows lines that wander.

    Parameters
    ----------
    values : (n, rows, width) float32
        A window of whole ADCs in ADU, without dark and offset.
    layout : FCCDLayout
    parts : list of (slice, slice)
        As for `spike_fits`.
    limit_adu : float
        Pixels up to here are background.  The others, and the clocks of the overscan, are filled: with 0 at first,
        then with the interference found so far.
    sigmas : float
        A frequency is interference where its power stands out of the spectrum's mean so many times, beyond what the
        greatest of so many frequencies reaches by chance.
    xp : module
        NumPy or CuPy.
    """
    fft = scipy.fft if xp is np else xp.fft
    per_adc = layout.columns_per_adc
    for raw_rows, image_rows in parts:
        half = next(k for k, (start, stop) in enumerate(layout.halves) if start <= raw_rows.start < stop)
        data_columns = layout.for_half(half).data_columns
        part = values[:, image_rows]
        n, rows, width = part.shape
        adcs = width // layout.data_columns_per_adc
        # Time runs backwards in the bottom half, which does not matter to a Fourier transform.
        padded = xp.full((n, adcs, rows, per_adc), np.nan, np.float32)
        padded[..., data_columns] = part.reshape(n, rows, adcs, -1).transpose(0, 2, 1, 3)
        sequences = padded.reshape(n, adcs, -1)
        interference = xp.zeros_like(sequences)
        for _ in range(FOURIER_ITERATIONS):
            remainder = sequences - interference
            background = xp.where(xp.abs(remainder) < limit_adu, remainder, xp.float32(0)) + interference
            spectrum = fft.rfft(background, axis=-1)
            power = spectrum.real**2 + spectrum.imag**2
            level = xp.median(power, axis=-1, keepdims=True) / np.log(2)  # of exponential noise, from its median
            strong = power > level * (np.log(power.shape[-1]) + sigmas)
            strong[..., :LOWEST_CYCLES] = False
            interference = fft.irfft(xp.where(strong, spectrum, xp.complex64(0)), n=sequences.shape[-1], axis=-1)
        found = interference.reshape(n, adcs, rows, per_adc)[..., data_columns].transpose(0, 2, 1, 3)
        part -= found.reshape(part.shape)
