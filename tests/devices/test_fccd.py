"""The camera's PV names at the beamlines that have one.

No camera is made here: Channel Access would settle its addresses at the first channel, before any simulated beamline
has said where it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ophyd import Component, Device, EpicsSignalWithRBV
from ophyd.sim import make_fake_device

from nsbluesky.devices import area_detector
from nsbluesky.devices.area_detector import HDF5Plugin, with_plugins
from nsbluesky.devices.fccd import ALS_7011, CSX, FCCD, CameraSite
from nsbluesky.devices.plugins import PLUGINS
from nsbluesky.devices.status import DeviceError


def pvs_below(cls: type[Device], prefix: str) -> Iterator[str]:
    """Yield every PV that a device of this class would connect to."""
    for name in cls.component_names:
        component: Component = getattr(cls, name)
        pv = prefix + component.suffix
        if issubclass(component.cls, Device):
            yield from pvs_below(component.cls, pv)
            continue
        yield pv
        if issubclass(component.cls, EpicsSignalWithRBV):
            yield f"{pv}_RBV"


def pvs_at(site: CameraSite) -> set[str]:
    return set(pvs_below(with_plugins(FCCD, site.plugins), site.prefix))


def test_csx() -> None:
    expected = {
        "cam1:Acquire",
        "cam1:AcquireTime",
        "cam1:AcquireTime_RBV",
        "cam1:AcquirePeriod",
        "cam1:FCRICGain",
        "cam1:FCRICGain_RBV",
        "cam1:TriggerMode",
        "cam1:DroppedPck_RBV",
        "HDF1:FilePath",
        "HDF1:Capture",
        "HDF1:NumCaptured_RBV",
        "Stats1:Total_RBV",
        "Stats1:EnableCallbacks",
        "FastCCD1:CaptureBgnd",
        "FastCCD1:EnableBgnd",
        "FastCCD1:EnableGain",
        "FastCCD1:EnableSize",
        "FastCCD1:Rows",
        "FastCCD1:RowOffset",
        "FastCCD1:OverscanCols",
    }
    missing = {f"XF:23ID1-ES{{FCCD}}{name}" for name in expected} - pvs_at(CSX)
    assert not missing


def test_als() -> None:
    names = pvs_at(ALS_7011)
    assert {"ES7011:FastCCD:cam1:Acquire", "ES7011:FastCCD:HDF1:Capture"} <= names
    assert all(name.startswith(("ES7011:FastCCD:cam1:", "ES7011:FastCCD:HDF1:")) for name in names), (
        "no plugins there"
    )
    assert ALS_7011.frame_shape == (1040, 1152)


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_plugins_by_name(name: str) -> None:
    cls = with_plugins(FCCD, (name,))
    assert issubclass(cls, FCCD)
    assert cls.component_names == (*FCCD.component_names, name)
    suffix = PLUGINS[name][1]
    assert suffix.rstrip(":").lower() == name
    plugin = set(pvs_below(cls, "CAM:")) - set(pvs_below(FCCD, "CAM:"))
    assert plugin
    assert all(pv.startswith(f"CAM:{suffix}") for pv in plugin)


def test_no_plugins_no_class() -> None:
    with_plugins(FCCD, ("stats1",))
    assert with_plugins(FCCD, ()) is FCCD
    assert not hasattr(FCCD, "stats1"), "plugins belong to one camera"


def test_unknown_plugin() -> None:
    with pytest.raises(ValueError, match=r"unknown plugin 'stats9'.*stats1"):
        FCCD("CAM:", name="fccd", write_path="/frames", plugins=("stats9",))


def test_a_camera_that_is_slow_to_answer_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    file = make_fake_device(HDF5Plugin)("A:", name="file", write_path="/there", read_path="/here")

    def slow(**_: object) -> None:
        raise TimeoutError("Failed to read")

    monkeypatch.setattr(area_detector, "_put", lambda *_: None)  # a signal that is no waveform never reads back bytes
    monkeypatch.setattr(file.path_exists, "get", slow)
    with pytest.raises(DeviceError, match="file_path_exists does not answer: is the camera's IOC running"):
        file.point()
