"""What the Fast CCD adds to the light: pedestals, readout baseline, drift, noise and faults."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.layout import FCCDLayout, by_adc
from nsbluesky.simulation.faults import DetectorFaults, FaultMap, place_faults

__all__ = ["Electronics", "Readout"]

MAX_WORD = 65535.0
POOL_SPARE = 1 << 20


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
        """
        layout = self.layout
        start = int(rng.integers(POOL_SPARE))
        np.add(self._fixed, self._noise[start : start + work.size].reshape(layout.shape), out=work)
        blocks = by_adc(work, layout)
        first = 0
        for half, (rows, good) in enumerate(zip(layout.halves, layout.good_rows, strict=True)):
            blocks[slice(*rows)] += self._drift(rows[1] - rows[0], half, rng)[..., None]
            if charge_adu is not None:
                last = first + good[1] - good[0]
                charge = charge_adu[first:last].reshape(last - first, layout.adcs_per_half, -1)
                blocks[slice(*good), :, layout.data_columns] += charge
                first = last
        self._add_faults(work, rng)
        np.clip(work, 0, MAX_WORD, out=work)
        frame = work.astype(np.uint16)
        frame.flat[self.fault_map.stuck] = self.fault_map.stuck_words
        return frame

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
