"""A small camera mode, frames that tell their number, and what a grabber wrote of them."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from nsbluesky.camera.frame_file import ATTRIBUTES, DATASET
from nsbluesky.camera.grabber import LOST_RANGES, GrabberSettings
from nsbluesky.cleaning.layout import FCCDLayout

SMALL = FCCDLayout(6, 1152, 12, (0, 11), ((0, 3), (3, 6)), ((0, 3), (3, 6)))
PAYLOAD = 1024
NUM_PACKETS = 14
"""Of a frame of `SMALL`, the last one short.  A dozen frames fit the kernel's usual buffer: none is lost in tests."""

QUICK = GrabberSettings(port=0, payload_bytes=PAYLOAD, timeout_s=0.05)
"""All is sent before recording begins: the timeout ends it."""


def frame_of(number: int) -> npt.NDArray[np.uint16]:
    """Return a frame that no other number has."""
    return np.random.default_rng(number).integers(0, 2**16, SMALL.shape, dtype=np.uint16)


class GrabbedFile:
    """All that a grabber wrote."""

    def __init__(self, path: Path) -> None:
        with h5py.File(path, "r") as file:
            self.frames: npt.NDArray[np.uint16] = file[DATASET][()]
            self.numbers, self.lost_packets, self.flags = (
                file[f"{ATTRIBUTES}/{name}"][()].tolist() for name in ("NDArrayUniqueId", "LostPackets", "FrameFlags")
            )
            self.times_s = file[f"{ATTRIBUTES}/NDArrayTimeStamp"][()]
            self.lost: list[Any] = file[LOST_RANGES][()].tolist()


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
