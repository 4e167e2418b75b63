"""A day's queue through bluesky-queueserver: many scans in one session, all recorded and processed, memory flat."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench_queue import add
from benchmarks.queue_manager import STARTUP, Manager
from nsbluesky import plans, session
from nsbluesky.cxi import read_cxi
from nsbluesky.devices.twins import SimShutter
from nsbluesky.document_log import read_documents
from nsbluesky.geometry import Geometry, Optic

NOT_INSTALLED = "bluesky-queueserver is not installed"
NUM_SHORT = 2
NUM_LONG = int(os.environ.get("NSBLUESKY_QUEUE_SCANS", "120"))
WARM_UP = 30
GROWTH_MB = 1.0
"""What a scan may add to the memory of session and processing, after the first ones: uids, and what the allocator
keeps.  A single image that is kept of each scan would be more."""


@pytest.fixture
def manager(tmp_path: Path, new_catalog: Callable[[Path], Path]) -> Manager:
    pytest.importorskip("bluesky_queueserver.manager.comms", reason=NOT_INSTALLED)
    if shutil.which("redis-server") is None:
        reason = "no redis-server here, and no fakeredis: pip install fakeredis"
        pytest.importorskip("fakeredis", reason=reason)
    manager = Manager(tmp_path)
    new_catalog(manager.data / "catalog")
    return manager


def run_queue(manager: Manager, number: int) -> None:
    """Queue scans of both kinds, and run them."""
    for k in range(number):
        add(manager, k)
    manager.run_queue(60.0 + 20.0 * number)


def image_of(manager: Manager, uid: str) -> Path:
    return manager.data / "results" / f"{uid:.8}_clean.cxi"


def check_every_scan(manager: Manager, number: int) -> None:
    """Every plan ended well, every frame is in the log, and every run has an image and its clean frames."""
    history = manager.history()
    assert [item["result"]["exit_status"] for item in history] == ["completed"] * number, manager.tail()
    uids = [uid for item in history for uid in item["result"]["run_uids"]]
    assert len(set(uids)) == number
    manager.until(lambda _: all(is_finished(image_of(manager, uid)) for uid in uids))
    for uid, item in zip(uids, history, strict=True):
        documents = list(read_documents(manager.data / "documents" / f"{uid}.jsonl"))
        start, stop = documents[0][1], documents[-1][1]
        assert (start["day"], stop["exit_status"]) == (item["kwargs"]["md"]["day"], "success")
        with read_cxi(image_of(manager, uid)) as cxi:
            assert sorted(cxi.seq_nums) == list(range(1, start["num_points"] + 1))


def is_finished(path: Path) -> bool:
    if not path.exists():
        return False
    with read_cxi(path) as cxi:
        return bool(cxi.images)


@pytest.mark.nightly
@pytest.mark.epics
def test_queue_of_scans(manager: Manager) -> None:
    with manager.running():
        allowed = manager.ask("plans_allowed", user_group="primary")["plans_allowed"]
        assert {"ptycho_scan", "ptycho_fly_scan"} <= set(allowed)
        run_queue(manager, NUM_SHORT)
        check_every_scan(manager, NUM_SHORT)


@pytest.mark.epics
@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_days_queue_leaves_memory_flat(manager: Manager) -> None:
    with manager.running():
        run_queue(manager, WARM_UP)
        check_every_scan(manager, WARM_UP)
        before_mb = sum(manager.memory_mb().values())
        run_queue(manager, NUM_LONG)
        check_every_scan(manager, WARM_UP + NUM_LONG)
        growth_mb = (sum(manager.memory_mb().values()) - before_mb) / NUM_LONG
    assert growth_mb < GROWTH_MB, f"a scan leaves {growth_mb:.2f} MB"


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The plans of a profile as bluesky-queueserver describes them."""
    ops = pytest.importorskip("bluesky_queueserver.manager.profile_ops", reason=NOT_INSTALLED)
    geometry = Geometry(930.0, 0.25, optic=Optic())
    shutter = SimShutter(name="shutter")
    namespace = {
        "shutter": shutter,
        **{
            name: session.bind(getattr(plans, name), "fccd", "stage", shutter, geometry=geometry)
            for name in ("ptycho_scan", "ptycho_fly_scan")
        },
    }
    existing, devices, *_ = ops.existing_plans_and_devices_from_nspace(nspace=namespace)
    assert set(existing) == {"ptycho_scan", "ptycho_fly_scan"}
    return {"plans": existing, "devices": devices}


@pytest.mark.parametrize(
    ("arguments", "accepted"),
    [
        ({}, True),
        ({"shape": [40, 40], "rate_hz": 20, "exposure_s": 0.05, "center_um": [1.5, -2]}, True),
        ({"geometry": {"energy_eV": 707.0, "optic": {"defocus_m": 5e-6}}}, True),
        ({"baseline": ["shutter"], "md": {"sample": "gold"}}, True),
        ({"shape": "large"}, False),
        ({"rate_hz": "fast"}, False),
        ({"pattern": "fermat"}, True),
        ({"pattern": "zigzag"}, False),
        ({"speed": 3}, False),
    ],
)
def test_arguments_are_checked_before_they_are_queued(
    described: dict[str, Any], arguments: dict[str, Any], accepted: bool
) -> None:
    from bluesky_queueserver.manager.profile_ops import validate_plan

    item = {"item_type": "plan", "name": "ptycho_fly_scan", "kwargs": arguments}
    valid, message = validate_plan(item, allowed_plans=described["plans"], allowed_devices=described["devices"])
    assert valid == accepted, message


def test_the_parameters_of_a_plan_are_explained(described: dict[str, Any]) -> None:
    parameters = {p["name"]: p for p in described["plans"]["ptycho_scan"]["parameters"]}
    assert "Rows (y) and columns (x)" in parameters["shape"]["description"]
    assert parameters["shape"]["annotation"]["type"] == "tuple[int, int]"
    assert "'energy_eV': 930.0" in parameters["geometry"]["default"]
    assert "fccd" not in parameters, "devices are filled in"


def test_permissions_are_beside_the_startup_files() -> None:
    pytest.importorskip("bluesky_queueserver.manager.profile_ops", reason=NOT_INSTALLED)
    from bluesky_queueserver.manager.profile_ops import load_user_group_permissions

    groups = load_user_group_permissions(str(STARTUP / "user_group_permissions.yaml"))["user_groups"]
    assert set(groups) == {"root", "primary"}
