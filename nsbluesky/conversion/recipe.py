"""What all blocks of a conversion share, in a file beside them: each process reads it once."""

from __future__ import annotations

import importlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from nsbluesky.cleaning.plan import CleaningPlan
from nsbluesky.geometry import Geometry

__all__ = ["Recipe"]

FILE = "recipe.pickle"


@dataclass(frozen=True, eq=False)
class Recipe:
    """How every block of a scan is cleaned.

    Attributes
    ----------
    plans : tuple of CleaningPlan
        One for each exposure.
    exposures_s : tuple of float
    geometry : Geometry
        For the orientation.
    backend : str
        As `nsbluesky.backend.get_backend` knows it.
    stages : tuple of str
        Steps of the cleaning that are kept, as `nsbluesky.cleaning.clean.trace` calls them.
    """

    plans: tuple[CleaningPlan, ...]
    exposures_s: tuple[float, ...]
    geometry: Geometry
    backend: str
    stages: tuple[str, ...]

    def save(self, folder: Path) -> None:
        """Write the recipe for the workers of this conversion; those in this process have it at once.

        It is made anew whenever a conversion begins or goes on, so that no other file is unpickled.
        """
        part = folder / f"{FILE}.part"
        with part.open("wb") as file:
            _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(self)
        part.replace(folder / FILE)
        _keep(folder, self)

    @staticmethod
    def load(folder: Path) -> Recipe:
        """Return the recipe of the conversion at work in this folder."""
        key = _key(folder)
        if key not in _KEPT:
            with (folder / FILE).open("rb") as file:
                _keep(folder, pickle.load(file))
        return _KEPT[key]


_KEPT: dict[tuple[Path, int], Recipe] = {}
"""The newest recipe that this process has used."""


def _key(folder: Path) -> tuple[Path, int]:
    return folder, (folder / FILE).stat().st_mtime_ns


def _keep(folder: Path, recipe: Recipe) -> None:
    _KEPT.clear()
    _KEPT[_key(folder)] = recipe


class _Pickler(pickle.Pickler):
    """Pickles modules, such as a plan's NumPy or CuPy, by their names."""

    def reducer_override(self, obj: Any) -> Any:
        return (importlib.import_module, (obj.__name__,)) if isinstance(obj, ModuleType) else NotImplemented
