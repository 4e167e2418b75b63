"""In which order frames are used: new ones first, all once a pass, each batch spread over the scan."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FrameQueue", "spread"]


def spread(
    slots: npt.NDArray[np.intp],
    corners_px: npt.NDArray[np.int64],
    batch: int,
    rng: np.random.Generator,
    steps: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.intp]:
    """Order frames at random, but so that every run of `batch` frames is spread over the scanned area.

    The frames are sorted by place and cut into `batch` strata; each run takes one frame of every stratum
    (spatially sparse batches: Odstrčil, Menzel & Guizar-Sicairos, Opt. Express 26, 3108 (2018)).  All strata have
    the frames of one shift after one another, shifts in random order: a run then has few, and a probe moved by one
    serves several frames (`nsbluesky.solver.shifts`).

    Parameters
    ----------
    slots : (n,) int
    corners_px : (n, 2) int
        Row and column of each frame's window.
    batch : int
    rng : numpy.random.Generator
    steps : (n, 2) int, optional
        Shift of each frame, as `nsbluesky.solver.shifts.steps_of` returns it; none is moved by default.

    Returns
    -------
    (n,) int
    """
    count, strata = len(slots), max(1, min(batch, len(slots)))
    at_random = rng.random(count)
    turns = turns_of(np.zeros((count, 2), np.int64) if steps is None else steps, rng)
    sizes = np.full(strata, count // strata)
    sizes[: count % strata] += 1
    stratum = np.empty(count, np.intp)
    stratum[np.lexsort((corners_px[:, 1], corners_px[:, 0]))] = np.repeat(np.arange(strata), sizes)
    by_stratum = np.lexsort((at_random, turns, stratum))
    run = np.arange(count) - np.repeat(sizes.cumsum() - sizes, sizes)
    return np.asarray(slots[by_stratum[np.lexsort((stratum[by_stratum], run))]])


def turns_of(steps: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Return when the turn of each shift (n, 2) comes, in random order, those that are equal together, (n,)."""
    if not steps.any():
        return np.zeros(len(steps), np.intp)
    row, column = (steps - steps.min(axis=0)).T
    _, which = np.unique(row * (column.max() + 1) + column, return_inverse=True)
    return np.asarray(rng.permutation(which.max(initial=-1) + 1)[which])


class FrameQueue:
    """Which frames the next batch has; a pass ends when every frame that was there at its start had its turn.

    While frames arrive, half of each batch is from the newest ones, those that had no turn yet first: so a picture
    follows the stage, a frame has many uses soon after it came, and the older part goes on ripening.  On simulated
    scans this was at its plateau when the last frame came; half from frames without a turn yet, but no more, was not.

    Parameters
    ----------
    seed : int
    newest : int
        How many frames count as newest; the rule rests while there are no more than these, and with 0.
    """

    def __init__(self, seed: int, newest: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._fresh: deque[int] = deque()
        self._rest: deque[int] = deque()
        self._fresh_planned = 0
        self._arrived: deque[int] = deque(maxlen=newest)
        self._follows = False
        self._turns: dict[int, int] = {}

    @property
    def fresh(self) -> int:
        """Number of frames that had no turn yet."""
        return len(self._fresh)

    @property
    def pass_is_over(self) -> bool:
        """True when a new pass has to be started."""
        return not self._rest and (self._fresh_planned <= 0 or not self._fresh)

    def add(self, slots: Iterable[int]) -> None:
        """Put in frames that are new, or measured again."""
        fresh, arrived = set(self._fresh), set(self._arrived)
        for slot in slots:
            if slot not in fresh:
                self._fresh.append(slot)
            if slot not in arrived:
                self._arrived.append(slot)

    def remove(self, slots: Iterable[int]) -> None:
        """Take frames out."""
        gone = set(slots)
        self._fresh = deque(slot for slot in self._fresh if slot not in gone)
        self._rest = deque(slot for slot in self._rest if slot not in gone)
        self._arrived = deque((slot for slot in self._arrived if slot not in gone), self._arrived.maxlen)

    def contents(self) -> dict[str, Any]:
        """Return what is in it between two passes, for a checkpoint."""
        return {"fresh": list(self._fresh), "arrived": list(self._arrived), "rng": self._rng.bit_generator.state}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned."""
        self._fresh, self._rest, self._fresh_planned = deque(contents["fresh"]), deque(), 0
        self._arrived = deque(contents["arrived"], self._arrived.maxlen)
        self._rng.bit_generator.state = contents["rng"]

    def start_pass(
        self,
        slots: npt.NDArray[np.intp],
        corners_px: npt.NDArray[np.int64],
        batch: int,
        steps: npt.NDArray[np.int64] | None = None,
        *,
        live: bool = True,
    ) -> None:
        """Plan a pass over frames, as `spread` takes them; `live` while more arrive."""
        steps = np.zeros((len(slots), 2), np.int64) if steps is None else steps
        old = ~np.isin(slots, list(self._fresh))
        order = spread(slots[old], corners_px[old], batch, self._rng, steps[old]) if old.any() else slots[old]
        self._rest = deque(order.tolist())
        self._turns = dict(zip(slots.tolist(), turns_of(steps, self._rng).tolist(), strict=True))
        self._fresh_planned = len(self._fresh)
        self._follows = live and len(slots) > len(self._arrived)

    def next_batch(self, batch: int) -> npt.NDArray[np.intp]:
        """Return up to `batch` frames, new ones first."""
        share = max(batch // 2 if self._rest else batch, 1)
        chosen = [self._fresh.popleft() for _ in range(min(share, len(self._fresh)))]
        self._fresh_planned -= len(chosen)
        if self._follows and self._rest:
            again = [slot for slot in self._arrived if slot not in chosen and slot not in self._fresh]
            count = min(share - len(chosen), len(again))
            chosen += self._of_similar_shift(again)[:count]
        chosen += [self._rest.popleft() for _ in range(min(batch - len(chosen), len(self._rest)))]
        return np.array(list(dict.fromkeys(chosen)), dtype=np.intp)

    def _of_similar_shift(self, slots: list[int]) -> list[int]:
        """Return slots in random order, those of one shift together."""
        turns = np.array([self._turns.get(slot, 0) for slot in slots], np.intp)
        shifts = turns.max(initial=0) + 1
        turns = (turns + self._rng.integers(shifts)) % shifts
        return [slots[k] for k in np.lexsort((self._rng.random(len(slots)), turns))]
