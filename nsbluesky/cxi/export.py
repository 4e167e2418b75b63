"""Write what is in an open CXI file into a new one that is whole: frames, positions, and one picture of choice."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nsbluesky.cxi.layout import CxiError
from nsbluesky.cxi.read import CxiData
from nsbluesky.cxi.write import CxiFile
from nsbluesky.disk_space import require_space

__all__ = ["append_frames", "copied_frames", "export_cxi", "require_space_for_frames"]

BLOCK_FRAMES = 64


def copied_frames(path: str | Path, data: CxiData) -> CxiFile:
    """Return a new file, open, with the clean frames of another one and what it tells of them; closed, it appears.

    Raises
    ------
    CxiError
        Where there are no clean frames.
    NoSpace
        If the disk has no room for the frames.
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    require_space_for_frames(path, data.clean_frames.shape)
    cxi = CxiFile.create(
        path,
        energy_eV=data.energy_eV,
        detector_distance_m=data.detector_distance_m,
        pixel_size_m=data.pixel_size_m,
        frame_shape=data.clean_frames.shape[1:],
        mask=data.mask,
        start_time=data.start_time,
        parameters=data.parameters or None,
        propagation=data.propagation,
        source_distance_m=data.source_distance_m,
        whole=True,
    )
    try:
        append_frames(cxi, data, data.seq_nums)
        with contextlib.suppress(CxiError):  # of some other shape than the frames: they do not need it
            cxi.set_illumination(data.illumination)
        with contextlib.suppress(CxiError):
            cxi.set_illumination(intensities=data.illumination_intensities)
    except BaseException:
        cxi.abandon()
        raise
    return cxi


def require_space_for_frames(path: Path, shape: tuple[int, ...]) -> None:
    """Look that there is space for frames (n, ny, nx) in a file; HDF5 does not survive a write that fails.

    Raises
    ------
    NoSpace
        If there is not; it names the file.
    """
    require_space(path.parent, math.prod(shape) * np.dtype(np.float32).itemsize, path)


def append_frames(cxi: CxiFile, data: CxiData, seq_nums: npt.NDArray[np.int64]) -> None:
    """Append the clean frames of `data` to a file, with these numbers (n,), in blocks."""
    frames = data.clean_frames
    for start in range(0, len(frames), BLOCK_FRAMES):
        block = slice(start, start + BLOCK_FRAMES)
        some = frames[block].astype(np.float32)
        require_space_for_frames(cxi.path, some.shape)
        cxi.append(
            some,
            data.translation_m[block],
            seq_nums[block],
            flags=data.frame_flags[block],
            weights=data.frame_weights[block],
        )


def export_cxi(path: str | Path, data: CxiData) -> None:
    """Write the clean frames of a file, and its last picture, into another file; one that is still growing is fine.

    Parameters
    ----------
    path : path
    data : CxiData

    Raises
    ------
    CxiError
        Where the file has no clean frames, or `path` is the file itself.
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    if path.exists() and path.samefile(data.path):
        raise CxiError(f"{path} is the file that is read: expected another name")
    images = data.images
    with copied_frames(path, data) as cxi:
        if images:
            image = images[-1]
            shape = data.clean_frames.shape[1:]
            measured = (image.mask == 0) & (image.object != 0)
            cxi.write_image(
                np.where(measured, image.object, np.complex64(complex(np.nan, np.nan))),
                np.zeros((1, *shape), np.complex64) if image.probe is None else image.probe,
                image.pixel_m if np.isfinite(image.pixel_m) else data.geometry().object_pixel_m(shape[-1]),
                image.parameters,
                image.errors,
                center_m=image.center_m,
                translation_m=image.translation_m,
                further=image.further,
                command="nsbluesky view",
            )
