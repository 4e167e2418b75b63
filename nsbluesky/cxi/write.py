"""Write a CXI file while a scan runs; what is on disk can be read at any moment.

The file is an HDF5 file in SWMR mode (single writer, multiple readers): every group, dataset and link exists
before the first frame, and from then on data is only appended, overwritten and flushed.  A frame counts from the
moment its translation is on disk: the translations' fill value is NaN, and they are flushed after the frame.  So a
reader never sees half a frame, and a writer that is killed leaves everything that `append` had returned from.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from nsbluesky._version import __version__
from nsbluesky.cxi.layout import (
    DATA,
    DETECTOR,
    DETECTOR_PROCESS,
    FRAME_FLAGS,
    FRAME_WEIGHTS,
    FURTHER,
    IMAGE,
    PIXEL_MISSING,
    REFINED,
    SECOND,
    SEQ_NUM,
    SOURCE,
    TRANSLATION,
    CxiError,
    create_experiment,
    iso_time,
    link_data,
    part_path,
)
from nsbluesky.cxi.recover import rewrite
from nsbluesky.disk_space import require_space

__all__ = ["CxiFile"]

logger = logging.getLogger(__name__)

PARAMETERS_BYTES = 65536
TIME_BYTES = 40
IMAGE_CHUNK = (256, 256)
POSITIONS_PER_CHUNK = 1024


class CxiFile:
    """A CXI file of clean frames that grows while a scan runs.

    Make one with `CxiFile.create`.  One thread writes; other processes, and other threads of this one, read it at
    any time with `nsbluesky.cxi.read_cxi`.  `close` rewrites it once into a compact file that any HDF5 library
    opens; until then other programs need HDF5's SWMR reading.
    """

    def __init__(self, path: Path, file: h5py.File, frame_shape: tuple[int, int], working: Path) -> None:
        self.path = path
        self._file = file
        self._working = working
        self._frame_shape = frame_shape

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        energy_eV: float,
        detector_distance_m: float,
        pixel_size_m: float | tuple[float, float],
        frame_shape: tuple[int, int],
        mask: npt.ArrayLike | None = None,
        instrument_name: str = "nsbluesky",
        start_time: float | str | None = None,
        parameters: dict[str, Any] | None = None,
        propagation: str = "far",
        source_distance_m: float = 0.0,
        whole: bool = False,
    ) -> CxiFile:
        """Create the file; it replaces one of the same name.

        Parameters
        ----------
        path : path
            Its folder is made where missing.
        energy_eV : float
            Photon energy.
        detector_distance_m : float
            Sample to detector.
        pixel_size_m : float or (float, float)
            Pixel of the frames, after binning; (y, x) where they differ.
        frame_shape : (int, int)
            Rows and columns of a frame.
        mask : array of int, optional
            (ny, nx), CXI codes, 0 is good.
        instrument_name : str
        start_time : float or str, optional
            Seconds since 1970 or ISO-8601 text; now by default.
        parameters : dict, optional
            What the frames were made of and how; must be JSON.
        propagation, source_distance_m
            As in `nsbluesky.geometry.Geometry`.
        whole : bool
            For a file that nobody reads while it is written: it appears when it is closed, or never, and until then
            one of the same name stays.

        Raises
        ------
        CxiError
            For geometry that cannot be, or a mask of another shape.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part_path(path)
        file = h5py.File(part, "w", libver="latest")
        try:
            create_experiment(
                file,
                energy_eV=energy_eV,
                detector_distance_m=detector_distance_m,
                pixel_size_m=pixel_size_m,
                frame_shape=frame_shape,
                instrument_name=instrument_name,
                start_time=start_time,
                propagation=propagation,
                source_distance_m=source_distance_m,
            )
            _create_datasets(file, frame_shape)
            if parameters is not None:
                file[f"{DETECTOR_PROCESS}/parameters"] = json.dumps(parameters)
                file[f"{DETECTOR_PROCESS}/version"] = __version__
                file[f"{DETECTOR_PROCESS}/date"] = iso_time()
            cxi = cls(path, file, frame_shape, part if whole else path)
            if mask is not None:
                cxi.set_mask(mask)
            file.swmr_mode = True
            if not whole:
                part.replace(path)
        except BaseException:
            file.close()
            part.unlink(missing_ok=True)
            raise
        return cxi

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self._file.id.valid

    @property
    def num_frames(self) -> int:
        """Frames written so far."""
        return int(self._file[DATA].shape[0])

    def append(
        self,
        frames: npt.ArrayLike,
        translation_m: npt.ArrayLike,
        seq_nums: npt.ArrayLike | None = None,
        *,
        flags: npt.ArrayLike = 0,
        weights: npt.ArrayLike = 1.0,
    ) -> range:
        """Append frames; when this returns they are on disk.

        Parameters
        ----------
        frames : array of float32
            (n, ny, nx) photons, zero frequency at the centre N//2.
        translation_m : array of float64
            (n, 2 or 3) x, y, z of the sample in metres.
        seq_nums : array of int, optional
            (n,) number of each frame in its run; its index + 1 by default.
        flags : array of int, optional
            (n,) what is wrong with each frame, as `nsbluesky.cleaning.flags.FrameFlag`; nothing by default.
        weights : array of float, optional
            (n,) 0…1; a reconstruction leaves frames of weight 0 out.

        Returns
        -------
        range
            The indices of the new frames.

        Raises
        ------
        CxiError
            For anything of another shape.
        """
        frames, translation = self._checked(frames, translation_m)
        first = self.num_frames
        rows = range(first, first + len(frames))
        numbers = np.arange(first, rows.stop) + 1 if seq_nums is None else np.asarray(seq_nums)
        for name, given in (("seq_nums", numbers), ("flags", np.asarray(flags)), ("weights", np.asarray(weights))):
            if given.shape not in ((), (len(frames),)):
                raise CxiError(f"{name} of shape {given.shape}: expected ({len(frames)},), one for each frame")
        for name, values in (
            (DATA, frames),
            (SEQ_NUM, numbers),
            (FRAME_FLAGS, flags),
            (FRAME_WEIGHTS, weights),
            (TRANSLATION, translation),  # the last one: from now on the frame counts
        ):
            dataset = self._file[name]
            dataset.resize(rows.stop, axis=0)
            dataset[first : rows.stop] = values
            dataset.flush()
        return rows

    def replace(
        self, index: int, frame: npt.ArrayLike, translation_m: npt.ArrayLike, *, flags: int = 0, weight: float = 1.0
    ) -> None:
        """Replace one frame (ny, nx) and what belongs to it; in between the frame counts as missing.

        Raises
        ------
        CxiError
            For an index that was not written, or another shape.
        """
        if not 0 <= index < self.num_frames:
            raise CxiError(
                f"frame {index} cannot be replaced: expected 0 to {self.num_frames - 1}; append it instead"
            )
        frames, translation = self._checked(np.asarray(frame)[np.newaxis], translation_m)
        for name, values in (
            (TRANSLATION, np.nan),
            (DATA, frames[0]),
            (FRAME_FLAGS, flags),
            (FRAME_WEIGHTS, weight),
            (TRANSLATION, translation[0]),
        ):
            dataset = self._file[name]
            dataset[index] = values
            dataset.flush()

    def set_mask(self, mask: npt.ArrayLike) -> None:
        """Set the detector's mask, (ny, nx) in CXI codes, 0 is good."""
        self._overwrite(f"{DETECTOR}/mask", np.asarray(mask, dtype=np.uint32))

    def set_illumination(
        self,
        illumination: npt.ArrayLike | None = None,
        *,
        intensities: npt.ArrayLike | None = None,
        probe_mask: npt.ArrayLike | None = None,
    ) -> None:
        """Set what is known of the light; what is left out stays as it is.

        Parameters
        ----------
        illumination : array of complex64, optional
            (ny, nx) probe in √photon, centred in real space.
        intensities : array of float32, optional
            (ny, nx) mean frame in photons, centred.
        probe_mask : array of uint8, optional
            (ny, nx) support of the probe's Fourier transform, zero frequency at [0, 0].
        """
        for name, values, dtype in (
            ("illumination", illumination, np.complex64),
            ("illumination_intensities", intensities, np.float32),
            ("probe_mask", probe_mask, np.uint8),
        ):
            if values is not None:
                self._overwrite(f"{SOURCE}/{name}", np.asarray(values, dtype=dtype))

    def write_image(
        self,
        object: npt.ArrayLike,
        probe: npt.ArrayLike,
        pixel_m: float,
        parameters: dict[str, Any] | None = None,
        errors: npt.ArrayLike = (),
        *,
        center_m: tuple[float, float] = (0.0, 0.0),
        translation_m: npt.ArrayLike | None = None,
        further: npt.ArrayLike | None = None,
        command: str = "nsbluesky",
        second_engine: str = "",
    ) -> None:
        """Write the newest picture into ``image_1``, or that of a second engine into ``image_2``.

        It replaces the one before.

        A picture smaller than the one before leaves a masked margin at its high rows and columns.

        Parameters
        ----------
        object : array of complex64
            (H, W); NaN where nothing was measured: 0 in the file, and masked.
        probe : array of complex64
            (modes, ny, nx), or (ny, nx) for one mode.
        pixel_m : float
            Pixel of object and probe in metres.
        parameters : dict, optional
            Settings that made the picture; must be JSON.
        errors : array of float, optional
            (k,) error metric per iteration.
        center_m : (float, float)
            x, y of the picture's centre in the sample's coordinates, metres.
        translation_m : array of float, optional
            (N, 2) x, y of the frames as corrected for this picture, in the order of the file; NaN where unknown.
        further : array of complex64, optional
            (states − 1, H, W) the other states of an object that is a mixture; NaN as in `object`.
        command : str
            What made the picture.
        second_engine : str
            The schedule of a second engine, where that made it.  ``translation_m`` and ``further`` are not for it.

        Raises
        ------
        CxiError
            For arrays of another shape, or parameters longer than the file has room for.
        """
        picture = np.asarray(object, dtype=np.complex64)
        modes = np.asarray(probe, dtype=np.complex64)
        modes = modes[np.newaxis] if modes.ndim == 2 else modes
        if picture.ndim != 2 or modes.ndim != 3 or modes.shape[1:] != self._frame_shape:
            raise CxiError(
                f"picture {picture.shape} with probe {modes.shape}: "
                f"expected (rows, columns) and (modes, {self._frame_shape[0]}, {self._frame_shape[1]})"
            )
        parameters = (parameters or {}) | ({"second_engine": second_engine} if second_engine else {})
        text = json.dumps(parameters).encode()
        if len(text) > PARAMETERS_BYTES:
            raise CxiError(f"parameters of {len(text)} bytes: expected at most {PARAMETERS_BYTES}; leave arrays out")
        image = SECOND if second_engine else IMAGE
        rows, columns = np.maximum(self._file[f"{image}/data"].shape, picture.shape).tolist()
        margin_m = ((columns - picture.shape[1]) * pixel_m, (rows - picture.shape[0]) * pixel_m)
        center = [center_m[0] + margin_m[0] / 2, center_m[1] + margin_m[1] / 2, 0.0]
        unknown = ~np.isfinite(picture)
        self._put(f"{image}/process_1/complete", 0)
        self._fit(f"{image}/data", np.where(unknown, np.complex64(0), picture), 0)
        self._fit(f"{image}/mask", np.where(unknown, np.uint32(PIXEL_MISSING), np.uint32(0)), PIXEL_MISSING)
        self._fit(f"{image}/process_1/final_illumination", modes, 0)
        self._fit(f"{image}/process_1/errors", np.asarray(errors, dtype=np.float64), np.nan)
        if translation_m is not None:
            self._fit(REFINED, np.asarray(translation_m, dtype=np.float64), np.nan)
        if further is not None:
            others = np.asarray(further, dtype=np.complex64)
            self._fit(FURTHER, np.where(np.isfinite(others), others, 0), 0)
        self._put(f"{image}/image_size", [columns * pixel_m, rows * pixel_m, 0.0])
        self._put(f"{image}/image_center", center)
        self._put(f"{image}/process_1/parameters", text)
        self._put(f"{image}/process_1/command", command.encode())
        self._put(f"{image}/process_1/date", iso_time().encode())
        self._put(f"{image}/process_1/complete", 1)

    def close(self, end_time: float | str | None = None) -> None:
        """Close the file and rewrite it compactly, readable by any HDF5 library; does nothing the second time.

        Until the new file is complete the old one stays in its place; for good where the new one is not whole.
        """
        if self.closed:
            return
        self._put("entry_1/end_time", iso_time(end_time).encode())
        self._file.close()
        part = part_path(self._working)
        try:
            require_space(self._working.parent, self._working.stat().st_size)
            lost = rewrite(self._working, part)
            if lost:
                raise OSError("; ".join(lost))
            part.replace(self._working)
        except (OSError, RuntimeError) as error:  # RuntimeError: HDF5, where a file cannot grow
            part.unlink(missing_ok=True)
            logger.warning("%s stays in its larger form, which is complete and readable: %s", self.path, error)
        self._working.replace(self.path)

    def abandon(self) -> None:
        """Close the file as it is, where it cannot be written any more; one that was to be whole is removed."""
        self._file.close()
        if self._working != self.path:
            self._working.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file; one that was to be whole is given up where there was an error."""
        if error is not None and self._working != self.path:
            self.abandon()
        else:
            self.close()

    def _checked(
        self, frames: npt.ArrayLike, translation_m: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        checked = np.asarray(frames, dtype=np.float32)
        given = np.atleast_2d(np.asarray(translation_m, dtype=np.float64))
        if checked.ndim != 3 or checked.shape[1:] != self._frame_shape:
            raise CxiError(f"frames of shape {checked.shape}: expected (n, {', '.join(map(str, self._frame_shape))})")
        if given.shape not in ((len(checked), 2), (len(checked), 3)):
            raise CxiError(
                f"translations of shape {given.shape} for {len(checked)} frames: expected (n, 2) or (n, 3)"
            )
        if not np.isfinite(given).all():
            raise CxiError("a translation is not finite: expected metres; leave frames without a position out")
        translation = np.zeros((len(checked), 3))
        translation[:, : given.shape[1]] = given
        return checked, translation

    def _put(self, name: str, value: Any) -> None:
        dataset = self._file[name]
        dataset[()] = value
        dataset.flush()

    def _overwrite(self, name: str, values: npt.NDArray[Any]) -> None:
        """Write an array of the frames' shape into a dataset that may be empty so far."""
        if values.shape != self._frame_shape:
            raise CxiError(
                f"{Path(name).name} of shape {values.shape}: expected {self._frame_shape}, that of a frame"
            )
        self._fit(name, values, 0)

    def _fit(self, name: str, values: npt.NDArray[Any], margin: complex) -> None:
        """Write an array into a dataset that grows to hold it, never shrinks, and is `margin` where it is larger."""
        dataset = self._file[name]
        shape = tuple(np.maximum(dataset.shape, values.shape).tolist())
        if shape != dataset.shape:
            dataset.resize(shape)
        if shape != values.shape:
            dataset[...] = margin
        dataset[tuple(slice(n) for n in values.shape)] = values
        dataset.flush()


