"""What the Fast CCD adds to the light: pedestals, readout baseline, drift, noise and faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numba
import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.layout import FCCDLayout, by_adc
from nsbluesky.simulation.faults import DetectorFaults, FaultMap, place_faults
from nsbluesky.simulation.interference import Interference, interference_waves

__all__ = ["Electronics", "Gain", "Readout"]

MAX_WORD = 65535.0
MAX_VALUE = 0x1FFF
ERROR_BIT = 0x2000
GAIN_DIVISORS = (1.0, 4.0, 8.0)  # ×8, ×2, ×1
GAIN_BITS = {
    "csxtools": (0x0000, 0x8000, 0xC000),
    "middle_0x4000": (0x0000, 0x4000, 0xC000),
    "13_bits": (0xC000, 0xC000, 0xC000),
}
POOL_SPARE = 1 << 20


@dataclass(frozen=True)
class Gain:
    """How levels become words.

    Attributes
    ----------
    words : {"plain", "csxtools", "middle_0x4000", "13_bits"}
        "plain": 16 bits at gain ×8.  "csxtools", "middle_0x4000": 13 bits and the gain of each pixel, ×8, ×2 or ×1,
        in bits 15 and 14.  "13_bits": 13 bits at gain ×8, under the constant bits 110.
    switch_adu : float
        A pixel that would read more goes on to the next lower gain.
    pedestal_factors : (float, float, float)
        Pedestal of each gain, relative to that at ×8.
    error_chance : float
        That a word carries the error bit, per pixel and frame.
    """

    words: Literal["plain", "csxtools", "middle_0x4000", "13_bits"] = "plain"
    switch_adu: float = 7700.0
    pedestal_factors: tuple[float, float, float] = (1.0, 0.97, 0.94)
    error_chance: float = 0.0

    def __post_init__(self) -> None:
        """Check every value."""
        if self.words not in ("plain", *GAIN_BITS):
            raise ValueError(f"words = {self.words!r}: expected one of {', '.join(['plain', *GAIN_BITS])}")
        if not 0 < self.switch_adu <= MAX_VALUE:
            raise ValueError(f"switch_adu = {self.switch_adu!r}: expected above 0 and at most {MAX_VALUE}")


@dataclass(frozen=True)
class Electronics:
    """Levels of a real sensor, in ADU unless the name says otherwise.

    Attributes
    ----------
    pedestal, pedestal_spread : float
        Mean pedestal, and its relative spread over ADCs.
    fixed_pattern : float
        Standard deviation over the columns of each ADC.
    overscan_step : float
        Overscan columns lie this much below data columns.
    decay, decay_rows, rail_rows : float, float, int
        Exponential start of the readout: amplitude, time constant, and how long it stays constant before.
    decay_jitter : float
        Relative change of its amplitude from frame to frame.
    drift : float
        Standard deviation of each coefficient of a quadratic along the readout, per ADC and frame.
    read_noise : float
        Per pixel and frame.
    junk_rows : int
        Rows of noise at the start and at the end of each half.
    blank_rows : int
        Rows of each half, next to the middle of the frame, that are 0.
    shadow_adu : float
        Each saturated pixel pulls its row down by this much in the ADCs two to either side; needs a full well.
    interference : Interference
    gain : Gain
    """

    pedestal: float = 4096.0
    pedestal_spread: float = 0.005
    fixed_pattern: float = 4.0
    overscan_step: float = 6.0
    decay: float = 530.0
    decay_rows: float = 89.0
    rail_rows: int = 60
    decay_jitter: float = 1e-3
    drift: float = 3.0
    read_noise: float = 3.0
    junk_rows: int = 0
    blank_rows: int = 0
    shadow_adu: float = 0.0
    interference: Interference = field(default_factory=Interference)
    gain: Gain = field(default_factory=Gain)


class Readout:
    """One sensor: its fixed levels and faults, drawn once; frames are read from it with noise of their own.

    Read noise is cut at a random place out of a pool that was drawn once (drawing it anew would take longer than all
    the rest): independent from frame to frame at every pixel, but its values come again in other places.
    """

    def __init__(
        self,
        layout: FCCDLayout,
        electronics: Electronics,
        faults: DetectorFaults,
        center_px: tuple[float, float],
        rng: np.random.Generator,
    ) -> None:
        self.layout = layout
        self.electronics = electronics
        self.faults = faults
        self.fault_map: FaultMap = place_faults(faults, layout, center_px, rng)
        self._fixed = self._fixed_levels(rng)
        pool = layout.rows * layout.columns + POOL_SPARE
        self._noise = rng.standard_normal(pool, np.float32) * np.float32(electronics.read_noise)
        lines = len(electronics.interference.cycles_per_clock)
        self.amplitudes = rng.uniform(
            *electronics.interference.amplitude_adu, (2, layout.adcs_per_half, lines)
        ).astype(np.float32)

    def _fixed_levels(self, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Return what is the same in every frame, (rows, columns), half an ADU for rounding included."""
        layout, levels = self.layout, self.electronics
        fixed = np.empty(layout.shape, np.float32)
        blocks = by_adc(fixed, layout)
        pattern_shape = (layout.adcs_per_half, layout.columns_per_adc)
        for half, (start, stop) in enumerate(layout.halves):
            pedestal = levels.pedestal * (1 + levels.pedestal_spread * rng.standard_normal((layout.adcs_per_half, 1)))
            pattern = pedestal + levels.fixed_pattern * rng.standard_normal(pattern_shape)
            pattern[:, list(layout.overscan_columns)] -= levels.overscan_step
            rows = np.arange(stop - start)
            baseline = levels.decay * np.exp(-np.maximum(rows - levels.rail_rows, 0) / levels.decay_rows)
            if half == 1:
                baseline = baseline[::-1]
            blocks[start:stop] = pattern + baseline[:, None, None] + 0.5
        for adc in self.fault_map.bad_adcs[:1]:
            self._block(fixed, int(adc))[...] += self.faults.bad_adc_shift_adu
        return fixed

    def _block(self, frame: npt.NDArray[np.float32], adc: int) -> npt.NDArray[np.float32]:
        half, column = divmod(adc, self.layout.adcs_per_half)
        block: npt.NDArray[np.float32] = by_adc(frame, self.layout)[slice(*self.layout.halves[half]), column]
        return block

    def read(
        self,
        charge_adu: npt.NDArray[np.float32] | None,
        rng: np.random.Generator,
        work: npt.NDArray[np.float32],
        full_well_adu: float = 0.0,
    ) -> npt.NDArray[np.uint16]:
        """Return a raw frame (rows, columns) uint16.

        Parameters
        ----------
        charge_adu : (image rows, image columns) float32 or None
            Signal of the light; None with the shutter closed.
        rng : numpy.random.Generator
            Of this frame.
        work : (rows, columns) float32
            Scratch space.
        full_well_adu : float
            Signal of a full pixel; 0: none is.
        """
        layout = self.layout
        start = int(rng.integers(POOL_SPARE))
        np.add(self._fixed, self._noise[start : start + work.size].reshape(layout.shape), out=work)
        blocks = by_adc(work, layout)
        for half, rows in enumerate(layout.halves):
            blocks[slice(*rows)] += self._drift(rows[1] - rows[0], half, rng)[..., None]
        self._add_interference(blocks, rng)
        switching = self.electronics.gain.words in ("csxtools", "middle_0x4000")
        signal = np.zeros(layout.shape, np.float32) if switching and charge_adu is not None else None
        if charge_adu is not None:
            self._add_signal(blocks, charge_adu)
            if signal is not None:
                self._add_signal(by_adc(signal, layout), charge_adu)
            if full_well_adu and self.electronics.shadow_adu:
                self._add_shadows(blocks, charge_adu >= 0.999 * full_well_adu)
        self._add_faults(work, rng)
        frame = self._words(work, signal, rng)
        frame.flat[self.fault_map.stuck] = self.fault_map.stuck_words
        self._add_junk(frame, rng)
        return frame

    def _add_signal(self, blocks: npt.NDArray[np.float32], charge_adu: npt.NDArray[np.float32]) -> None:
        layout, first = self.layout, 0
        for good in layout.good_rows:
            last = first + good[1] - good[0]
            charge = charge_adu[first:last].reshape(last - first, layout.adcs_per_half, -1)
            blocks[slice(*good), :, layout.data_columns] += charge
            first = last

    def _add_interference(self, blocks: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
        interference = self.electronics.interference
        if not interference.cycles_per_clock:
            return
        phases = rng.uniform(0, 2 * np.pi, len(interference.cycles_per_clock))
        for half, rows in enumerate(self.layout.halves):
            waves = interference_waves(interference, self.layout, half, phases)
            _add_waves(blocks[slice(*rows)], waves, self.amplitudes[half])

    def _add_shadows(self, blocks: npt.NDArray[np.float32], saturated: npt.NDArray[np.bool_]) -> None:
        layout, first = self.layout, 0
        for good in layout.good_rows:
            last = first + good[1] - good[0]
            full = saturated[first:last].reshape(last - first, layout.adcs_per_half, -1).sum(axis=2)
            shadow = np.zeros(full.shape, np.float32)
            shadow[:, 2:] += full[:, :-2]
            shadow[:, :-2] += full[:, 2:]
            blocks[slice(*good)] -= np.float32(self.electronics.shadow_adu) * shadow[..., None]
            first = last

    def _words(
        self, work: npt.NDArray[np.float32], signal: npt.NDArray[np.float32] | None, rng: np.random.Generator
    ) -> npt.NDArray[np.uint16]:
        """Return the words of the levels at gain ×8 in `work`; `signal` is the light's part of them."""
        gain = self.electronics.gain
        if gain.words == "plain":
            np.clip(work, 0, MAX_WORD, out=work)
            return work.astype(np.uint16)
        bits = GAIN_BITS[gain.words]
        gain_words = np.full(work.shape, bits[0], np.uint16)
        if signal is not None:
            high = np.flatnonzero(work > gain.switch_adu)
            base = work.flat[high] - signal.flat[high]
            for step in (1, 2):
                shift = self._fixed.flat[high] * np.float32(gain.pedestal_factors[step] - 1)
                values = base + shift + signal.flat[high] / np.float32(GAIN_DIVISORS[step])
                work.flat[high] = values
                gain_words.flat[high] = bits[step]
                still = values > gain.switch_adu
                high, base = high[still], base[still]
        np.clip(work, 0, MAX_VALUE, out=work)
        frame = work.astype(np.uint16) | gain_words
        if gain.error_chance:
            count = rng.poisson(gain.error_chance * frame.size)
            frame.flat[rng.integers(0, frame.size, count)] |= np.uint16(ERROR_BIT)
        return frame

    def _add_junk(self, frame: npt.NDArray[np.uint16], rng: np.random.Generator) -> None:
        levels = self.electronics
        for half, (start, stop) in enumerate(self.layout.halves):
            if levels.blank_rows:
                middle = (
                    slice(stop - levels.blank_rows, stop) if half == 0 else slice(start, start + levels.blank_rows)
                )
                frame[middle] = 0
            for rows in (slice(start, start + levels.junk_rows), slice(stop - levels.junk_rows, stop)):
                frame[rows] = rng.integers(0, MAX_VALUE + 1, frame[rows].shape)

    def _drift(self, num_rows: int, half: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Return what changes from frame to frame along the readout, (rows, ADCs)."""
        levels = self.electronics
        rows = np.arange(num_rows, dtype=np.float32)
        u = 1 - rows / num_rows
        decay = levels.decay * np.exp(-np.maximum(rows - levels.rail_rows, 0) / levels.decay_rows)
        shapes = np.stack([np.ones_like(u), u, u * u, decay], axis=1).astype(np.float32)
        if half == 1:
            shapes = shapes[::-1]
        sigma = np.array([levels.drift] * 3 + [levels.decay_jitter], np.float32)
        coefficients = rng.standard_normal((4, self.layout.adcs_per_half), np.float32) * sigma[:, None]
        coefficients[3] = coefficients[3, 0]  # one supply feeds all
        return shapes @ coefficients

    def _add_faults(self, work: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
        faults = self.fault_map
        for adc, noise in zip(faults.bad_adcs, faults.adc_noise, strict=True):
            block = self._block(work, int(adc))
            block += rng.standard_normal(block.shape, np.float32) * np.float32(noise * self.electronics.read_noise)
        hot = rng.standard_normal(len(faults.hot), np.float32) * np.float32(self.faults.hot_noise_adu)
        work.flat[faults.hot] += hot


@numba.njit(nogil=True, cache=True)
def _add_waves(
    blocks: npt.NDArray[np.float32], waves: npt.NDArray[np.float32], amplitudes: npt.NDArray[np.float32]
) -> None:
    """Add waves (lines, rows, columns) times amplitudes (ADCs, lines) to blocks (rows, ADCs, columns)."""
    rows, adcs, columns = blocks.shape
    for row in range(rows):
        for adc in range(adcs):
            for line in range(waves.shape[0]):
                amplitude = amplitudes[adc, line]
                for column in range(columns):
                    blocks[row, adc, column] += amplitude * waves[line, row, column]
