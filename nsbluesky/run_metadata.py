"""What may be in the metadata of a run: looked at before the run begins, so that one line says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from event_model import DocumentNames, schema_validators

from nsbluesky.geometry import Geometry
from nsbluesky.settings import SettingsError

__all__ = ["check_metadata"]

EACH_HAS_ITS_OWN = {"uid": "", "time": 0.0}
"""What a run gets by itself, with values to check the rest beside."""


def check_metadata(md: Mapping[str, Any]) -> None:
    """Check metadata that would fail the run once it has begun, or lose it to the processing or to the catalog.

    Raises
    ------
    ValueError
        That says which entry it is, and what was expected.
    """
    for name in EACH_HAS_ITS_OWN:
        if name in md:
            raise ValueError(f"the metadata have {name!r}, which each run gets by itself: expected another name")
    if "raw_uid" in md:
        raise ValueError("the metadata have 'raw_uid', by which derived runs are known: expected another name")
    _check_keys(md)
    # what event-model will ask, which tells the whole schema with it
    error = next(schema_validators[DocumentNames.start].iter_errors({**EACH_HAS_ITS_OWN, **md}), None)
    if error is not None:
        where = ".".join(map(str, error.absolute_path)) or "an entry"
        raise ValueError(f"{where} of the metadata cannot be: {error.message:.200}")
    if "ptycho" in md:
        try:
            Geometry.from_start(md)
        except SettingsError as error:
            raise ValueError(f"ptycho = {md['ptycho']!r:.80} in the metadata cannot be processed: {error}") from error


def _check_keys(value: Any, in_list: bool = False) -> None:
    """Check the keys of dictionaries; in lists event-model does not look, and only what JSON cannot be is refused."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            is_usable = (
                isinstance(key, str | int | float | None)
                if in_list
                else isinstance(key, str) and bool(key) and not {".", "/"} & set(key)
            )
            if not is_usable:
                raise ValueError(f"the metadata have the key {key!r:.80}: expected a text without '.' and '/'")
            _check_keys(entry, in_list)
    elif isinstance(value, list | tuple):
        for entry in value:
            _check_keys(entry, in_list=True)
