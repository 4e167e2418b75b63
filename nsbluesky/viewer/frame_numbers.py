"""Numbers of frames as people write them: ``3, 7-9``."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["numbers_text", "parse_numbers"]

MAX_NUMBERS = 100_000

_PART = re.compile(r"(\d+)(?:\s*[-–]\s*(\d+))?")


def parse_numbers(text: str) -> list[int]:
    """Return the numbers in a text, each once, in order.

    Raises
    ------
    ValueError
        For something that is no number, and no range that goes up.
    """
    numbers: set[int] = set()
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        found = _PART.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last or last - first >= MAX_NUMBERS:
            raise ValueError(f"{part!r}: expected numbers of frames, from 1, as in 3, 7-9")
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def numbers_text(numbers: Sequence[int]) -> str:
    """Write numbers, neighbours as ranges."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
