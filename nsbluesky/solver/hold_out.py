"""Pixels that the solver does not use, others of each frame, so that they tell how well it predicts them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nsbluesky.solver.light import NOT_MEASURED

__all__ = ["HoldOut"]


class HoldOut:
    """Which pixels of which frame are held out.

    The same ones in all frames would not do: nothing would tell the probe's transform there, and the model would be
    wrong on them however right the image is.

    Parameters
    ----------
    numbers : (N, N) int array of the backend
        0, 1, …, `count` − 1, or −1 for a pixel that is never used, FFT order.
    count : int
    """

    def __init__(self, numbers: Any, count: int) -> None:
        self.numbers = numbers.astype(np.int32)
        self.count = count
        self._places = [(numbers.reshape(-1) == number).nonzero()[0] for number in range(count)]

    def places(self, seq_num: int) -> Any:
        """Return where the pixels of a frame lie that are held out, as indices of its N² pixels."""
        return self._places[seq_num % self.count]

    def apply(self, seq_num: int, amplitude: Any) -> None:
        """Mark the pixels of a frame (N, N) that are held out as not measured."""
        amplitude.reshape(-1)[self.places(seq_num)] = NOT_MEASURED
