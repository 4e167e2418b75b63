"""What goes wrong between the sensor and the file: lost packets, and frames lost, doubled, late or renumbered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nsbluesky.camera.descramble import descramble, scramble
from nsbluesky.cleaning.layout import FCCDLayout

__all__ = ["Delivery", "FrameFaults", "deliver", "lose_packets"]


@dataclass(frozen=True)
class FrameFaults:
    """Chances of each fault, per frame.

    Attributes
    ----------
    lost_packets : float
        That a run of packets is lost.
    packet_run : int
        Packets of such a run at most.
    packet_words : int
        Words of a packet.
    lost_word : int
        What stands in their place: 0, or 0x2000.
    corrupted : float
        That the whole frame is random words.
    lost_frames, doubled_frames, late_frames, renumbered_frames : float
        That a frame never comes, comes twice, comes after the next one, or with a wrong number.
    """

    lost_packets: float = 0.0
    packet_run: int = 8
    packet_words: int = 2048
    lost_word: int = 0
    corrupted: float = 0.0
    lost_frames: float = 0.0
    doubled_frames: float = 0.0
    late_frames: float = 0.0
    renumbered_frames: float = 0.0

    def __post_init__(self) -> None:
        """Check every value."""
        for name in (
            "lost_packets",
            "corrupted",
            "lost_frames",
            "doubled_frames",
            "late_frames",
            "renumbered_frames",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)!r}: expected a chance from 0 to 1")
        if self.packet_run < 1 or self.packet_words < 1:
            raise ValueError("packet_run and packet_words: expected at least 1")


@dataclass(frozen=True, eq=False)
class Delivery:
    """Which frames arrive, in the order of their arrival.

    Attributes
    ----------
    order : (m,) int64
        Index of the frame as taken.
    numbers : (m,) int64
        The number it carries.
    lost, doubled, late, renumbered : (n,) int64
        Indices of the frames with each fault.
    """

    order: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    lost: npt.NDArray[np.int64]
    doubled: npt.NDArray[np.int64]
    late: npt.NDArray[np.int64]
    renumbered: npt.NDArray[np.int64]


def deliver(faults: FrameFaults, num_frames: int, rng: np.random.Generator) -> Delivery:
    """Draw how `num_frames` frames arrive."""
    chances = [faults.lost_frames, faults.doubled_frames, faults.late_frames, faults.renumbered_frames]
    lost, doubled, late, renumbered = rng.random((4, num_frames)) < np.array(chances)[:, None]
    doubled, late, renumbered = doubled & ~lost, late & ~lost, renumbered & ~lost
    late[-1:] = False  # nothing comes after it
    index = np.arange(num_frames)
    place = index + 1.5 * late  # between the next frame and the one after it
    arrives = np.argsort(place, kind="stable")
    arrives = arrives[~lost[arrives]]
    order = np.repeat(arrives, 1 + doubled[arrives])
    wrong = index + renumbered * rng.integers(2, 1000, num_frames)
    found = [np.flatnonzero(flags) for flags in (lost, doubled, late, renumbered)]
    return Delivery(order, wrong[order], *found)


def lose_packets(
    frame: npt.NDArray[np.uint16], layout: FCCDLayout, faults: FrameFaults, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64], bool]:
    """Return a raw frame with a run of packets lost, or corrupted; the lost packets' numbers (k,); whether corrupted.

    A frame of which nothing is lost is returned as it is.
    """
    none = np.zeros(0, np.int64)
    chances = rng.random(2)
    if chances[1] < faults.corrupted:
        return rng.integers(0, 2**16, frame.shape).astype(np.uint16), none, True
    if chances[0] >= faults.lost_packets:
        return frame, none, False
    words = scramble(frame, layout).view(">u2")
    num_packets = -(-len(words) // faults.packet_words)
    first = int(rng.integers(num_packets))
    lost = np.arange(first, min(first + int(rng.integers(1, faults.packet_run + 1)), num_packets))
    words[lost[0] * faults.packet_words : (lost[-1] + 1) * faults.packet_words] = faults.lost_word
    return descramble(words.view(np.uint8), layout), lost, False
