"""What the Fast CCD adds to the light: pedestals, readout baseline, drift, noise and faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.layout import FCCDLayout, by_adc
from nsbluesky.cleaning.photons import ADU_PER_EV
from nsbluesky.simulation.faults import DetectorFaults, FaultMap, place_faults
from nsbluesky.simulation.interference import Interference, interference_columns, interference_rows
from nsbluesky.simulation.readout_loop import read_half

__all__ = ["Electronics", "Gain", "Readout"]

MAX_WORD = 0xFFFF
MAX_VALUE = 0x1FFF
ERROR_BIT = 0x2000
GAINS = ("x8", "x2", "x1")
DIVISORS = np.array([1.0, 4.0, 8.0])
GAIN_BITS = {
    "csxtools": (0x0000, 0x8000, 0xC000),
    "middle_0x4000": (0x0000, 0x4000, 0xC000),
    "13_bits": (0xC000, 0xC000, 0xC000),
    "plain": (0x0000, 0x0000, 0x0000),
}
ELECTRON_EV = 3.65  # in silicon, of a photon's energy


@dataclass(frozen=True)
class Gain:
    """How levels become words.

    Attributes
    ----------
    words : {"plain", "csxtools", "middle_0x4000", "13_bits"}
        "plain": 16 bits at gain ×8.  "csxtools", "middle_0x4000": 13 bits and the gain of each pixel, ×8, ×2 or ×1,
        in bits 15 and 14.  "13_bits": 13 bits at gain ×8, under the constant bits 110.
    setting : {"auto", "x8", "x2", "x1"}
        The gain of all pixels, or for words with gain bits "auto": ×8, and of brighter pixels less.
    switch_adu : float
        A pixel that would read more goes on to the next lower gain.
    pedestal_factors : (float, float, float)
        Pedestal of each gain, relative to that at ×8.
    error_chance : float
        That a word carries the error bit, per pixel and frame.
    """

    words: Literal["plain", "csxtools", "middle_0x4000", "13_bits"] = "plain"
    setting: Literal["auto", "x8", "x2", "x1"] = "auto"
    switch_adu: float = 7700.0
    pedestal_factors: tuple[float, float, float] = (1.0, 0.97, 0.94)
    error_chance: float = 0.0

    def __post_init__(self) -> None:
        """Check every value."""
        if self.words not in GAIN_BITS:
            raise ValueError(f"words = {self.words!r}: expected one of {', '.join(GAIN_BITS)}")
        if self.setting not in ("auto", *GAINS):
            raise ValueError(f"setting = {self.setting!r}: expected auto, {', '.join(GAINS)}")
        if not 0 < self.switch_adu <= MAX_VALUE:
            raise ValueError(f"switch_adu = {self.switch_adu!r}: expected above 0 and at most {MAX_VALUE}")
        if not 0 <= self.error_chance <= 1:
            raise ValueError(f"error_chance = {self.error_chance!r}: expected 0 to 1")

    @property
    def switches(self) -> bool:
        """Whether pixels choose their own gain."""
        return self.setting == "auto" and self.words in ("csxtools", "middle_0x4000")


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
    sensitivity_spread : float
        Relative spread of the signal over ADCs.
    dark_current_hz : float
        Electrons per pixel and second.
    largest_word : int
        Above this all words are the same: with gain bits, of their 13 bits of value.
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
    sensitivity_spread: float = 0.0
    dark_current_hz: float = 0.0
    largest_word: int = MAX_WORD
    junk_rows: int = 0
    blank_rows: int = 0
    shadow_adu: float = 0.0
    interference: Interference = field(default_factory=Interference)
    gain: Gain = field(default_factory=Gain)


class Readout:
    """One sensor: its fixed levels and faults, drawn once; frames are read from it with noise of their own."""

    def __init__(
        self,
        layout: FCCDLayout,
        electronics: Electronics,
        faults: DetectorFaults,
        center_px: tuple[float, float],
        energy_eV: float,
        rng: np.random.Generator,
    ) -> None:
        self.layout = layout
        self.electronics = electronics
        self.faults = faults
        self.adu_per_electron = ADU_PER_EV * ELECTRON_EV
        self.largest = electronics.largest_word
        if electronics.gain.words != "plain":
            self.largest = min(self.largest, MAX_VALUE)
        self.fault_map: FaultMap = place_faults(faults, layout, center_px, self.largest, rng)
        self.fixed_levels = self._draw_fixed_levels(rng)
        self._sigma = self._noise_levels()
        halves, lines = (len(layout.halves), layout.adcs_per_half), electronics.interference.cycles_per_clock
        amplitudes = rng.uniform(*electronics.interference.amplitude_adu, (*halves, len(lines)))
        self.amplitudes: npt.NDArray[np.float32] = amplitudes.astype(np.float32)
        self._interference = [
            interference_columns(electronics.interference, layout, half, self.amplitudes[half])
            for half in range(len(layout.halves))
        ]
        sensitivity = 1 + electronics.sensitivity_spread * rng.standard_normal(halves)
        self.adu_per_photon = (ADU_PER_EV * energy_eV * sensitivity).astype(np.float32)

    def _draw_fixed_levels(self, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Return what is the same in every frame, (rows, columns), half an ADU for rounding included."""
        layout, levels = self.layout, self.electronics
        fixed = np.empty(layout.shape, np.float32)
        blocks = by_adc(fixed, layout)
        pattern_shape = (layout.adcs_per_half, layout.columns_per_adc)
        for half, (start, stop) in enumerate(layout.halves):
            pedestal = levels.pedestal * (1 + levels.pedestal_spread * rng.standard_normal((layout.adcs_per_half, 1)))
            pattern = pedestal + levels.fixed_pattern * rng.standard_normal(pattern_shape)
            pattern[:, list(layout.overscan_columns)] -= levels.overscan_step
            blocks[start:stop] = pattern + self._baseline(half)[:, None, None] + 0.5
        for adc in self.fault_map.bad_adcs[:1]:
            self._block(fixed, int(adc))[...] += self.faults.bad_adc_shift_adu
        return fixed

    def _noise_levels(self) -> npt.NDArray[np.float32]:
        """Return the noise of every raw pixel, (rows, columns); that of stuck pixels does not show."""
        sigma = np.full(self.layout.shape, self.electronics.read_noise, np.float32)
        for adc, factor in zip(self.fault_map.bad_adcs, self.fault_map.adc_noise, strict=True):
            self._block(sigma, int(adc))[...] *= np.float32(factor)
        sigma.flat[self.fault_map.hot] = self.faults.hot_noise_adu
        return sigma

    def _baseline(self, half: int) -> npt.NDArray[np.float64]:
        """Return the exponential start of the readout, (rows of the half,), as it lies in the frame."""
        levels, (start, stop) = self.electronics, self.layout.halves[half]
        rows = np.arange(stop - start)
        baseline: npt.NDArray[np.float64] = levels.decay * np.exp(
            -np.maximum(rows - levels.rail_rows, 0) / levels.decay_rows
        )
        return baseline if half == 0 else baseline[::-1]

    def _block(self, frame: npt.NDArray[np.float32], adc: int) -> npt.NDArray[np.float32]:
        half, column = divmod(adc, self.layout.adcs_per_half)
        block: npt.NDArray[np.float32] = by_adc(frame, self.layout)[slice(*self.layout.halves[half]), column]
        return block

    def read(
        self,
        charge: npt.NDArray[np.float32] | None,
        rng: np.random.Generator,
        *,
        exposure_s: float = 0.0,
        full_well: float = 0.0,
    ) -> npt.NDArray[np.uint16]:
        """Return a raw frame (rows, columns) uint16.

        Parameters
        ----------
        charge : (image rows, image columns) float32 or None
            Of the light, in photons; None with the shutter closed.
        rng : numpy.random.Generator
            Of this frame.
        exposure_s : float
            Decides the dark current.
        full_well : float
            Charge of a full pixel, in photons; 0: none is.
        """
        layout, gain = self.layout, self.electronics.gain
        frame = np.empty(layout.shape, np.uint16)
        phases = rng.uniform(0, 2 * np.pi, len(self.electronics.interference.cycles_per_clock))
        electrons = self.electronics.dark_current_hz * exposure_s
        dark = (electrons * self.adu_per_electron, electrons * self.adu_per_electron**2)
        first = 0
        for half, ((start, stop), good) in enumerate(zip(layout.halves, layout.good_rows, strict=True)):
            good_rows = (good[0] - start, good[1] - start)
            last = first + good[1] - good[0]
            light = np.zeros((0, 0), np.float32) if charge is None else charge[first:last]
            row_terms, column_terms = self._terms(half, rng, phases)
            shadow = np.zeros((0, 0), np.float32)
            if charge is not None and full_well and self.electronics.shadow_adu:
                shadow = self._shadow(light >= 0.999 * full_well)
            read_half(
                self.fixed_levels[start:stop],
                self._sigma[start:stop],
                row_terms,
                column_terms,
                shadow,
                light,
                self.adu_per_photon[half],
                good_rows,
                (layout.data_columns.start, layout.data_columns.stop),
                dark,
                (
                    0 if gain.setting == "auto" else GAINS.index(gain.setting),
                    gain.switch_adu if gain.switches else np.inf,
                    float(self.largest),
                ),
                DIVISORS,
                np.array(gain.pedestal_factors) - 1,
                np.array(GAIN_BITS[gain.words], np.uint16),
                rng.integers(2**64, dtype=np.uint64),
                frame[start:stop],
            )
            first = last
        self._add_errors(frame, rng)
        frame.flat[self.fault_map.stuck] = self.fault_map.stuck_words
        self._add_junk(frame, rng)
        return frame

    def _terms(
        self, half: int, rng: np.random.Generator, phases: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return what changes from frame to frame, as factors (rows, terms) and (terms, columns).

        These are a quadratic and a part of the exponential start for each ADC, and the lines of interference.
        """
        levels, baseline = self.electronics, self._baseline(half)
        u = 1 - np.arange(len(baseline)) / len(baseline)
        if half == 1:
            u = u[::-1]
        coefficients = levels.drift * rng.standard_normal((4, self.layout.adcs_per_half))
        coefficients[3] = levels.decay_jitter * rng.standard_normal()  # one supply feeds all
        waves = interference_rows(levels.interference, self.layout, half, phases)
        rows = np.column_stack([np.ones_like(u), u, u * u, baseline, waves.real, -waves.imag])
        drift, columns = np.repeat(coefficients, self.layout.columns_per_adc, axis=1), self._interference[half]
        return rows.astype(np.float32), np.concatenate([drift, columns.real, columns.imag]).astype(np.float32)

    def _shadow(self, full: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """Return how far full pixels (good rows, image columns) pull the others down, (good rows, ADCs)."""
        count = full.reshape(len(full), self.layout.adcs_per_half, -1).sum(axis=2)
        shadow = np.zeros(count.shape, np.float32)
        shadow[:, 2:] += count[:, :-2]
        shadow[:, :-2] += count[:, 2:]
        return np.float32(self.electronics.shadow_adu) * shadow

    def _add_errors(self, frame: npt.NDArray[np.uint16], rng: np.random.Generator) -> None:
        chance = self.electronics.gain.error_chance
        if chance:
            frame.flat[rng.integers(0, frame.size, rng.poisson(chance * frame.size))] |= np.uint16(ERROR_BIT)

    def _add_junk(self, frame: npt.NDArray[np.uint16], rng: np.random.Generator) -> None:
        levels = self.electronics
        for half, (start, stop) in enumerate(self.layout.halves):
            if levels.blank_rows:
                middle = stop - levels.blank_rows if half == 0 else start
                frame[middle : middle + levels.blank_rows] = 0
            for rows in (slice(start, start + levels.junk_rows), slice(stop - levels.junk_rows, stop)):
                frame[rows] = rng.integers(0, self.largest + 1, frame[rows].shape)
