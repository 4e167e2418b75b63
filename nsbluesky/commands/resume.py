"""``nsbluesky resume``: finish the processing of a run after any crash, from its documents and the frames on disk."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from nsbluesky.commands import (
    CommandFailed,
    add_service_arguments,
    input_log,
    only_one_in,
    output_folder,
    service_credentials,
)
from nsbluesky.document_log import end_log, find_log, find_runs, read_documents
from nsbluesky.folders import data_directory
from nsbluesky.service.connection import Connection
from nsbluesky.service.control import ServiceAway, ask
from nsbluesky.service.finished import FinishedRuns
from nsbluesky.service.recorded_settings import processed_runs, settings_of
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.service.supervisor import ProcessingService
from nsbluesky.settings import PipelineSettings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("uid", nargs="?", help="the run, or the beginning of its uid; without it, what is unfinished")
    add_service_arguments(parser)
    parser.add_argument("--log", type=Path, help="document log (the session's by default)")
    parser.add_argument("--out", type=Path, help="folder of the results, where no service runs (the session's)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as in solver.modes=3; else as this run was processed before, or the latest one in that folder",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Finish a run, or list those that are not finished."""
    log = input_log(options.log)
    out = options.out or data_directory() / "results"
    if options.uid is None:
        return _unfinished(log, out)
    path = find_log(options.uid, log)
    session_died = end_log(path)
    with ExitStack() as stack:
        address, credentials, service = options.address, service_credentials(options), None
        try:
            ask(address, "status", credentials, timeout_s=1.0)
        except ServiceAway:
            stack.enter_context(only_one_in(output_folder(out), options.command))
            service = stack.enter_context(ProcessingService(_settings(options, out, path.stem)))
            address, credentials = service.address, service.credentials
        connection = stack.enter_context(Connection(address, log, credentials))
        for name, document in read_documents(path):
            connection(name, document)
        why = connection.wait_while_served(None if service is None else partial(service.wait, 0))
        if why:
            raise CommandFailed(why, {})
        finished = connection.finished[path.stem]
        result = connection.results.get(path.stem, {})
    summary = {
        "run": finished.raw_uid,
        "session_had_died": session_died,
        "exit_status": finished.exit_status,
        "reason": finished.reason,
        "frames_used": int(result.get("num_frames", 0)),  # which comes as a float from files
        "cxi": finished.cxi,
    }
    if not finished.cxi:
        again = f"'nsbluesky replay {finished.raw_uid[:8]} --set …' processes it with other settings"
        raise CommandFailed(
            f"no image came out of the processing: {finished.reason or 'no frames'}; {again}", summary
        )
    if not finished.documents:
        raise CommandFailed(f"not all of the files could be written: {finished.reason}", summary)
    return summary


def _settings(options: argparse.Namespace, out: Path, uid: str) -> ServiceSettings:
    """Return the settings of a service for this run alone; the user's own documents may refer to any folder.

    The pipeline's are those that the run was processed with before; else, as where that could not write a line, those
    of the latest run in the folder.
    """
    begun = sorted(
        processed_runs(out), key=lambda run: run.start.get("raw_uid") != uid
    )  # newest first in both halves
    latest = settings_of(begun[0]) if begun else {}
    return ServiceSettings(
        directory=str(output_folder(out)),
        roots=("/",),
        address="tcp://127.0.0.1:0",
        pipeline=PipelineSettings.from_dict(latest).set_from_text(options.set),
    )


def _unfinished(log: Path, out: Path) -> dict[str, Any]:
    done = {run.raw_uid for run in FinishedRuns(out).read()}
    runs = [run for run in find_runs(log) if "ptycho" in run.start and run.uid not in done]
    return {run.uid: run.start.get("plan_name", "") for run in runs} or {"unfinished": "no run"}
