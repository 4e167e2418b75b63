"""What a reconstruction is at any moment, apart from the frames; it can be saved and loaded."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nsbluesky.backend import Backend

__all__ = ["SolverState"]


@dataclass
class SolverState:
    """Object, probe and how far they have come.

    Attributes
    ----------
    object : (H, W) complex64 array of the backend
        The canvas; 1 where nothing was measured yet.
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
    """

    object: Any
    probe: Any
    origin_px: tuple[int, int] = (0, 0)
    background: float = 0.0
    passes: int = 0
    r_factor: float = field(default=float("nan"))

    def save(self, path: str | Path, backend: Backend) -> None:
        """Write a checkpoint (NumPy ``.npz``); an older file of that name stays whole until the new one is."""
        target = Path(path)
        partial = target.with_name(target.name + ".part")
        with partial.open("wb") as file:
            np.savez(
                file,
                object=backend.to_numpy(self.object),
                probe=backend.to_numpy(self.probe),
                origin_px=np.array(self.origin_px),
                background=self.background,
                passes=self.passes,
                r_factor=self.r_factor,
            )
        partial.replace(target)

    @classmethod
    def load(cls, path: str | Path, backend: Backend) -> SolverState:
        """Read a checkpoint.

        Raises
        ------
        ValueError
            If the file is no checkpoint of a solver.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                row, column = (int(value) for value in file["origin_px"])
                return cls(
                    object=backend.from_numpy(file["object"].astype(np.complex64)),
                    probe=backend.from_numpy(file["probe"].astype(np.complex64)),
                    origin_px=(row, column),
                    background=float(file["background"]),
                    passes=int(file["passes"]),
                    r_factor=float(file["r_factor"]),
                )
        except (KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} is no checkpoint of the solver ({error}): expected a file that it saved"
            ) from None
