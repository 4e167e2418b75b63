"""What the words of a raw frame say beside their value: gain, saturation, errors and packets that never came."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.layout import FCCDLayout, by_adc
from nsbluesky.compiled import njit
from nsbluesky.settings import CleaningSettings

__all__ = [
    "GAIN_FACTORS",
    "LOST_WORDS",
    "LOWER_GAINS",
    "LevelProbe",
    "as_16_bits",
    "as_counts",
    "decode_words",
    "find_errors",
    "find_lost_words",
    "gain_of_frame",
    "has_lost_packets",
    "has_packets",
    "is_row_lost",
    "is_saturated",
    "level_probe",
    "never_measured",
    "saturation_limit",
    "spread_saturation",
]

VALUE_BITS = 0x1FFF
GAIN_BITS = 0xC000

# By bits 15, 14 (gain) and 13 (error): what one ADU is worth at gain ×8; 0 for a word that cannot be used.
GAIN_FACTORS = {
    "csxtools": (1.0, 0.0, 0.0, 0.0, 4.0, 0.0, 8.0, 0.0),
    "middle_0x4000": (1.0, 0.0, 4.0, 0.0, 0.0, 0.0, 8.0, 0.0),
}

LOWER_GAINS = (4.0, 8.0)
"""Factors of the middle and of the lowest gain."""

LOST_WORDS = (0x0000, 0x2000)
"""What receivers write where a packet is missing: zeros (ALS), or the error bit alone (libcin)."""

GAIN_PROBE_EVERY = 13

# Words this far from the dark mean, and in so many places, belong to no frame: a pedestal moves by some tens.
WILD_ADU = 1000
WILD_SHARE = 0.5
PROBE_ROWS = 16

# A packet of 2048 words covers all ADCs for ten clocks in a row; so one of any two columns six apart is hit.
PROBE_APART = 6
# Of an ADC row's words, at least so many side by side must be lost: one word may be 0 or 0x2000 by itself.
PROBE_EVERY = 8


def decode_words(words: Any, gain_words: str, xp: ModuleType = np) -> tuple[Any, Any]:
    """Split raw words into values and the factors that bring them to the scale of gain ×8.

    Parameters
    ----------
    words : array of uint16
    gain_words : str
        As `CleaningSettings.gain_words`.
    xp : module
        NumPy or CuPy.

    Returns
    -------
    values : array of uint16
    factors : array of float32, or None
        0 for words that cannot be used; None where all factors are 1.
    """
    if gain_words == "plain":
        return words, None
    values = words & np.uint16(VALUE_BITS)
    if gain_words == "13_bits":
        return values, None
    factors = xp.asarray(GAIN_FACTORS[gain_words], dtype=xp.float32)
    return values, factors[words >> np.uint16(13)]


def gain_of_frame(frame: npt.NDArray[np.uint16], gain_words: str) -> int:
    """Return the gain that most words of a raw frame have: 0 for ×8, which words without gain bits have; 1, 2 lower.

    Some thousand words of it decide.
    """
    if gain_words not in GAIN_FACTORS:
        return 0
    factors = np.asarray(GAIN_FACTORS[gain_words])[frame[::GAIN_PROBE_EVERY, ::GAIN_PROBE_EVERY] >> np.uint16(13)]
    return int(np.argmax([(factors == factor).sum() for factor in (1.0, *LOWER_GAINS)]))


def as_counts(frames: Any, xp: ModuleType = np) -> Any:
    """Return signed words as unsigned ones: a negative one says that a pixel did not measure, as the largest does."""
    if frames.dtype.kind != "i":
        return frames
    unsigned = np.dtype(f"u{frames.dtype.itemsize}")
    return xp.where(frames < 0, unsigned.type(np.iinfo(unsigned).max), frames.astype(unsigned))


def as_16_bits(frames: Any, settings: CleaningSettings, xp: ModuleType = np) -> Any:
    """Return words of any width as uint16, the largest for those that are saturated or do not fit."""
    if frames.dtype == np.uint16:
        return frames
    if settings.gain_words != "plain":
        return frames.clip(0, 0xFFFF).astype(np.uint16)
    _, limit = saturation_limit(settings, 8 * frames.dtype.itemsize)
    return xp.where(frames >= min(limit, 0xFFFF), np.uint16(0xFFFF), frames).astype(np.uint16)


def never_measured(frames: Any, layout: FCCDLayout) -> npt.NDArray[np.bool_]:
    """Return where all of some frames (n, rows, columns) hold the largest word: (rows, columns) bool.

    Detectors that count photons write it to gaps between modules and to dead pixels.  A Fast CCD has neither.
    """
    if has_packets(layout):
        return np.zeros(layout.shape, bool)
    silent: npt.NDArray[np.bool_] = (frames == np.iinfo(frames.dtype).max).all(axis=0)
    return silent


def saturation_limit(settings: CleaningSettings, num_bits: int = 16) -> tuple[int, int]:
    """Return (bits, limit): a word of so many bits is saturated where `word & bits` reaches `limit`.

    Of gain words only those of the lowest gain can be.
    """
    if settings.gain_words == "plain":
        full = 2**num_bits - 1
        return full, min(settings.saturation_word or full, full)
    full = (settings.saturation_word or VALUE_BITS) & VALUE_BITS
    if settings.gain_words == "13_bits":
        return VALUE_BITS, full
    return GAIN_BITS | VALUE_BITS, GAIN_BITS | full


def is_saturated(words: Any, settings: CleaningSettings) -> Any:
    """Return where raw words are saturated."""
    bits, limit = saturation_limit(settings, 8 * words.dtype.itemsize)
    return (words & words.dtype.type(bits)) >= words.dtype.type(limit)


def has_packets(layout: FCCDLayout) -> bool:
    """Return whether frames are as the camera sends them: those without ADCs side by side are images already."""
    return layout.adcs_per_half >= 2 * PROBE_EVERY


def has_lost_packets(frames: Any, layout: FCCDLayout, rows: Any = None, xp: ModuleType = np) -> Any:
    """Return in which raw frames (n, rows, columns) words are missing, (n,) bool, from a small part of them.

    Parameters
    ----------
    frames : (n, rows, columns) uint16
    layout : FCCDLayout
    rows : (r,) int, optional
        Raw rows to look at: those that are never blank.  The image's rows by default.
    xp : module
        NumPy or CuPy.
    """
    found = xp.zeros(len(frames), bool)
    if not has_packets(layout):
        return found
    if rows is None:
        rows = xp.asarray(np.concatenate([np.arange(start, stop) for start, stop in layout.good_rows]))
    if xp is np and frames.dtype == np.uint16:
        _probe(frames, rows, layout.columns_per_adc, found)
        return found
    probe = by_adc(frames[:, rows], layout)[:, :, ::PROBE_EVERY, ::PROBE_APART]
    for word in LOST_WORDS:
        found |= (probe == np.uint16(word)).all(axis=2).any(axis=(1, 2))
    return found


@njit(nogil=True, cache=True)
def _probe(
    frames: npt.NDArray[np.uint16], rows: npt.NDArray[np.int64], per_adc: int, found: npt.NDArray[np.bool_]
) -> None:
    for f in range(len(frames)):
        for row in rows:
            found[f] |= is_row_lost(frames, f, row, per_adc)


@njit(nogil=True, cache=True)
def is_row_lost(frames: npt.NDArray[np.uint16], f: int, row: int, per_adc: int) -> bool:
    """Return whether a raw row of frame `f` lacks the words of a clock that `has_lost_packets` looks at."""
    for column in range(0, per_adc, PROBE_APART):
        word = frames[f, row, column]
        if word != LOST_WORDS[0] and word != LOST_WORDS[1]:
            continue
        lost = True
        for x in range(column, frames.shape[2], PROBE_EVERY * per_adc):
            lost &= frames[f, row, x] == word
        if lost:
            return True
    return False


@dataclass(frozen=True, eq=False)
class LevelProbe:
    """A few words that light never reaches, and what they read in the dark.

    Attributes
    ----------
    rows, columns : (r,) and (c,) int
        Of the raw frame.
    levels : (r, c) float32
        Dark mean in ADU.
    value_bits : int
        Of a word.
    """

    rows: Any
    columns: Any
    levels: Any
    value_bits: int

    def corrupt(self, frames: Any) -> Any:
        """Return which frames (n, rows, columns) are something else than frames, (n,) bool."""
        if isinstance(frames, np.ndarray) and frames.dtype == np.uint16:
            wild = np.zeros(len(frames), np.int64)
            _count_wild(frames, self.rows, self.columns, self.levels, self.value_bits, wild)
            return wild > WILD_SHARE * self.levels.size
        words = frames[:, self.rows[:, np.newaxis], self.columns] & np.uint16(self.value_bits)
        return (abs(words - self.levels) > WILD_ADU).mean(axis=(1, 2)) > WILD_SHARE


@njit(nogil=True, cache=True)
def _count_wild(
    frames: npt.NDArray[np.uint16],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    levels: npt.NDArray[np.float32],
    bits: int,
    wild: npt.NDArray[np.int64],
) -> None:
    for f in range(len(frames)):
        for k, row in enumerate(rows):
            for j, column in enumerate(columns):
                wild[f] += abs(np.float32(frames[f, row, column] & bits) - levels[k, j]) > WILD_ADU


def level_probe(
    mean: npt.NDArray[np.float32], layout: FCCDLayout, settings: CleaningSettings, xp: ModuleType = np
) -> LevelProbe | None:
    """Return the probe of frames with a mean dark (rows, columns): some rows of the overscan, in the top half.

    None without overscan, where nothing is never lit.
    """
    if not layout.overscan_columns:
        return None
    start, stop = layout.good_rows[0]
    rows = np.arange(start, stop, PROBE_ROWS)
    columns = np.arange(layout.adcs_per_half) * layout.columns_per_adc + layout.overscan_columns[0]
    bits = 0xFFFF if settings.gain_words == "plain" else VALUE_BITS
    levels = mean[rows[:, np.newaxis], columns]
    return LevelProbe(xp.asarray(rows), xp.asarray(columns), xp.asarray(levels), bits)


def find_lost_words(frame: Any, layout: FCCDLayout, xp: ModuleType = np) -> Any:
    """Return where words of a raw frame (rows, columns) are missing, bool of the same shape.

    A packet begins and ends somewhere among the ADCs of a clock.  So a word counts as lost where it is one of
    `LOST_WORDS` in a row, or beside a row, that has a clock without any other.
    """
    lost = xp.zeros(by_adc(frame, layout).shape, bool)
    for start, stop in layout.good_rows:
        blocks = by_adc(frame[start:stop], layout)
        for word in LOST_WORDS:
            same = blocks == np.uint16(word)
            rows = same.all(axis=1).any(axis=-1)
            near = rows.copy()
            near[1:] |= rows[:-1]
            near[:-1] |= rows[1:]
            lost[start:stop] |= same & near[:, np.newaxis, np.newaxis]
    return lost.reshape(frame.shape)


def find_errors(frame: Any, settings: CleaningSettings, xp: ModuleType = np) -> Any | None:
    """Return which words have the error bit or an unknown gain, or None where words have neither."""
    if settings.gain_words not in GAIN_FACTORS:
        return None
    return decode_words(frame, settings.gain_words, xp)[1] == 0


def spread_saturation(saturated: Any, layout: FCCDLayout, settings: CleaningSettings, xp: ModuleType = np) -> Any:
    """Return what saturated image pixels (rows, columns) make unusable: themselves, neighbours and shadowed ADCs."""
    for _ in range(settings.saturation_dilation_px):
        saturated = _grown(saturated, xp)
    if settings.shadow_adcs:
        saturated = saturated | _shadows(saturated, layout, settings.shadow_adcs, xp)
    return saturated


def _grown(mask: Any, xp: ModuleType) -> Any:
    padded = xp.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def _shadows(mask: Any, layout: FCCDLayout, adcs: int, xp: ModuleType) -> Any:
    """Return the ADC rows up to `adcs` beside one with a saturated pixel (ACME: charge shadows two outward)."""
    per_adc = layout.data_columns_per_adc
    hit = mask.reshape(mask.shape[0], -1, per_adc).any(axis=-1)
    padded = xp.pad(hit, ((0, 0), (adcs, adcs)))
    near = xp.zeros_like(hit)
    for shift in range(2 * adcs + 1):
        near |= padded[:, shift : shift + hit.shape[1]]
    return xp.repeat(near, per_adc, axis=1)
