"""A dict of the latest entries, and who must have one: sessions and services stay up for weeks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from nsbluesky.callbacks.cxi_writer import CXIWriter
from nsbluesky.callbacks.derived_run_writer import DerivedRunWriter
from nsbluesky.catalog.supervisor import WriterProcess
from nsbluesky.catalog.writer import CatalogWriter
from nsbluesky.document_log import DocumentLog
from nsbluesky.latest import MAX_KNOWN_RUNS, Latest
from nsbluesky.service.connection import Connection
from nsbluesky.session_runs import _EndedRuns


def test_the_entries_that_were_set_last_are_kept() -> None:
    latest: Latest[str, int] = Latest(3)
    for number, key in enumerate("abcad"):
        latest[key] = number
    assert list(latest.items()) == [("c", 2), ("a", 3), ("d", 4)]


MAKERS: list[Callable[[Path], Any]] = [
    DocumentLog,
    CXIWriter,
    lambda folder: DerivedRunWriter(folder, DocumentLog(folder)),
    lambda folder: CatalogWriter(WriterProcess(folder)),
    lambda folder: Connection("tcp://127.0.0.1:1", folder),
    lambda folder: _EndedRuns(folder, cast(CatalogWriter, None)),
]


@pytest.mark.parametrize("make", MAKERS, ids=["log", "cxi", "derived", "catalog", "connection", "session"])
def test_what_is_kept_of_each_run_does_not_grow_for_ever(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    keeper = make(tmp_path)
    kept = [getattr(keeper, name) for name in ("errors", "finished") if hasattr(keeper, name)]
    for number in range(MAX_KNOWN_RUNS + 1):
        for entries in kept:
            entries[f"run {number}"] = "what became of it"
    assert kept and [len(entries) for entries in kept] == [MAX_KNOWN_RUNS] * len(kept)
    if hasattr(keeper, "close"):
        keeper.close(timeout=0) if isinstance(keeper, Connection) else keeper.close()