def _create_datasets(file: h5py.File, frame_shape: tuple[int, int]) -> None:
    """Create everything that SWMR mode does not let one create later."""

    def growing(
        name: str, cell: tuple[int, ...], kind: type, chunk: tuple[int, ...], fill: float = 0
    ) -> h5py.Dataset:
        """Create an empty dataset; 0 in `cell` is a side that grows."""
        sides = tuple(n or None for n in cell)
        return file.create_dataset(name, cell, kind, maxshape=sides, chunks=chunk, fillvalue=kind(fill))

    frames = growing(DATA, (0, *frame_shape), np.float32, (1, *frame_shape))
    frames.attrs["axes"] = "translation:y:x"
    growing(TRANSLATION, (0, 3), np.float64, (POSITIONS_PER_CHUNK, 3), np.nan)
    growing(SEQ_NUM, (0,), np.int64, (POSITIONS_PER_CHUNK,))
    growing(FRAME_FLAGS, (0,), np.uint16, (POSITIONS_PER_CHUNK,))
    growing(FRAME_WEIGHTS, (0,), np.float32, (POSITIONS_PER_CHUNK,), 1)
    file.create_dataset(f"{DETECTOR}/mask", frame_shape, np.uint32, chunks=frame_shape)
    growing(f"{SOURCE}/illumination", (0, 0), np.complex64, frame_shape)
    growing(f"{SOURCE}/illumination_intensities", (0, 0), np.float32, frame_shape)
    growing(f"{SOURCE}/probe_mask", (0, 0), np.uint8, frame_shape)
    file[f"{SOURCE}/probe"] = h5py.SoftLink(f"/{SOURCE}/illumination")
    link_data(file)

    for image in (IMAGE, SECOND):
        process = f"{image}/process_1"
        growing(f"{image}/data", (0, 0), np.complex64, IMAGE_CHUNK)
        growing(f"{image}/mask", (0, 0), np.uint32, IMAGE_CHUNK, PIXEL_MISSING)
        file[f"{image}/data_type"] = "amplitude"
        file[f"{image}/data_space"] = "real"
        file[f"{image}/is_fft_shifted"] = 0
        file[f"{image}/dimensionality"] = 2
        file[f"{image}/image_size"] = np.zeros(3)
        file[f"{image}/image_center"] = np.zeros(3)
        growing(f"{process}/final_illumination", (0, *frame_shape), np.complex64, (1, *frame_shape))
        growing(f"{process}/errors", (0,), np.float64, (POSITIONS_PER_CHUNK,), np.nan)
        file[f"{process}/version"] = __version__
        file[f"{process}/complete"] = 0
        # Written at once: a reader takes room that is set aside beyond the file's end for corruption.
        for name, size in (("command", 1024), ("parameters", PARAMETERS_BYTES), ("date", TIME_BYTES)):
            file.create_dataset(f"{process}/{name}", data=np.array(b"", dtype=f"S{size}"))
    growing(REFINED, (0, 2), np.float64, (POSITIONS_PER_CHUNK, 2), np.nan)
    growing(FURTHER, (0, 0, 0), np.complex64, (1, *IMAGE_CHUNK))
    file.create_dataset("entry_1/end_time", data=np.array(b"", dtype=f"S{TIME_BYTES}"))
    file["entry_1/image_latest"] = h5py.SoftLink(f"/{IMAGE}")
