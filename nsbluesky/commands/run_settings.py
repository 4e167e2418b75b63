"""The settings of commands that work on a recorded run again: those of its processing, and what is changed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsbluesky.commands import CommandFailed, input_folder
from nsbluesky.replay import Document
from nsbluesky.service.recorded_settings import RecordedSettings, for_replay, recorded_in, settings_of_run
from nsbluesky.settings import PipelineSettings, SettingsError

if TYPE_CHECKING:
    from nsbluesky.catalog import Catalog

__all__ = ["add_record_arguments", "settings_again", "uid_of"]


def add_record_arguments(parser: argparse.ArgumentParser, which: str = "") -> None:
    """Add the options that say where the settings of a run's processing are, and whether they are to be used.

    `which` begins their help where not every use of the command is about a run.
    """
    parser.add_argument(
        "--results",
        type=Path,
        help=f"{which}folder of the results of its processing (results beside the log, or the session's)",
    )
    parser.add_argument(
        "--defaults",
        action="store_true",
        help=f"{which}do not begin with the settings that it was processed with",
    )


def uid_of(documents: Iterator[Document]) -> tuple[str, Iterator[Document]]:
    """Return the uid of the run that documents are of, in full, and all of them."""
    first = next(documents, None)
    if first is None:
        raise CommandFailed("the log of this run is empty: its session died as it began", {"documents": 0})
    return first[1]["uid"], chain([first], documents)


def settings_again(
    options: argparse.Namespace, uid: str, log: Path, catalog: Catalog | None
) -> tuple[PipelineSettings, dict[str, Any]]:
    """Return the settings, and where they are from, for the summary.

    Parameters
    ----------
    options : Namespace
        With those of `add_record_arguments`, and ``set``.
    uid : str
        Of the run, in full.
    log : path
        The document log that was looked into for the run.
    catalog : Catalog or None
        Where else the documents of its processing may be.
    """
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
    if recorded is not None and recorded.changes:
        told["settings_from"] += ", as they were at its end"
        told["settings_changed_in_the_run"] = list(recorded.changes)
    if unknown:
        told["settings_unknown_now"] = unknown
    if options.set:
        told["settings_changed"] = options.set
    return settings.set_from_text(options.set), told


def _settings_in(catalog: Catalog, uid: str) -> RecordedSettings | None:
    try:
        return recorded_in(catalog.processed(uid).documents())
    except LookupError:  # never processed
        return None
