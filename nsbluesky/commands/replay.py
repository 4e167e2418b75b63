"""``nsbluesky replay``: a recorded run through the processing again."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.commands import CommandFailed, input_catalog, input_folder, output_folder
from nsbluesky.folders import data_directory
from nsbluesky.replay import documents_of, replay
from nsbluesky.service.recorded_settings import for_replay, settings_of_run
from nsbluesky.settings import PipelineSettings, SettingsError
from nsbluesky.viewer.pictures import save_object_png

if TYPE_CHECKING:
    from nsbluesky.catalog import Catalog

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("uid", help="the run; of the document log the first characters, or latest, will do")
    parser.add_argument("--log", type=Path, help="document log (the session's by default)")
    parser.add_argument("--catalog", type=Path, help="catalog to read where the log has no such run")
    parser.add_argument("--from-catalog", action="store_true", help="read the catalog even if the log has the run")
    parser.add_argument("--out", type=Path, default=Path("replay-output"), help="folder of the results (%(default)s)")
    parser.add_argument("--speed", type=float, help="1: as it was recorded; as fast as possible by default")
    parser.add_argument(
        "--results",
        type=Path,
        help="folder of the results of its processing (results beside the log, or the session's)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as in solver.modes=3; else as processed",
    )
    parser.add_argument(
        "--defaults",
        action="store_true",
        help="do not begin with the settings that it was processed with",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Replay a run and write its image."""
    with ExitStack() as stack:
        log = options.log or data_directory() / "documents"
        catalog = None
        if options.from_catalog or options.catalog is not None:
            catalog = stack.enter_context(input_catalog(options.catalog))
        documents = documents_of(options.uid, None if options.from_catalog else log, catalog)
        first = next(documents, None)
        if first is None:
            raise CommandFailed("the log of this run is empty", {"documents": 0})
        settings, told = _settings(options, first[1]["uid"], log, catalog)
        out = output_folder(options.out)
        pipeline = PtychoPipeline(settings, directory=out)
        stack.callback(pipeline.close, timeout=0)
        count = replay(chain([first], documents), pipeline, speed=options.speed)
        pipeline.wait()
        if not pipeline.results or pipeline.cxi is None:
            live = pipeline.live.snapshot()
            failed = "".join(f"; {stage.stage} failed: {stage.message}" for stage in live.errors)
            if not failed and live.run is not None and live.run.reason:
                failed = f": {live.run.reason}"
            raise CommandFailed(f"no image came out of the processing{failed}", {"documents": count, **told})
        (result,) = pipeline.results.values()
        path = pipeline.cxi.path
        if path is None or pipeline.cxi.errors:
            why = "; ".join(pipeline.cxi.errors.values())
            raise CommandFailed(f"the image is in no file that is whole: {why}", {"documents": count, **told})
    picture = out / "object.png"
    save_object_png(picture, result["object"], result["pixel_size_m"], quantity="phase")
    return {
        "documents": count,
        **told,
        "frames_used": result["num_frames"],
        "r_factor": result["r_factor"],
        "cxi": str(path),
        "object_picture": str(picture),
    }


def _settings(
    options: argparse.Namespace, uid: str, log: Path, catalog: Catalog | None
) -> tuple[PipelineSettings, dict[str, Any]]:
    """Return the settings, and where they are from, for the summary."""
    recorded = None
    if not options.defaults:
        results = log.parent / "results" if options.results is None else input_folder(options.results)
        recorded = settings_of_run(uid, results)
        if recorded is None and catalog is not None:
            recorded = _settings_in(catalog, uid)
    try:
        settings, unknown = for_replay(recorded)
    except SettingsError as error:
        raise SettingsError(f"as run {uid[:8]} was processed, {error}; --defaults leaves its settings") from error
    told: dict[str, Any] = {"settings_from": "the package's defaults" if recorded is None else "the run's processing"}
    if unknown:
        told["settings_unknown_now"] = unknown
    if options.set:
        told["settings_changed"] = options.set
    return settings.set_from_text(options.set), told


def _settings_in(catalog: Catalog, uid: str) -> dict[str, Any] | None:
    try:
        settings: dict[str, Any] = catalog.processed(uid).metadata["start"]["settings"]
    except LookupError:  # never processed
        return None
    return settings
