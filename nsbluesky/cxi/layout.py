"""The layout of a CXI file: names, codes and the groups that clean and raw files share.

Format: F. Maia, "The Coherent X-ray Imaging Data Bank", Nature Methods 9, 854 (2012), version 1.60.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from nsbluesky.geometry import ELECTRON_VOLT_J, wavelength_m

__all__ = [
    "CXI_VERSION",
    "DATA",
    "DETECTOR",
    "DETECTOR_PROCESS",
    "FRAME_FLAGS",
    "FRAME_WEIGHTS",
    "FURTHER",
    "GEOMETRY",
    "GOOD_MASK_BITS",
    "IMAGE",
    "PIXEL_MISSING",
    "PROCESS",
    "PROPAGATION",
    "REFINED",
    "SECOND",
    "SEQ_NUM",
    "SOURCE",
    "SOURCE_DISTANCE",
    "TRANSLATION",
    "CxiError",
    "basis_vectors",
    "create_experiment",
    "iso_time",
    "link_data",
    "orientation_of",
    "part_path",
]

CXI_VERSION = 160
SOURCE = "entry_1/instrument_1/source_1"
DETECTOR = "entry_1/instrument_1/detector_1"
GEOMETRY = "entry_1/sample_1/geometry_1"
IMAGE = "entry_1/image_1"
SECOND = "entry_1/image_2"
"""The image by a second engine, in the files of live runs that had one."""
PROCESS = f"{IMAGE}/process_1"
REFINED = f"{PROCESS}/translation"
FURTHER = f"{PROCESS}/further_objects"
DATA = f"{DETECTOR}/data"
SEQ_NUM = f"{DETECTOR}/seq_num"
FRAME_FLAGS = f"{DETECTOR}/frame_flags"
FRAME_WEIGHTS = f"{DETECTOR}/frame_weights"
DETECTOR_PROCESS = f"{DETECTOR}/process_1"
TRANSLATION = f"{GEOMETRY}/translation"
PROPAGATION = f"{GEOMETRY}/propagation"
SOURCE_DISTANCE = f"{GEOMETRY}/source_distance"
"""Written of scans in the near field; not names of the format, which knows the far field only."""

PIXEL_MISSING = 0x200
"""Mask code of a pixel without data."""
GOOD_MASK_BITS = 0x1000
"""Mask bits that say something about a pixel without making it bad (0x1000: it has signal)."""


class CxiError(ValueError):
    """A CXI file that cannot be read or written; the message says what, what was expected and what to do."""


def iso_time(time: float | str | None = None) -> str:
    """Return a time (seconds since 1970, ISO-8601 text, or None for now) as ISO-8601 text with its offset."""
    if isinstance(time, str):
        return time
    utc = datetime.UTC
    moment = datetime.datetime.now(utc) if time is None else datetime.datetime.fromtimestamp(time, utc)
    return moment.isoformat()


def part_path(path: Path) -> Path:
    """Return the name that a file has until it is complete."""
    return path.with_name(f".{path.name}.part")


def basis_vectors(pixel_size_m: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Return the default basis (2, 3) for pixels (y, x): rows run towards −y, columns towards −x.

    With it the sample at translation (x, y) shows the object window at row ``+y/dx``, column ``+x/dx``.
    """
    y, x = pixel_size_m
    return np.array([[0.0, -y, 0.0], [-x, 0.0, 0.0]])


def orientation_of(vectors: npt.NDArray[np.float64]) -> int:
    """Return the `Geometry.orientation` that brings frames with this basis (2, 3) to the default one.

    Raises
    ------
    CxiError
        If rows and columns do not run along x and y.
    """
    main = np.abs(vectors[:, :2]).argmax(axis=1)
    length = np.linalg.norm(vectors, axis=1)
    if set(main) != {0, 1} or np.any(np.abs(vectors[[0, 1], main]) < 0.99 * length) or np.any(length == 0):
        raise CxiError(
            f"basis_vectors = {vectors.tolist()}: expected rows and columns along x and y, as in "
            "[[0, -py, 0], [-px, 0, 0]]; rotate the frames before writing them"
        )
    swap = 4 if main[0] == 0 else 0
    along_y, along_x = vectors[::-1] if swap else vectors
    return swap | (1 if along_y[1] > 0 else 0) | (2 if along_x[0] > 0 else 0)


def create_experiment(
    file: h5py.File,
    *,
    energy_eV: float,
    detector_distance_m: float,
    pixel_size_m: float | tuple[float, float],
    frame_shape: tuple[int, int],
    instrument_name: str,
    start_time: float | str | None,
    propagation: str = "far",
    source_distance_m: float = 0.0,
) -> None:
    """Write what clean and raw files have in common: version, source and the detector's geometry.

    Raises
    ------
    CxiError
        For a length or an energy that is not a positive number.
    """
    pixel_y, pixel_x = np.broadcast_to(np.asarray(pixel_size_m, dtype=float), 2).tolist()
    for name, value in (
        ("energy_eV", energy_eV),
        ("detector_distance_m", detector_distance_m),
        ("pixel_size_m", min(pixel_y, pixel_x)),
    ):
        if not (np.isfinite(value) and value > 0):
            raise CxiError(f"{name} = {value!r}: expected a positive number")
    file["cxi_version"] = CXI_VERSION
    file["number_of_entries"] = 1
    file["entry_1/start_time"] = iso_time(start_time)
    file["entry_1/instrument_1/name"] = instrument_name
    file[f"{SOURCE}/energy"] = energy_eV * ELECTRON_VOLT_J
    file[f"{SOURCE}/wavelength"] = wavelength_m(energy_eV)
    ny, nx = frame_shape
    if propagation != "far":
        file[PROPAGATION], file[SOURCE_DISTANCE] = propagation, float(source_distance_m)
    file[f"{DETECTOR}/distance"] = float(detector_distance_m)
    file[f"{DETECTOR}/x_pixel_size"] = pixel_x
    file[f"{DETECTOR}/y_pixel_size"] = pixel_y
    file[f"{DETECTOR}/corner_position"] = np.array([nx / 2 * pixel_x, ny / 2 * pixel_y, detector_distance_m])
    file[f"{DETECTOR}/basis_vectors"] = basis_vectors((pixel_y, pixel_x))


def link_data(file: h5py.File, target: str = DATA) -> None:
    """Link frames into ``data_1``, and the translations beside every copy of them."""
    data = file.require_group("entry_1/data_1")
    data[Path(target).name] = h5py.SoftLink(f"/{target}")
    for group in (data, file[DETECTOR]):
        group["translation"] = h5py.SoftLink(f"/{TRANSLATION}")
