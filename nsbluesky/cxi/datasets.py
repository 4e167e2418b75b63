"""What single datasets of a CXI file say, by whomever it was written: found, checked, in the units of the rules."""

from __future__ import annotations

import json
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from nsbluesky.cxi.layout import DETECTOR, PIXEL_MISSING, SOURCE, TRANSLATION, CxiError
from nsbluesky.cxi.other_layouts import program_of
from nsbluesky.cxi.sources import refuse_missing_sources
from nsbluesky.geometry import ELECTRON_VOLT_J, LIGHT_M_S, PLANCK_J_S

__all__ = [
    "array",
    "basis",
    "check_stack",
    "energy_eV",
    "find_dataset",
    "mask",
    "missing",
    "number",
    "parameters",
    "per_frame",
    "picture",
    "pixel_size_m",
    "positive_number",
    "probe_modes",
    "text",
    "translations",
]

ENERGY_RANGE_J = (ELECTRON_VOLT_J, 1e6 * ELECTRON_VOLT_J)
MOST_NAMES = 5
MAX_ARRAY_BYTES = 4 * 1024**3


def find_dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """Return a dataset; None where it is missing, a broken link or the text 'None' of old ALS files."""
    try:
        item = file.get(name)
    except (KeyError, OSError, RuntimeError) as error:
        raise CxiError(f"{name} cannot be read ({error}): expected a dataset; try nsbluesky.cxi.recover") from error
    if item is None:
        return None
    if not isinstance(item, h5py.Dataset):
        raise CxiError(f"{name} is a group: expected a dataset; was the file written by another program?")
    refuse_missing_sources(item)
    if item.shape is None:
        return None
    return None if item.dtype.kind in "OS" and _decode(item[()]) in ("None", "") else item


def missing(file: h5py.File, name: str, expected: str) -> CxiError:
    """Return the error about what is not there: it never was, or lies behind a link that leads nowhere."""
    if "entry_1" not in file:
        there = ", ".join(list(file)[:MOST_NAMES]) or "nothing"
        program = program_of(file)
        return CxiError(
            f"entry_1 is missing, in the file is {there}{f' ({program})' if program else ''}: expected a CXI file; "
            "where it holds frames and positions, write them into one with nsbluesky.cxi.CxiFile, as the page "
            "'Reconstruct a CXI file' shows"
        )
    parts = name.split("/")
    for place in ("/".join(parts[:k]) for k in range(1, len(parts) + 1)):
        link = file.get(place, getlink=True)
        if isinstance(link, h5py.SoftLink | h5py.ExternalLink) and file.get(place) is None:
            away = f" of {link.filename}" if isinstance(link, h5py.ExternalLink) else ""
            return CxiError(
                f"{place} is a link to {link.path}{away}, which is not there: expected it, for files beside this one "
                "where they were recorded; copy them as well"
            )
    return CxiError(f"{name} is missing: {expected}")


def _decode(value: Any) -> str:
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def text(file: h5py.File, name: str) -> str | None:
    """Return a text; None where it is missing."""
    dataset = find_dataset(file, name)
    return None if dataset is None else _decode(dataset[()])


def array(file: h5py.File, name: str) -> npt.NDArray[Any] | None:
    """Return a small numeric dataset; None where it is missing or empty."""
    dataset = find_dataset(file, name)
    if dataset is None or dataset.size == 0:
        return None
    if dataset.dtype.kind not in "iufbc":
        raise CxiError(f"{name} is {dataset.dtype}: expected numbers; write it again")
    if dataset.nbytes > MAX_ARRAY_BYTES:
        raise CxiError(f"{name} has shape {dataset.shape}: expected an array that fits in memory; is it damaged?")
    return np.asarray(dataset[()])


def number(file: h5py.File, name: str) -> float | None:
    """Return a dataset of one number, of any shape; some writers repeat it for every frame."""
    value = array(file, name)
    if value is None:
        return None
    if (value.size != 1 and (value != value.flat[0]).any()) or value.dtype.kind == "c":
        raise CxiError(f"{name} is {value.dtype} {value.shape}: expected one number")
    return float(value.flat[0])


def positive_number(file: h5py.File, name: str) -> float:
    """Return a length in metres, which must be there."""
    value = number(file, name)
    if value is None:
        raise missing(file, name, "expected a length in metres; add it to the file")
    if not (np.isfinite(value) and value > 0):
        raise CxiError(f"{name} = {value}: expected a positive number in metres")
    return value


def energy_eV(file: h5py.File) -> float:
    """Return the photon energy, which some files tell by the wavelength."""
    name = f"{SOURCE}/energy"
    energy_J = number(file, name)
    if energy_J is None:
        if number(file, f"{SOURCE}/wavelength") is None:
            raise missing(file, name, "expected joules, or the wavelength; add one of them to the file")
        wavelength_m = positive_number(file, f"{SOURCE}/wavelength")
        energy_J = PLANCK_J_S * LIGHT_M_S / wavelength_m
        if not ENERGY_RANGE_J[0] <= energy_J <= ENERGY_RANGE_J[1]:
            raise CxiError(
                f"{SOURCE}/wavelength = {wavelength_m:g}: expected metres; if that is in ångström, write "
                f"{wavelength_m * 1e-10:g}, and {wavelength_m * 1e-9:g} if in nm"
            )
    if not ENERGY_RANGE_J[0] <= energy_J <= ENERGY_RANGE_J[1]:
        raise CxiError(
            f"{name} = {energy_J:g}: expected joules, 1 eV to 1 MeV; multiply electronvolts by {ELECTRON_VOLT_J}"
        )
    return energy_J / ELECTRON_VOLT_J


