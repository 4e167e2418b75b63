"""How the parts of the processing do, as a window shows them: green, yellow or red, with rate, queue and age."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Light", "Module", "Modules", "modules_of_activity", "modules_of_heartbeat"]

Light = Literal["green", "yellow", "red", "grey"]

SLOW_S = 5.0
"""A stage that is at one and the same block for so long is yellow."""
FRAMES = "frames"
"""The stage that reads frames."""
LATE_S, AWAY_S = 2.0, 4.0
"""A service whose heartbeat is so old is yellow, and red."""


@dataclass(frozen=True)
class Module:
    """One part of the processing.

    Attributes
    ----------
    name : str
    light : {"green", "yellow", "red", "grey"}
        Well, slow, failed, at rest.
    text : str
        Why it is not green.
    rate_hz, MB_s : float
        Documents that it makes a second, and megabytes of their arrays.
    queue : int
        What waits in it.
    busy_s, age_s : float
        Time it took so far, and since it made its last document.
    """

    name: str
    light: Light
    text: str = ""
    rate_hz: float = 0.0
    MB_s: float = 0.0
    queue: int = 0
    busy_s: float = 0.0
    age_s: float = 0.0


@dataclass(frozen=True)
class Modules:
    """The processing as a whole, and its parts.

    Attributes
    ----------
    text : str
        In a word: processing, idle, paused, away.
    light : {"green", "yellow", "red", "grey"}
    modules : tuple of Module
    traffic : str
        What comes in and goes out, in megabytes a second.
    """

    text: str
    light: Light
    modules: tuple[Module, ...] = ()
    traffic: str = ""


def modules_of_activity(runs: Sequence[Any], paused: bool, queued: int) -> Modules:
    """Return how a pipeline of this process does, from its `activity`."""
    return _modules([asdict(run) for run in runs], paused, queued)


def modules_of_heartbeat(beat: Mapping[str, Any], now: float | None = None) -> Modules:
    """Return how a service does, from its last heartbeat; away where that is old or never came.

    Parameters
    ----------
    beat : mapping
        As `DerivedRuns.heartbeat`, with the time at which it came here under ``"heard"``.
    now : float, optional
        Seconds of `time.monotonic`.
    """
    if not beat:
        return Modules("connecting", "yellow", (Module("service", "yellow", "no heartbeat yet"),))
    age = (time.monotonic() if now is None else now) - float(beat.get("heard", 0.0))
    if age > AWAY_S:
        away = f"no heartbeat for {age:.0f} s: trying to reach it again"
        return Modules("away", "red", (Module("service", "red", away, age_s=age),))
    found = _modules(beat.get("runs", ()), beat.get("state") == "paused", int(beat.get("queue", 0)))
    late = age > LATE_S
    text = f"{float(beat.get('memory_MB', 0)):.0f} MB" + (f"; last heartbeat {age:.0f} s ago" if late else "")
    service = Module("service", "yellow" if late else "green", text, queue=found.modules[0].queue, age_s=age)
    light: Light = "yellow" if late and found.light == "green" else found.light
    sessions, viewers = (float(beat.get(key, 0.0)) for key in ("received_MB_s", "published_MB_s"))
    traffic = f"{found.traffic}   ·   from sessions {sessions:.2f} MB/s   ·   to viewers {viewers:.2f} MB/s"
    return Modules(found.text, light, (service, *found.modules[1:]), traffic)


def _modules(runs: Sequence[Mapping[str, Any]], paused: bool, queued: int) -> Modules:
    """Return the whole, first the intake of documents, then the stages of the newest run."""
    stages = [_stage(stage) for stage in (runs[-1]["stages"] if runs else ())]
    lights = {stage.light for stage in stages}
    light: Light = "red" if "red" in lights else "yellow" if paused or "yellow" in lights else "green"
    text = "paused" if paused else "processing" if runs else "idle"
    documents = Module("documents", "yellow" if paused else "green", queue=queued)
    read = next((stage.MB_s for stage in stages if stage.name == FRAMES), 0.0)
    return Modules(text, light, (documents, *stages), f"frames read {read:.1f} MB/s")


def _stage(told: Mapping[str, Any]) -> Module:
    light: Light = "green" if told["num_blocks"] else "grey"
    text = "" if told["num_blocks"] else "nothing to do yet"
    if told["state"] == "error":
        light, text = "red", "failed: see the log"
    elif told["block_s"] > SLOW_S:
        light, text = "yellow", f"at one block for {told['block_s']:.0f} s"
    return Module(
        name=str(told["stage"]).replace("_", " "),
        light=light,
        text=text,
        rate_hz=float(told["rate_hz"]),
        MB_s=float(told["MB_s"]),
        queue=int(told["queue"]),
        busy_s=float(told["busy_s"]),
        age_s=float(told["age_s"]),
    )
