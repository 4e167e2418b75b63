"""Any camera over EPICS areaDetector: its own driver makes frames, the HDF5 plugin writes them."""

from __future__ import annotations

import uuid
from pathlib import PurePosixPath
from typing import Any, Self, TypeVar

from ophyd import Component, Device, EpicsSignal, EpicsSignalRO, EpicsSignalWithRBV
from ophyd.device import create_device_from_components
from ophyd.status import Status

from nsbluesky.devices.detector import StreamingDetector
from nsbluesky.devices.plugins import PLUGINS
from nsbluesky.devices.status import DeviceError, answering, await_reset
from nsbluesky.file_uris import file_uri

__all__ = ["AreaDetector", "Camera", "HDF5Plugin", "with_plugins"]

D = TypeVar("D", bound="AreaDetector")

PUT_TIMEOUT_S = 10.0

FILE_TEMPLATE = "%s%s_%6.6d.h5"
"""Folder, name and number, as areaDetector puts them together."""

DTYPES = {
    "Int8": "|i1",
    "UInt8": "|u1",
    "Int16": "<i2",
    "UInt16": "<u2",
    "Int32": "<i4",
    "UInt32": "<u4",
    "Int64": "<i8",
    "UInt64": "<u8",
    "Float32": "<f4",
    "Float64": "<f8",
}
"""By areaDetector's names of data types."""


class Camera(Device):  # type: ignore[misc]
    """``cam1:``: makes frames.  What every areaDetector driver has; a subclass adds what one camera has."""

    acquire = Component(EpicsSignal, "Acquire", put_complete=True, kind="omitted")
    exposure = Component(EpicsSignalWithRBV, "AcquireTime", put_complete=True, kind="config")
    period = Component(EpicsSignalWithRBV, "AcquirePeriod", put_complete=True, kind="config")
    num_images = Component(EpicsSignalWithRBV, "NumImages", put_complete=True, kind="omitted")
    image_mode = Component(EpicsSignalWithRBV, "ImageMode", put_complete=True, kind="omitted")
    trigger_mode = Component(EpicsSignalWithRBV, "TriggerMode", string=True, kind="config")
    width = Component(EpicsSignalRO, "ArraySizeX_RBV", kind="omitted")
    height = Component(EpicsSignalRO, "ArraySizeY_RBV", kind="omitted")
    data_type = Component(EpicsSignalRO, "DataType_RBV", string=True, kind="omitted")

    def configure(self, exposure_s: float, period_s: float) -> None:
        """Set the times; blocks."""
        _put(self.image_mode, "Multiple")
        _put(self.exposure, exposure_s)
        _put(self.period, period_s)

    def start(self, num_frames: int) -> Status:
        """Begin; the status is done when the camera is idle again."""
        if self.num_images.get() != num_frames:
            _put(self.num_images, num_frames)
        return self.acquire.set(1)

    def halt(self) -> None:
        """Ask it to stop; does not wait."""
        with answering(self.acquire, "camera"):
            self.parent.connection.check(self.acquire)
            self.acquire.put(0, use_complete=False)


