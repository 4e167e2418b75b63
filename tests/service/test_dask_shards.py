"""Frames of a reconstruction on Dask's workers: the image of one process, also when a worker is killed."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_dask import dask_client

from nsbluesky import dask_cluster
from nsbluesky.backend import get_backend
from nsbluesky.cli import main
from nsbluesky.cxi import CxiData, read_cxi
from nsbluesky.cxi.stored_frames import StoredFrames
from nsbluesky.service.dask_shards import DaskShards
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.quality import contrast_correlation
from nsbluesky.solver.reconstruct import Reconstruction, reconstruct
from nsbluesky.solver.sharded import reconstruct_sharded

SHAPE = "12x12"
NUM_FRAMES = 144
PASSES = 10
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated scan in a CXI file."""
    path = tmp_path_factory.mktemp("sharded") / "clean.cxi"
    assert main(["simulate", str(path), "--shape", SHAPE]) == 0
    return path


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with dask_client(processes=True) as client:
        yield client


def given(data: CxiData) -> tuple[Any, ...]:
    settings = SolverSettings(sweep_frames=0)
    return data.translation_m, data.mask, data.geometry(), settings, get_backend("numpy")


def similarity(one: Reconstruction, other: Reconstruction) -> float:
    """Correlation of two images, of which the second is taken for the truth."""
    return contrast_correlation(one.picture.object, np.nan_to_num(other.picture.object), margin_px=30)


@pytest.mark.nightly
def test_a_killed_workers_frames_are_read_elsewhere(clean: Path, client: Any) -> None:
    shards = DaskShards(client)
    pids = client.run(os.getpid)
    homes: list[set[str]] = []

    def progress(done: int, wanted: int, r_factor: float) -> None:
        homes.append(set(shards.homes.values()))
        if done == PASSES // 2:
            os.kill(pids[shards.homes[0]], signal.SIGKILL)

    with read_cxi(clean) as data:
        alone = reconstruct(data.frames, *given(data), passes=PASSES)
        refer = functools.partial(StoredFrames.of, data.frames)
        how: dict[str, Any] = {"submit": shards.submit, "shards": 2, "passes": PASSES}
        many = reconstruct_sharded(data.frames, refer, *given(data), **how, progress=progress)
    assert homes[0] == set(pids), "each worker had a shard"
    assert homes[-1] != homes[0], "one of them was killed"
    assert many.picture.num_frames == alone.picture.num_frames == NUM_FRAMES
    assert similarity(many, alone) > 0.85, "few passes: neither is at its end"
    assert many.r_factors[-1] < 1.1 * alone.r_factors[-1]


def test_the_command_deals_frames_to_workers(
    clean: Path, client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_cluster, "CONNECT_S", 2.0)  # nobody is at the wrong address
    out, address = tmp_path / "out.cxi", client.scheduler.address
    options = ["--passes", "2", "--set=sweep_frames=0", "--json"]
    capsys.readouterr()
    assert main(["reconstruct", str(clean), str(out), "--scheduler", address, *options]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["frames_used"] == NUM_FRAMES
    assert summary["passes"] == 2
    with read_cxi(out) as data:
        assert data.images[-1].object.size > 0
    nowhere = ["reconstruct", str(clean), str(tmp_path / "no.cxi")]
    assert main([*nowhere, "--scheduler", "tcp://127.0.0.1:1"]) != 0
    with pytest.raises(SystemExit):
        main([*nowhere, "--workers", "-1"])
    assert "'-1': expected a whole number" in capsys.readouterr().err
    assert main(["reconstruct", str(clean), str(tmp_path / "no.cxi"), "--scheduler", address, "--algorithm=cg"]) != 0
    assert "expected 'wasp'" in capsys.readouterr().err
