"""``nsbluesky reconstruct``: the object in any CXI file of ptychography frames."""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nsbluesky.backend import get_backend
from nsbluesky.commands import (
    only_one_writes,
    output_file,
    output_folder,
    output_picture,
    parse_number,
    parse_workers,
    tell_progress,
    telling_what_is_left,
)
from nsbluesky.cxi import CxiData, CxiError, read_cxi
from nsbluesky.cxi.export import copied_frames, require_space_for_frames
from nsbluesky.cxi.join import join_scans
from nsbluesky.cxi.layout import PIXEL_MISSING
from nsbluesky.cxi.light_in_corners import light_in_corners
from nsbluesky.cxi.never_measured import never_measured
from nsbluesky.cxi.read import FrameStack
from nsbluesky.cxi.stored_frames import StoredFrames
from nsbluesky.dask_cluster import open_cluster, workers_of
from nsbluesky.disk_space import require_space
from nsbluesky.service.dask_shards import DaskShards
from nsbluesky.settings import MOST_PASSES, SettingsError, SolverSettings
from nsbluesky.solver.checkpoint import remove_checkpoint
from nsbluesky.solver.checkpoint_writer import Checkpoints
from nsbluesky.solver.engines import ENGINES
from nsbluesky.solver.intake import NO_POSITION
from nsbluesky.solver.reconstruct import Reconstruction, reconstruct
from nsbluesky.solver.schedule import parse_schedule
from nsbluesky.solver.sharded import reconstruct_sharded
from nsbluesky.viewer.pictures import save_object_png

__all__ = ["add_arguments", "run"]

MOST_MASKED = 0.5
"""Part of all pixels; gaps, beamstop and corners together mask less."""

MOST_REJECTED = 0.1
"""Part of the frames; so many may not fit, and are told by their number."""

