"""A camera that counts photons into 32 bits, from the scan to the picture; its session; its compressed files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from bluesky import RunEngine

from nsbluesky import session
from nsbluesky.callbacks import PtychoPipeline
from nsbluesky.devices.area_detector import _put
from nsbluesky.devices.status import DeviceError
from nsbluesky.devices.twins import SimFCCD, SimShutter, SimStage
from nsbluesky.geometry import Geometry
from nsbluesky.plans import ptycho_fly_scan
from nsbluesky.settings import CleaningSettings, PipelineSettings, SolverSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls

ABOVE, LEFT = 20, 10
"""Where the simulated light lies on a larger detector."""


@pytest.mark.parametrize(("dtype", "nothing"), [("<u4", 2**32 - 1), ("<i4", -1)])
def test_a_scan_with_gaps_and_without_darks(RE: RunEngine, tmp_path: Path, dtype: str, nothing: int) -> None:
    simulator = FrameSimulator(gold_balls(), layout="none")
    side = simulator.shape[0]

    def frame(x_m: float, y_m: float, **shot: Any) -> np.ndarray:
        words = np.zeros((side + 40, side + 60), dtype)
        words[ABOVE : ABOVE + side, LEFT : LEFT + side] = simulator.raw_frame(x_m, y_m, **shot)
        words[:, 30:36] = nothing
        return words

    stage, shutter = SimStage(name="stage", directory=tmp_path), SimShutter(name="shutter")
    camera = SimFCCD(
        name="eiger",
        directory=tmp_path,
        stage=stage,
        shutter=shutter,
        make_frame=frame,
        frame_shape=(side + 40, side + 60),
        frame_dtype=dtype,
    )
    cleaning = CleaningSettings(
        layout="none", subtract_dark=False, adu_per_photon=1.0, photons="none", crop_px=side, frame_px=side
    )
    solver = SolverSettings(sweep_frames=0, passes_final=1)
    pipeline = PtychoPipeline(PipelineSettings(cleaning=cleaning, solver=solver, backend="numpy"))
    raw: list[tuple[str, Any]] = []
    derived: list[tuple[str, Any]] = []
    RE.subscribe(lambda name, document: raw.append((name, document)))
    pipeline.subscribe(lambda name, document: derived.append((name, document)))
    RE.subscribe(pipeline)
    step_um = min(simulator.sample.scan_range_m) / 20 * 1e6
    geometry = simulator.geometry
    plan = ptycho_fly_scan(
        camera, stage, shutter, geometry=geometry, shape=(5, 5), step_um=step_um, rate_hz=50.0, num_dark=0
    )
    RE(plan)
    assert pipeline.close()

    keys = next(d["data_keys"] for name, d in raw if name == "descriptor" and d["name"] == "primary")
    assert keys["eiger_image"]["dtype_numpy"] == dtype
    streams = {d["uid"]: d["name"] for name, d in derived if name == "descriptor"}
    told = [(streams[d["descriptor"]], d["data"]) for name, d in derived if name in ("event", "event_page")]
    assert [data["message"] for stream, data in told if stream == "health" and data["state"] == "warning"] == []
    detector = next(data for stream, data in told if stream == "detector")
    center = detector["center_row_px"], detector["center_column_px"]
    assert center == pytest.approx((ABOVE + side // 2, LEFT + side // 2), abs=0.5)
    gap = 30 - LEFT
    np.testing.assert_array_equal(np.flatnonzero((detector["mask"] == 0x80).all(axis=0)), np.arange(gap, gap + 6))
    assert not np.concatenate([data["flags"] for stream, data in told if stream == "clean"]).any()
    assert [data["num_frames"] for stream, data in told if stream == "reconstruction"][-1] == 25


def test_a_session_makes_the_camera_of_its_site() -> None:
    made: list[tuple[str, dict[str, Any]]] = []

    class Camera:
        def __init__(self, prefix: str, **arguments: Any) -> None:
            made.append((prefix, arguments))

    site = session.Site("DET:", "X:", "S:", "/frames", "/data", Geometry(9000.0, 2.0), camera=Camera)
    assert isinstance(session.fccd(site), Camera)
    assert made == [
        ("DET:", {"name": "fccd", "write_path": "/frames", "read_path": "/data", "frame_shape": None, "plugins": ()})
    ]


READ = """
import sys
import {module}
import h5py
print(h5py.File(sys.argv[1])["data"][:].sum())
"""


@pytest.mark.parametrize("module", ["nsbluesky.callbacks.frame_readers", "nsbluesky.cxi.read"])
def test_compressed_frames_are_read_by_a_process_that_does_nothing_else(tmp_path: Path, module: str) -> None:
    path = tmp_path / "frames.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=np.ones((2, 16, 16), np.uint32), **hdf5plugin.Bitshuffle(cname="lz4"))
    command = [sys.executable, "-c", READ.format(module=module), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "512", done.stderr


def test_a_choice_is_sent_by_its_number_and_one_that_there_is_not_is_named() -> None:
    """pyepics asks for the choices of its own, and on a busy machine does not wait for them."""
    sent: list[Any] = []
    done = SimpleNamespace(wait=lambda timeout: None)
    signal: Any = SimpleNamespace(
        pvname="CAM:HDF1:EnableCallbacks",
        enum_strs=("Disable", "Enable"),
        set=lambda value, timeout: (sent.append(value), done)[1],
    )
    _put(signal, "Enable")
    _put(signal, 0)
    assert sent == [1, 0]
    with pytest.raises(DeviceError, match="CAM:HDF1:EnableCallbacks has no 'On': expected it among Disable, Enable"):
        _put(signal, "On")
