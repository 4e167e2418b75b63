"""What all blocks of a conversion share, in files beside them: each process reads them once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nsbluesky.backend import get_backend
from nsbluesky.callbacks.remote_cleaning import Recipe
from nsbluesky.cleaning.plan import CleaningPlan
from nsbluesky.geometry import Geometry
from nsbluesky.whole_file import write_whole

__all__ = ["ScanRecipe"]

FILE = "recipe.json"


@dataclass(frozen=True, eq=False)
class ScanRecipe:
    """How every block of a scan is cleaned.

    Attributes
    ----------
    exposures : tuple of Recipe
        One for each exposure of a point.
    exposures_s : tuple of float
    geometry : Geometry
        For the orientation.
    backend : str
        As `nsbluesky.backend.get_backend` knows it.
    stages : tuple of str
        Steps of the cleaning that are kept, as `nsbluesky.cleaning.clean.trace` calls them.
    """

    exposures: tuple[Recipe, ...]
    exposures_s: tuple[float, ...]
    geometry: Geometry
    backend: str
    stages: tuple[str, ...]

    @cached_property
    def plans(self) -> tuple[CleaningPlan, ...]:
        """The plans that follow, one for each exposure; the same on every machine."""
        xp = get_backend(self.backend, threads=1).xp
        return tuple(recipe.plan(xp) for recipe in self.exposures)

    def save(self, folder: Path) -> None:
        """Write the recipe for the workers of this conversion; those in this process have it at once."""
        for k, recipe in enumerate(self.exposures):
            recipe.save(folder / f"exposure-{k}.npz")
        about = {
            "exposures_s": self.exposures_s,
            "geometry": self.geometry.to_dict(),
            "backend": self.backend,
            "stages": self.stages,
        }
        write_whole(folder / FILE, json.dumps(about))
        _keep(folder, self)

    @classmethod
    def load(cls, folder: Path) -> ScanRecipe:
        """Return the recipe of the conversion at work in this folder."""
        key = _key(folder)
        if key not in _KEPT:
            about = json.loads((folder / FILE).read_text())
            times = tuple(about["exposures_s"])
            exposures = tuple(Recipe.load(folder / f"exposure-{k}.npz") for k in range(len(times)))
            geometry = Geometry.from_dict(about["geometry"])
            _keep(folder, cls(exposures, times, geometry, about["backend"], tuple(about["stages"])))
        return _KEPT[key]


_KEPT: dict[tuple[Path, int], ScanRecipe] = {}
"""The newest recipe that this process has used."""


def _key(folder: Path) -> tuple[Path, int]:
    return folder, (folder / FILE).stat().st_mtime_ns


def _keep(folder: Path, recipe: ScanRecipe) -> None:
    _KEPT.clear()
    _KEPT[_key(folder)] = recipe
