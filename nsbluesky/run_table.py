"""The recorded runs as a table: what each was, when, and where its image is; found by plan, sample, date, energy."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsbluesky.streams import ptycho_of, scan_of

__all__ = ["RunEntry", "find_runs", "image_file", "run_entry", "runs_of_catalog"]


@dataclass(frozen=True)
class RunEntry:
    """One raw run.

    Attributes
    ----------
    uid : str
    time : float
        When it began, in seconds since 1970.
    plan, sample : str
    energy_eV : float or None
    points : int or None
        Points of the scan.
    exit_status : str
        "success", "abort" or "fail"; "" while it goes on.
    """

    uid: str
    time: float
    plan: str
    sample: str
    energy_eV: float | None
    points: int | None
    exit_status: str

    @property
    def date(self) -> str:
        """When it began, as 2026-11-25 14:03:00, local time."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.time))

    @property
    def energy(self) -> str:
        """The photon energy as text."""
        return "" if self.energy_eV is None else f"{self.energy_eV:.1f} eV"

    @property
    def text(self) -> str:
        """All that can be searched."""
        return " ".join((self.uid, self.plan, self.sample, self.date, self.energy, self.exit_status)).lower()


def run_entry(start: Mapping[str, Any], stop: Mapping[str, Any] | None) -> RunEntry:
    """Return the entry of a run, from its start and stop document."""
    sample = start.get("sample", "")
    if isinstance(sample, Mapping):
        sample = sample.get("name", "")
    energy = _number(ptycho_of(start).get("energy_eV"))
    num_points = _number(scan_of(start).get("num_points", start.get("num_points")))
    return RunEntry(
        uid=str(start["uid"]),
        time=float(start.get("time", 0.0)),
        plan=str(start.get("plan_name", "")),
        sample=str(sample),
        energy_eV=energy,
        points=None if num_points is None else int(num_points),
        exit_status=str((stop or {}).get("exit_status", "")),
    )


def _number(told: Any) -> float | None:
    """Return a number, or None for what is none: the table of all runs must not fail by what somebody typed."""
    try:
        number = float(told)
    except (OverflowError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def runs_of_catalog(scans: Any) -> list[RunEntry]:
    """Return the runs in a catalog (`Catalog.scans`), newest first."""
    entries = [run_entry(run.metadata["start"], run.metadata.get("stop")) for run in scans.values()]
    return sorted(entries, key=lambda entry: -entry.time)


def find_runs(
    entries: Iterable[RunEntry], words: str = "", energy_eV: tuple[float, float] | None = None
) -> list[RunEntry]:
    """Return the runs that have all the words in them (any part of plan, sample, date, uid) and fit the energies.

    Parameters
    ----------
    entries : iterable of RunEntry
    words : str
        As in ``fly 2026-11 star``.
    energy_eV : (float, float), optional
        Lowest and highest energy.
    """
    wanted = words.lower().split()
    low, high = energy_eV or (float("-inf"), float("inf"))
    return [
        entry
        for entry in entries
        if all(word in entry.text for word in wanted)
        and (energy_eV is None or (entry.energy_eV is not None and low <= entry.energy_eV <= high))
    ]


def image_file(uid: str, directory: Path) -> Path | None:
    """Return the newest CXI file of a raw run below a folder; None where there is none.

    Files carry the first eight signs of the run's uid in their names (`CXIWriter`); those that could not be written
    whole are left out.

    Raises
    ------
    ValueError
        If the beginning of a uid fits several runs.
    """
    begins = uid[:8] if len(uid) >= 8 else f"{uid}*"
    files = directory.rglob(f"{begins}_clean*.cxi")
    whole = [path for path in files if not path.name.endswith(".incomplete.cxi")]
    runs = {path.name.partition("_clean")[0] for path in whole}
    if len(runs) > 1:
        raise ValueError(f"{len(runs)} runs with CXI files begin with {uid!r}: give more of the uid")
    return max(whole, key=lambda path: path.stat().st_mtime, default=None)
