"""Whether a beamline answers, before the first scan: each part is asked for all that a scan will ask it for.

Nothing moves and nothing is exposed; the camera's IOC is told the folder of the frames, as by every scan.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ophyd import Signal

from nsbluesky.cleaning.layout import get_layout
from nsbluesky.devices.status import DeviceError, label
from nsbluesky.disk_space import free_bytes
from nsbluesky.geometry import Geometry, length_in_m
from nsbluesky.settings import CleaningSettings

__all__ = ["BeamlineCheck", "Finding", "check_beamline"]

ANSWER_S = 5.0
"""For which a PV may take to answer."""

NAMED = 6
"""PVs of a part that are named where they do not answer; the others are counted."""

LEAST_FREE_GB = 10.0
"""Of the disk of the frames: 4000 raw frames."""

POLL_S = 0.05


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    what : str
    good : bool
    text : str
        What was found, and what to do where that is not good.
    """

    what: str
    good: bool
    text: str


class BeamlineCheck(tuple[Finding, ...]):
    """All that was looked at; a prompt shows it as a table."""

    __slots__ = ()

    @property
    def good(self) -> bool:
        """Whether everything is as a scan needs it."""
        return all(finding.good for finding in self)

    def __repr__(self) -> str:
        """Return a line for each finding."""
        width = max((len(finding.what) for finding in self), default=0)
        return "\n".join(f"{'ok ' if one.good else 'NOT'}  {one.what:{width}}  {one.text}" for one in self)


def check_beamline(
    fccd: Any,
    stage: Any,
    shutter: Any,
    *,
    geometry: Geometry,
    cleaning: CleaningSettings,
    step_um: float,
    answer_s: float = ANSWER_S,
) -> BeamlineCheck:
    """Look at camera, stage and shutter, the folder of the frames, and whether the numbers fit each other.

    Parameters
    ----------
    fccd, stage, shutter : Device
    geometry : Geometry
        Of the scans.
    cleaning : CleaningSettings
        Of the processing.
    step_um : float
        Of the scans.
    answer_s : float
        For which PVs may take to answer, all of them together.
    """
    findings = list(_answers({"camera": fccd, "stage": stage, "shutter": shutter}, answer_s))
    camera_answers, stage_answers, _ = (finding.good for finding in findings)
    if stage_answers:
        findings += [_looked_at(f"stage {name}", _axis, axis) for name, axis in (("x", stage.x), ("y", stage.y))]
    if camera_answers:
        findings.append(_looked_at("frames", _frames, fccd, cleaning))
    if hasattr(fccd.file, "read_path"):
        findings.append(_looked_at("folder", _folder, fccd.file, camera_answers))
    findings.append(_looked_at("geometry", _step, geometry, cleaning, step_um))
    return BeamlineCheck(findings)


def _answers(parts: dict[str, Any], answer_s: float) -> Iterator[Finding]:
    """Yield whether each part has all its PVs."""
    signals = {name: _signals(device) for name, device in parts.items()}
    until_s = time.monotonic() + answer_s
    while any(_silent(some) for some in signals.values()) and time.monotonic() < until_s:
        time.sleep(POLL_S)
    for name, some in signals.items():
        silent, prefix = _silent(some), parts[name].prefix or parts[name].name
        if not silent:
            yield Finding(name, True, f"{prefix} all of {len(some)} PVs answer")
        elif len(silent) == len(some):
            what = f"{prefix} none of {len(some)} PVs answers, such as {silent[0]}"
            yield Finding(name, False, f"{what}: is its IOC running? is the prefix right?")
        else:
            named = ", ".join(silent[:NAMED]) + (f" and {len(silent) - NAMED} more" if len(silent) > NAMED else "")
            what = f"{prefix} {len(silent)} of {len(some)} PVs do not answer"
            yield Finding(name, False, f"{what}: are their records loaded in its IOC? {named}")


def _signals(device: Any) -> list[Signal]:
    leaves = (walk.item for walk in device.walk_signals(include_lazy=True))
    return [leaf for leaf in leaves if isinstance(leaf, Signal)]


def _silent(signals: list[Signal]) -> list[str]:
    return [label(signal) for signal in signals if not signal.connected]


def _looked_at(what: str, look: Callable[..., str], *arguments: Any) -> Finding:
    """Return what `look` says, or why it cannot."""
    try:
        return Finding(what, True, look(*arguments))
    except (ValueError, OSError, DeviceError) as error:
        return Finding(what, False, str(error))


def _axis(axis: Any) -> str:
    unit = str(axis.egu)
    length_in_m(0.0, unit)
    low, high = axis.limits
    limits = f"soft limits {low:g} to {high:g}" if high > low else "no soft limits"
    return f"at {axis.position:g} {unit}, {limits}"


def _frames(fccd: Any, cleaning: CleaningSettings) -> str:
    rows, columns = fccd.frame_shape
    get_layout(cleaning, (rows, columns))
    return f"{rows} × {columns}, as the layout {cleaning.layout!r} expects"


def _folder(file: Any, camera_answers: bool) -> str:
    here = Path(file.read_path)
    if not here.is_dir():
        raise OSError(f"{here}: this machine sees no such folder; mount it, or correct read_path")
    if not os.access(here, os.W_OK):
        raise OSError(f"{here}: this machine cannot write there, where positions of fly scans go; change its rights")
    free_GB = free_bytes(here) / 1e9
    if free_GB < LEAST_FREE_GB:
        raise OSError(f"{here}: {free_GB:.1f} GB are free, expected {LEAST_FREE_GB:g} at least; make space")
    if not camera_answers:
        return f"{here}: {free_GB:.0f} GB free"
    file.point()
    return f"{here}: {free_GB:.0f} GB free; the camera's IOC sees {file.write_path}"


def _step(geometry: Geometry, cleaning: CleaningSettings, step_um: float) -> str:
    pixel_m = geometry.object_pixel_m(cleaning.crop_px, cleaning.frame_px)
    window_um = cleaning.frame_px * pixel_m * 1e6
    found = f"object pixel {pixel_m * 1e9:.3g} nm, a frame shows {window_um:.3g} µm, step {step_um:.3g} µm"
    if step_um >= window_um:
        raise ValueError(f"{found}: expected a step much smaller than what a frame shows; check energy and distance")
    return found
