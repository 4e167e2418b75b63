"""A simulated Fast CCD: from the photons that are expected to the words that it writes."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.layout import LAYOUTS
from nsbluesky.cleaning.photons import ADU_PER_EV
from nsbluesky.settings import SettingsError
from nsbluesky.simulation.charge import bloom, share_charge
from nsbluesky.simulation.fccd_electronics import Readout
from nsbluesky.simulation.frame_faults import lose_packets
from nsbluesky.simulation.light import beamstop_transmission
from nsbluesky.simulation.presets import DetectorModel
from nsbluesky.simulation.random_loops import poisson_image

__all__ = ["OFF_CENTER_PX", "SimulatedDetector", "SimulatedExposure"]

OFF_CENTER_PX = (-3.2, 6.4)  # no detector is ever quite centred


@dataclass(frozen=True, eq=False)
class SimulatedExposure:
    """A frame, and what nobody knows of it.

    Attributes
    ----------
    words : (rows, columns) uint16
        The raw frame.
    photons : (image rows, image columns) uint32
        That really fell on each pixel, behind the beamstop; dark current is not among them.
    flux : float
        Of the beam, relative to its mean.
    lost_packets : (k,) int64
        Numbers of the packets that were lost.
    corrupted : bool
        Whether the words are random.
    """

    words: npt.NDArray[np.uint16]
    photons: npt.NDArray[np.uint32]
    flux: float
    lost_packets: npt.NDArray[np.int64]
    corrupted: bool = False


class SimulatedDetector:
    """One detector, its fixed levels and faults drawn once; safe to call on many threads.

    Parameters
    ----------
    model : DetectorModel
    energy_eV : float
        Of the photons: decides their charge.
    pixel_m : float
        Side of a pixel.
    layout : str
        A name in `nsbluesky.cleaning.layout.LAYOUTS`.
    seed : int
    center_px : (float, float), optional
        Row and column of the zero order on the image; a few pixels off its middle by default.
    """

    def __init__(
        self,
        model: DetectorModel,
        *,
        energy_eV: float,
        pixel_m: float = 30e-6,
        layout: str = "cosmic",
        seed: int = 0,
        center_px: tuple[float, float] | None = None,
    ) -> None:
        if layout not in LAYOUTS:
            raise SettingsError(f"layout = {layout!r}: expected one of {', '.join(LAYOUTS)}")
        self.model, self.layout, self.seed = model, LAYOUTS[layout], seed
        row, column = ((n - 1) / 2 + off for n, off in zip(self.layout.image_shape, OFF_CENTER_PX, strict=True))
        self.center_px = center_px or (row, column)
        self._local = threading.local()
        self.adu_per_photon = ADU_PER_EV * energy_eV
        self.readout = Readout(
            self.layout,
            model.electronics,
            model.detector_faults,
            self.center_px,
            energy_eV,
            generator(seed, 0),
        )
        self.beamstop = beamstop_transmission(model.light, self.layout.image_shape, self.center_px, pixel_m)

    def _scratch(self) -> npt.NDArray[np.float32]:
        """Return this thread's own image: fresh memory for every frame costs more than filling it."""
        if not hasattr(self._local, "image"):
            self._local.image = np.empty(self.layout.image_shape, np.float32)
        image: npt.NDArray[np.float32] = self._local.image
        return image

    def expose(
        self,
        expected_photons: npt.NDArray[np.float32] | None,
        *,
        index: int,
        exposure_s: float = 0.01,
        factor: float = 1.0,
    ) -> SimulatedExposure:
        """Return the exposure with that index.

        Parameters
        ----------
        expected_photons : (image rows, image columns) float32 or None
            Mean photons of this exposure before any beamstop; None with the shutter closed.
        index : int
            With the seed decides everything random.
        exposure_s : float
            Decides the dark current.
        factor : float
            The mean photons are multiplied by this.
        """
        model, rng = self.model, generator(self.seed, 1 + index)
        flux, charge, full_well = 1.0, None, model.charge.full_well_photons
        if expected_photons is None:
            photons = np.zeros(self.layout.image_shape, np.uint32)
        else:
            photons = np.empty(self.layout.image_shape, np.uint32)
            flux = model.light.flux(rng)
            state = rng.integers(2**64, dtype=np.uint64)
            charge = self._scratch()
            poisson_image(expected_photons, factor * flux, self.beamstop, state, photons, charge)
            if model.charge.cloud_px:
                charge = share_charge(photons, model.charge.cloud_px, rng)
            if full_well:
                bloom(charge, full_well)
        words = self.readout.read(charge, rng, exposure_s=exposure_s, full_well=full_well)
        words, lost, corrupted = lose_packets(words, self.layout, model.frame_faults, rng)
        return SimulatedExposure(words, photons, flux, lost, corrupted)


def generator(seed: int, *stream: int) -> np.random.Generator:
    """Return the random numbers of a stream: 0 is the sensor's, 1 + index a frame's, (0, 1) the delivery's."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, *stream))))
