"""The solver on a GPU: passes beside what the memory and the Fourier transforms allow, and whole reconstructions.

Needs CuPy and a CUDA device; without them the page says that nothing was measured.

Transforms are those of all waves of a pass in one call, the best that a GPU can do; a pass has batches, each of which
needs object and probe as the one before left them.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
import scipy.fft

from benchmarks.bench_contest import solver_for, told_wrong
from benchmarks.bench_solver import least_times_s, one_pass
from benchmarks.figures import Figure
from benchmarks.object_errors import errors
from benchmarks.simulated_scans import SimulatedScan, simulated_scan
from nsbluesky.backend import Backend, BackendError, get_backend
from nsbluesky.settings import SolverSettings

SIZES = {128: 1600, 256: 1600, 512: 400}
"""Frames of each side."""

BATCHES = (32, 128)
COPIED = 2**28
"""Numbers that are copied: a gigabyte."""

AGREE_PASSES = 20
TARGET = "target ≥ 1e10 at 256² with one mode, and ≤ 2.5 times the transforms"


def measure() -> list[Figure]:
    """Time copies, transforms and passes, then reconstruct a scan on GPU and CPU."""
    try:
        gpu = get_backend("cupy")
    except BackendError as error:
        return [Figure("passes of the live engine", "not measured", f"{TARGET}; {error}")]
    xp = gpu.xp
    device = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)["name"].decode()
    source, target = xp.random.random(COPIED, dtype=np.float32), xp.empty(COPIED, np.float32)
    copied_s, _ = least_times_s(functools.partial(xp.copyto, target, source), gpu, 5)
    figures = [Figure("copy within the device", f"{2 * source.nbytes / copied_s / 1e12:.2f} TB/s", device)]
    del source, target
    for side, frames in SIZES.items():
        for modes in (1, 3):
            bare_s = transforms_s(gpu, frames * modes, side)
            for batch in BATCHES:
                settings = SolverSettings(algorithm="wasp", modes=modes, batch=batch, batch_final=batch)
                pass_s, _ = least_times_s(one_pass(gpu, settings, frames, side), gpu, 6)
                figures.append(
                    Figure(
                        f"{frames} × {side}², {modes} mode{'s' if modes > 1 else ''}, batches of {batch}: one pass",
                        f"{1e3 * pass_s:.1f} ms",
                        f"{frames * side**2 / pass_s:.1e} frame·px/s, {pass_s / bare_s:.1f} × the transforms "
                        f"({1e3 * bare_s:.2f} ms)" + (f"; {TARGET}" if (side, modes) == (256, 1) else ""),
                    )
                )
    scan = simulated_scan(128, 40, 1e6)
    return [*figures, *whole(scan, gpu), *agreement(simulated_scan(64, 20, 1e6), gpu)]


def transforms_s(gpu: Backend, waves: int, side: int) -> float:
    """Return the least time of transforms there and back of so many waves at once."""
    field = gpu.xp.ones((waves, side, side), np.complex64)

    def pair() -> None:
        gpu.transform(field)
        gpu.transform(field, inverse=True)
        field[...] = 1

    def fill() -> None:
        field[...] = 1

    return least_times_s(pair, gpu, 8)[0] - least_times_s(fill, gpu, 8)[0]


def whole(scan: SimulatedScan, gpu: Backend) -> list[Figure]:
    """Reconstruct a scan whose frames are all there, by default: with its defocus and orientation looked for."""
    figures = []
    for backend in (gpu, get_backend("numpy")):
        for _ in range(2):  # the first compiles and plans
            solver = solver_for(scan.frames, told_wrong(scan), backend)
            started = time.perf_counter()
            solver.add_frames(np.arange(len(scan.frames)), scan.frames, scan.translations_m)
            solver.finish()
            while not solver.finished:
                solver.step(0.1)
            spent_s = time.perf_counter() - started
        where = "GPU" if backend.on_device else f"CPU, {backend.threads} threads"
        found = errors(solver.picture().object, scan.object, scan.side // 6)
        figures.append(
            Figure(
                f"{len(scan.frames)} × {scan.side}², by default, from frames to the end: {where}",
                f"{spent_s:.2f} s",
                f"object error {found.whole:.4f}, by contrast {found.contrast:.4f}",
            )
        )
    return figures


def agreement(scan: SimulatedScan, gpu: Backend) -> list[Figure]:
    """Compare the objects after some passes from the same start: of GPU and CPU, and of two transforms on the CPU."""
    host = get_backend("numpy")
    of_host = object_after(scan, host)
    others = {"GPU and CPU": gpu, "with SciPy's transforms and by default, on the CPU": scipys(host)}
    return [
        Figure(f"{what}: after {AGREE_PASSES} passes", f"{apart(object_after(scan, other), of_host):.1e} apart", note)
        for (what, other), note in zip(
            others.items(), ("of the object; wanted ≤ 1e-3", "rounding alone"), strict=True
        )
    ]


def scipys(host: Backend) -> Backend:
    """Return the host's backend with SciPy's transforms."""
    return Backend(host.name, host.xp, host.threads, scipy.fft)


def object_after(scan: SimulatedScan, backend: Backend) -> Any:
    """Return the object after some passes over whole frames."""
    settings = {"modes": 1, "sweep_frames": 0, "find_orientation": False, "coarse_uses": 0}
    solver = solver_for(scan.frames, scan.geometry, backend, passes_final=AGREE_PASSES, **settings)
    solver.add_frames(np.arange(len(scan.frames)), scan.frames, scan.translations_m)
    solver.start_with(scan.start)
    solver.finish()
    while not solver.finished:
        solver.step(0.1)
    return solver.picture().object


def apart(one: Any, other: Any) -> float:
    """Return ‖a − b‖/‖b‖ where both are known."""
    known = np.isfinite(one) & np.isfinite(other)
    return float(np.linalg.norm((one - other)[known]) / np.linalg.norm(other[known]))
