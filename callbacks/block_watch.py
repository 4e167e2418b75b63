"""Which block of frames is at work: known outside the process, it tells after a crash which frames to suspect."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["MAX_TRIES", "BlockWatch"]

MAX_TRIES = 2
"""A frame that was at work in so many crashes is left out."""


class BlockWatch:
    """Watches nothing, and suspects nothing: for a pipeline that nobody starts again."""

    def begin(self, run: str, stage: str, stream: str, seq_nums: Sequence[int]) -> None:
        """Note what a stage begins to work on; `seq_nums` is empty for work that belongs to no block.

        Parameters
        ----------
        run : str
            Uid of the raw run.
        stage : str
        stream : str
            ``primary``, or one of the darks.
        seq_nums : sequence of int
        """

    def end(self) -> None:
        """Note that the stage is done with it."""

    def tries(self, run: str, stream: str, seq_num: int) -> int:
        """Return in how many crashes a frame was at work."""
        return 0

    def isolate(self, run: str, stream: str, block: list[int]) -> list[int]:
        """Return how much of a block may be read at once: a frame that is suspected goes alone."""
        for place, seq_num in enumerate(block):
            if self.tries(run, stream, seq_num):
                return block[: max(place, 1)]
        return block
