"""Object and probe, and the engine that improves them: made to fit their frames, canvas, modes and dose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nsbluesky.backend import Backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.canvas import make_room
from nsbluesky.solver.checkpoint import CheckpointError
from nsbluesky.solver.coarse import CentralHalf, refined
from nsbluesky.solver.dose import dose_of
from nsbluesky.solver.engines import Engine, in_near_field, make_engine
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.start import with_modes, with_states
from nsbluesky.solver.state import SolverState

__all__ = ["WorkingImage"]


class WorkingImage:
    """An object and a probe, of whole frames or of their central halves, and the engine at work on them.

    Parameters
    ----------
    frames : FrameStore
        The whole frames.
    settings : SolverSettings
    algorithm : str
        The engine that begins.
    backend : Backend
    is_near : bool
        Whether frames are of the near field.

    Attributes
    ----------
    state : SolverState or None
        Object and probe, of half the pixels while `is_coarse`; None before there is an image.
    level : FrameStore
        The frames as they are used now: their central halves, or whole.
    r_is_coarse : bool
        Whether the state's R is of the central halves: until whole frames had a pass, where those were used first.
    engine : Engine
    """

    def __init__(
        self, frames: FrameStore, settings: SolverSettings, algorithm: str, backend: Backend, *, is_near: bool
    ) -> None:
        self.state: SolverState | None = None
        self.level = frames
        self.r_is_coarse = False
        self._frames = frames
        self._backend = backend
        self._is_near = is_near
        self._dose: float | None = None
        self.configure(settings, algorithm)

    def configure(self, settings: SolverSettings, algorithm: str) -> None:
        """Go on with other settings, and an engine of them that has to `fit` first."""
        self._settings = settings
        self.engine = self._make_engine(algorithm)

    def _make_engine(self, algorithm: str) -> Engine:
        settings = in_near_field(self._settings) if self._is_near else self._settings
        return make_engine(settings.replace(algorithm=algorithm), self._backend)

    @property
    def is_coarse(self) -> bool:
        """Whether only the central half of the detector is used."""
        return self.level is not self._frames

    def take(self, state: SolverState, level: FrameStore) -> None:
        """Work on this state, of this level, from now on."""
        self.level = level
        self.r_is_coarse = self.is_coarse
        state.object = with_states(self._backend, state.object, self._settings.object_modes)
        self.state = state
        self.fit()
        self.make_room()

    def refine(self) -> None:
        """Go on with whole frames."""
        assert self.state is not None
        self.take(refined(self._backend, self.state), self._frames)
        self.r_is_coarse = True

    def note_r(self, r_factor: float) -> None:
        """Keep the R of a pass."""
        assert self.state is not None
        self.state.r_factor = r_factor
        self.r_is_coarse = self.is_coarse

    def drop(self) -> None:
        """Work on no state, until another one is taken."""
        self.state = None

    def change_engine(self, algorithm: str) -> None:
        """Give the state into the hands of another engine."""
        self.engine = self._make_engine(algorithm)
        self.fit()

    def fit(self) -> None:
        """Make the engine fit the state, which is another one or has other modes, and the light of its frames."""
        if len(self.level.active):
            self._dose = dose_of(self._backend, self.level)
        self._begin_engine()

    def _begin_engine(self) -> None:
        assert self.state is not None
        if self._dose is not None:
            self.engine.adapt(self._dose)
        self.engine.initialize(self.state, self.level)

    def make_room(self) -> None:
        """Grow the canvas where a window lies outside it."""
        margins = None if self.state is None else make_room(self._backend, self.state, self.level)
        if margins is not None:
            self.engine.pad(*margins)

    def set_modes(self, modes: int) -> None:
        """Give the probe so many modes, with its photons as before; `fit` afterwards."""
        assert self.state is not None
        probe = self._backend.to_numpy(self.state.probe)
        photons = float(np.sum(np.abs(probe) ** 2, dtype=np.float64))
        self.state.probe = self._backend.from_numpy(with_modes(probe, modes, photons))

    def forget(self, slots: Iterable[int]) -> None:
        """Drop what the engine keeps of these frames, which are others now."""
        for slot in slots:
            self.engine.forget(slot)

    # Results and checkpoints ----------------------------------------------------------------------------------

    def shown(self, state: SolverState) -> SolverState:
        """Return a state of the image as it is shown: of engines that average passes, over as many uses as a pass."""
        return self.fine(self.engine.shown(state))

    def fine(self, state: SolverState) -> SolverState:
        """Return a state of the image on the grid of the whole frames."""
        return refined(self._backend, state) if self.is_coarse else state

    def contents(self) -> dict[str, dict[str, Any]]:
        """Return all of it, section by section, for a checkpoint; there must be a state."""
        assert self.state is not None
        return {
            "solver": {"is_coarse": self.is_coarse, "r_is_coarse": self.r_is_coarse, "dose": self._dose},
            "state": self.state.contents(self._backend),
            "engine": self.engine.contents(),
        }

    def restore(self, contents: Mapping[str, Mapping[str, Any]], algorithm: str) -> None:
        """Take up what `contents` returned, with the engine whose turn it was.

        Raises
        ------
        CheckpointError
            Where the image is not finite.
        """
        own, xp = contents["solver"], self._backend.xp
        self._dose, self.r_is_coarse = own["dose"], own["r_is_coarse"]
        self.level = CentralHalf(self._frames) if own["is_coarse"] else self._frames
        self.state = state = SolverState.of_contents(contents["state"], self._backend)
        if not bool(xp.isfinite(state.object).all() & xp.isfinite(state.probe).all()):
            raise CheckpointError("the checkpoint holds an image that is not finite: begin anew")
        self.engine = self._make_engine(algorithm)
        self._begin_engine()
        self.engine.restore(contents["engine"])
