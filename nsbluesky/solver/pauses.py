"""How often frames are looked at between passes: soon again while a look tells something, else ever less often."""

from __future__ import annotations

__all__ = ["LONGEST_PAUSE", "Pauses"]

LONGEST_PAUSE = 8
"""Passes between rounds that find nothing, as frames that come may change that."""


class Pauses:
    """Passes between looks: so many at first, and twice as many each time that one told nothing.

    Parameters
    ----------
    first, longest : int
        The shortest and the longest pause, in passes.

    Attributes
    ----------
    last_pass : int
        Passes that were done at the latest look; 0 before the first.
    passes : int
        The pause after it.
    """

    def __init__(self, first: int = 1, longest: int = LONGEST_PAUSE) -> None:
        self._first = first
        self._longest = longest
        self.begin()

    def begin(self) -> None:
        """Begin anew, with another image."""
        self.last_pass = 0
        self.shorten()

    def shorten(self) -> None:
        """Have the next look as soon after the latest as at first."""
        self.passes = self._first

    @property
    def is_short(self) -> bool:
        """Whether the latest look told something, or there was none yet."""
        return self.passes == self._first

    def is_over(self, passes: int) -> bool:
        """Return whether a look is due after so many passes."""
        return abs(passes - self.last_pass) >= self.passes  # a finer grid counts its passes from 0

    def note(self, passes: int, *, told: bool) -> None:
        """Note a look after so many passes, and whether it told something."""
        self.last_pass = passes
        self.passes = self._first if told else min(2 * self.passes, self._longest)
