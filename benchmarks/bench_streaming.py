"""How right the image is when the last frame arrives, and one second later: 1600 × 128² at 10, 50 and 200 frames/s.

The optic's defocus is told 20 % too small; the sweep that finds it, and the search for the orientation, take their
share of the time.  On the virtual clock waiting takes none, and the solver works for 0.3 seconds at most, then rests,
until 20 more frames are there.  On the real clock it may work all the time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.bench_contest import TICK_FRAMES, solver_for, told_wrong
from benchmarks.figures import Figure
from benchmarks.object_errors import Errors, errors
from benchmarks.simulated_scans import SimulatedScan, simulated_scan
from nsbluesky.backend import Backend, get_backend
from nsbluesky.solver.incremental import IncrementalSolver

PHOTONS = 1e6
RATES_HZ = (10.0, 50.0, 200.0)
AFTER_S = 1.0
TICK_WORK_S = 0.3
NO_IMAGE = Errors(1.0, 1.0, 1.0)
"""Where the image has just begun anew."""

WANTED = "wanted: whole object < 0.06, then < 0.05"


class Clock:
    """Seconds since it was made; `is_real` or not, it runs while work is done.

    Parameters
    ----------
    is_real : bool
        Whether waiting takes its time.
    """

    def __init__(self, is_real: bool) -> None:
        self.is_real = is_real
        self._offset_s = -time.perf_counter()

    @property
    def now_s(self) -> float:
        """Seconds on the clock."""
        return time.perf_counter() + self._offset_s

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        if self.is_real:
            time.sleep(seconds)
        else:
            self._offset_s += seconds

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Do something that does not count."""
        began = time.perf_counter()
        yield
        self._offset_s -= time.perf_counter() - began


def stream(solver: IncrementalSolver, scan: SimulatedScan, rate_hz: float, clock: Clock) -> float:
    """Take all frames when they are there, a tick at a time, and work in between; return the seconds of work."""
    count, taken, worked_s, left_s = len(scan.frames), 0, 0.0, 0.0
    while taken < count:
        here = min(int(clock.now_s * rate_hz), count)
        if here - taken >= TICK_FRAMES or here == count:
            part = np.arange(taken, here)
            solver.add_frames(part, scan.frames[part], scan.translations_m[part])
            taken, left_s = here, np.inf if clock.is_real else TICK_WORK_S
        elif solver.has_work and left_s > 0:
            began_s = clock.now_s
            solver.step(0.0)
            spent_s = clock.now_s - began_s
            worked_s, left_s = worked_s + spent_s, left_s - spent_s
        else:
            clock.wait(max(min(taken + TICK_FRAMES, count) / rate_hz - clock.now_s, 1e-3))
    return worked_s


def streamed(scan: SimulatedScan, rate_hz: float, is_real: bool, modes: int, backend: Backend) -> Figure:
    """Stream a scan; the value is the error at scan end, one second later, and when the last passes are done."""
    solver = solver_for(scan.frames, told_wrong(scan), backend, modes=modes)
    clock = Clock(is_real)
    worked_s = stream(solver, scan, rate_hz, clock)
    last_s = clock.now_s

    def found() -> Errors:
        with clock.stopped():
            if solver.state is None or not solver.frames.uses[solver.frames.active].any():
                return NO_IMAGE
            return errors(solver.picture().object, scan.object, scan.side // 6)

    errors_found = [found()]
    uses = float(np.mean(solver.frames.uses[solver.frames.active]))
    solver.finish()
    for end_s in (last_s + AFTER_S, float("inf")):
        while not solver.finished and clock.now_s < end_s:
            solver.step(0.0)
        errors_found.append(found())
    kind = "real" if is_real else "virtual"
    return Figure(
        f"{rate_hz:.0f} Hz, {kind} clock, {modes} mode{'s' if modes > 1 else ''}: error at the last frame → "
        f"{AFTER_S:.0f} s later → end",
        " → ".join(f"{each.whole:.4f}" for each in errors_found),
        f"by contrast {' → '.join(f'{each.contrast:.4f}' for each in errors_found)}; last passes take "
        f"{clock.now_s - last_s:.1f} s; {worked_s:.0f} s of work before, {uses:.0f} uses a frame; {WANTED}",
    )


def measure() -> list[Figure]:
    """Stream at each rate on both clocks; at the highest also with two modes, as by default."""
    backend = get_backend("numpy")
    streamed(simulated_scan(64, 12, PHOTONS), 50.0, False, 1, backend)  # compiles
    scan = simulated_scan(128, 40, PHOTONS)
    runs: list[tuple[float, bool, int]] = [(rate, False, 1) for rate in RATES_HZ]
    runs += [(RATES_HZ[-1], False, 2)]
    runs += [(rate, True, 1) for rate in RATES_HZ]
    return [streamed(scan, rate, is_real, modes, backend) for rate, is_real, modes in runs]
