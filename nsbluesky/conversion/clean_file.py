"""From finished blocks to CXI files in the order of the scan: the clean frames, and each kept stage beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.flags import weights_of
from nsbluesky.conversion.block_file import CleanBlock, read_block
from nsbluesky.conversion.frames import ConversionError
from nsbluesky.conversion.scan import RawScan
from nsbluesky.cxi import CxiFile

__all__ = ["stage_path", "write_clean_file", "write_stage_file"]


def stage_path(out: Path, stage: str) -> Path:
    """Return the file of a kept stage: beside the clean frames, with the stage in its name."""
    return out.with_name(f"{out.stem}.{stage}{out.suffix}")


def write_clean_file(
    path: Path,
    scan: RawScan,
    blocks: Sequence[Path],
    flags: npt.NDArray[np.uint16],
    mask: npt.NDArray[np.uint32],
    pixel_size_m: float,
    parameters: Mapping[str, Any],
) -> None:
    """Write the clean frames of the blocks, one block in memory at a time.

    Parameters
    ----------
    path : path
    scan : RawScan
    blocks : sequence of path
        Their files, in the order of the scan.
    flags : (n,) uint16
        Of all frames of the blocks.
    mask : (frame_px, frame_px) uint32
    pixel_size_m : float
        Of a clean frame.
    parameters : dict
        What the frames were made of and how.

    Raises
    ------
    ConversionError
        For a block that is damaged.
    """
    weights = weights_of(flags)
    total, measured = np.zeros(mask.shape), np.zeros(mask.shape, np.int64)
    with _create(path, scan, pixel_size_m, mask.shape, mask=mask, parameters=dict(parameters)) as cxi:
        for block in _read(blocks):
            place = slice(cxi.num_frames, cxi.num_frames + len(block.points))
            cxi.append(
                block.frames,
                scan.translation_m[block.points],
                scan.seq_nums[block.points],
                flags=flags[place],
                weights=weights[place],
            )
            used = block.frames[weights[place] > 0]
            finite = np.isfinite(used)
            total += np.where(finite, used, 0).sum(axis=0, dtype=np.float64)
            measured += finite.sum(axis=0)
        cxi.set_illumination(intensities=total / np.maximum(measured, 1))


def write_stage_file(path: Path, scan: RawScan, blocks: Sequence[Path], stage: str) -> None:
    """Write the windows after one step, at the detector's own pixel: a CXI file like any other, for every viewer.

    All steps are in photons, so that they compare.  With several exposures a point there is a frame for each.

    Raises
    ------
    ConversionError
        For a block that is damaged.
    """
    cxi: CxiFile | None = None
    for block in _read(blocks):
        windows = block.stages[stage]
        if cxi is None:
            cxi = _create(path, scan, scan.geometry.pixel_size_m, windows.shape[1:], parameters={"stage": stage})
        cxi.append(windows, scan.translation_m[block.stage_points], scan.seq_nums[block.stage_points])
    if cxi is not None:
        cxi.close()


def _create(path: Path, scan: RawScan, pixel_size_m: float, frame_shape: tuple[int, ...], **more: Any) -> CxiFile:
    rows, columns = frame_shape
    return CxiFile.create(
        path,
        energy_eV=scan.geometry.energy_eV,
        detector_distance_m=scan.geometry.detector_distance_m,
        pixel_size_m=pixel_size_m,
        frame_shape=(rows, columns),
        start_time=scan.start_time,
        propagation=scan.geometry.propagation,
        source_distance_m=scan.geometry.source_distance_m,
        **more,
    )


def _read(paths: Iterable[Path]) -> Iterator[CleanBlock]:
    for path in paths:
        block = read_block(path)
        if block is None:
            raise ConversionError(f"{path} is damaged: is the disk full? --resume cleans that block again")
        yield block
