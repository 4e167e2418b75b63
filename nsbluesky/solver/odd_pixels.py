"""Pixels of the detector that fit in no frame: hot, flickering and dead ones that no mask tells of.

Hot ones are lonely: light on a single pixel would fill the whole window of the object, and what a probe of two thirds
of that width lets through has neighbours of a tenth at least.  A probe that was made to explain one fills its window.
The others stand out by their misfit, on average over frames many times that of the pixels around them: what is bright
or dark by right, object and probe explain.  In the near field all stay, for each pixel has its own part of the probe.

A few of them spoil an image.  400 simulated frames of 64² with 1e6 photons each were left with an error of 0.24 by
three pixels that always counted 20000, of 0.064 by ten that counted 1000, and of 0.034 by 20 that counted nothing;
without these pixels, of 0.0069.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import median_filter, rank_filter

from nsbluesky.backend import Backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.engines.base import Slots
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.held_out import predictions, spaced
from nsbluesky.solver.state import SolverState

__all__ = ["OddPixels"]

FIRST_LOOK = 2
"""Passes over whole frames before the first look; there is another after twice as many, four times as many, … and
where there are odd pixels, a second one after half as many passes again: what is odd in both is left out.  After one
pass more, a pixel of an image that was still on its way was odd twice, in every third run of one scan."""

FRAMES = 64
"""Frames that are looked at, evenly spaced."""

LEAST_FRAMES = 16

LONELY = 30.0
"""A hot pixel has so many times the photons of its neighbours, but for the brightest: hot ones come in twos, too.
Probes of 0.7 and 0.5 of the window make peaks of 7 and 2.5 times."""

LEAST_PHOTONS = 0.05
"""Neighbours are taken for no darker, on average over frames."""

STANDS_OUT = 10.0
AROUND_PX = 9
"""Another odd pixel has this many times the mean squared misfit of a square around it, …"""

ALONE = 4.0
TOGETHER = 4
"""… this many times that of the fifth worst there: the edge of a sharp pupil stands out as a line, …"""

UNEXPLAINED = 0.1
"""… and its Σ|A - G| is this part of Σ max(A, G).  Where nothing was wrong, simulated scans and the measured star had
pixels of 7 times the misfit around them, and of 12 times at the zero order, where this part was 0.05."""

LEAST_MISFIT = 0.05
"""The misfit around a pixel is taken for no less, a fifth of that of photon noise: where hardly a photon comes, one
that does is not odd."""

MOST = 0.01
"""Where more than this part of the pixels stands out, it is the model that is wrong, and none is left out."""


class OddPixels:
    """Looks at the pixels of whole frames now and then.

    Parameters
    ----------
    frames : FrameStore
    leave_out : callable
        Is called with pixels (N, N; zero frequency at N//2) that no frame shall use any more.
    settings : SolverSettings
    """

    def __init__(
        self, frames: FrameStore, leave_out: Callable[[npt.NDArray[np.bool_]], None], settings: SolverSettings
    ) -> None:
        self._frames = frames
        self._leave_out = leave_out
        self.reset()
        self.configure(settings)

    def configure(self, settings: SolverSettings) -> None:
        """Go on with other settings."""
        self._looks = settings.leave_out_pixels and self._frames.propagator.is_far
        self._subpixel = settings.subpixel

    def reset(self) -> None:
        """Forget what was odd at the latest look, as the image begins anew."""
        self._odd = np.zeros((self._frames.frame_px,) * 2, np.bool_)

    def contents(self) -> dict[str, Any]:
        """Return what was odd at the latest look, for a checkpoint."""
        return {"odd": self._odd}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned."""
        self._odd = contents["odd"]

    def leave_lonely_out(self) -> bool:
        """Leave out pixels that are hot whatever the image; return whether there are any.

        Before an image begins, too, for a probe is made of the mean pattern.
        """
        return self._looks and self._drop(lonely_pixels(self._frames, self._frames.active))

    def look(self, state: SolverState) -> bool:
        """Look after a pass over whole frames, where it is time; return whether the image has to settle anew."""
        again = self._odd.any() and is_time_for_second_look(state.passes)
        if not (self._looks and (again or is_time_to_look(state.passes))):
            return False
        frames, lonely = self._frames, self.leave_lonely_out()
        used = frames.active[frames.uses[frames.active] > 0]
        before, self._odd = self._odd, odd_pixels(frames.backend, state, frames, used, self._subpixel)
        return self._drop(before & self._odd) or lonely

    def _drop(self, odd: npt.NDArray[np.bool_]) -> bool:
        """Leave these pixels out; return whether there are any."""
        if odd.any():
            self._leave_out(odd)
        return bool(odd.any())


def is_time_to_look(passes: int) -> bool:
    """Return whether pixels are looked at after so many passes over whole frames."""
    return passes >= FIRST_LOOK and passes & (passes - 1) == 0


def is_time_for_second_look(passes: int) -> bool:
    """Return whether what was odd at the latest look is looked at again."""
    return passes % 3 == 0 and is_time_to_look(2 * passes // 3)


def lonely_pixels(frames: FrameStore, slots: Slots) -> npt.NDArray[np.bool_]:
    """Return the pixels (N, N; zero frequency at N//2) that have many more photons than their neighbours.

    None where frames are too few to tell.  Neighbours that frames do not use might have as many.

    Parameters
    ----------
    frames : FrameStore
        Whole frames.
    slots : (n,) int
        Frames of which some are looked at.
    """
    side, backend = frames.frame_px, frames.backend
    if len(slots) < LEAST_FRAMES:
        return np.zeros((side, side), np.bool_)
    sums = frames.mean_intensity(spaced(slots, FRAMES)), frames.good
    photons, good = (np.fft.fftshift(backend.to_numpy(array)) for array in sums)
    eight = np.ones((3, 3), bool)
    eight[1, 1] = False
    around = rank_filter(np.where(good > 0, photons, np.inf), -2, footprint=eight, mode="nearest")
    return _few(photons > LONELY * np.maximum(around, LEAST_PHOTONS))


def odd_pixels(
    backend: Backend, state: SolverState, frames: FrameStore, slots: Slots, subpixel: int
) -> npt.NDArray[np.bool_]:
    """Return the pixels (N, N; zero frequency at N//2) that do not fit; none where frames are too few to tell.

    Parameters
    ----------
    backend : Backend
    state : SolverState
    frames : FrameStore
        Whole frames; pixels that they do not use are not looked at.
    slots : (n,) int
        Frames that have been used.
    subpixel : int
        As the engine's.
    """
    xp, side = backend.xp, frames.frame_px
    if len(slots) < LEAST_FRAMES:
        return np.zeros((side, side), np.bool_)
    sums: Any = xp.zeros((4, side, side), np.float32)
    for intensity, amplitude in predictions(backend, state, frames, spaced(slots, FRAMES), subpixel):
        known = (amplitude >= 0) & (frames.good > 0)
        model = xp.sqrt(intensity)
        difference = xp.abs(amplitude - model) * known
        sums += xp.stack([known, difference, difference**2, xp.maximum(amplitude, model) * known])
    known, *misfits = np.fft.fftshift(backend.to_numpy(sums), axes=(1, 2))
    return _few(_standing_out(*(misfit / np.maximum(known, 1) for misfit in misfits)))


def _standing_out(
    difference: npt.NDArray[np.float32], misfit: npt.NDArray[np.float32], light: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Return the pixels that do not fit, by means over frames (N, N) of |A - G|, (A - G)² and max(A, G)."""
    around = np.maximum(median_filter(misfit, AROUND_PX, mode="nearest"), np.float32(LEAST_MISFIT))
    others = rank_filter(misfit, -1 - TOGETHER, AROUND_PX, mode="nearest")
    return np.asarray((misfit > np.maximum(STANDS_OUT * around, ALONE * others)) & (difference > UNEXPLAINED * light))


def _few(odd: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return odd if np.count_nonzero(odd) <= MOST * odd.size else np.zeros_like(odd)
