"""``nsbluesky camera``: a virtual Fast CCD that sends raw frames as packets over UDP, with faults where wanted."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from nsbluesky.camera.frame_file import DATASET
from nsbluesky.camera.grabber import GrabberSettings
from nsbluesky.camera.virtual_fccd import PacketFaults, VirtualFCCD
from nsbluesky.cleaning.layout import LAYOUTS, FCCDLayout
from nsbluesky.commands import ended_by_ctrl_c, parse_count, parse_number, parse_port
from nsbluesky.cxi.layout import DETECTOR
from nsbluesky.cxi.recover import open_file
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.presets import PRESETS
from nsbluesky.simulation.samples import gold_balls

__all__ = ["add_arguments", "run"]

RAW_DATA = f"{DETECTOR}/raw_data"
SIMULATED_FRAMES = 32
STEP_M = 50e-9
DEFAULTS = GrabberSettings()
CHANCES = {
    "lost": "that a packet never comes",
    "doubled": "that a packet comes twice",
    "late": "that a packet comes after others",
    "renumbered": "that a packet has a wrong number",
    "lost-ends": "that an end marker never comes",
    "lost-frames": "that nothing of a frame comes",
}

Words = npt.NDArray[np.uint16]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("frames", type=Path, nargs="?", help="raw CXI or HDF5 file (simulated frames by default)")
    parser.add_argument("--host", default=DEFAULTS.host, help="of the grabber (%(default)s)")
    parser.add_argument("--port", type=parse_port, default=DEFAULTS.port, help="of the grabber (%(default)s)")
    parser.add_argument("--payload", type=int, default=DEFAULTS.payload_bytes, help="bytes in a packet (%(default)s)")
    parser.add_argument(
        "--rate-hz", type=parse_number, default=146.0, help="frames a second; 0: at most (%(default)g)"
    )
    parser.add_argument(
        "--count", type=parse_count, help="frames to send, again from the first where needed; 0: until Ctrl-C (all)"
    )
    parser.add_argument("--first-number", type=parse_count, default=0, help="of the first frame (%(default)s)")
    simulated = parser.add_argument_group("simulated frames")
    simulated.add_argument("--layout", choices=sorted(LAYOUTS), default="cosmic", help="detector mode (%(default)s)")
    simulated.add_argument("--faults", choices=list(PRESETS), default="sensor", help="of the detector (%(default)s)")
    chances = parser.add_argument_group("what goes wrong on the way: chances from 0 to 1")
    for name, text in CHANCES.items():
        chances.add_argument(f"--{name}", type=float, default=0.0, metavar="P", help=text)
    chances.add_argument("--seed", type=parse_count, default=0, help="of all that is random (%(default)s)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Send frames."""
    chances = {name: getattr(options, name) for name in (key.replace("-", "_") for key in CHANCES)}
    faults = PacketFaults(**chances, seed=options.seed)
    if options.frames is None:
        return _send(_simulated(options), LAYOUTS[options.layout], options, faults)
    with open_file(options.frames) as file:
        dataset = _dataset(file, options.frames)
        return _send(dataset, _layout_of(dataset.shape[1:]), options, faults)


def _send(
    frames: list[Words] | h5py.Dataset, layout: FCCDLayout, options: argparse.Namespace, faults: PacketFaults
) -> dict[str, Any]:
    count = len(frames) if options.count is None else options.count
    camera = VirtualFCCD(
        (options.host, options.port),
        layout,
        payload_bytes=options.payload,
        rate_hz=options.rate_hz,
        first_number=options.first_number,
        faults=faults,
    )
    with camera, ended_by_ctrl_c(camera.stop):
        sent = camera.send(tqdm(_again(frames, count), total=count or None, unit="frame", disable=None))
    return {
        "frames": sent.frames,
        "lost_frames": sent.lost_frames,
        "lost_packets": sent.lost_packets,
        "doubled_packets": sent.doubled,
        "late_packets": sent.late,
        "renumbered_packets": sent.renumbered,
        "lost_end_markers": sent.lost_ends,
        "most_behind_s": sent.behind_s,
        "cpu_ms_per_frame": 1e3 * sent.cpu_s / max(sent.frames, 1),
    }


def _again(frames: list[Words] | h5py.Dataset, count: int) -> Iterator[Words]:
    return (np.asarray(frames[k]) for k in islice(cycle(range(len(frames))), count or None))


def _simulated(options: argparse.Namespace) -> list[Words]:
    """Return a few frames along a line: to make each one anew would be slower than the camera."""
    simulator = FrameSimulator(gold_balls(), layout=options.layout, seed=options.seed, detector=options.faults)
    count = min(options.count or SIMULATED_FRAMES, SIMULATED_FRAMES)
    return [simulator.raw_frame(k * STEP_M, 0.0, shutter_open=True, index=k) for k in range(count)]


def _dataset(file: h5py.File, path: Path) -> h5py.Dataset:
    for name in (RAW_DATA, DATASET):
        dataset = file.get(name)
        if isinstance(dataset, h5py.Dataset):
            if dataset.ndim != 3 or dataset.dtype != np.uint16 or len(dataset) == 0:
                raise ValueError(f"{path}: {name} is {dataset.dtype} {dataset.shape}: expected raw uint16 frames")
            return dataset
    raise ValueError(f"{path} has neither {RAW_DATA} nor {DATASET}: expected a raw CXI file or a camera's HDF5 file")


def _layout_of(shape: tuple[int, int]) -> FCCDLayout:
    """Return a layout of frames of this shape; all of them have the same order of words."""
    for layout in LAYOUTS.values():
        if layout.shape == shape:
            return layout
    known = ", ".join(sorted({f"{layout.rows} × {layout.columns}" for layout in LAYOUTS.values()}))
    raise ValueError(f"frames of {shape[0]} × {shape[1]}: the camera sends {known}")
