"""A scan whose disk fills up rests, and goes on when there is space again."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from bluesky import RunEngine
from bluesky.utils import Msg
from recorded_run import TIMEOUT_S, RecordedRun
from twin_beamline import make_twin_beamline

from nsbluesky import disk_space
from nsbluesky.full_disk import LEAST_MB, SuspendWhileFull
from nsbluesky.plans import ptycho_fly_scan, ptycho_scan


@pytest.mark.parametrize(("plan", "more"), [(ptycho_scan, {}), (ptycho_fly_scan, {"rate_hz": 40.0})])
def test_a_scan_rests_while_the_disk_is_full(
    RE: RunEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Any, more: dict[str, Any]
) -> None:
    (tmp_path / "frames").mkdir()
    beamline = make_twin_beamline(tmp_path / "frames")
    fccd, _, shutter = beamline.devices
    free_MB = [10 * LEAST_MB]
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: 1e6 * free_MB[0])
    run, held = RecordedRun(), threading.Event()
    RE.subscribe(run)
    some = run.when(lambda r: len(r.data("primary")) >= 3)
    suspender = SuspendWhileFull(tmp_path, sleep=0.0, look_s=0.01)
    RE.install_suspender(suspender)
    states: list[tuple[bool, bool]] = []

    def hook(message: Msg) -> None:
        if suspender.tripped and message.command == "wait_for":
            held.set()

    def fill_up() -> None:
        assert some.wait(TIMEOUT_S)
        free_MB[0] = LEAST_MB - 1
        assert held.wait(TIMEOUT_S)
        states.append((fccd.is_idle, shutter.is_open))
        free_MB[0] = 2 * LEAST_MB

    RE.msg_hook = hook
    disk = threading.Thread(target=fill_up)
    disk.start()
    RE(plan(*beamline.devices, **beamline.arguments((4, 5)), **more))
    disk.join(TIMEOUT_S)
    RE.remove_suspender(suspender)
    assert states == [(True, False)], "camera idle, shutter closed"
    assert run.stop["exit_status"] == "success"
    assert len(run.column("primary", "fccd_image")) == 20


def test_what_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, RE: RunEngine) -> None:
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: 2e6)
    suspender = SuspendWhileFull(tmp_path)
    RE.install_suspender(suspender)
    suspender.free_MB.put(2.0)
    _, why = suspender.get_futures()
    assert f"2 MB are free in {tmp_path}: the plan goes on when there are 1500" in why
    RE.remove_suspender(suspender)