def basis(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the basis vectors (2, 3) in metres, which some files have the other way round."""
    if vectors.shape == (3, 2):
        vectors = vectors.T
    if vectors.shape != (2, 3) or vectors.dtype.kind == "c" or not np.isfinite(vectors).all():
        raise CxiError(
            f"{DETECTOR}/basis_vectors has shape {vectors.shape}: expected (2, 3) metres, "
            "as in [[0, -py, 0], [-px, 0, 0]]"
        )
    return vectors.astype(np.float64)


def pixel_size_m(file: h5py.File, basis: npt.NDArray[np.float64] | None) -> tuple[float, float]:
    """Return the pixel (y, x) of the frames as they are stored: what the file says of it, or its basis vectors do."""
    names = f"{DETECTOR}/y_pixel_size", f"{DETECTOR}/x_pixel_size"
    if basis is not None and all(number(file, name) is None for name in names):
        rows_m, columns_m = np.linalg.norm(basis, axis=1).tolist()
        return rows_m, columns_m
    return positive_number(file, names[0]), positive_number(file, names[1])


def check_stack(dataset: h5py.Dataset | None) -> None:
    """Refuse what cannot be frames (N, rows, columns)."""
    if dataset is not None and (dataset.ndim != 3 or dataset.dtype.kind not in "iuf" or 0 in dataset.shape[1:]):
        raise CxiError(
            f"{dataset.name} is {dataset.dtype} {dataset.shape}: expected numbers (N, rows, columns), one frame for "
            "each translation; reshape them, in the order of the translations"
        )


def translations(file: h5py.File, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp], int]:
    """Return the translations (N, 3) of the complete frames, which frames these are, and how many were given."""
    dataset = find_dataset(file, TRANSLATION)
    if dataset is None:
        dataset = find_dataset(file, "entry_1/data_1/translation")
    if dataset is None:
        raise missing(file, TRANSLATION, "expected (N, 3) metres; add the sample's positions to the file")
    usable = dataset.dtype.kind in "iuf" and dataset.nbytes <= MAX_ARRAY_BYTES
    values = np.asarray(dataset[()]) if usable else np.empty((0, 0))
    # A file that is being written may have fewer translations than frames: there the axis that grows tells.
    either = values.ndim == 2 and len(values) in (2, 3) and dataset.maxshape[0] is not None
    if either and (values.shape[1] not in (2, 3) or (values.shape[1] == count != len(values))):
        values = values.T
    if values.ndim != 2 or values.shape[-1] not in (2, 3):
        raise CxiError(f"{TRANSLATION} is {dataset.dtype} {dataset.shape}: expected (N, 3) numbers in metres")
    count = min(count, len(values))
    padded = np.zeros((count, 3))
    padded[:, : values.shape[1]] = values[:count]
    rows = np.flatnonzero(np.isfinite(padded).all(axis=1))
    return padded[rows], rows, len(values)


def per_frame(file: h5py.File, name: str, default: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a number for each frame; the default's where the file has none, or too few of them."""
    values = array(file, name)
    if values is None:
        return default
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise CxiError(f"{name} is {values.dtype} {values.shape}: expected a number for each of {len(default)}")
    known = min(len(values), len(default))
    return np.concatenate([values[:known].astype(default.dtype), default[known:]])


def parameters(text: str | None) -> dict[str, Any]:
    """Return parameters that were written as JSON."""
    try:
        parameters = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {"text": text}
    return parameters if isinstance(parameters, dict) else {"value": parameters}


def mask(file: h5py.File, shape: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Return the mask (ny, nx); one that is there for each frame has to be the same in all."""
    name = f"{DETECTOR}/mask"
    mask = array(file, name)
    if mask is None:
        return np.zeros(shape, dtype=np.uint32)
    if mask.ndim == 3:
        if (mask != mask[0]).any():
            raise CxiError(
                f"{name} is {mask.shape} and not the same for all frames: expected one of {shape}; mask pixels of "
                "single frames by NaN in the frames"
            )
        mask = mask[0]
    if mask.shape != shape or mask.dtype.kind not in "iubf" or (mask != np.trunc(mask)).any():
        raise CxiError(f"{name} is {mask.dtype} {mask.shape}: expected integers {shape}, 0 where good")
    codes = mask.astype(np.int64 if mask.dtype.kind == "f" else mask.dtype).astype(np.uint32)
    return np.where((mask != 0) & (codes == 0), np.uint32(PIXEL_MISSING), codes)  # of more than 32 bits


def picture(file: h5py.File, name: str, dtype: Any) -> npt.NDArray[Any] | None:
    """Return a picture (rows, columns); None where it is missing."""
    values = array(file, name)
    if values is None:
        return None
    if values.ndim != 2:
        raise CxiError(f"{name} has shape {values.shape}: expected (rows, columns)")
    return values.astype(dtype)


def probe_modes(file: h5py.File, name: str) -> npt.NDArray[np.complex64] | None:
    """Return the modes of a probe (modes, ny, nx), the strongest first; None where it is missing."""
    values = array(file, name)
    if values is None:
        return None
    if values.ndim not in (2, 3):
        raise CxiError(f"{name} has shape {values.shape}: expected (rows, columns) or (modes, rows, columns)")
    modes = values.reshape(-1, *values.shape[-2:]).astype(np.complex64)
    photons = (np.abs(modes).astype(np.float64) ** 2).sum(axis=(1, 2))
    return np.asarray(modes[np.argsort(-photons, kind="stable")])
