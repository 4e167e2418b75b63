"""CXIWriter: the derived run in, a CXI file out that is valid at any moment of the scan."""

from __future__ import annotations

import contextlib
import glob
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.derived_run import num_bytes
from nsbluesky.cxi import CxiError, CxiFile
from nsbluesky.cxi.layout import part_path
from nsbluesky.disk_space import NoSpace, require_space
from nsbluesky.folders import new_file
from nsbluesky.geometry import Geometry
from nsbluesky.latest import Latest
from nsbluesky.run_index import RunIndex

__all__ = ["CXIWriter"]


class CXIWriter:
    """Callback: write clean frames and pictures of derived runs, one CXI file each.

    The file appears with the first clean frames and shows every frame from then on; a frame that comes again
    replaces the one before.  A file of the same name, as when a run is replayed, stays: the new one is numbered.

    Parameters
    ----------
    directory : path
        Made where missing.
    pattern : str
        File name; ``raw_uid`` and ``uid`` are those of the raw and the derived run.
    interval_s : float
        Pictures are written at most so often, and the last one at the end.
    geometry : Geometry, optional
        For runs whose start document does not tell it.

    Attributes
    ----------
    paths : dict
        Files by the uid of the derived run, of the latest runs.
    errors : dict
        Why the file of a run could not be written whole, as on a full disk, by the uid of the derived run.  Such a
        file is renamed to ``*.incomplete.cxi`` and is no longer among `paths`.
    """

    def __init__(
        self,
        directory: str | Path,
        pattern: str = "{raw_uid:.8}_clean.cxi",
        *,
        interval_s: float = 5.0,
        geometry: Geometry | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()  # a session may change its own
        self.paths: dict[str, Path] = Latest()
        self.errors: dict[str, str] = Latest()
        self._pattern = pattern
        self._interval_s = interval_s
        self._geometry = geometry
        self._index = RunIndex()
        self._runs: dict[str, _RunFile] = {}
        self._damaged: list[_RunFile] = []

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Take one document of a derived run; other runs are left alone."""
        for uid in self._index.runs_of(name, document):
            if name == "start" and "raw_uid" in document:
                self._runs[uid] = _RunFile(self, document)
            try:
                if uid in self._runs:
                    require_space(self.directory, num_bytes(document))
                    self._runs[uid].process(name, document)
            except (OSError, RuntimeError) as error:  # RuntimeError: HDF5, where a dataset cannot grow
                self.errors[uid] = str(error)
                self._give_up(uid, closes=isinstance(error, NoSpace))
                raise
            finally:
                if name == "stop":
                    self._runs.pop(uid, None)

    @property
    def path(self) -> Path | None:
        """The file of the newest run."""
        return next(reversed(self.paths.values()), None)

    @property
    def closed(self) -> bool:
        """Whether no file is being written."""
        return not any(run.is_open for run in self._runs.values())

    def close(self) -> None:
        """Close the files of runs that did not stop."""
        for run in self._runs.values():
            run.close()

    def _give_up(self, uid: str, closes: bool) -> None:
        """Let nobody take a file that is not whole for a result; HDF5 may crash closing one after an error."""
        run = self._runs.pop(uid)
        if closes:
            run.abandon()
        else:
            self._damaged.append(run)
        path = self.paths.pop(uid, None)
        if path is not None:
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(".incomplete.cxi"))

    def _create(self, start: Mapping[str, Any], detector: Mapping[str, Any]) -> CxiFile:
        geometry = Geometry.from_start(start) if "ptycho" in start or self._geometry is None else self._geometry
        name = self._pattern.format(raw_uid=start["raw_uid"], uid=start["uid"])
        path = new_file(self.directory, name)
        _remove_parts(self.directory / name)
        cxi = CxiFile.create(
            path,
            energy_eV=geometry.energy_eV,
            detector_distance_m=geometry.detector_distance_m,
            pixel_size_m=float(detector["pixel_size_m"]),
            frame_shape=detector["mask"].shape,
            mask=detector["mask"],
            start_time=start["time"],
            propagation=geometry.propagation,
            source_distance_m=geometry.source_distance_m,
        )
        self.paths[start["uid"]] = path
        return cxi


def _remove_parts(path: Path) -> None:
    """Remove what processes left of a file, or of its numbered successors, that were killed as they closed it."""
    part = part_path(path.with_stem(f"{glob.escape(path.stem)}*"))
    for left in path.parent.glob(part.name):
        left.unlink(missing_ok=True)


class _RunFile:
    """The file of one derived run."""

    def __init__(self, writer: CXIWriter, start: Mapping[str, Any]) -> None:
        self._writer = writer
        self._start = start
        self._settings = start.get("settings", {})
        self._streams: dict[str, str] = {}
        self._detector: Mapping[str, Any] | None = None
        self._cxi: CxiFile | None = None
        self._index: dict[int, int] = {}
        self._r_factors: list[float] = []
        self._picture: Mapping[str, Any] | None = None
        self._second: Mapping[str, Any] | None = None
        self._second_engine, self._second_r_factors = "", list[float]()
        self._intensities: Any = None
        self._places: dict[int, npt.NDArray[np.float64]] = {}
        self._written = -np.inf

    def process(self, name: str, document: Mapping[str, Any]) -> None:
        method = getattr(self, f"on_{name}", None)
        if method is not None:
            method(document)

    @property
    def is_open(self) -> bool:
        return self._cxi is not None and not self._cxi.closed

    def close(self, end_time: float | None = None) -> None:
        if self._cxi is not None and not self._cxi.closed:
            self._write_pictures()
            self._cxi.close(end_time)

    def abandon(self) -> None:
        if self._cxi is not None:
            self._cxi.abandon()

    def on_descriptor(self, doc: Mapping[str, Any]) -> None:
        self._streams[doc["uid"]] = doc["name"]

    def on_event_page(self, doc: Mapping[str, Any]) -> None:
        if self._streams.get(doc["descriptor"]) == "clean":
            self._add_frames(doc)

    def on_event(self, doc: Mapping[str, Any]) -> None:
        stream, data = self._streams.get(doc["descriptor"]), doc["data"]
        if stream == "detector":
            self._detector = data
            if self._cxi is not None:
                self._cxi.set_mask(data["mask"])
        elif stream == "settings":
            self._settings = json.loads(data["settings"])
        elif stream == "low_resolution":
            self._intensities = data["illumination"]
        elif stream == "positions":
            places = np.stack([data["x_m"], data["y_m"]], axis=1)
            self._places = dict(zip(data["raw_seq_num"].tolist(), places, strict=True))
        elif stream == "reconstruction":
            self._picture = data
            if not data.get("coarse", False):  # R of the detector's centre is another, smaller number
                self._r_factors.append(float(data["r_factor"]))
            if data["final"] or time.monotonic() >= self._written + self._writer._interval_s:
                self._write_pictures()
        elif stream == "second_engine":
            self._second = data
            if data["engine"] != self._second_engine:
                self._second_engine, self._second_r_factors = data["engine"], []
            if not data["coarse"]:
                self._second_r_factors.append(float(data["r_factor"]))
            if data["final"]:
                self._write_pictures()

    def on_stop(self, doc: Mapping[str, Any]) -> None:
        self.close(doc["time"])

    def _add_frames(self, page: Mapping[str, Any]) -> None:
        if self._cxi is None:
            if self._detector is None:
                raise CxiError("clean frames came before the detector's document: subscribe CXIWriter before the run")
            self._cxi = self._writer._create(self._start, self._detector)
        data = page["data"]
        frames, flags, weights = (np.asarray(data[key]) for key in ("frame", "flags", "weight"))
        translation_m = np.stack([data["x_m"], data["y_m"]], axis=1)
        new: dict[int, int] = {}
        for row in np.flatnonzero(np.isfinite(translation_m).all(axis=1)).tolist():
            seq_num = int(page["seq_num"][row])
            if seq_num in self._index:
                index = self._index[seq_num]
                self._cxi.replace(
                    index, frames[row], translation_m[row], flags=int(flags[row]), weight=float(weights[row])
                )
            else:
                new[seq_num] = row
        if new:
            rows = list(new.values())
            appended = self._cxi.append(
                frames[rows], translation_m[rows], list(new), flags=flags[rows], weights=weights[rows]
            )
            self._index.update(zip(new, appended, strict=True))

    def _corrected(self) -> npt.NDArray[np.float64]:
        """Return the corrected positions (N, 2) in the order of the file, NaN for frames without."""
        places = np.full((len(self._index), 2), np.nan)
        for seq_num, index in self._index.items():
            places[index] = self._places.get(seq_num, np.nan)
        return places

    def _write_pictures(self) -> None:
        """Write the newest pictures and illumination, where they are not in the file yet."""
        if self._cxi is None:
            return
        if self._intensities is not None:
            self._cxi.set_illumination(intensities=self._intensities)
            self._intensities = None
        if self._picture is not None:
            picture, self._picture = self._picture, None
            self._write_image(picture, self._r_factors, self._corrected() if self._places else None)
            self._cxi.set_illumination(picture["probe"][0])
        if self._second is not None:
            second, self._second = self._second, None
            self._write_image(second, self._second_r_factors, second_engine=second["engine"])
        self._written = time.monotonic()

    def _write_image(
        self,
        picture: Mapping[str, Any],
        r_factors: Sequence[float],
        translation_m: npt.NDArray[np.float64] | None = None,
        second_engine: str = "",
    ) -> None:
        assert self._cxi is not None
        x0, x1, y0, y1 = (float(edge) for edge in picture["extent_m"])
        numbers = {key: value for key, value in picture.items() if isinstance(value, (bool, int, float))}
        self._cxi.write_image(
            picture["object"],
            picture["probe"],
            float(picture["pixel_size_m"]),
            {"settings": self._settings, **numbers},
            r_factors,
            center_m=((x0 + x1) / 2, (y0 + y1) / 2),
            translation_m=translation_m,
            second_engine=second_engine,
        )
