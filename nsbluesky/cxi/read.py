"""Read CXI files, by whomever they were written: what is there is taken, what is wrong has one clear error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import h5py
import hdf5plugin  # noqa: F401 - with it, HDF5 reads frames that were compressed by LZ4, bitshuffle or Blosc
import numpy as np
import numpy.typing as npt

from nsbluesky.cxi import datasets
from nsbluesky.cxi.layout import (
    DATA,
    DETECTOR,
    DETECTOR_PROCESS,
    FRAME_FLAGS,
    FRAME_WEIGHTS,
    GOOD_MASK_BITS,
    PROPAGATION,
    SEQ_NUM,
    SOURCE,
    SOURCE_DISTANCE,
    CxiError,
    orientation_of,
)
from nsbluesky.cxi.recover import open_file
from nsbluesky.geometry import Geometry, oriented
from nsbluesky.settings import SettingsError

__all__ = ["CxiData", "CxiImage", "FrameStack", "read_cxi"]

PIXEL_TOLERANCE = 1e-3

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
        Pixel in metres; where the file does not say it, that which the frames give; NaN where they give none.
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
        self.energy_eV = datasets.energy_eV(file)
        self.detector_distance_m = datasets.positive_number(file, f"{DETECTOR}/distance")
        vectors = datasets.array(file, f"{DETECTOR}/basis_vectors")
        basis = None if vectors is None else datasets.basis(vectors)
        self.orientation = 0 if basis is None else orientation_of(basis)
        self.pixel_size_m = datasets.pixel_size_m(file, basis)
        self.propagation = datasets.text(file, PROPAGATION) or "far"
        self.source_distance_m = datasets.number(file, SOURCE_DISTANCE) or 0.0
        data, raw, dark = (
            datasets.find_dataset(file, name) for name in (DATA, f"{DETECTOR}/raw_data", f"{DETECTOR}/dark_data")
        )
        if data is None:
            data = datasets.find_dataset(file, "entry_1/data_1/data")
        self._turn = 0 if data is None else self.orientation
        if self._turn & 4:
            self.pixel_size_m = self.pixel_size_m[::-1]
        if data is None and raw is None:
            raise datasets.missing(file, DATA, "expected it or raw_data; is this a ptychography file?")
        frames: h5py.Dataset = raw if data is None else data
        for dataset in (data, raw, dark):
            datasets.check_stack(dataset)
        self.translation_m, rows, self.num_translations = datasets.translations(file, len(frames))
        self.num_stored = len(frames)
        self.frames = None if data is None else FrameStack(data, rows, self._turn)
        self.raw_data = None if raw is None else FrameStack(raw, rows if len(raw) == len(frames) else _all(raw))
        self.dark_data = None if dark is None else FrameStack(dark, _all(dark))
        numbers = datasets.array(file, SEQ_NUM)
        self.seq_nums = rows + 1 if numbers is None or len(numbers) < len(frames) else numbers[rows].astype(np.int64)
        self.frame_flags = datasets.per_frame(file, FRAME_FLAGS, np.zeros(len(frames), np.uint16))[rows]
        self.frame_weights = datasets.per_frame(file, FRAME_WEIGHTS, np.ones(len(frames), np.float32))[rows]
        self.parameters = datasets.parameters(datasets.text(file, f"{DETECTOR_PROCESS}/parameters"))
        self.start_time = datasets.text(file, "entry_1/start_time")
        self.mask = oriented(datasets.mask(file, frames.shape[1:]), self._turn)
        self.number_exposures = int(datasets.number(file, f"{DETECTOR}/number_exposures") or 1)
        self.exposure_order = datasets.text(file, f"{DETECTOR}/exposure_order") or ""

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
        modes = datasets.probe_modes(self._file, f"{SOURCE}/illumination")
        return None if modes is None else np.asarray(oriented(modes, self._turn))

    @cached_property
    @_hdf5_errors
    def illumination_intensities(self) -> npt.NDArray[np.float32] | None:
        """The mean frame (ny, nx) in photons; None where the file has none."""
        picture = datasets.picture(self._file, f"{SOURCE}/illumination_intensities", np.float32)
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
        return [
            image if image.pixel_m > 0 else replace(image, pixel_m=self._pixel_of(image))
            for image in images
            if image is not None
        ]

    def _pixel_of(self, image: CxiImage) -> float:
        """Return the pixel of an image whose size the file does not say: its probe spans the used pixels."""
        across = self.mask if image.probe is None else image.probe
        try:
            return self.geometry().object_pixel_m(across.shape[-1])
        except CxiError:
            return np.nan

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


def _all(dataset: h5py.Dataset) -> npt.NDArray[np.intp]:
    return np.arange(len(dataset))


def _image(file: h5py.File, group: str) -> CxiImage | None:
    picture = datasets.picture(file, f"{group}/data", np.complex64)
    if picture is None:
        return None
    mask = datasets.array(file, f"{group}/mask")
    if mask is None or mask.shape != picture.shape:
        mask = np.zeros(picture.shape)
    probe = datasets.array(file, f"{group}/process_1/final_illumination")
    if probe is not None:
        probe = probe.reshape(-1, *probe.shape[-2:]).astype(np.complex64)
    errors = datasets.array(file, f"{group}/process_1/errors")
    errors = np.empty(0) if errors is None else errors.ravel()
    refined = datasets.array(file, f"{group}/process_1/translation")
    further = datasets.array(file, f"{group}/process_1/further_objects")
    size = datasets.array(file, f"{group}/image_size")
    center = datasets.array(file, f"{group}/image_center")
    complete = datasets.number(file, f"{group}/process_1/complete")
    return CxiImage(
        object=picture,
        mask=mask.astype(np.uint32),
        probe=probe,
        errors=errors[np.isfinite(errors)],
        pixel_m=np.nan if size is None else float(size[0]) / picture.shape[1],
        center_m=(0.0, 0.0) if center is None else (float(center[0]), float(center[1])),
        parameters=datasets.parameters(datasets.text(file, f"{group}/process_1/parameters")),
        complete=complete is None or bool(complete),
        further=None if further is None else further.astype(np.complex64),
        translation_m=refined if refined is not None and refined.ndim == 2 and len(refined) else None,
    )
