"""Probes that scans ended with, for later scans of the same setup to begin with.

A file for each setup, whole or not there at all, without pickles.  Whoever borrows a probe has to judge it: the lens
may have been moved since.  A probe is lent only to runs that began after the one that left it, so that a run that is
processed again neither meets its own probe nor that of a later run.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.document_log import UID
from nsbluesky.geometry import Geometry, Optic
from nsbluesky.solver.checkpoint import CheckpointError, read_checkpoint, write_checkpoint

__all__ = ["KeptProbe", "ProbeLibrary", "Setup"]

log = logging.getLogger(__name__)

KIND = "probe"
SUFFIX = ".probe"

MOST_SETUPS = 16
"""Setups of which a probe is kept; those that were not used for longest are dropped."""

ALIKE = 0.01
"""Photon energies and object pixels may differ by this part: along an energy scan the lens is moved with the energy,
and the probe stays much the same on pixels that grow with the wavelength."""

SAME = 1e-3
"""Lengths of the optic may differ by this part, as texts of the same number do."""


@dataclass(frozen=True)
class Setup:
    """What two scans must share for the probe of one to serve the other.

    Attributes
    ----------
    energy_eV : float
    optic : Optic
        Its defocus does not count: it is what the sweep looks for.
    frame_px : int
        Side N of a frame.
    pixel_m : float
        Object pixel, in which detector distance, detector pixel and binning are.
    """

    energy_eV: float
    optic: Optic
    frame_px: int
    pixel_m: float

    @classmethod
    def of(cls, geometry: Geometry, frame_px: int, pixel_m: float) -> Setup:
        """Return the setup of a run."""
        return cls(geometry.energy_eV, geometry.optic.replace(defocus_m=0.0), frame_px, pixel_m)

    def fits(self, other: Setup) -> bool:
        """Return whether a probe of one serves in the other."""
        mine, others = asdict(self.optic), asdict(other.optic)
        return (
            self.frame_px == other.frame_px
            and math.isclose(self.energy_eV, other.energy_eV, rel_tol=ALIKE)
            and math.isclose(self.pixel_m, other.pixel_m, rel_tol=ALIKE)
            and mine.pop("kind") == others.pop("kind")
            and all(math.isclose(mine[name], others[name], rel_tol=SAME) for name in mine)
        )


@dataclass(frozen=True, eq=False)
class KeptProbe:
    """A probe and the run that ended with it.

    Attributes
    ----------
    probe : (modes, N, N) complex64
        In √photon, centred, strongest mode first.
    run : str
        uid of the raw run.
    time : float
        When that run began, in seconds since 1970.
    r_factor : float
        R of its last image.
    """

    probe: npt.NDArray[np.complex64]
    run: str
    time: float
    r_factor: float


class ProbeLibrary:
    """Keeps the newest probe of each setup in a folder.

    Parameters
    ----------
    directory : path
        Made when the first probe is kept.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._told: set[str] = set()

    def lend(self, setup: Setup, before: float) -> KeptProbe | None:
        """Return the probe for a run of this setup that began at `before`; None where there is none."""
        fitting = [kept for _, there, kept in self._all() if there.fits(setup) and kept.time < before]
        return max(fitting, key=lambda kept: kept.time, default=None)

    def keep(self, setup: Setup, kept: KeptProbe) -> Path | None:
        """Keep a probe in the place of the one of this setup; None where that is of a later run.

        Raises
        ------
        OSError
            If it cannot be written; what was kept before stays.
        """
        if not UID.fullmatch(kept.run):  # which names a file
            return None
        earlier = list(self._all())
        superseded = [(path, other) for path, there, other in earlier if there.fits(setup)]
        if any(other.time > kept.time for _, other in superseded):
            return None
        self.directory.mkdir(parents=True, exist_ok=True)
        target = self.directory / f"{kept.run}{SUFFIX}"
        about = {"run": kept.run, "time": kept.time, "r_factor": kept.r_factor, "probe": kept.probe}
        write_checkpoint(target, {"setup": asdict(setup), "kept": about}, kind=KIND)
        old = {path for path, _ in superseded}
        others = sorted((other.time, path) for path, _, other in earlier if path not in old | {target})
        old |= {path for _, path in others[: max(0, len(others) - MOST_SETUPS + 1)]}
        for path in old - {target}:
            path.unlink(missing_ok=True)
        return target

    def _all(self) -> Iterator[tuple[Path, Setup, KeptProbe]]:
        """Yield what is there; files that cannot be used are passed over, and told once."""
        for path in sorted(self.directory.glob(f"*{SUFFIX}")):
            try:
                yield path, *_read(path)
            except FileNotFoundError:  # another process has just replaced it
                continue
            except (CheckpointError, KeyError, TypeError, ValueError) as error:
                if path.name not in self._told:
                    self._told.add(path.name)
                    log.warning("the probe in %s is not used: %s", path, error)


def _read(path: Path) -> tuple[Setup, KeptProbe]:
    """Read a file.

    Raises
    ------
    CheckpointError, KeyError, TypeError, ValueError
        If it is none of this library, or damaged.
    """
    found = read_checkpoint(path, kind=KIND)
    setup, kept = found["setup"], found["kept"]
    own = Setup(
        _positive(setup["energy_eV"]),
        Optic.from_dict(setup["optic"]),
        int(_positive(setup["frame_px"])),
        _positive(setup["pixel_m"]),
    )
    probe, run = kept["probe"], kept["run"]
    if not isinstance(run, str):
        raise ValueError(f"run {run!r:.40}: expected a uid")
    expected = (own.frame_px, own.frame_px)
    if not isinstance(probe, np.ndarray) or probe.dtype != np.complex64 or probe.ndim != 3:
        raise ValueError("expected a probe (modes, N, N) of complex64")
    if probe.shape[1:] != expected or not len(probe) or not np.isfinite(probe).all() or not probe[0].any():
        raise ValueError(f"a probe of shape {probe.shape}: expected finite modes of {expected}, the first with light")
    return own, KeptProbe(probe, run, _positive(kept["time"]), float(kept["r_factor"]))


def _positive(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{value!r:.40}: expected a positive number")
    return number
