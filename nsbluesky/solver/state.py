"""What a reconstruction is at any moment, apart from the frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nsbluesky.backend import Backend
from nsbluesky.solver.windows import stacked

__all__ = ["SolverState"]


@dataclass
class SolverState:
    """Object, probe and how far they have come.

    Attributes
    ----------
    object : (H, W) or (states, H, W) complex64 array of the backend
        The canvas; 1 where nothing was measured yet.  Several where the object is a mixture of states.
    probe : (modes, N, N) complex64 array of the backend
        In √photon, centred on N//2.
    origin_px : (int, int)
        Row and column of the canvas's first pixel on the stage's grid of object pixels.
    background : float
        Photons a pixel that do not come from the sample.
    passes : int
        Full passes over the frames, or over their central halves.
    r_factor : float
        Σ | ‖model‖ − A | / Σ A over the last pass, each frame before its own update; NaN before the first.
    variation : (V, N, N) complex64 array of the backend, or None
        How the first mode changes over the scan (`nsbluesky.solver.variation`).
    """

    object: Any
    probe: Any
    origin_px: tuple[int, int] = (0, 0)
    background: float = 0.0
    passes: int = 0
    r_factor: float = field(default=float("nan"))
    variation: Any = None

    @property
    def objects(self) -> Any:
        """All states of the object (states, H, W)."""
        return stacked(self.object)

    @property
    def image(self) -> Any:
        """The object (H, W), or its strongest state."""
        return self.objects[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the canvas."""
        rows, columns = self.object.shape[-2:]
        return rows, columns

    def contents(self, backend: Backend) -> dict[str, Any]:
        """Return all of it, for a checkpoint."""
        varied = {} if self.variation is None else {"variation": backend.to_numpy(self.variation)}
        return {
            **varied,
            "object": backend.to_numpy(self.object),
            "probe": backend.to_numpy(self.probe),
            "origin_px": list(self.origin_px),
            "background": self.background,
            "passes": self.passes,
            "r_factor": self.r_factor,
        }

    @classmethod
    def of_contents(cls, contents: Mapping[str, Any], backend: Backend) -> SolverState:
        """Return the state of a checkpoint."""
        row, column = contents["origin_px"]
        return cls(
            object=backend.from_numpy(contents["object"]),
            probe=backend.from_numpy(contents["probe"]),
            origin_px=(row, column),
            background=contents["background"],
            passes=contents["passes"],
            r_factor=contents["r_factor"],
            variation=backend.from_numpy(contents["variation"]) if "variation" in contents else None,
        )
