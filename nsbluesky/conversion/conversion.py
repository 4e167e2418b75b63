"""Raw scan in, clean CXI file out: in blocks, over any executor, and on from where it was after any kill."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.clean import trace
from nsbluesky.cleaning.flags import FluxMonitor, FrameFlag
from nsbluesky.conversion.block_file import BlockNotes, read_notes
from nsbluesky.conversion.blocks import Block
from nsbluesky.conversion.clean_file import stage_path, write_clean_file, write_stage_file
from nsbluesky.conversion.frames import ConversionError
from nsbluesky.conversion.prepare import Preparation, prepare
from nsbluesky.conversion.recipe import ScanRecipe
from nsbluesky.conversion.scan import RawScan
from nsbluesky.conversion.unfinished import UnfinishedConversion, identity_of
from nsbluesky.conversion.workers import Workers, clean_blocks
from nsbluesky.cxi import CxiError, read_cxi
from nsbluesky.disk_space import MARGIN_BYTES, free_bytes
from nsbluesky.settings import PipelineSettings

__all__ = ["Conversion", "convert"]


@dataclass(frozen=True)
class Conversion:
    """What came of a conversion; it is stored with the clean frames.

    Attributes
    ----------
    num_frames : int
        Clean frames in the file.
    num_darks : int
        Dark frames of all exposures.
    bad_adcs : list of int
    center_px : (float, float)
        Row and column of the zero order on the sensor.
    pixel_size_m : float
        Of the clean frames.
    flagged : dict of str to int
        How many frames have each flag, by `nsbluesky.cleaning.flags.FrameFlag` in small letters.
    left_out : dict of str to str
        Numbers of the points that are not in the file, and why.
    warnings : list of str
        What a scientist should know.
    """

    num_frames: int
    num_darks: int
    bad_adcs: list[int]
    center_px: tuple[float, float]
    pixel_size_m: float
    flagged: dict[str, int]
    left_out: dict[str, str]
    warnings: list[str]


def convert(
    scan: RawScan,
    out: Path,
    settings: PipelineSettings | None = None,
    *,
    workers: Workers | None = None,
    stages: Sequence[str] = (),
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Clean a raw scan into a CXI file.

    While it works, finished blocks lie in a folder beside `out`, whose name ends in ``.unfinished``; `out` appears
    when all are there.  Memory holds the blocks that are at work, whatever the number of frames.

    Parameters
    ----------
    scan : RawScan
        From `nsbluesky.conversion.cxi_scan.scan_of_cxi` or `nsbluesky.conversion.run_scan.scan_of_run`.
    out : path
        The CXI file; one that is there is replaced at the end.
    settings : PipelineSettings, optional
        Its `cleaning`, `backend` and `block_frames`.
    workers : Workers, optional
        One thread by default.
    stages : sequence of str
        Steps of the cleaning, as `nsbluesky.cleaning.clean.trace` calls them, whose windows are kept as well: each in
        the file `stage_path(out, stage)`.
    resume : bool
        Whether to go on where a conversion was killed.  Where there is none to go on with, this one begins; where it
        was finished, nothing is left to do.
    progress : callable, optional
        Called with the points that are done and all points.

    Raises
    ------
    ConversionError
        Where an unfinished conversion is in the way, or none of the points can be cleaned.
    ValueError
        Where frames, darks or settings cannot be what they are said to be.
    """
    settings = settings or PipelineSettings()
    identity = identity_of(scan, settings, tuple(stages))
    work = UnfinishedConversion(out, identity, resume=resume)
    if resume and not work.begun:
        done = _finished(out, identity)
        if done is not None:
            return done
    preparation = prepare(scan, settings, tuple(stages))
    _check_stages(scan, preparation.recipe)
    with work:
        preparation.recipe.save(work.folder)
        blocks = list(_blocks(scan, settings.block_frames, work.folder))
        failed = _clean(blocks, work, workers or Workers.threads(1), progress)
        paths = [work.path(block.number) for block in blocks if block.number not in failed]
        if not paths:
            raise ConversionError(f"none of the {len(scan)} points can be cleaned: {next(iter(failed.values()))}")
        _require_space(work.folder, paths)
        notes = [read_notes(path) for path in paths]
        flags = _flags(notes, settings)
        result = _result(scan, settings, preparation, blocks, failed, notes, flags)
        targets = {stage_path(out, stage): stage for stage in stages}
        for target, stage in targets.items():
            write_stage_file(work.folder / target.name, scan, paths, stage)
        parameters = {**identity, "result": dataclasses.asdict(result)}
        new = work.folder / out.name
        write_clean_file(new, scan, paths, flags, preparation.mask, result.pixel_size_m, parameters)
        for target in (*targets, out):  # the clean frames last: where they are, everything is
            (work.folder / target.name).replace(target)
        work.remove()
    return result


