"""Read CXI files, by whomever they were written: what is there is taken, what is wrong has one clear error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import h5py
import hdf5plugin  # noqa: F401 - with it, HDF5 reads frames that were compressed by LZ4, bitshuffle or Blosc
import numpy as np
import numpy.typing as npt

from nsbluesky.cxi.layout import (
    DATA,
    DETECTOR,
    DETECTOR_PROCESS,
    FRAME_FLAGS,
    FRAME_WEIGHTS,
    GOOD_MASK_BITS,
    PIXEL_MISSING,
    PROPAGATION,
    SEQ_NUM,
    SOURCE,
    SOURCE_DISTANCE,
    TRANSLATION,
    CxiError,
    orientation_of,
)
from nsbluesky.cxi.recover import open_file
from nsbluesky.cxi.sources import refuse_missing_sources
from nsbluesky.geometry import ELECTRON_VOLT_J, LIGHT_M_S, PLANCK_J_S, Geometry, oriented
from nsbluesky.settings import SettingsError

__all__ = ["CxiData", "CxiImage", "FrameStack", "read_cxi"]

ENERGY_RANGE_J = (ELECTRON_VOLT_J, 1e6 * ELECTRON_VOLT_J)
PIXEL_TOLERANCE = 1e-3
MOST_NAMES = 5
MAX_ARRAY_BYTES = 4 * 1024**3

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _hdf5_errors(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a method raise CxiError where HDF5 stumbles over a damaged file."""

    @wraps(method)
    def safe(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(*args, **kwargs)
        except CxiError:
            raise
        except (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError, MemoryError) as error:
            raise CxiError(
                f"the file is damaged, HDF5 says {error}: expected readable data; try nsbluesky.cxi.recover"
            ) from error

    return safe


class FrameStack:
    """Frames (N, ny, nx) that stay in the file until they are asked for.

    Index it with an integer, a slice or an array of integers along the first axis.

    Attributes
    ----------
    shape : (int, int, int)
    dtype : dtype
    path : Path
        File that the frames lie in.
    dataset : str
        Where in it.
    rows : (N,) int
        Which of its rows they are.
    orientation : int
        How they are flipped and swapped as they are read, as `Geometry.orientation`.
    """

    def __init__(self, dataset: h5py.Dataset, rows: npt.NDArray[np.intp], orientation: int = 0) -> None:
        self._dataset = dataset
        self.orientation = orientation
        self.path = Path(dataset.file.filename)
        self.dataset = str(dataset.name)
        self.rows = rows
        sides = dataset.shape[1:]
        self.shape: tuple[int, int, int] = (len(rows), *(sides[::-1] if orientation & 4 else sides))
        self.dtype: np.dtype[Any] = dataset.dtype

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.rows)

    @_hdf5_errors
    def __getitem__(self, index: int | slice | npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
        """Read frames: (ny, nx) for an integer, else (n, ny, nx)."""
        try:
            rows = self.rows[index]
        except IndexError:
            raise CxiError(f"frame {index} of {len(self)}: expected 0 to {len(self) - 1}") from None
        return np.asarray(oriented(self._read(rows), self.orientation))

    def _read(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        if rows.ndim == 0 or len(rows) == 0:
            return np.asarray(self._dataset[rows if rows.ndim == 0 else slice(0, 0)])
        if (np.diff(rows) == 1).all():
            return np.asarray(self._dataset[rows[0] : rows[-1] + 1])
        return np.stack([self._dataset[row] for row in rows])


@dataclass(frozen=True)
class CxiImage:
    """A picture in a CXI file.

    Attributes
    ----------
    object : array of complex64
        (H, W); 0 where nothing was measured.
    mask : array of uint32
        (H, W) CXI codes, 0 is good.
    probe : array of complex64 or None
        (modes, ny, nx) in √photon.
    errors : array of float64
        (k,) error metric per iteration.
    pixel_m : float
        Pixel in metres; NaN where the file does not say.
    center_m : (float, float)
        x, y of the picture's centre in the sample's coordinates.
    parameters : dict
        Settings that made it.
    complete : bool
        False where the writer was at work on this picture, or was killed there.
    translation_m : array of float64 or None
        (N, 2) x, y of the frames as corrected for this picture, NaN where unknown; None where they were not.
    further : array of complex64 or None
        (states − 1, H, W) other states of an object that is a mixture; 0 where nothing was measured.
    """

    object: npt.NDArray[np.complex64]
    mask: npt.NDArray[np.uint32]
    probe: npt.NDArray[np.complex64] | None
    errors: npt.NDArray[np.float64]
    pixel_m: float
    center_m: tuple[float, float]
    parameters: dict[str, Any]
    complete: bool
    translation_m: npt.NDArray[np.float64] | None = None
    further: npt.NDArray[np.complex64] | None = None

    @property
    def second_engine(self) -> str:
        """The schedule of the second engine that made it beside the image of a run; "" for that image itself."""
        return str(self.parameters.get("second_engine", ""))


class CxiData:
    """An open CXI file; use it as a context manager (see `read_cxi`).

    Attributes
    ----------
    path : Path
    energy_eV : float
    detector_distance_m : float
    pixel_size_m : (float, float)
        Pixel (y, x) of the frames.
    orientation : int
        0…7, as in `Geometry`: what brings the file's frames to CXI's default basis vectors.  Clean ones, and all that
        is of their shape, are brought there as they are read; raw ones are as the camera gave them.
    propagation, source_distance_m
        As in `Geometry`; the far field where the file does not say.
    translation_m : array of float64
        (N, 3) x, y, z of the sample.
    num_stored, num_translations : int
        Frames and translations in the file; N of them are frames with a finite translation.
    frames : FrameStack or None
        (N, ny, nx) photons, zero frequency at the centre; None in a raw file.
    seq_nums : array of int64
        (N,) number of each frame in its run.
    frame_flags : array of uint16
        (N,) what is wrong with each frame, as `nsbluesky.cleaning.flags.FrameFlag`; 0 where the file does not say.
    frame_weights : array of float32
        (N,) 0 for frames that must not be used; 1 where the file does not say.
    mask : array of uint32
        (ny, nx) CXI codes, 0 is good; zeros where the file has none.
    raw_data, dark_data : FrameStack or None
        (N, rows, columns) and (M, rows, columns) of a raw file, as the camera gave them.
    number_exposures : int
        Exposures per point in a raw file.
    exposure_order : str
        How they follow one another, as the file's writer put it.
    parameters : dict
        How the frames were made; empty where the file does not say.
    start_time : str or None
        As the file has it, ISO-8601 where it keeps the rules.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        self.energy_eV = _energy_eV(file)
        self.detector_distance_m = _positive(file, f"{DETECTOR}/distance")
        vectors = _array(file, f"{DETECTOR}/basis_vectors")
        basis = None if vectors is None else _basis(vectors)
        self.orientation = 0 if basis is None else orientation_of(basis)
        self.pixel_size_m = _pixel_size_m(file, basis)
        self.propagation = _text(file, PROPAGATION) or "far"
        self.source_distance_m = _number(file, SOURCE_DISTANCE) or 0.0
        data, raw, dark = (_dataset(file, name) for name in (DATA, f"{DETECTOR}/raw_data", f"{DETECTOR}/dark_data"))
        if data is None:
            data = _dataset(file, "entry_1/data_1/data")
        self._turn = 0 if data is None else self.orientation
        if self._turn & 4:
            self.pixel_size_m = self.pixel_size_m[::-1]
        if data is None and raw is None:
            raise _missing(file, DATA, "expected it or raw_data; is this a ptychography file?")
        frames: h5py.Dataset = raw if data is None else data
        for dataset in (data, raw, dark):
            _check_stack(dataset)
        self.translation_m, rows, self.num_translations = _translation(file, len(frames))
        self.num_stored = len(frames)
        self.frames = None if data is None else FrameStack(data, rows, self._turn)
        self.raw_data = None if raw is None else FrameStack(raw, rows if len(raw) == len(frames) else _all(raw))
        self.dark_data = None if dark is None else FrameStack(dark, _all(dark))
        numbers = _array(file, SEQ_NUM)
        self.seq_nums = rows + 1 if numbers is None or len(numbers) < len(frames) else numbers[rows].astype(np.int64)
        self.frame_flags = _per_frame(file, FRAME_FLAGS, np.zeros(len(frames), np.uint16))[rows]
        self.frame_weights = _per_frame(file, FRAME_WEIGHTS, np.ones(len(frames), np.float32))[rows]
        self.parameters = _parameters(_text(file, f"{DETECTOR_PROCESS}/parameters"))
        self.start_time = _text(file, "entry_1/start_time")
        self.mask = oriented(_mask(file, frames.shape[1:]), self._turn)
        self.number_exposures = int(_number(file, f"{DETECTOR}/number_exposures") or 1)
        self.exposure_order = _text(file, f"{DETECTOR}/exposure_order") or ""

    @cached_property
    @_hdf5_errors
    def illumination(self) -> npt.NDArray[np.complex64] | None:
        """The probe (ny, nx) in √photon, centred in real space, or its strongest mode; None where there is none."""
        modes = self.illumination_modes
        return None if modes is None else modes[0]

    @cached_property
    @_hdf5_errors
    def illumination_modes(self) -> npt.NDArray[np.complex64] | None:
        """All modes of the probe (modes, ny, nx), the strongest first; None where the file has none."""
        name = f"{SOURCE}/illumination"
        values = _array(self._file, name)
        if values is None:
            return None
        if values.ndim not in (2, 3):
            raise CxiError(f"{name} has shape {values.shape}: expected (rows, columns) or (modes, rows, columns)")
        modes = values.reshape(-1, *values.shape[-2:]).astype(np.complex64)
        photons = (np.abs(modes).astype(np.float64) ** 2).sum(axis=(1, 2))
        return np.asarray(oriented(modes[np.argsort(-photons, kind="stable")], self._turn))

    @cached_property
    @_hdf5_errors
    def illumination_intensities(self) -> npt.NDArray[np.float32] | None:
        """The mean frame (ny, nx) in photons; None where the file has none."""
        return self._turned(f"{SOURCE}/illumination_intensities", np.float32)

    def _turned(self, name: str, dtype: Any) -> npt.NDArray[Any] | None:
        picture = _picture(self._file, name, dtype)
        return None if picture is None else np.asarray(oriented(picture, self._turn))

    @property
    @_hdf5_errors
    def images(self) -> list[CxiImage]:
        """The pictures in the file, oldest first, as they are at this moment; without that of a second engine."""
        return [image for image in self._all_images() if not image.second_engine]

    @property
    @_hdf5_errors
    def second_image(self) -> CxiImage | None:
        """The picture by a second engine, from the same frames; None where there was none."""
        return next((image for image in self._all_images() if image.second_engine), None)

    def _all_images(self) -> list[CxiImage]:
        entry = self._file["entry_1"]
        names = [f"image_{n}" for n in range(1, len(entry) + 1)]
        images = [_image(self._file, f"entry_1/{name}") for name in names if isinstance(entry.get(name), h5py.Group)]
        return [image for image in images if image is not None]

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """(ny, nx) True where a pixel's value can be used."""
        return np.asarray((self.mask & ~np.uint32(GOOD_MASK_BITS)) == 0)

    @property
    def clean_frames(self) -> FrameStack:
        """`frames`, for those who can do nothing without them.

        Raises
        ------
        CxiError
            Where the file has raw frames only.
        """
        if self.frames is None:
            raise CxiError(f"{self.path} has raw frames only: expected clean ones; run nsbluesky raw2cxi first")
        return self.frames

    def geometry(self) -> Geometry:
        """Return the experiment as the solver needs it; `pixel_size_m` is that of the frames as they are.

        Raises
        ------
        CxiError
            If the pixels are not square, or what the file says of the near field cannot be.
        """
        y, x = self.pixel_size_m
        if abs(y - x) > PIXEL_TOLERANCE * x:
            raise CxiError(f"pixels of {y} by {x} m: expected square ones; resample the frames")
        given = {"propagation": self.propagation, "source_distance_m": self.source_distance_m}
        try:
            geometry = Geometry(self.energy_eV, self.detector_distance_m, x, orientation=self.orientation)
        except SettingsError as error:
            raise CxiError(f"{self.path}: {error}") from None
        try:
            return geometry.replace(**given)
        except SettingsError as error:
            raise CxiError(f"{PROPAGATION}, {SOURCE_DISTANCE}: {error}") from None

    def close(self) -> None:
        """Close the file; frames cannot be read any more."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return the open file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


@_hdf5_errors
def read_cxi(path: str | Path) -> CxiData:
    """Open a CXI file; what it holds of frames is read when asked for.

    A file that is being written, or whose writer was killed, opens as well and shows the frames that were complete
    at that moment; a frame that is replaced later shows its new content beside its old translation.

    Raises
    ------
    CxiError
        If the file cannot be opened, or something the reconstruction needs is missing or wrong.
    """
    file = open_file(path)
    try:
        return CxiData(Path(path), file)
    except BaseException:
        file.close()
        raise


def _dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
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


def _missing(file: h5py.File, name: str, expected: str) -> CxiError:
    """Return the error about what is not there: it never was, or lies behind a link that leads nowhere."""
    if "entry_1" not in file:
        there = ", ".join(list(file)[:MOST_NAMES]) or "nothing"
        return CxiError(f"entry_1 is missing, in the file is {there}: expected a CXI file; convert it to one")
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


def _text(file: h5py.File, name: str) -> str | None:
    dataset = _dataset(file, name)
    return None if dataset is None else _decode(dataset[()])


def _array(file: h5py.File, name: str) -> npt.NDArray[Any] | None:
    """Return a small numeric dataset; None where it is missing or empty."""
    dataset = _dataset(file, name)
    if dataset is None or dataset.size == 0:
        return None
    if dataset.dtype.kind not in "iufbc":
        raise CxiError(f"{name} is {dataset.dtype}: expected numbers; write it again")
    if dataset.nbytes > MAX_ARRAY_BYTES:
        raise CxiError(f"{name} has shape {dataset.shape}: expected an array that fits in memory; is it damaged?")
    return np.asarray(dataset[()])


def _number(file: h5py.File, name: str) -> float | None:
    """Return a dataset of one number, of any shape; some writers repeat it for every frame."""
    value = _array(file, name)
    if value is None:
        return None
    if (value.size != 1 and (value != value.flat[0]).any()) or value.dtype.kind == "c":
        raise CxiError(f"{name} is {value.dtype} {value.shape}: expected one number")
    return float(value.flat[0])


def _positive(file: h5py.File, name: str) -> float:
    value = _number(file, name)
    if value is None:
        raise _missing(file, name, "expected a length in metres; add it to the file")
    if not (np.isfinite(value) and value > 0):
        raise CxiError(f"{name} = {value}: expected a positive number in metres")
    return value


def _energy_eV(file: h5py.File) -> float:
    name = f"{SOURCE}/energy"
    energy_J = _number(file, name)
    if energy_J is None:
        if _number(file, f"{SOURCE}/wavelength") is None:
            raise _missing(file, name, "expected joules, or the wavelength; add one of them to the file")
        wavelength_m = _positive(file, f"{SOURCE}/wavelength")
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


def _basis(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    if vectors.shape == (3, 2):
        vectors = vectors.T
    if vectors.shape != (2, 3) or vectors.dtype.kind == "c" or not np.isfinite(vectors).all():
        raise CxiError(
            f"{DETECTOR}/basis_vectors has shape {vectors.shape}: expected (2, 3) metres, "
            "as in [[0, -py, 0], [-px, 0, 0]]"
        )
    return vectors.astype(np.float64)


def _pixel_size_m(file: h5py.File, basis: npt.NDArray[np.float64] | None) -> tuple[float, float]:
    """Return the pixel (y, x) of the frames as they are stored: what the file says of it, or its basis vectors do."""
    names = f"{DETECTOR}/y_pixel_size", f"{DETECTOR}/x_pixel_size"
    if basis is not None and all(_number(file, name) is None for name in names):
        rows_m, columns_m = np.linalg.norm(basis, axis=1).tolist()
        return rows_m, columns_m
    return _positive(file, names[0]), _positive(file, names[1])


def _check_stack(dataset: h5py.Dataset | None) -> None:
    if dataset is not None and (dataset.ndim != 3 or dataset.dtype.kind not in "iuf" or 0 in dataset.shape[1:]):
        raise CxiError(f"{dataset.name} is {dataset.dtype} {dataset.shape}: expected numbers (N, rows, columns)")


def _all(dataset: h5py.Dataset) -> npt.NDArray[np.intp]:
    return np.arange(len(dataset))


def _translation(file: h5py.File, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp], int]:
    """Return the translations (N, 3) of the complete frames, which frames these are, and how many were given."""
    dataset = _dataset(file, TRANSLATION)
    if dataset is None:
        dataset = _dataset(file, "entry_1/data_1/translation")
    if dataset is None:
        raise _missing(file, TRANSLATION, "expected (N, 3) metres; add the sample's positions to the file")
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


def _per_frame(file: h5py.File, name: str, default: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a number for each frame; the default's where the file has none, or too few of them."""
    values = _array(file, name)
    if values is None:
        return default
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise CxiError(f"{name} is {values.dtype} {values.shape}: expected a number for each of {len(default)}")
    known = min(len(values), len(default))
    return np.concatenate([values[:known].astype(default.dtype), default[known:]])


def _parameters(text: str | None) -> dict[str, Any]:
    """Return parameters that were written as JSON."""
    try:
        parameters = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {"text": text}
    return parameters if isinstance(parameters, dict) else {"value": parameters}


def _mask(file: h5py.File, shape: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Return the mask (ny, nx); one that is there for each frame has to be the same in all."""
    name = f"{DETECTOR}/mask"
    mask = _array(file, name)
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


def _picture(file: h5py.File, name: str, dtype: Any) -> npt.NDArray[Any] | None:
    values = _array(file, name)
    if values is None:
        return None
    if values.ndim != 2:
        raise CxiError(f"{name} has shape {values.shape}: expected (rows, columns)")
    return values.astype(dtype)


def _image(file: h5py.File, group: str) -> CxiImage | None:
    picture = _picture(file, f"{group}/data", np.complex64)
    if picture is None:
        return None
    mask = _array(file, f"{group}/mask")
    if mask is None or mask.shape != picture.shape:
        mask = np.zeros(picture.shape)
    probe = _array(file, f"{group}/process_1/final_illumination")
    if probe is not None:
        probe = probe.reshape(-1, *probe.shape[-2:]).astype(np.complex64)
    errors = _array(file, f"{group}/process_1/errors")
    errors = np.empty(0) if errors is None else errors.ravel()
    refined = _array(file, f"{group}/process_1/translation")
    further = _array(file, f"{group}/process_1/further_objects")
    size = _array(file, f"{group}/image_size")
    center = _array(file, f"{group}/image_center")
    complete = _number(file, f"{group}/process_1/complete")
    return CxiImage(
        object=picture,
        mask=mask.astype(np.uint32),
        probe=probe,
        errors=errors[np.isfinite(errors)],
        pixel_m=np.nan if size is None else float(size[0]) / picture.shape[1],
        center_m=(0.0, 0.0) if center is None else (float(center[0]), float(center[1])),
        parameters=_parameters(_text(file, f"{group}/process_1/parameters")),
        complete=complete is None or bool(complete),
        further=None if further is None else further.astype(np.complex64),
        translation_m=refined if refined is not None and refined.ndim == 2 and len(refined) else None,
    )
