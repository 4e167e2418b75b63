"""How far a reconstruction with frames in many processes is, and its checkpoint.

Momentum is not part of it: shards begin anew with none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from nsbluesky.backend import Backend
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from nsbluesky.solver.dose import dose_of
from nsbluesky.solver.identity import check_identity, identity_of
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.sweep import Sweep

__all__ = ["Progress", "identity_in_shards"]


@dataclass
class Progress:
    """A reconstruction so far.

    Attributes
    ----------
    state : SolverState
    dose : float
        Photons on a lit pixel.
    sweep : Sweep or None
        Of the first frames.
    r_factors : list of float
        Of each pass.
    rejected : dict of int to str
        Numbers of frames that did not fit, and why.
    frames : dict
        What `FrameStore.contents` tells of them; empty at the beginning.
    refinement : dict
        What `Refinement.contents` tells; empty at the beginning.
    """

    state: SolverState
    dose: float
    sweep: Sweep | None
    r_factors: list[float] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    frames: dict[str, Any] = field(default_factory=dict)
    refinement: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, solver: IncrementalSolver, backend: Backend) -> Self:
        """Return what the first frames have shown, in one process."""
        assert solver.state is not None
        state = SolverState(solver.state.object, solver.state.probe, solver.state.origin_px)
        return cls(state, dose_of(backend, solver.frames), solver.sweep)

    def save(self, path: Path, identity: dict[str, Any], backend: Backend) -> None:
        """Write a checkpoint."""
        rejected = list(self.rejected.items())
        write_checkpoint(
            path,
            {
                "identity": identity,
                "solver": {"dose": self.dose, "r_factors": self.r_factors, "rejected": rejected},
                "sweep": {} if self.sweep is None else asdict(self.sweep),
                "state": self.state.contents(backend),
                "frames": self.frames,
                "refinement": self.refinement,
            },
        )

    @classmethod
    def load(cls, path: Path, identity: dict[str, Any], backend: Backend) -> Self:
        """Read a checkpoint."""
        told = read_checkpoint(path)
        try:
            check_identity(path, told["identity"], identity)
            own, sweep = told["solver"], Sweep(**told["sweep"]) if told["sweep"] else None
            state = SolverState.of_contents(told["state"], backend)
            known = own["r_factors"], dict(own["rejected"]), told["frames"], told["refinement"]
            return cls(state, own["dose"], sweep, *known)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path} is damaged ({error!r}): begin anew") from None


def identity_in_shards(frame_px: int, pixel_m: float, geometry: Geometry, settings: SolverSettings) -> dict[str, Any]:
    """Return what must be the same for a checkpoint to be gone on from; the number of shards may differ."""
    return {"in_shards": True, **identity_of(frame_px, pixel_m, geometry, settings)}
