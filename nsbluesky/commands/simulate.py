"""``nsbluesky simulate``: a simulated scan, from any picture, in a CXI file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from nsbluesky.commands import output_file, parse_count, parse_shape
from nsbluesky.cxi import CxiFile, write_raw_cxi
from nsbluesky.simulation.fccd_detector import SimulatedExposure
from nsbluesky.simulation.fccd_frames import NOMINAL_EXPOSURE_S, FrameSimulator
from nsbluesky.simulation.presets import PRESETS
from nsbluesky.simulation.samples import from_picture, gold_balls
from nsbluesky.trajectories import PATTERNS, make_trajectory

__all__ = ["add_arguments", "run"]

METRES_PER_UM = 1e-6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("out", type=Path, help="the CXI file to write; the truth goes beside it")
    parser.add_argument("--image", type=Path, help="a picture: dark is thick (gold nanospheres by default)")
    parser.add_argument("--raw", action="store_true", help="raw FCCD frames and darks instead of clean frames")
    parser.add_argument("--shape", type=parse_shape, default="20x20", help="rows and columns (%(default)s)")
    parser.add_argument("--step-um", type=float, help="step in µm (what covers the sample by default)")
    parser.add_argument("--pattern", choices=sorted(PATTERNS), default="jittered_raster", help="(%(default)s)")
    parser.add_argument("--darks", type=parse_count, default=25, help="dark frames with --raw (%(default)s)")
    parser.add_argument(
        "--faults", choices=list(PRESETS), default="sensor", help="of the detector, with --raw (%(default)s)"
    )
    parser.add_argument(
        "--exposures-s",
        type=float,
        nargs="+",
        default=[NOMINAL_EXPOSURE_S],
        metavar="S",
        help="exposure times of each point, in their order, with --raw (%(default)s)",
    )
    parser.add_argument(
        "--photons", action="store_true", help="keep the photons that really fell with the truth, with --raw"
    )
    parser.add_argument("--seed", type=parse_count, default=0, help="seed of noise and jitter (%(default)s)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Simulate a scan and write it."""
    sources = [options.image] if options.image is not None else []
    out = output_file(options.out, *sources)
    truth = output_file(out.with_suffix(".truth.h5"), *sources)
    sample = gold_balls() if options.image is None else from_picture(options.image)
    simulator = FrameSimulator(
        sample, layout="cosmic" if options.raw else "none", seed=options.seed, detector=options.faults
    )
    rows, columns = options.shape
    width_m, height_m = sample.scan_range_m
    step_um = options.step_um
    if step_um is None:
        step_um = min(width_m / columns, height_m / rows) / METRES_PER_UM
    translations_m = make_trajectory(options.pattern, options.shape, step_um, options.seed) * METRES_PER_UM
    geometry = simulator.geometry
    experiment: dict[str, Any] = {
        "energy_eV": geometry.energy_eV,
        "detector_distance_m": geometry.detector_distance_m,
        "pixel_size_m": geometry.pixel_size_m,
    }
    if options.raw:
        return _write_raw(options, simulator, translations_m, experiment, out, truth) | {"step_um": step_um}
    with CxiFile.create(out, frame_shape=simulator.shape, **experiment) as cxi:
        for k, (x, y) in enumerate(tqdm(translations_m, unit="frame", disable=None)):
            frame = simulator.raw_frame(x, y, shutter_open=True, index=k)
            cxi.append(frame[None].astype(np.float32), translations_m[k : k + 1])
    simulator.save_truth(truth)
    return {"cxi": str(out), "truth": str(truth), "frames": len(translations_m), "step_um": step_um}


def _write_raw(
    options: argparse.Namespace,
    simulator: FrameSimulator,
    translations_m: npt.NDArray[np.float64],
    experiment: dict[str, Any],
    out: Path,
    truth: Path,
) -> dict[str, Any]:
    """Write the frames that arrive, in their order; the truth tells which these are."""
    exposures_s: Sequence[float] = options.exposures_s
    for one_s in exposures_s:
        if not (np.isfinite(one_s) and one_s > 0):
            raise ValueError(f"exposures-s = {one_s!r}: expected a positive number of seconds")
    per_point, darks = len(exposures_s), options.darks * len(exposures_s)
    delivery = simulator.delivery(len(translations_m) * per_point)
    simulator.save_truth(truth)
    with h5py.File(truth, "a") as file:
        taken = _Taken(simulator, translations_m, exposures_s, darks, file if options.photons else None)
        count = write_raw_cxi(
            out,
            taken.frames(delivery.order),
            (
                simulator.raw_frame(0, 0, shutter_open=False, exposure_s=exposures_s[k % per_point], index=k)
                for k in range(darks)
            ),
            translations_m[delivery.order // per_point],
            number_exposures=per_point,
            exposure_order=",".join(f"{one_s:g}" for one_s in exposures_s),
            **experiment,
        )
        taken.write(file)
        file["translation_m"] = translations_m
        file["exposures_s"] = np.array(exposures_s)
        file["frames/taken"] = delivery.order
        file["frames/number"] = delivery.numbers
        for name in ("lost", "doubled", "late", "renumbered"):
            file[f"frames/{name}"] = getattr(delivery, name)
    return {
        "cxi": str(out),
        "truth": str(truth),
        "frames": count,
        "frames_lost": len(delivery.lost),
        "frames_with_lost_packets": int(np.count_nonzero(taken.lost_packets)),
        "frames_corrupted": int(np.count_nonzero(taken.corrupted)),
    }


@dataclass
class _Taken:
    """Makes the frames of a raw file, and notes what happened to each."""

    simulator: FrameSimulator
    translations_m: npt.NDArray[np.float64]
    exposures_s: Sequence[float]
    first_index: int
    photons: h5py.File | None
    flux: list[float] = field(default_factory=list)
    lost_packets: list[int] = field(default_factory=list)
    corrupted: list[bool] = field(default_factory=list)

    def frames(self, order: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.uint16]]:
        """Yield the frames with these indices."""
        if self.photons is not None:
            shape = self.simulator.image_shape
            self.photons.create_dataset(
                "frames/photons", (len(order), *shape), np.uint32, chunks=(1, *shape), compression="lzf", shuffle=True
            )
        for k, taken in enumerate(tqdm(order, unit="frame", disable=None)):
            point, which = divmod(int(taken), len(self.exposures_s))
            exposure = self.simulator.exposure(
                *self.translations_m[point],
                shutter_open=True,
                exposure_s=self.exposures_s[which],
                index=self.first_index + int(taken),
            )
            self._note(k, exposure)
            yield exposure.words

    def _note(self, k: int, exposure: SimulatedExposure) -> None:
        self.flux.append(exposure.flux)
        self.lost_packets.append(len(exposure.lost_packets))
        self.corrupted.append(exposure.corrupted)
        if self.photons is not None:
            self.photons["frames/photons"][k] = exposure.photons

    def write(self, file: h5py.File) -> None:
        """Write what happened to each frame of the raw file."""
        file["frames/flux"] = np.array(self.flux)
        file["frames/lost_packets"] = np.array(self.lost_packets)
        file["frames/corrupted"] = np.array(self.corrupted)
