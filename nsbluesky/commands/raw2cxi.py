"""``nsbluesky raw2cxi``: raw FCCD frames, of a CXI file or a recorded run, to clean frames in a CXI file."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nsbluesky.commands import input_catalog, input_log, output_file, parse_workers, telling_what_is_left
from nsbluesky.commands.run_settings import add_record_arguments, settings_again, uid_of
from nsbluesky.conversion import RawScan, Workers, convert, scan_of_cxi, stage_path
from nsbluesky.conversion.unfinished import unfinished_folder
from nsbluesky.dask_cluster import open_cluster, workers_of
from nsbluesky.settings import PipelineSettings

__all__ = ["add_arguments", "run"]

_Task = tuple[RawScan, PipelineSettings, dict[str, Any]]
"""What is cleaned, how, and where the settings are from."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("raw", type=Path, nargs="?", help="a CXI file with raw_data and dark_data; or --run")
    parser.add_argument("clean", type=Path, help="the CXI file to write")
    parser.add_argument(
        "--run",
        metavar="UID",
        help="a recorded run; in the document log its first characters, its scan_id or latest will do",
    )
    parser.add_argument("--log", type=Path, help="with --run: document log (the session's by default)")
    parser.add_argument("--catalog", type=Path, help="with --run: catalog to read where the log has no such run")
    add_record_arguments(parser, "with --run: ")
    parser.add_argument(
        "--exposures-s",
        type=float,
        nargs="+",
        metavar="S",
        help="exposures of a point, where the file does not tell",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as in cleaning.frame_px=208; else, with --run, as processed",
    )
    parser.add_argument(
        "--save-stage", action="append", default=[], metavar="NAME", help="keep the frames after this step as well"
    )
    parser.add_argument("--resume", action="store_true", help="go on where a conversion was killed")
    parser.add_argument("--workers", type=parse_workers, default=0, metavar="N", help="(the processors there are)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--processes", action="store_true", help="workers are processes, not threads")
    where.add_argument("--scheduler", default="", metavar="tcp://HOST:PORT", help="workers are those of this Dask")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Clean a scan; memory holds the blocks at work."""
    _check_which(options)
    scan, settings, told = _of_file(options) if options.run is None else _of_run(options)
    sources = [] if options.raw is None else [options.raw]
    out = output_file(options.clean, *sources)
    stages = list(dict.fromkeys(options.save_stage))
    for stage in stages:
        output_file(stage_path(out, stage), *sources)
    with (
        telling_what_is_left(functools.partial(_left, out)),
        _workers(options) as workers,
        tqdm(total=len(scan), unit="point", disable=None) as bar,
    ):
        result = convert(
            scan,
            out,
            settings,
            workers=workers,
            stages=stages,
            resume=options.resume,
            progress=lambda done, total: bar.update(done - bar.n),
        )
    return {
        "cxi": str(out),
        **told,
        "frames": result.num_frames,
        "darks": result.num_darks,
        "bad_adcs": result.bad_adcs,
        "center_row_px": result.center_px[0],
        "center_column_px": result.center_px[1],
        "pixel_size_um": result.pixel_size_m * 1e6,
        **{f"frames_{name}": count for name, count in result.flagged.items()},
        "left_out": result.left_out,
        "warnings": result.warnings,
        "stages": [str(stage_path(out, stage)) for stage in stages],
    }


def _left(out: Path) -> str:
    folder = unfinished_folder(out)
    return f"--resume goes on with what lies in {folder}" if folder.exists() else f"{out} was not written"


@contextmanager
def _workers(options: argparse.Namespace) -> Iterator[Workers]:
    """Give who cleans the blocks, as long as they are needed."""
    number = options.workers or len(os.sched_getaffinity(0))
    if options.scheduler:
        client, _ = open_cluster(0, options.scheduler)
        with client:
            threads = options.workers or sum(worker["nthreads"] for worker in workers_of(client).values())
            yield Workers.dask(threads, client)
    elif options.processes:
        yield Workers.processes(number)
    else:
        yield Workers.threads(number)


def _check_which(options: argparse.Namespace) -> None:
    if (options.raw is None) == (options.run is None):
        raise ValueError("expected either a raw CXI file or --run UID")
    if options.run is not None and options.exposures_s is not None:
        raise ValueError("--exposures-s is about files: the run's start document tells them")
    if options.run is None and (options.defaults or options.results is not None):
        raise ValueError("--defaults and --results are about runs: a file begins with the package's settings")
    if options.run is None and (options.log is not None or options.catalog is not None):
        raise ValueError("--log and --catalog are where a run is looked for: expected --run UID in place of a file")


def _of_file(options: argparse.Namespace) -> _Task:
    settings = PipelineSettings().set_from_text(options.set)
    return scan_of_cxi(options.raw, options.exposures_s), settings, {}


def _of_run(options: argparse.Namespace) -> _Task:
    from nsbluesky.conversion.run_scan import scan_of_run
    from nsbluesky.replay import documents_of

    log = input_log(options.log)
    with ExitStack() as stack:
        catalog = None
        if options.catalog is not None:
            catalog = stack.enter_context(input_catalog(options.catalog))
        uid, documents = uid_of(documents_of(options.run, log, catalog))
        settings, told = settings_again(options, uid, log, catalog)
        return scan_of_run(documents), settings, {"run": uid, **told}
