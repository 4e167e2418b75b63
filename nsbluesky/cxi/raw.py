"""Write raw CXI: frames and darks as the camera gave them, with the same geometry as clean files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from nsbluesky.cxi.layout import DETECTOR, TRANSLATION, CxiError, create_experiment, iso_time, link_data, part_path

__all__ = ["write_raw_cxi"]


def write_raw_cxi(
    path: str | Path,
    frames: Iterable[npt.ArrayLike],
    darks: Iterable[npt.ArrayLike],
    translation_m: npt.ArrayLike,
    *,
    energy_eV: float,
    detector_distance_m: float,
    pixel_size_m: float | tuple[float, float],
    number_exposures: int = 1,
    exposure_order: str = "",
    instrument_name: str = "nsbluesky",
    start_time: float | str | None = None,
) -> int:
    """Write a raw CXI file; the frames may come from a generator, one or a block at a time.

    Parameters
    ----------
    path : path
        Appears when the file is complete.
    frames, darks : iterable of array of uint16
        Each (rows, columns) or (n, rows, columns).  Double exposures follow one another.
    translation_m : array of float64
        (N, 2 or 3) x, y, z of the sample in metres, one for each frame.
    energy_eV, detector_distance_m, pixel_size_m : float
        As in `CxiFile.create`; the detector's own pixel.
    number_exposures : int
        Exposures per point.
    exposure_order : str
        How they follow one another.
    instrument_name : str
    start_time : float or str, optional
        Seconds since 1970 or ISO-8601 text; now by default.

    Returns
    -------
    int
        Frames written.

    Raises
    ------
    CxiError
        For frames of other shapes or types, or another number of translations.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(path)
    try:
        with h5py.File(part, "w") as file:
            shape = _write_stack(file, "raw_data", frames)
            dark_shape = _write_stack(file, "dark_data", darks)
            if dark_shape[0] and dark_shape[1:] != shape[1:]:
                raise CxiError(f"darks of {dark_shape[1:]} with frames of {shape[1:]}: expected the same camera mode")
            given = np.atleast_2d(np.asarray(translation_m, dtype=np.float64))
            if given.shape not in ((shape[0], 2), (shape[0], 3)):
                raise CxiError(
                    f"translations of shape {given.shape} for {shape[0]} frames: expected (N, 2) or (N, 3)"
                )
            file[TRANSLATION] = np.pad(given, ((0, 0), (0, 3 - given.shape[1])))
            create_experiment(
                file,
                energy_eV=energy_eV,
                detector_distance_m=detector_distance_m,
                pixel_size_m=pixel_size_m,
                frame_shape=shape[1:],
                instrument_name=instrument_name,
                start_time=start_time,
            )
            file["entry_1/end_time"] = iso_time()
            file[f"{DETECTOR}/number_exposures"] = number_exposures
            file[f"{DETECTOR}/exposure_order"] = exposure_order
            link_data(file, f"{DETECTOR}/raw_data")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return shape[0]


def _write_stack(file: h5py.File, name: str, frames: Iterable[npt.ArrayLike]) -> tuple[int, int, int]:
    """Write frames or blocks of frames one after another, and return the shape of all."""
    dataset = None
    count = 0
    for item in frames:
        block = np.asarray(item)
        block = block[np.newaxis] if block.ndim == 2 else block
        cell = block.shape[1:] if dataset is None else dataset.shape[1:]
        if block.dtype != np.uint16 or block.ndim != 3 or block.shape[1:] != cell:
            expected = ", ".join(map(str, cell)) if dataset is not None else "rows, columns"
            raise CxiError(
                f"{name} from frame {count} on is {block.dtype} {block.shape}: expected uint16 ({expected})"
            )
        if dataset is None:
            path = f"{DETECTOR}/{name}"
            dataset = file.create_dataset(path, (0, *cell), np.uint16, maxshape=(None, *cell), chunks=(1, *cell))
            dataset.attrs["axes"] = "translation:y:x"
        dataset.resize(count + len(block), axis=0)
        dataset[count:] = block
        count += len(block)
    if dataset is None:
        if name == "raw_data":
            raise CxiError("raw_data: expected at least one frame")
        return (0, 0, 0)
    return (count, *dataset.shape[1:])
