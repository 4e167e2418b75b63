"""When a stage shows what it has: so many pictures a second at most, of what no picture showed yet."""

from __future__ import annotations

import time

__all__ = ["PictureClock"]


class PictureClock:
    """Tells a stage when its next picture is due, also where it rests meanwhile, as in a pause of the scan.

    Attributes
    ----------
    has_news : bool
        Whether there is something to show since the latest picture; the stage says so.
    """

    def __init__(self) -> None:
        self.has_news = False
        self._next = 0.0

    @property
    def is_due(self) -> bool:
        """Whether there is something new to show, and time to show it."""
        return self.has_news and time.monotonic() >= self._next

    def begin_picture(self) -> None:
        """Note that all that was done is shown now."""
        self.has_news = False

    def end_picture(self, most_hz: float) -> None:
        """Let the next one come when it is time, counted from here: a picture may take long."""
        self._next = time.monotonic() + 1 / most_hz