MOST_IN_CORNERS = 0.5
"""Part of the light, in the far field; no optic's cone has so much there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("source", type=Path, help="a CXI file with frames and translations")
    parser.add_argument("out", type=Path, help="the CXI file to write: the frames and the image")
    parser.add_argument(
        "--algorithm",
        type=_schedule,
        default="wasp",
        metavar="NAME[:PASSES],…",
        help=f"of {', '.join(sorted(ENGINES))}; several one after another, as in wasp:20,lsqml:50 (%(default)s)",
    )
    parser.add_argument(
        "--also",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="use the frames of this file as well, as those that were taken again",
    )
    parser.add_argument(
        "--passes", type=int, metavar="N", help="of an engine that names none; by default until the image has settled"
    )
    parser.add_argument("--modes", type=int, default=2, help="probe modes (%(default)s)")
    parser.add_argument("--backend", choices=("auto", "numpy", "cupy"), default="auto", help="(%(default)s)")
    parser.add_argument("--use-probe", action="store_true", help="start from the file's illumination; no sweep")
    parser.add_argument(
        "--source-distance-m",
        type=parse_number,
        metavar="M",
        help="the frames are in the near field, in light from a point so far before the sample; 0 for parallel light",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint of a run that was killed")
    parser.add_argument(
        "--checkpoint-s",
        type=parse_number,
        default=60.0,
        metavar="S",
        help="seconds between checkpoints, OUT.cxi.checkpoint; 0 writes one after each pass (%(default)s)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers",
        type=parse_workers,
        default=0,
        metavar="N",
        help="deal the frames to so many processes of this machine",
    )
    where.add_argument("--scheduler", default="", metavar="tcp://HOST:PORT", help="or to the workers of this Dask")
    parser.add_argument("--progress", action="store_true", help="tell each pass on standard error: 3/40 R 0.081")
    parser.add_argument("--png", type=Path, help="a picture of the object's phase")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in sweep_frames=100")


def _schedule(text: str) -> str:
    try:
        parse_schedule(text, 1)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Reconstruct, and write the image with the frames it was made from."""
    settings = SolverSettings(algorithm=options.algorithm, modes=options.modes).set_from_text(options.set)
    if options.passes is not None and not 1 <= options.passes <= MOST_PASSES:
        raise ValueError(f"--passes {options.passes}: expected 1 to {MOST_PASSES}")
    if options.passes is None and settings.passes_final == 0:
        raise ValueError("passes_final = 0: expected 1 or more, or none until the image has settled")
    if not options.checkpoint_s >= 0:
        raise ValueError(f"--checkpoint-s {options.checkpoint_s}: expected 0 or more seconds")
    shares = bool(options.workers or options.scheduler)
    _look_at_files(options.source, options.also)
    out = output_file(options.out, options.source, *options.also)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    if options.png is not None:
        output_picture(options.png, options.source, *options.also, out, checkpoint)
    with (
        only_one_writes(out, "reconstruct"),
        telling_what_is_left(functools.partial(_left, out, checkpoint)),
        _source(options) as source,
        read_cxi(source) as data,
        tqdm(unit="pass", disable=options.progress or None) as bar,
    ):
        frames = data.clean_frames
        require_space_for_frames(out, frames.shape)  # minutes of work must not end at a full disk
        if options.use_probe and data.illumination_modes is None:
            raise CxiError(f"{options.source} has no illumination: expected source_1/illumination for --use-probe")
        if options.source_distance_m is not None:
            data.propagation, data.source_distance_m = "near", options.source_distance_m
        if len(frames) == 0:
            raise CxiError(
                f"{source} has {data.num_stored} frames and {data.num_translations} translations: expected a finite "
                "translation for each frame"
            )
        data.mask[never_measured(frames)] |= PIXEL_MISSING
        _look_at_mask(data)
        _look_at_number(data)
        _look_at_middle(data)
        given = (frames, data.translation_m, data.mask, data.geometry(), settings, get_backend(options.backend))
        how: dict[str, Any] = {
            "weights": data.frame_weights,
            "passes": options.passes,
            "probe": data.illumination_modes if options.use_probe else None,
            "checkpoints": Checkpoints(checkpoint, options.checkpoint_s, options.resume),
            "progress": _tell if options.progress else functools.partial(_advance, bar),
        }
        if shares:
            result = _reconstruct_on_workers(options.workers, options.scheduler, *given, **how)
        else:
            result = reconstruct(*given, **how)
        _tell_rejected(result.rejected, len(frames))
        if not math.isfinite(result.r_factors[-1]):
            raise ValueError(
                f"R is {result.r_factors[-1]:g}: nothing is written; are the frames photons, and bad pixels masked?"
            )
        try:
            output_folder(out.parent)  # which may have gone meanwhile
            _write(out, data, result, settings)
        except OSError as error:
            if not checkpoint.exists():
                raise
            why = error.strerror or error
            raise OSError(
                f"{out} cannot be written ({why}); once it can, go on from {checkpoint} by --resume"
            ) from error
        remove_checkpoint(checkpoint)
    picture = result.picture
    if options.png is not None:
        save_object_png(options.png, picture.object, picture.pixel_m, quantity="phase")
    return {
        "frames_used": picture.num_frames,
        "frames_rejected": len(result.rejected),
        "frames_left_out": int((data.frame_weights == 0).sum()),
        "pixels_masked": int((~data.good).sum()),
        "saturated_at_photons": result.full_scale,
        "pixels_left_out": None if result.odd_pixels is None else int(result.odd_pixels.sum()),
        "passes": len(result.r_factors),
        "passes_before": result.passes_before,
        "checkpoints_missed": result.checkpoints_missed,
        "r_factor": float(result.r_factors[-1]),
        **_quality(result, settings),
        "object_pixel_nm": picture.pixel_m * 1e9,
        "position_errors_nm": _scatter_nm(result),
        "background_percent": 100 * result.background_part,
        "probe_variation_percent": None if result.variation is None else 100 * result.variation.part,
        "empty_percent": None if result.vacuum is None else 100 * result.vacuum.part,
        "defocus_um": None if result.sweep is None else result.sweep.defocus_m * 1e6,
        "defocus_confidence": None if result.sweep is None else result.sweep.confidence,
        "frames_turned": None if result.orientation is None else result.orientation.turn,
        "orientation_confidence": None if result.orientation is None else result.orientation.confidence,
        "cxi": str(out),
    }


def _look_at_files(source: Path, also: Sequence[Path]) -> None:
    """Refuse a file that is named twice: each of its frames would count twice."""
    seen = [source.resolve()]
    for path in also:
        if path.resolve() in seen:
            raise ValueError(f"--also {path}: expected another file, for the frames of this one are used already")
        seen.append(path.resolve())


@contextmanager
def _source(options: argparse.Namespace) -> Iterator[Path]:
    """Give the file that holds all frames: the source, or a passing one with the frames of others as well."""
    if not options.also:
        yield options.source
        return
    with tempfile.TemporaryDirectory(prefix="nsbluesky-", dir=options.out.parent) as folder:
        joined = Path(folder) / options.source.name
        join_scans(joined, options.source, options.also)
        yield joined


def _reconstruct_on_workers(
    workers: int, scheduler: str, frames: FrameStack, *given: Any, **how: Any
) -> Reconstruction:
    """Reconstruct with a shard of the frames on each of Dask's workers."""
    client, cluster = open_cluster(workers, scheduler)
    with cluster or contextlib.nullcontext(), client:
        if workers:
            client.wait_for_workers(workers)
        number = len(workers_of(client))
        submit, refer = DaskShards(client).submit, functools.partial(StoredFrames.of, frames)
        return reconstruct_sharded(frames, refer, *given, submit=submit, shards=number, **how)