def _blocks(scan: RawScan, size: int, folder: Path) -> Iterator[Block]:
    for number, start in enumerate(range(0, len(scan), size)):
        points = np.arange(start, min(start + size, len(scan)))
        yield Block(number, points, tuple(stored[points] for stored in scan.frames), folder)


def _clean(
    blocks: Sequence[Block],
    work: UnfinishedConversion,
    workers: Workers,
    progress: Callable[[int, int], None] | None,
) -> dict[int, str]:
    """Clean the blocks that are not finished; return the numbers of those that cannot be, and why."""
    finished = work.finished()
    total = sum(len(block) for block in blocks)
    done = sum(len(block) for block in blocks if block.number in finished)
    failed: dict[int, str] = {}
    if progress is not None:
        progress(done, total)
    for block, reason in clean_blocks((block for block in blocks if block.number not in finished), workers):
        if reason:
            failed[block.number] = reason
        done += len(block)
        if progress is not None:
            progress(done, total)
    return failed


def _require_space(folder: Path, paths: Sequence[Path]) -> None:
    """Raise an error where the files have no room: HDF5 does not survive a write that fails."""
    needed = 2 * sum(path.stat().st_size for path in paths)  # a file and its compact copy
    free = free_bytes(folder)
    if free < needed + MARGIN_BYTES:
        raise ConversionError(
            f"{free / 2**20:.0f} MB are free in {folder}: expected {(needed + MARGIN_BYTES) / 2**20:.0f} MB for the "
            "clean frames; make space, then --resume goes on"
        )


def _flags(notes: Sequence[BlockNotes], settings: PipelineSettings) -> npt.NDArray[np.uint16]:
    """Return the flags of all frames, with those of frames whose photons are far from the scan's median."""
    photons = np.concatenate([one.photons for one in notes])
    flags: npt.NDArray[np.uint16] = np.concatenate([one.flags for one in notes])
    return flags | FluxMonitor(settings.cleaning).flags(photons)


def _result(
    scan: RawScan,
    settings: PipelineSettings,
    preparation: Preparation,
    blocks: Sequence[Block],
    failed: Mapping[int, str],
    notes: Sequence[BlockNotes],
    flags: npt.NDArray[np.uint16],
) -> Conversion:
    left_out = dict(scan.left_out)
    for block in blocks:
        if block.number in failed:
            left_out |= dict.fromkeys(scan.seq_nums[block.points].tolist(), failed[block.number])
    for one in notes:
        left_out |= {int(scan.seq_nums[point]): reason for point, reason in one.failed.items()}
    warnings = [*scan.warnings, *preparation.warnings]
    drift_adu = np.fmax.reduce([one.drift_adu for one in notes])
    if drift_adu > settings.cleaning.dark_drift_adu:
        warnings.append(
            f"the pedestal moved by up to {drift_adu:.0f} ADU since the dark frames (dark_drift_adu = "
            f"{settings.cleaning.dark_drift_adu:g}): the overscan takes it out; take darks again"
        )
    return Conversion(
        num_frames=len(flags),
        num_darks=preparation.num_darks,
        bad_adcs=list(preparation.bad_adcs),
        center_px=preparation.recipe.plans[0].center,
        pixel_size_m=scan.geometry.pixel_size_m * settings.cleaning.pixel_ratio,
        flagged={str(flag.name).lower(): int(((flags & flag) != 0).sum()) for flag in FrameFlag},
        left_out={str(number): left_out[number] for number in sorted(left_out)},
        warnings=warnings,
    )


def _check_stages(scan: RawScan, recipe: ScanRecipe) -> None:
    """Raise an error for stages that this cleaning does not have."""
    if not recipe.stages:
        return
    stored = scan.frames[0]
    frame = stored[np.flatnonzero(stored.recorded)[:1]].read()[0]
    plan = recipe.plans[0]
    known = [name for name in trace(plan.xp.asarray(frame), plan) if name != "clean"]
    for name in recipe.stages:
        if name not in known:
            raise ConversionError(f"stage {name!r}: expected one of {', '.join(known)}, as these settings have them")


def _finished(out: Path, identity: Mapping[str, Any]) -> Conversion | None:
    """Return the result in `out`, where it is that of the same conversion."""
    if not all(path.exists() for path in (out, *(stage_path(out, stage) for stage in identity["stages"]))):
        return None
    try:
        with read_cxi(out) as cxi:
            parameters = cxi.parameters
    except CxiError:
        return None
    if any(parameters.get(key) != value for key, value in identity.items() if key != "source"):
        return None
    return Conversion(**{**parameters["result"], "center_px": tuple(parameters["result"]["center_px"])})
