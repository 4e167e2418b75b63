"""The log tells what a person waits for, in the name of the module that found it."""

from __future__ import annotations

import logging

import pytest
from raw_runs import DARKS, FRAMES, X_UM, Y_UM, fly_run

from nsbluesky.callbacks import DarkAverager
from nsbluesky.callbacks.news import age_text, news_of, numbered
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


def test_one_pass_is_one_and_what_is_not_known_is_a_dash() -> None:
    told = {"final": True, "r_factor": float("nan"), "num_frames": 1, "num_passes": 1.0}
    assert news_of("reconstruction", told) == "last image: R – from 1 frame, 1 pass"


@pytest.mark.parametrize(("final", "text"), [(False, ""), (True, "last image: R 0.071 from 196 frames, 12 passes")])
def test_only_the_last_image_is_news(final, text):
    assert (
        news_of("reconstruction", {"final": final, "r_factor": 0.0712, "num_frames": 196, "num_passes": 12.0}) == text
    )
    assert news_of("health", {"message": "ok"}) == ""


@pytest.mark.parametrize(
    ("warm", "text"),
    [
        ({"warm_run": ""}, "defocus 12.3 µm, confidence 0.41, taken"),
        (
            {"warm_run": "3f9c21ab-2", "warm_age_s": 840.0, "warm_fits": True},
            "the probe of run 3f9c21ab, 14 min ago, fits best; defocus 12.3 µm, confidence 0.41",
        ),
        (
            {"warm_run": "3f9c21ab-2", "warm_age_s": 9e4, "warm_fits": False},
            "the probe of run 3f9c21ab, 25 h ago, fits no more; defocus 12.3 µm, confidence 0.41, taken",
        ),
    ],
)
def test_which_probe_an_image_began_with(warm, text):
    assert news_of("geometry", {"defocus_m": 1.23e-5, "confidence": 0.41, "accepted": True} | warm) == text


def test_ages_are_in_the_unit_that_people_take():
    assert [age_text(s) for s in (0, 89, 90, 5399, 5400, 129599, 129600)] == [
        "0 s",
        "89 s",
        "2 min",
        "90 min",
        "2 h",
        "36 h",
        "2 d",
    ]


@pytest.mark.parametrize(("count", "text"), [(0, "0 frames"), (1, "1 frame"), (2, "2 frames")])
def test_one_is_not_several(count: int, text: str) -> None:
    assert numbered(count, "frame") == text