class HDF5Plugin(Device):  # type: ignore[misc]
    """``HDF1:``: writes frames.  The file's name is new each time, so that nothing is ever overwritten."""

    capture = Component(EpicsSignal, "Capture", put_complete=True, kind="omitted")
    path = Component(EpicsSignal, "FilePath", string=True, put_complete=True, kind="omitted")
    path_exists = Component(EpicsSignalRO, "FilePathExists_RBV", kind="omitted")
    file_name = Component(EpicsSignal, "FileName", string=True, put_complete=True, kind="omitted")
    template = Component(EpicsSignal, "FileTemplate", string=True, put_complete=True, kind="omitted")
    full_name = Component(EpicsSignalRO, "FullFileName_RBV", string=True, kind="omitted")
    num_capture = Component(EpicsSignal, "NumCapture", put_complete=True, kind="omitted")
    num_written = Component(EpicsSignalRO, "NumCaptured_RBV", auto_monitor=True, kind="omitted")
    enable = Component(EpicsSignal, "EnableCallbacks", put_complete=True, kind="omitted")
    write_mode = Component(EpicsSignal, "FileWriteMode", put_complete=True, kind="omitted")
    swmr = Component(EpicsSignal, "SWMRMode", put_complete=True, kind="omitted")
    lazy_open = Component(EpicsSignal, "LazyOpen", put_complete=True, kind="omitted")
    write_status = Component(EpicsSignalRO, "WriteStatus", kind="omitted")
    write_message = Component(EpicsSignalRO, "WriteMessage", string=True, kind="omitted")

    def __init__(self, *args: Any, write_path: str, read_path: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.write_path = write_path
        self.read_path = read_path

    def point(self) -> None:
        """Tell the IOC where to write; blocks.

        Raises
        ------
        DeviceError
            If the folder is not there on the IOC's machine.
        """
        _put(self.path, _text(self.write_path))
        with answering(self.path_exists, "camera"):
            exists = self.path_exists.get(timeout=PUT_TIMEOUT_S)
        if not exists:
            raise DeviceError(f"{self.path.pvname}: the IOC sees no folder {self.write_path!r}; create it there")

    def open(self) -> None:
        """Begin a new file; blocks.

        Raises
        ------
        DeviceError
            If the folder is not there on the IOC's machine, or the plugin cannot open the file.
        """
        self.point()
        _put(self.template, _text(FILE_TEMPLATE))  # a new IOC has none
        _put(self.file_name, uuid.uuid4().hex)
        for signal, value in (
            (self.enable, "Enable"),
            (self.write_mode, "Stream"),
            (self.swmr, "On"),
            (self.lazy_open, "Yes"),
            (self.num_capture, 0),
        ):
            _put(signal, value)
        _put(self.capture, 1)
        if complaint := self.complaint():
            raise DeviceError(f"{self.name}: {complaint}")
        await_reset(self.num_written, PUT_TIMEOUT_S)

    def close(self) -> None:
        """Close the file, if one is open; blocks."""
        with answering(self.capture, "camera"):
            self.parent.connection.check(self.capture)
            is_open = self.capture.get(use_monitor=False)
        if is_open:
            _put(self.capture, 0)

    def count(self) -> int:
        """Return the frames in the file as of now."""
        with answering(self.num_written, "camera"):
            return int(self.num_written.get(use_monitor=False))

    def uri(self) -> str:
        """Return where this machine finds the file.

        Raises
        ------
        DeviceError
            If it is not in the folder that was asked for.
        """
        path = PurePosixPath(_decoded(self.full_name.get(use_monitor=False)))
        if not path.is_relative_to(self.write_path):
            raise DeviceError(f"{self.full_name.pvname} = {path}: expected a file in {self.write_path}")
        return file_uri(PurePosixPath(self.read_path) / path.relative_to(self.write_path))

    def complaint(self) -> str:
        """Return what the plugin complains about, or nothing."""
        return _decoded(str(self.write_message.get())) if self.write_status.get() else ""


def _text(value: str) -> list[int]:
    """Return a text as the bytes of a waveform: pyepics would send ASCII only, and not more than 40 letters."""
    return [*value.encode(), 0]


def _decoded(text: str) -> str:
    """Return a text that came as UTF-8: pyepics takes each byte for a letter."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _put(signal: EpicsSignal, value: float | str | list[int]) -> None:
    with answering(signal, "camera"):
        choices = signal.enum_strs
        if choices and isinstance(value, str):  # pyepics asks for them again, and sends nonsense if it has to wait
            if value not in choices:
                raise DeviceError(f"{signal.pvname} has no {value!r}: expected it among {', '.join(choices)}")
            value = choices.index(value)
        signal.set(value, timeout=PUT_TIMEOUT_S).wait(PUT_TIMEOUT_S)


class AreaDetector(StreamingDetector):
    """A camera of areaDetector.

    Parameters
    ----------
    prefix : str
        Such as ``XF:23ID1-ES{FCCD}``; followed by ``cam1:`` and ``HDF1:``.
    name : str
    write_path : str
        Folder where the IOC writes, as the IOC sees it.
    read_path : str, optional
        The same folder as this machine and the readers see it; `write_path` by default.
    frame_shape : (int, int), optional
        Rows and columns; asked from the camera by default.
    frame_dtype : str, optional
        Such as "<u4"; asked from the camera by default.
    plugins : tuple of str, optional
        Names in `nsbluesky.devices.plugins.PLUGINS`; each becomes a component: ``camera.stats1``.

    Raises
    ------
    ValueError
        For a plugin that is not known.
    """

    camera = Component(Camera, "cam1:")
    file = Component(HDF5Plugin, "HDF1:", write_path="", read_path="")

    def __new__(cls, *_: Any, plugins: tuple[str, ...] = (), **__: Any) -> Self:
        """Make an instance of the class that has these plugins: ophyd's components belong to classes."""
        instance: Self = super().__new__(with_plugins(cls, tuple(plugins)))
        return instance

    def __init__(
        self,
        prefix: str,
        *,
        name: str,
        write_path: str,
        read_path: str | None = None,
        frame_shape: tuple[int, int] | None = None,
        frame_dtype: str | None = None,
        plugins: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.file.write_path = str(write_path)
        self.file.read_path = str(write_path if read_path is None else read_path)
        self._frame_shape = frame_shape
        self._frame_dtype = frame_dtype
        self.plugins = tuple(plugins)

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        if self._frame_shape is not None:
            return self._frame_shape
        return int(self.camera.height.get()), int(self.camera.width.get())

    @property
    def frame_dtype(self) -> str:
        """Type of a pixel."""
        if self._frame_dtype is not None:
            return self._frame_dtype
        told = str(self.camera.data_type.get())
        if told not in DTYPES:
            raise DeviceError(f"{self.camera.data_type.pvname} = {told!r}: expected one of {', '.join(DTYPES)}")
        return DTYPES[told]

    @property
    def _source(self) -> str:
        return f"PV:{self.prefix}"


def with_plugins(cls: type[D], names: tuple[str, ...]) -> type[D]:
    """Return a class of cameras that have these plugins as components.

    Raises
    ------
    ValueError
        For a plugin that is not known.
    """
    if not names:
        return cls
    if unknown := [name for name in names if name not in PLUGINS]:
        raise ValueError(f"unknown plugin {unknown[0]!r}: expected some of {', '.join(PLUGINS)}")
    components = {name: Component(*PLUGINS[name]) for name in names}
    made: type[D] = create_device_from_components(cls.__name__, docstring=cls.__doc__, base_class=cls, **components)
    return made
