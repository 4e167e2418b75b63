"""The log tells what a person waits for, in the name of the module that found it."""

from __future__ import annotations

import logging

import pytest
from raw_runs import DARKS, FRAMES, X_UM, Y_UM, fly_run

from nsbluesky.callbacks import DarkAverager
from nsbluesky.callbacks.news import news_of
from nsbluesky.settings import PipelineSettings

SETTINGS = PipelineSettings().set_from_text(["cleaning.layout=none", "backend=numpy"])


def test_a_run_in_the_log(tmp_path, caplog):
    averager = DarkAverager(SETTINGS)
    documents = list(fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM))
    uid = documents[0][1]["uid"][:8]
    with caplog.at_level(logging.INFO, logger="nsbluesky"):
        for name, document in documents:
            averager(name, document)
        assert averager.close(timeout=30)
    told = [(record.name.rpartition(".")[2], record.getMessage()) for record in caplog.records]
    assert told == [
        ("run_chain", f"run {uid}: the processing begins"),
        ("dark_averager", f"run {uid}: 3 dark frames, 0 bad pixels"),
        ("run_chain", f"run {uid}: the processing ends, success"),
    ]


@pytest.mark.parametrize(("final", "text"), [(False, ""), (True, "last image: R 0.071 from 196 frames, 12 passes")])
def test_only_the_last_image_is_news(final, text):
    assert (
        news_of("reconstruction", {"final": final, "r_factor": 0.0712, "num_frames": 196, "num_passes": 12.0}) == text
    )
    assert news_of("health", {"message": "ok"}) == ""
