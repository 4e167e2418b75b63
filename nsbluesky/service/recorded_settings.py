"""The settings that a run was processed with, as the documents of its processing tell."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import event_model

from nsbluesky.document_log import DocumentLogError, LoggedRun, find_runs, read_documents
from nsbluesky.replay import Document
from nsbluesky.service.finished import DERIVED
from nsbluesky.settings import PipelineSettings, Settings

__all__ = ["RecordedSettings", "for_replay", "processed_runs", "recorded_in", "settings_of", "settings_of_run"]

OF_THE_SESSION = ("backend", "block_frames", "queue_bytes", "checkpoint_s", "warm_start", "solver.publish_hz")
"""What suits the computer and the people of the live processing; the result of a replay depends on the run alone."""


def processed_runs(results: str | Path) -> list[LoggedRun]:
    """Return the derived runs below a folder of results that tell their settings, newest first."""
    return [run for run in find_runs(Path(results) / DERIVED) if "settings" in run.start]


@dataclass(frozen=True)
class RecordedSettings:
    """The settings of a processing.

    Attributes
    ----------
    settings : dict
        As `PipelineSettings.to_dict`: the last ones, where they were changed while it went on.
    changes : tuple of str
        What was changed when, as ``"after 12 s: solver.modes=3 (was 1)"``; without what suited the session alone.
    """

    settings: dict[str, Any]
    changes: tuple[str, ...] = ()


def recorded_in(documents: Iterable[Document]) -> RecordedSettings:
    """Return what the documents of a derived run tell.

    Parameters
    ----------
    documents : iterable of (str, dict)
        From the start document on; of a document log or the catalog.
    """
    settings: dict[str, Any] = {}
    changes, began, stream = [], 0.0, ""
    with contextlib.suppress(DocumentLogError):  # a line that is none: what was told before it holds
        for name, document in documents:
            if name == "start":
                settings, began = document["settings"], document["time"]
            elif name == "descriptor" and document["name"] == "settings":
                stream = document["uid"]
            elif name in ("event", "event_page") and document["descriptor"] == stream:
                for event in _events_of(name, document):
                    new = json.loads(event["data"]["settings"])
                    if changed := _differences(settings, new):
                        changes.append(f"after {event['time'] - began:.1f} s: {', '.join(changed)}")
                    settings = new
    return RecordedSettings(settings, tuple(changes))


def _events_of(name: str, document: dict[str, Any]) -> Iterable[Any]:
    return [document] if name == "event" else event_model.unpack_event_page(cast(event_model.EventPage, document))


def settings_of(derived: LoggedRun) -> dict[str, Any]:
    """Return the settings of a derived run: the last ones, where they were changed while it went on."""
    return recorded_in(read_documents(derived.path)).settings


def settings_of_run(raw_uid: str, results: str | Path) -> RecordedSettings | None:
    """Return the settings that a run was processed with the last time; None where it never was.

    Parameters
    ----------
    raw_uid : str
        Of the run, not of its processing.
    results : path
        Folder of the results, as ``results`` in the user's data folder.
    """
    mine = (run for run in processed_runs(results) if run.start.get("raw_uid") == raw_uid)
    return next((recorded_in(read_documents(run.path)) for run in mine), None)


def for_replay(recorded: RecordedSettings | None) -> tuple[PipelineSettings, list[str]]:
    """Return the settings for a replay, and the names in the record that this version does not know.

    Recorded are those of `settings_of_run`; None stands for the package's.  What suited the session alone stays
    behind.  Settings that were changed in the middle of the run are as they were at its end, from the first frame
    on: a replay has another pace, and an image of one kind of frames is what it is for.

    Raises
    ------
    SettingsError
        Where a recorded value cannot be used any more.
    """
    default = PipelineSettings(warm_start=False)
    kept, unknown = _known(default, {} if recorded is None else recorded.settings)
    return default.replace(**kept), unknown


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], group: str = "") -> list[str]:
    """Return the values that are others now, by their dotted names."""
    changed = []
    for name, value in after.items():
        path, was = f"{group}{name}", before.get(name)
        if isinstance(value, Mapping):
            changed += _differences(was if isinstance(was, Mapping) else {}, value, f"{path}.")
        elif value != was and path not in OF_THE_SESSION:
            changed.append(f"{path}={_text(value)} (was {_text(was)})")
    return changed


def _text(value: Any) -> str:
    """Return a value as ``--set`` takes it."""
    return value if isinstance(value, str) and value else json.dumps(value)


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
