"""The simulated beamline at the size of the real detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bluesky import RunEngine
from recorded_run import RecordedRun

from nsbluesky.devices.fccd import FCCD
from nsbluesky.devices.shutter import Shutter
from nsbluesky.devices.stage import ScanStage
from nsbluesky.plans import ptycho_fly_scan
from nsbluesky.simulation.beamline import SimulatedBeamline


@pytest.mark.epics
@pytest.mark.nightly
def test_raw_frames_at_10_hz(RE: RunEngine, tmp_path: Path) -> None:
    with SimulatedBeamline(tmp_path, seed=1) as beamline:
        frames_directory = str(beamline.frames_directory)
        fccd = FCCD(f"{beamline.prefix}FCCD:", name="fccd", write_path=frames_directory)
        stage = ScanStage(f"{beamline.prefix}STAGE:", name="stage", write_path=frames_directory)
        shutter = Shutter(f"{beamline.prefix}SHUTTER:", name="shutter")
        for device in (fccd, stage, shutter):
            device.wait_for_connection(timeout=20)
        run = RecordedRun()
        RE.subscribe(run)
        RE(
            ptycho_fly_scan(
                fccd, stage, shutter, geometry=beamline.geometry, shape=(5, 6), step_um=0.05, rate_hz=10.0, num_dark=5
            )
        )
        for device in (fccd, stage, shutter):
            device.destroy()
    darks, frames = run.column("dark", "fccd_image"), run.column("primary", "fccd_image")
    assert darks.shape == (5, 1040, 1152)
    assert frames.shape == (30, 1040, 1152)
    assert run.descriptor("primary")["data_keys"]["fccd_image"]["shape"] == [1040, 1152]
    photons = frames.astype(np.float32).mean(axis=0) - darks.astype(np.float32).mean(axis=0)
    assert photons.max() > 500, "the zero order is bright"
    assert abs(np.median(photons)) < 10, "and most of the frame is dark"
