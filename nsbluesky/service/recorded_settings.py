"""The settings that a run was processed with, as the documents of its processing tell."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nsbluesky.document_log import DocumentLogError, LoggedRun, find_runs, read_documents
from nsbluesky.service.finished import DERIVED
from nsbluesky.settings import PipelineSettings, Settings

__all__ = ["for_replay", "processed_runs", "settings_of", "settings_of_run"]

OF_THE_SESSION = ("backend", "block_frames", "queue_bytes", "checkpoint_s", "warm_start", "solver.publish_hz")
"""What suits the computer and the people of the live processing; the result of a replay depends on the run alone."""


def processed_runs(results: str | Path) -> list[LoggedRun]:
    """Return the derived runs below a folder of results that tell their settings, newest first."""
    return [run for run in find_runs(Path(results) / DERIVED) if "settings" in run.start]


def settings_of(derived: LoggedRun) -> dict[str, Any]:
    """Return the settings of a derived run: the last ones, where they were changed while it went on."""
    settings: dict[str, Any] = derived.start["settings"]
    stream = ""
    with contextlib.suppress(DocumentLogError):  # a line that is none: what was told before it holds
        for name, document in read_documents(derived.path):
            if name == "descriptor" and document["name"] == "settings":
                stream = document["uid"]
            elif name == "event" and document["descriptor"] == stream:
                settings = json.loads(document["data"]["settings"])
    return settings


def settings_of_run(raw_uid: str, results: str | Path) -> dict[str, Any] | None:
    """Return the settings that a run was processed with the last time; None where it never was.

    Parameters
    ----------
    raw_uid : str
        Of the run, not of its processing.
    results : path
        Folder of the results, as ``results`` in the user's data folder.
    """
    mine = (run for run in processed_runs(results) if run.start.get("raw_uid") == raw_uid)
    return next((settings_of(run) for run in mine), None)


def for_replay(recorded: Mapping[str, Any] | None) -> tuple[PipelineSettings, list[str]]:
    """Return the settings for a replay, and the names in the record that this version does not know.

    Recorded are those of `settings_of_run`; None stands for the package's.  What suited the session alone stays
    behind.

    Raises
    ------
    SettingsError
        Where a recorded value cannot be used any more.
    """
    default = PipelineSettings(warm_start=False)
    kept, unknown = _known(default, recorded or {})
    return default.replace(**kept), unknown


def _known(default: Settings, recorded: Mapping[str, Any], group: str = "") -> tuple[dict[str, Any], list[str]]:
    """Return the values by their names, and the names that there are not in this version."""
    kept: dict[str, Any] = {}
    unknown: list[str] = []
    for name, value in recorded.items():
        path = f"{group}{name}"
        inner = getattr(default, name, None)
        if isinstance(inner, Settings) and isinstance(value, Mapping):
            values, names = _known(inner, value, f"{path}.")
            kept |= values
            unknown += names
        elif name not in default.to_dict():
            unknown.append(path)
        elif path not in OF_THE_SESSION:
            kept[path] = value
    return kept, unknown
