"""What a check says of a beamline that is right, and of everything that may be wrong with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nsbluesky import beamline_check
from nsbluesky.beamline_check import BeamlineCheck, check_beamline
from nsbluesky.devices.fccd import FCCD
from nsbluesky.devices.shutter import Shutter
from nsbluesky.devices.stage import ScanStage
from nsbluesky.geometry import Geometry
from nsbluesky.simulation.beamline import SimulatedBeamline

pytestmark = pytest.mark.epics

Check = Callable[..., BeamlineCheck]


@pytest.fixture(scope="module")
def beamline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedBeamline]:
    with SimulatedBeamline(tmp_path_factory.mktemp("beamline"), layout="none") as running:
        yield running


@pytest.fixture
def check(beamline: SimulatedBeamline) -> Iterator[Check]:
    """Make devices of the simulated beamline, some of them wrong, and check them."""
    made: list[Any] = []

    def check(
        stage: str = "STAGE:", shutter: str = "SHUTTER:", plugins: tuple[str, ...] = (), **other: Any
    ) -> BeamlineCheck:
        there = str(beamline.frames_directory)
        folders = {"write_path": there, "read_path": there, "frame_shape": None}
        folders |= {name: other.pop(name) for name in folders if name in other}
        made[:] = [
            FCCD(f"{beamline.prefix}FCCD:", name="fccd", plugins=plugins, **folders),
            ScanStage(beamline.prefix + stage, name="stage", write_path=there),
            Shutter(beamline.prefix + shutter, name="shutter"),
        ]
        numbers = {"geometry": beamline.geometry, "cleaning": beamline.ready.cleaning, "step_um": 0.05}
        return check_beamline(*made, **{**numbers, "answer_s": 60.0, **other})

    yield check
    for device in made:
        device.destroy()


def wrong(found: BeamlineCheck) -> dict[str, str]:
    return {finding.what: finding.text for finding in found if not finding.good}


def test_a_beamline_that_is_ready(check: Check, beamline: SimulatedBeamline) -> None:
    found = check()
    assert found.good, found
    texts = {finding.what: finding.text for finding in found}
    assert list(texts) == ["camera", "stage", "shutter", "stage x", "stage y", "frames", "folder", "geometry"]
    assert texts["shutter"].endswith("all of 2 PVs answer")
    assert " um, soft limits -" in texts["stage x"]
    assert str(beamline.frames_directory) in texts["folder"]
    assert repr(found).splitlines()[2] == f"ok   shutter   {texts['shutter']}"


def test_what_does_not_answer_is_named(check: Check, beamline: SimulatedBeamline) -> None:
    found = check(stage="NONE:", plugins=("fastccd1",), answer_s=5.0)
    said = wrong(found)
    assert set(said) == {"camera", "stage"}
    assert said["camera"].startswith(f"{beamline.prefix}FCCD: 7 of 32 PVs do not answer: are their records loaded")
    assert f"{beamline.prefix}FCCD:FastCCD1:CaptureBgnd_RBV" in said["camera"] and "and 1 more" in said["camera"]
    assert "is its IOC running?" in said["stage"] and f"{beamline.prefix}NONE:" in said["stage"]
    assert repr(found).startswith("NOT  camera")


@pytest.mark.parametrize(
    ("other", "part", "says"),
    [
        ({"write_path": "/nowhere/at/all"}, "folder", "the IOC sees no folder '/nowhere/at/all'"),
        ({"read_path": "/nowhere/at/all"}, "folder", "/nowhere/at/all: this machine sees no such folder"),
        ({"frame_shape": (64, 65)}, "frames", "expected 1040 × 1152"),
        ({"step_um": 500.0}, "geometry", "expected a step much smaller than what a frame shows"),
        ({"geometry": Geometry(1.5e5, 0.05)}, "geometry", "check energy and distance"),
    ],
)
def test_what_is_wrong_is_told(
    check: Check, beamline: SimulatedBeamline, other: dict[str, Any], part: str, says: str
) -> None:
    if part == "frames":
        other = {**other, "cleaning": beamline.ready.cleaning.replace(layout="cosmic")}
    said = wrong(check(**other))
    assert list(said) == [part] and says in said[part]


def test_a_full_disk_is_told(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beamline_check, "free_bytes", lambda folder: 2_000_000_000)
    assert "2.0 GB are free, expected 10 at least" in wrong(check())["folder"]


def test_units_that_are_not_understood_are_told(
    check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ophyd.EpicsMotor.egu", property(lambda motor: "steps"))
    said = wrong(check())
    assert set(said) == {"stage x", "stage y"} and "'steps'" in said["stage x"]
