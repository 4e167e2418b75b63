"""``nsbluesky replay``: a recorded run through the processing again."""

from __future__ import annotations

import argparse
import functools
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.commands import (
    CommandFailed,
    input_catalog,
    input_log,
    only_one_in,
    output_folder,
    telling_what_is_left,
)
from nsbluesky.commands.run_settings import add_record_arguments, settings_again, uid_of
from nsbluesky.disk_space import require_space
from nsbluesky.replay import documents_of, how_it_ended, replay
from nsbluesky.viewer.pictures import save_object_png

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "uid", help="the run; of the document log its first characters, its scan_id, -1 or latest will do"
    )
    parser.add_argument("--log", type=Path, help="document log (the session's by default)")
    parser.add_argument("--catalog", type=Path, help="catalog to read where the log has no such run")
    parser.add_argument("--from-catalog", action="store_true", help="read the catalog even if the log has the run")
    parser.add_argument("--out", type=Path, default=Path("replay-output"), help="folder of the results (%(default)s)")
    parser.add_argument("--speed", type=float, help="1: as it was recorded; as fast as possible by default")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as in solver.modes=3; else as processed",
    )
    add_record_arguments(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Replay a run and write its image."""
    with ExitStack() as stack:
        log = input_log(options.log)
        catalog = None
        if options.from_catalog or options.catalog is not None:
            catalog = stack.enter_context(input_catalog(options.catalog))
        uid, documents = uid_of(documents_of(options.uid, None if options.from_catalog else log, catalog))
        settings, told = settings_again(options, uid, log, catalog)
        told = {"run": uid, **told}
        out = output_folder(options.out)
        stack.enter_context(only_one_in(out, options.command))
        require_space(out, 0)  # no minutes of work for an image that no file can take
        pipeline = PtychoPipeline(settings, directory=out)
        stack.enter_context(telling_what_is_left(functools.partial(_left, pipeline, out, uid)))
        stack.callback(pipeline.close, timeout=0)
        ended: list[str] = []

        def see(name: str, document: dict[str, Any]) -> None:
            if name == "stop":
                ended.append(how_it_ended(document))

        count = replay(documents, pipeline, see, speed=options.speed)
        told |= {"run_ended": "; ".join(ended)}
        pipeline.wait()
        live = pipeline.live.snapshot()
        told |= {"frames_lost": list(live.lost), "frames_bad": list(live.bad), "warnings": list(live.warnings)}
        if not pipeline.results or pipeline.cxi is None:
            failed = "".join(f"; {stage.stage} failed: {stage.message}" for stage in live.errors)
            if not failed and live.run is not None and live.run.reason:
                failed = f": {live.run.reason}"
            raise CommandFailed(f"no image came out of the processing{failed}", {"documents": count, **told})
        (result,) = pipeline.results.values()
        path = pipeline.cxi.path
        if path is None or pipeline.cxi.errors:
            why = "; ".join(pipeline.cxi.errors.values())
            raise CommandFailed(f"the image is in no file that is whole: {why}", {"documents": count, **told})
    picture = path.with_suffix(".png")  # beside its file: the folder may hold images of other runs and settings
    save_object_png(picture, result["object"], result["pixel_size_m"], quantity="phase")
    return {
        "documents": count,
        **told,
        "frames_used": result["num_frames"],
        "r_factor": result["r_factor"],
        "cxi": str(path),
        "object_picture": str(picture),
    }


def _left(pipeline: PtychoPipeline, out: Path, uid: str) -> str:
    checkpoint = out / f"{uid}.checkpoint"
    if checkpoint.exists():
        return f"the same command goes on from {checkpoint}"
    path = None if pipeline.cxi is None else pipeline.cxi.path
    if path is None:
        return f"nothing was written into {out}"
    return f"{path} holds the frames that were clean, and no final image"
