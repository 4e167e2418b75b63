"""``nsbluesky raw2cxi`` on small scans: its options do what they say."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from raw_runs import fly_run
from small_scans import NUM_POINTS, SETTINGS, content, convert_file, dark_frames, places, raw_frames, write_scan

from nsbluesky.callbacks.derived_run import DerivedRun
from nsbluesky.cli import main
from nsbluesky.cxi import read_cxi
from nsbluesky.document_log import DocumentLog
from nsbluesky.settings import PipelineSettings

OPTIONS = [
    "--set=backend=numpy",
    *(
        f"--set=cleaning.{name}={json.dumps(value)}"
        for name, value in SETTINGS.cleaning.to_dict().items()
        if value is not None
    ),
    "--set=block_frames=3",
]


def command(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[dict[str, Any], str]:
    """Run the command, and return its summary and what it says where it fails."""
    capsys.readouterr()
    code = main(["raw2cxi", *map(str, arguments), *OPTIONS, "--json"])
    out, err = capsys.readouterr()
    assert (code == 0) == (err == "")
    return json.loads(out) if code == 0 else {}, err


def test_a_file_with_workers_and_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = write_scan(tmp_path / "raw.cxi"), tmp_path / "new" / "clean.cxi"
    summary, _ = command(capsys, raw, out, "--workers", "2", "--save-stage", "dark", "--save-stage", "dark")
    assert (summary["frames"], summary["darks"], summary["left_out"], summary["warnings"]) == (NUM_POINTS, 6, {}, [])
    assert summary["stages"] == [str(tmp_path / "new" / "clean.dark.cxi")] and Path(summary["stages"][0]).exists()
    convert_file(raw, tmp_path / "plain.cxi")
    assert content(out) == content(tmp_path / "plain.cxi")
    assert summary["frames_saturated"] == summary["frames_dark"] == 0
    before = out.stat().st_mtime_ns
    again, _ = command(capsys, raw, out, "--resume", "--save-stage", "dark")
    assert again == summary and out.stat().st_mtime_ns == before


def test_the_workers_of_a_dask_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distributed = pytest.importorskip("distributed")
    raw, out = write_scan(tmp_path / "raw.cxi"), tmp_path / "clean.cxi"
    options = {"processes": False, "protocol": "tcp://", "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(n_workers=0, **options, silence_logs=logging.CRITICAL) as cluster:
        scheduler = ["--scheduler", cluster.scheduler_address]
        assert "has no workers: start some with dask worker" in command(capsys, raw, out, *scheduler)[1]
        cluster.scale(2)
        cluster.wait_for_workers(2)
        summary, _ = command(capsys, raw, out, *scheduler)
    assert (summary["frames"], summary["left_out"]) == (NUM_POINTS, {})
    convert_file(raw, tmp_path / "plain.cxi")
    assert content(out) == content(tmp_path / "plain.cxi")


def test_exposures_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_scan(tmp_path / "raw.cxi", (0.1, 1.0))
    summary, _ = command(capsys, raw, tmp_path / "clean.cxi", "--exposures-s", "0.2", "2")
    assert summary["frames"] == NUM_POINTS
    with read_cxi(tmp_path / "clean.cxi") as data:
        assert data.parameters["exposures_s"] == [0.2, 2.0]


def test_a_recorded_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = DocumentLog(tmp_path / "log")
    x_um, y_um = (places(NUM_POINTS) * 1e6).T
    for name, document in fly_run(tmp_path, raw_frames(NUM_POINTS), dark_frames(6), x_um, y_um):
        log(name, document)
    (path,) = (tmp_path / "log").iterdir()
    out = tmp_path / "clean.cxi"
    summary, _ = command(capsys, "--run", path.stem[:6], "--log", tmp_path / "log", out)
    assert (summary["run"], summary["frames"], summary["darks"]) == (path.stem, NUM_POINTS, 6)
    assert command(capsys, "--run", "-1", "--log", tmp_path / "log", out)[0] == summary
    with read_cxi(out) as data:
        assert data.parameters["source"] == f"run {path.stem}"
    assert "no such document log" in command(capsys, "--run", "nothing", "--log", tmp_path / "log", out)[1]


@pytest.fixture
def recorded(tmp_path: Path) -> str:
    """The uid of a run in the log that its processing has left its settings beside."""
    log = DocumentLog(tmp_path / "log")
    x_um, y_um = (places(NUM_POINTS) * 1e6).T
    for name, document in fly_run(tmp_path, raw_frames(NUM_POINTS), dark_frames(6), x_um, y_um):
        log(name, document)
    (path,) = (tmp_path / "log").iterdir()
    derived = DerivedRun({"uid": path.stem}, SETTINGS.replace(cleaning__frame_px=8, block_frames=7))
    results = DocumentLog(tmp_path / "results" / "derived")
    results("start", derived.start_document)
    results.close()
    return path.stem


def test_a_run_is_cleaned_with_the_settings_that_it_was_processed_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recorded: str
) -> None:
    """The defaults would refuse it: another detector; what suited the live processing is left."""
    (tmp_path / "results").rename(tmp_path / "elsewhere")
    run = ["raw2cxi", "--run", recorded[:6], "--log", str(tmp_path / "log")]
    out, results = str(tmp_path / "clean.cxi"), ["--results", str(tmp_path / "elsewhere")]
    assert main([*run, *results, out, "--set=cleaning.crop_px=40", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["settings_from"] == "the run's processing"
    assert summary["settings_changed"] == ["cleaning.crop_px=40"]
    with read_cxi(out) as data:
        used = data.parameters["settings"]
    cleaning = SETTINGS.cleaning.replace(crop_px=40, frame_px=8)
    assert used["cleaning"] == cleaning.to_dict() and used["block_frames"] == PipelineSettings().block_frames
    for others in ([], [*results, "--defaults"]):
        assert main([*run, *others, str(tmp_path / "other.cxi")]) == 1
    nowhere = ["--results", str(tmp_path / "nowhere")]
    capsys.readouterr()
    assert main([*run, *nowhere, out]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["raw2cxi --run", "replay"])
def test_the_log_of_a_session_that_died_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "abc.jsonl").touch()
    out = [str(tmp_path / "clean.cxi")] if "--run" in command else []
    assert main([*command.split(), "abc", "--log", str(tmp_path / "log"), *out]) == 1
    assert "the log of this run is empty: its session died as it began" in capsys.readouterr().err


def test_a_run_beside_its_results_needs_no_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recorded: str
) -> None:
    assert main(["raw2cxi", "--run", recorded, "--log", str(tmp_path / "log"), str(tmp_path / "clean.cxi")]) == 0
    assert "settings from                      the run's processing\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clean.cxi"], "expected either a raw CXI file or --run UID"),
        (["raw.cxi", "clean.cxi", "--run", "abc"], "expected either a raw CXI file or --run UID"),
        (["clean.cxi", "--run", "abc", "--exposures-s", "1"], "the run's start document tells them"),
        (["raw.cxi", "clean.cxi", "--defaults"], "--defaults and --results are about runs"),
        (["raw.cxi", "clean.cxi", "--results", "."], "--defaults and --results are about runs"),
        (["raw.cxi", "raw.cxi"], "is what the command reads"),
        (["clean.dark.cxi", "clean.cxi", "--save-stage", "dark"], "is what the command reads"),
    ],
)
def test_arguments_that_do_not_go_together(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("raw.cxi", "clean.dark.cxi"):
        write_scan(Path(name))
    assert message in command(capsys, *arguments)[1]
