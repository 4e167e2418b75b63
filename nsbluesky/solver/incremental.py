"""A reconstruction that lives while the scan runs: frames come, are replaced or withdrawn; nothing is reset.

It begins with the optic's defocus, or with the probe of an earlier scan, as soon as there are a few frames, and a
sweep beside it looks whether another defocus fits better.  Until each frame has had some uses, only the central half
of the detector is used.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.geometry import Geometry, orientation_after, orientation_back, oriented
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.checkpoint import CheckpointError, Sections, read_checkpoint, write_checkpoint
from nsbluesky.solver.constraints import Constraints
from nsbluesky.solver.fit import DiffractionFit, diffraction_fit
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.identity import check_identity, identity_of
from nsbluesky.solver.intake import Intake, valid_weights
from nsbluesky.solver.live_image import LiveImage
from nsbluesky.solver.mean_light import photons_through
from nsbluesky.solver.misfits import left_out
from nsbluesky.solver.orientation import Orientation
from nsbluesky.solver.picture import Picture, render
from nsbluesky.solver.plausibility import complaint_about_overlap
from nsbluesky.solver.probe_search import ProbeSearch
from nsbluesky.solver.propagation import propagator_of
from nsbluesky.solver.quality import Quality
from nsbluesky.solver.refinement import Refinement
from nsbluesky.solver.shadow_motion import ShadowMotion
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.sweep import Sweep
from nsbluesky.solver.turns import Turns
from nsbluesky.solver.variation import varied_part

__all__ = ["IncrementalSolver"]

R_OF_NOTHING = 1.0
"""R of an empty image: one that is worse is not gone on from once frames that spoilt it are withdrawn."""


class IncrementalSolver:
    """Turns frames into a picture in slices of time.

    Frames are keyed by their sequence number: one that comes again replaces the earlier.  `step` does work for
    about a given time; all else returns at once.  Not thread-safe: one thread owns a solver.

    Parameters
    ----------
    settings : SolverSettings
    frame_px : int
        Side N of a frame.
    pixel_m : float
        Object pixel dx = λ·z/(N·p), as `Geometry.object_pixel_m` returns it.
    geometry : Geometry
        Wavelength and optic are used; lengths of the detector are in `pixel_m` already.
    backend : Backend
    num_points : int, optional
        Frames that the scan plans; a picture's coverage refers to it.

    Attributes
    ----------
    cleaning : mapping or None
        Settings that the frames were cleaned with, of plain JSON types, where they are known: a checkpoint of frames
        that were cleaned in another way is not gone on from.
    """

    def __init__(
        self,
        settings: SolverSettings,
        *,
        frame_px: int,
        pixel_m: float,
        geometry: Geometry,
        backend: Backend,
        num_points: int | None = None,
    ) -> None:
        if not (math.isfinite(pixel_m) and pixel_m > 0):
            raise ValueError(f"pixel_m = {pixel_m!r}: expected a positive length in metres")
        self.settings = settings
        self.frame_px = frame_px
        self.pixel_m = pixel_m
        self.geometry = geometry
        self.num_points = num_points
        self.cleaning: Mapping[str, Any] | None = None
        propagator = propagator_of(backend, geometry, frame_px, pixel_m)
        self.frames = FrameStore(frame_px, backend, propagator, half=settings.half_precision_frames)
        self._backend = backend
        self._intake = Intake(self.frames, pixel_m, settings)
        self._search = ProbeSearch(settings, geometry, backend, frame_px * pixel_m)
        self._image = LiveImage(
            self._intake, self._search, settings, geometry=geometry, backend=backend, pixel_m=pixel_m
        )
        self._turns = Turns(settings, geometry, self._intake, self._search, self._image)
        self._previous: Picture | None = None

    # Frames ---------------------------------------------------------------------------------------------------

    def set_mask(self, mask: npt.ArrayLike) -> None:
        """Say which pixels can be used: (N, N) CXI codes, 0 and 0x1000 good, zero frequency at N//2."""
        self._intake.set_mask(mask)

    def add_frames(
        self,
        seq_nums: npt.ArrayLike,
        frames: Any,
        translations_m: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
    ) -> None:
        """Take frames in; they are used from the next `step` on.

        A frame without photons, or at a position that cannot be, is listed in `rejected` and not used.  A warning is
        given, once, where steps are so wide that the translations cannot be metres.

        Parameters
        ----------
        seq_nums : (n,) int
        frames : (n, N, N) float32
            Photons, zero frequency at N//2.  Negative values count as 0, NaN as not measured.
        translations_m : (n, 2 or more) float
            x, y of the sample.
        weights : (n,) float, optional
            0…1; 1 by default.

        Raises
        ------
        ValueError
            If shapes do not fit.
        """
        self._image.note_report()
        before = set(self.frames.seq_nums[self.frames.wanted].tolist())
        taken = self._intake.take(seq_nums, frames, translations_m, weights)
        known = [slot for slot in taken.values() if self.frames.uses[slot] > 0]  # from a checkpoint
        new = {number: slot for number, slot in taken.items() if self.frames.uses[slot] == 0}
        self._image.working_image.forget(new.values())
        usable = [
            slot for number, slot in new.items() if self.frames.weights[slot] > 0 and number not in self.rejected
        ]
        if usable:
            self._image.use(usable)
        gone = before & {number for number, slot in taken.items() if self.frames.weights[slot] == 0}
        self.withdraw(sorted(gone | (self.rejected.keys() & set(np.atleast_1d(seq_nums).tolist()))))
        self.rejected.update(left_out(self.frames, np.array(known, np.intp)))

    def withdraw(self, seq_nums: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Use these frames no more; unknown numbers are passed over."""
        self.set_weight(seq_nums, np.zeros(len(seq_nums)))

    def set_weight(self, seq_nums: Sequence[int] | npt.NDArray[np.int64], weights: npt.ArrayLike) -> None:
        """Change the weights (0…1) of frames; unknown numbers are passed over."""
        given = np.broadcast_to(np.asarray(weights, np.float64), (len(seq_nums),))
        changed, back = False, []
        for number, weight in zip(seq_nums, valid_weights(given).tolist(), strict=True):
            slot = self.frames.slots.get(int(number))
            if slot is None or self.frames.awaits(slot):
                continue
            comes_back = weight > 0 and self.frames.weights[slot] == 0
            usable = self._intake.fits(int(number)) if comes_back else int(number) not in self.rejected
            self.frames.weights[slot] = weight if usable else 0
            changed = True
            if comes_back and usable:
                back.append(slot)
        if changed:
            self._image.use(back)
        self._image.drop_unused()
        if self.state is not None and self.state.r_factor >= R_OF_NOTHING and not np.all(given):
            self._turns.begin_anew()

    @property
    def num_frames(self) -> int:
        """Frames that are here with a weight above 0 and fit the others."""
        return len(self.frames.wanted)

    @property
    def num_unused(self) -> int:
        """Frames that no update has used yet."""
        return int(np.sum(self.frames.uses[self.frames.active] == 0))

    @property
    def rejected(self) -> dict[int, str]:
        """Sequence numbers of frames that cannot be used, and why."""
        return self._intake.rejected

    def complaint(self) -> str | None:
        """Return why the frames that are here do not determine an image, or None; ask when they are all."""
        used = self.frames.wanted[self.frames.photons[self.frames.wanted] > 0]
        good = self._backend.to_numpy(self.frames.good) > 0
        near = self.geometry.is_near
        return complaint_about_overlap(self.frames.corners_px[used], good, self.settings, is_near=near)

    @property
    def odd_pixels(self) -> npt.NDArray[np.bool_]:
        """Pixels (N, N) of frames as they come that fit in none and are left out; zero frequency at N//2."""
        return np.asarray(oriented(self._intake.odd, orientation_back(self._intake.turned)))

    @property
    def full_scale(self) -> float | None:
        """Photons at which counts end, where frames showed it: such pixels are left out of each frame."""
        amplitude = self._intake.full_scale
        return None if amplitude is None else amplitude**2

    @property
    def varied_part(self) -> float:
        """Part of the probe's light that is another than that of the mean probe; 0 where all frames have one."""
        return 0.0 if self.state is None else varied_part(self._backend, self.state)

    @property
    def background_part(self) -> float:
        """Part of the light on the detector that does not come through the sample, as far as the image tells."""
        used = self.frames.active
        if self.state is None or not self.state.background or not len(used):
            return 0.0
        return 1 - photons_through(self.frames, used, self.state.background) / float(
            np.mean(self.frames.photons[used])
        )

    @property
    def frame_orientation(self) -> int:
        """How frames come to lie as the stage does, as `Geometry.orientation`: what is declared, or was found."""
        return orientation_after(self.geometry.orientation, self._intake.turned)

    # Beginnings -----------------------------------------------------------------------------------------------

    def start_with(self, probe: npt.ArrayLike) -> None:
        """Begin with a known probe (N, N) or (modes, N, N), centred, in place of mean pattern and sweep.

        It is scaled to the frames' mean photons; modes that are missing are made as for any start.  An image that is
        there already is dropped, with all that was found beside it.

        Raises
        ------
        ValueError
            If its shape or its numbers do not fit, or there are no frames.
        """
        given = self._valid_probe(probe)
        if self.num_frames == 0:
            raise ValueError("there are no frames yet: add frames before start_with")
        self._search.skip()
        self._image.begin_with(given)

    def offer(self, probe: npt.ArrayLike) -> None:
        """Begin with the probe (N, N) or (modes, N, N) of an earlier scan, unless the sweep knows a better one.

        Its photons, modes and ramp are made to fit the frames.  It is one more candidate of the sweep: where another
        one fits better, the image begins anew with that.  Not used where there is no sweep: with a known defocus,
        without `sweep_frames`, and in the near field.

        Raises
        ------
        ValueError
            If its shape or its numbers do not fit, or there are frames already.
        """
        given = self._valid_probe(probe)
        if self.frames.slots:
            raise ValueError("there are frames already: offer a probe before add_frames")
        self._search.warm = given

    def take_over(self, first: IncrementalSolver) -> None:
        """Begin with the frames and the orientation that another solver has, and with its probe on a blank object.

        The frames are copied, and lie where they were told to.

        Raises
        ------
        ValueError
            If that has no image yet, or there are frames here.
        """
        if self.frames.slots:
            raise ValueError("there are frames already: take over before add_frames")
        if first.state is None:
            raise ValueError("the first solver has no image yet: wait until its state is not None")
        self._image.use(self._intake.take_over(first._intake).tolist())
        self.start_with(first.picture().probe)

    def _valid_probe(self, probe: npt.ArrayLike) -> npt.NDArray[np.complex64]:
        given = np.asarray(probe, np.complex64)
        given = given[None] if given.ndim == 2 else given
        if given.ndim != 3 or given.shape[1:] != (self.frame_px, self.frame_px):
            raise ValueError(f"probe of shape {given.shape}: expected (modes, {self.frame_px}, {self.frame_px})")
        if not np.isfinite(given).all() or not given[0].any():
            raise ValueError(
                "the probe is dark, or no number everywhere: expected finite numbers, some of them not 0"
            )
        return given

    def configure(self, settings: SolverSettings) -> None:
        """Go on with other settings, of which those count that `SolverSettings.AT_ONCE` names.

        The image stays, with as many probe modes as are wanted now; with another `defocus_m` it begins anew.

        Raises
        ------
        SettingsError
            For an unknown engine; nothing is changed then.
        """
        self._image.configure(settings)  # the first, for it may refuse
        before, self.settings = self.settings, settings
        self._intake.configure(settings)
        self._search.configure(settings)
        self._turns.configure(settings)
        self._image.adopt(before)

    # Work -----------------------------------------------------------------------------------------------------

    def step(self, budget_s: float) -> None:
        """Work for about `budget_s` seconds, at least one batch; return at once where there is nothing to do."""
        end = time.monotonic() + budget_s
        while self.has_work:
            self._turns.one_batch()
            if time.monotonic() >= end:
                return

    def finish(self) -> None:
        """Say that no more frames will come; `step` then does the last passes."""
        if not self._image.rhythm.is_last:
            self._image.finish()

    @property
    def has_work(self) -> bool:
        """True when a `step` would improve the picture."""
        return self._turns.has_work

    @property
    def finished(self) -> bool:
        """True when no more frames will come and the last passes are done."""
        return self._image.rhythm.is_last and not self.has_work

    @property
    def is_settled(self) -> bool:
        """True when every frame is used, and the image had most of the passes that it should have on whole frames.

        Not while defocus and orientation are looked for, after which the image may begin anew.
        One pass more than half of the least, those while the scan ran included; of several engines all.
        """
        return self._image.is_settled and not self.is_searching and self.num_unused == 0

    # How far it is --------------------------------------------------------------------------------------------

    @property
    def state(self) -> SolverState | None:
        """Object and probe, of half the pixels while `is_coarse`; None before there were enough frames."""
        return self._image.state

    @property
    def is_coarse(self) -> bool:
        """True while only the central half of the detector is used."""
        return self._image.is_coarse

    @property
    def r_is_coarse(self) -> bool:
        """True while R is that of the central half: until whole frames had a pass."""
        return self._image.working_image.r_is_coarse

    @property
    def r_factors(self) -> list[float]:
        """R of each full pass since the last frame came, or since the end was told."""
        return self._image.rhythm.r_factors

    @property
    def passes_wanted(self) -> int:
        """Full passes after the last frame, of all engines of the schedule."""
        return self._image.rhythm.passes_wanted

    @property
    def passes_done(self) -> int:
        """Full passes since the last frame came, or since the end was told."""
        return self._image.rhythm.passes_done

    @property
    def is_warm(self) -> bool:
        """Whether the image began with the probe that was offered, and did not begin anew since."""
        return self._image.is_warm

    @property
    def time_left(self) -> float:
        """Set it where somebody waits: the part that is left of the time for the last passes, 1 at first.

        Below 2/3, half of `SolverSettings.coarse_uses` is enough, and below 1/4, no further mode is begun, and an
        image that had half of its least passes has the others without momentum.
        """
        return self._image.rhythm.time_left

    @time_left.setter
    def time_left(self, part: float) -> None:
        self._image.rhythm.time_left = part

    @property
    def refinement(self) -> Refinement:
        """What was put right of the positions, of flux and background."""
        return self._image.refinement

    @property
    def constraints(self) -> Constraints:
        """What is held of object and probe."""
        return self._image.constraints

    @property
    def sweep(self) -> Sweep | None:
        """The latest defocus sweep."""
        return self._search.sweep

    @property
    def orientation(self) -> Orientation | None:
        """What was found of the detector's orientation, relative to what was declared."""
        return self._search.orientation

    @property
    def motion(self) -> ShadowMotion | None:
        """How shadows move, in the near field: where they tell that."""
        return self._search.motion

    @property
    def knows_probe(self) -> bool:
        """Whether a sweep told which probe to go on with, or none will."""
        return self._search.has_told

    @property
    def is_searching(self) -> bool:
        """Whether defocus and orientation are still looked for."""
        return self._search.goes_on

    # Results --------------------------------------------------------------------------------------------------

    def picture(self) -> Picture:
        """Return the present picture: with engines that average passes, over as many uses of frames as a pass has.

        Raises
        ------
        RuntimeError
            Before there is a reconstruction (`state` is None).
        """
        if self.state is None:
            raise RuntimeError("there is no picture yet: add frames and call step until `state` is not None")
        self._image.note_report()
        picture = render(
            self._backend,
            self._image.working_image.shown(self.state),
            self.frames,
            pixel_m=self.pixel_m,
            num_points=self.num_points,
            previous=self._previous,
        )
        if self.r_is_coarse and not self.is_coarse:  # only some frames were seen whole: their sum would be a mixture
            picture = dataclasses.replace(picture, r_factor=self.state.r_factor)
        self._previous = picture
        return picture

    def fit(self, seq_num: int | None = None) -> DiffractionFit | None:
        """Return how a frame is modelled, the newest one in use by default; None where it is not in use."""
        frames = self.frames
        used = frames.wanted[frames.uses[frames.wanted] > 0]
        if self.state is None or not len(used):
            return None
        slot = int(used[np.argmax(frames.seq_nums[used])]) if seq_num is None else frames.slots.get(seq_num, -1)
        if slot not in used:
            return None
        return diffraction_fit(self._backend, self._image.working_image.fine(self.state), frames, slot)

    def quality(self) -> Quality:
        """Return how good the image is by itself."""
        return self._image.quality.judge(self.state, self.frames, is_coarse=self.is_coarse)

    def frames_for(self, resolution_m: float) -> int | None:
        """Return how many frames a resolution (½ bit) is expected to take; None until that can be told."""
        return self._image.quality.frames_for(resolution_m)

    def positions(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return the numbers (n,) of the frames in use, in order, and where they lie (n, 2: x, y) in metres."""
        slots = self.frames.wanted
        order = np.argsort(self.frames.seq_nums[slots])
        slots = slots[order]
        places = self.frames.places_px(slots) + self.frame_px / 2
        return np.asarray(self.frames.seq_nums[slots]), places[:, ::-1] * self.pixel_m

    # Checkpoints ----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Finish the pass that goes on and write a checkpoint: all but the frames themselves, and a sweep's work.

        Raises
        ------
        RuntimeError
            Before there is a reconstruction.
        """
        if self.state is None:
            raise RuntimeError("there is nothing to save yet: add frames and call step until `state` is not None")
        self._image.end_pass()
        contents = self._image.contents()
        contents["solver"] |= self._intake.contents()
        others = {
            "identity": identity_of(self.frame_px, self.pixel_m, self.geometry, self.settings, self.cleaning),
            "search": self._search.contents(),
            "frames": self.frames.contents(),
        }
        write_checkpoint(path, {**contents, **others})

    def load(self, path: str | Path) -> None:
        """Go on from a checkpoint, with the frames that it was made from, or before any frame is here.

        Frames that come afterwards and are those of the checkpoint are known: they have their uses and corrections.
        A solver whose `load` failed is of no use any more.

        Raises
        ------
        CheckpointError
            If the file is no checkpoint, or one of other frames, another geometry or other settings; those that say
            when to end and what to show may differ.
        """
        found = read_checkpoint(path)
        try:
            own = identity_of(self.frame_px, self.pixel_m, self.geometry, self.settings, self.cleaning)
            check_identity(path, found["identity"], own)
            self._restore(found)
        except (KeyError, TypeError, IndexError) as error:
            raise CheckpointError(f"{path} is damaged ({error!r}): begin anew") from None

    def _restore(self, found: Sections) -> None:
        more_to_come = not self.frames.slots
        self._intake.restore(found["solver"])
        self._search.restore(found["search"])
        self.frames.restore(found["frames"])
        if not more_to_come:
            self.rejected.update(left_out(self.frames, np.arange(len(self.frames))))
        self._image.restore(found, more_to_come)
