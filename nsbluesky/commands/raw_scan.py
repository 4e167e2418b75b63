"""A simulated scan in a raw CXI file, and the truth of every frame beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from nsbluesky.cxi import write_raw_cxi
from nsbluesky.cxi.layout import part_path
from nsbluesky.settings.units import require_exposure_s
from nsbluesky.simulation.fccd_detector import SimulatedExposure
from nsbluesky.simulation.fccd_frames import NOMINAL_EXPOSURE_S, FrameSimulator

__all__ = ["write_raw_scan"]


def write_raw_scan(
    path: Path,
    truth_path: Path,
    simulator: FrameSimulator,
    translations_m: npt.NDArray[np.float64],
    *,
    num_darks: int = 25,
    exposures_s: Sequence[float] = (NOMINAL_EXPOSURE_S,),
    photons: bool = False,
) -> dict[str, int]:
    """Write the frames that arrive, in the order of their arrival; nothing in the raw file tells what went wrong.

    Frames are indexed as taken: darks first, then each point's exposures one after the other.

    Parameters
    ----------
    path : path
        The raw CXI file.
    truth_path : path
        The HDF5 file with `FrameSimulator.truth`, the points' translations, and for each frame of the raw file which
        one it is and what happened to it.
    simulator : FrameSimulator
        Of raw frames.
    translations_m : (points, 2) float
        x and y of the sample.
    num_darks : int
        Dark frames of each exposure.
    exposures_s : sequence of float
        Exposure times of a point, in their order.
    photons : bool
        Whether the photons that really fell are kept as well; half a megabyte a frame.

    Returns
    -------
    dict
        Counts for a summary.
    """
    for one_s in exposures_s:
        require_exposure_s(one_s)
    per_point, first = len(exposures_s), num_darks * len(exposures_s)
    delivery = simulator.delivery(len(translations_m) * per_point)
    order, geometry = delivery.order, simulator.geometry

    def darks() -> Iterator[npt.NDArray[np.uint16]]:
        for k in range(first):
            yield simulator.raw_frame(0, 0, shutter_open=False, exposure_s=exposures_s[k % per_point], index=k)

    def frames(notes: _Notes) -> Iterator[npt.NDArray[np.uint16]]:
        for taken in tqdm(order.tolist(), unit="frame", disable=None):
            (x, y), one_s = translations_m[taken // per_point], exposures_s[taken % per_point]
            exposure = simulator.exposure(x, y, shutter_open=True, exposure_s=one_s, index=first + taken)
            notes.add(exposure)
            yield exposure.words

    part = part_path(truth_path)
    try:
        simulator.save_truth(part)
        with h5py.File(part, "a") as file:
            file["translation_m"] = translations_m
            file["exposures_s"] = np.array(exposures_s)
            file["frames/taken"] = order
            file["frames/number"] = delivery.numbers
            for name in ("lost", "doubled", "late", "renumbered"):
                file[f"frames/{name}"] = getattr(delivery, name)
            notes = _Notes(file, len(order), simulator.image_shape if photons else None)
            count = write_raw_cxi(
                path,
                frames(notes),
                darks(),
                translations_m[order // per_point],
                energy_eV=geometry.energy_eV,
                detector_distance_m=geometry.detector_distance_m,
                pixel_size_m=geometry.pixel_size_m,
                number_exposures=per_point,
                exposure_order=",".join(f"{one_s:g}" for one_s in exposures_s),
            )
        part.replace(truth_path)
    finally:
        part.unlink(missing_ok=True)
    return {
        "frames": count,
        "frames_lost": len(delivery.lost),
        "frames_with_lost_packets": notes.with_lost_packets,
        "frames_corrupted": notes.corrupted,
    }


class _Notes:
    """Writes what happened to each frame, as it is made."""

    def __init__(self, file: h5py.File, num_frames: int, image_shape: tuple[int, int] | None) -> None:
        self.with_lost_packets = self.corrupted = self._count = 0
        group = file["frames"]
        self._datasets: dict[str, Any] = {
            name: group.create_dataset(name, (num_frames,), dtype)
            for name, dtype in (("flux", np.float64), ("lost_packets", np.int64), ("corrupted", bool))
        }
        if image_shape is not None:
            shape, chunk = (num_frames, *image_shape), (1, *image_shape)
            self._datasets["photons"] = group.create_dataset(
                "photons", shape, np.uint32, chunks=chunk, compression="lzf", shuffle=True
            )

    def add(self, exposure: SimulatedExposure) -> None:
        """Write a frame's line."""
        for name, dataset in self._datasets.items():
            value = getattr(exposure, name)
            dataset[self._count] = len(value) if name == "lost_packets" else value
        self.with_lost_packets += bool(len(exposure.lost_packets))
        self.corrupted += exposure.corrupted
        self._count += 1
