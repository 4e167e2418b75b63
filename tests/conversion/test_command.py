"""``nsbluesky raw2cxi`` on small scans: its options do what they say."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from raw_runs import fly_run
from small_scans import NUM_POINTS, SETTINGS, content, convert_file, dark_frames, places, raw_frames, write_scan

from nsbluesky.cli import main
from nsbluesky.cxi import read_cxi
from nsbluesky.document_log import DocumentLog

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
    assert (summary["frames"], summary["darks"]) == (NUM_POINTS, 6)
    with read_cxi(out) as data:
        assert data.parameters["source"] == f"run {path.stem}"
    assert "no such document log" in command(capsys, "--run", "nothing", "--log", tmp_path / "log", out)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clean.cxi"], "expected either a raw CXI file or --run UID"),
        (["raw.cxi", "clean.cxi", "--run", "abc"], "expected either a raw CXI file or --run UID"),
        (["clean.cxi", "--run", "abc", "--exposures-s", "1"], "the run's start document tells them"),
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