def _look_at_mask(data: CxiData) -> None:
    """Warn of a mask that was probably written the other way round, as several programs have it."""
    bad = 1 - float(data.good.mean())
    if MOST_MASKED < bad < 1:  # of all pixels, it is refused
        warnings.warn(
            f"the mask leaves out {100 * bad:.0f} % of all pixels: in CXI 0 is good; where this file has another "
            "number for good pixels, write its mask the other way round",
            stacklevel=2,
        )


def _look_at_number(data: CxiData) -> None:
    """Warn of frames without a place, and of places without a frame: one may belong to another than it seems."""
    stored, told, used = data.num_stored, data.num_translations, len(data.clean_frames)
    if used < stored or told > stored:
        warnings.warn(
            f"of {stored} frames and {told} translations, {used} belong together and are used: expected a finite "
            "translation for each frame; are they in the same order?",
            stacklevel=2,
        )


def _look_at_middle(data: CxiData) -> None:
    """Warn of frames that were never put into order after a Fourier transform: their image is slow, and wrong."""
    if data.propagation == "far" and (part := light_in_corners(data.clean_frames, data.good)) > MOST_IN_CORNERS:
        warnings.warn(
            f"{100 * part:.0f} % of the light is in the four corners of the frames: expected the direct beam in the "
            "middle; where this file has it at [0, 0], put frames and mask through numpy.fft.fftshift, axes=(-2, -1)",
            stacklevel=2,
        )


def _tell_rejected(rejected: Mapping[int, str], count: int) -> None:
    """Warn where many frames are not in the image, and say why."""
    if len(rejected) > MOST_REJECTED * count:
        reasons = Counter(rejected.values())
        why = ", ".join(f"{number} for {reason}" for reason, number in reasons.most_common())
        far = "; so is a position that is far from the others: expected scans far apart in files of their own"
        warnings.warn(
            f"{len(rejected)} of {count} frames are not in the image: {why}{far if NO_POSITION in reasons else ''}",
            stacklevel=2,
        )


def _left(out: Path, checkpoint: Path) -> str:
    if checkpoint.exists():
        return f"--resume goes on from {checkpoint}"
    return f"{out} was not written, and there is no checkpoint yet to go on from"


def _tell(done: int, wanted: int, r_factor: float) -> None:
    """Tell a program that waits how far it is."""
    tell_progress(f"{done}/{wanted} R {r_factor:.4g}")


def _advance(bar: Any, done: int, wanted: int, r_factor: float) -> None:
    """Move a bar on; how many passes are wanted becomes known on the way."""
    bar.total = wanted
    bar.set_postfix_str(f"R {r_factor:.4g}", refresh=False)
    bar.update(done - bar.n)


def _scatter_nm(result: Reconstruction) -> float | None:
    """Return the standard deviation of the corrected errors of the positions along one axis; None where unknown."""
    scatter_nm = result.refinement.places.scatter_px * result.picture.pixel_m * 1e9
    return scatter_nm if result.refinement.places.rounds and math.isfinite(scatter_nm) else None


def _quality(result: Reconstruction, settings: SolverSettings) -> dict[str, float | None]:
    """Return what held-out pixels and two half-sets tell, where there are any; None where that is not known."""
    if result.quality is None:
        return {}
    told = {}
    if settings.held_out:
        told["r_held_out"] = result.quality.r_held_out
    if settings.quality_share:
        told["resolution_half_bit_nm"] = result.quality.half_bit_m * 1e9
    return {name: value if math.isfinite(value) else None for name, value in told.items()}


def _write(path: Path, data: CxiData, result: Reconstruction, settings: SolverSettings) -> None:
    """Write the frames, and what was made of them."""
    picture = result.picture
    x0, x1, y0, y1 = picture.extent_m
    arrays = picture.object, picture.further, picture.probe
    with copied_frames(path, data) as cxi:
        require_space(path.parent, 2 * sum(array.nbytes for array in arrays), path)  # each with its mask
        cxi.set_illumination(picture.probe[0])
        cxi.write_image(
            picture.object,
            picture.probe,
            picture.pixel_m,
            settings.to_dict(),
            result.r_factors,
            center_m=((x0 + x1) / 2, (y0 + y1) / 2),
            translation_m=result.translations_m if result.refinement.places.rounds else None,
            further=picture.further if len(picture.further) else None,
            command="nsbluesky reconstruct",
        )
