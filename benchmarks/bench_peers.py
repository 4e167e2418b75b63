"""The same frames and start, reconstructed by this package and by others: how long until the object is right.

Each code runs in a process of its own, from the same starting probe (a fifth of its defocus missing; the measured
star: the guess that came with the data), one probe mode, two threads, after a short run that does not count.
Positions are right and not refined.  This package makes 80 passes after its coarse ones, all else by default; others
are set up as their documentation does, and go on until the limit.

Simulated objects are compared with the truth, by the whole object and by its contrast, on the pixels that the true
probe lit well enough to be shown.  For the measured star, which has no truth, one model takes R = Σ|G − A|/ΣA of
every code's object and probe.
"""

from __future__ import annotations

import bz2
import configparser
import io
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft

from benchmarks.bench_image import STAR, star_scan
from benchmarks.figures import Figure
from benchmarks.object_errors import errors
from benchmarks.peers.runs import Data
from benchmarks.simulated_scans import PIXEL_M, SimulatedScan, simulated_scan
from nsbluesky.geometry import Geometry
from nsbluesky.solver.picture import covered_area

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / "build" / "peers"
"""A virtual environment with the extra `peers` of setup.cfg; made here if it is not there."""

THREADS = 2
START_S = 60.0
"""For what does not count: imports, the short run, and writing images."""

PHOTONS = 1e6
LIMITS_S = {"400 × 64²": 25.0, "1600 × 128²": 50.0, "star (measured)": 25.0}
ERRORS = (0.1, 0.05, 0.02)
R_FACTORS = (0.2, 0.16, 0.15)


@dataclass(frozen=True)
class Code:
    """A code to run: its name on the page, its runner in `benchmarks.peers`, the runner's engine."""

    name: str
    runner: str
    engine: str


OWN = Code("nsbluesky", "own", "wasp:80")
PEERS = (
    Code("Pty-Chi LSQML", "pty_chi", "lsqml"),
    Code("Pty-Chi rPIE", "pty_chi", "rpie"),
    Code("Pty-Chi ePIE", "pty_chi", "epie"),
    Code("CDTools Adam", "cdtools_adam", "adam"),
)


@dataclass(frozen=True)
class Result:
    """What a run took: seconds a pass, megabytes, and the seconds to each goal by each measure (None: not reached).

    `last` is what each measure ended at.
    """

    pass_s: float
    memory_MB: float
    reached_s: dict[str, list[float | None]]
    last: dict[str, float]


Judge = Callable[[Any, Any], dict[str, float]]
"""Takes object and probe, returns measures by name."""


def measure() -> list[Figure]:
    """Run every code on every data set."""
    trouble = _prepared()
    figures = []
    for what, scan in (
        ("400 × 64²", simulated_scan(64, 20, PHOTONS)),
        ("1600 × 128²", simulated_scan(128, 40, PHOTONS)),
    ):
        figures += _race(what, _data_of(scan), _judge_of(scan), ERRORS, trouble)
    star = _star()
    return figures + _race("star (measured)", star, _star_judge(star), R_FACTORS, trouble)


def _prepared() -> str:
    """Make the environment of the others if it is not there; return why that failed, or nothing."""
    if (ENVIRONMENT / "ready").exists():
        return ""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = [line for line in setup["options.extras_require"]["peers"].split("\n") if line and line[0] != "#"]
    venv.create(ENVIRONMENT, with_pip=True)
    command = [ENVIRONMENT / "bin" / "python", "-m", "pip", "install", "--quiet", *wanted]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        return f"not installed: {_last_line(done.stdout)}"
    (ENVIRONMENT / "ready").touch()
    return ""


def _race(what: str, data: Data, judge: Judge, goals: tuple[float, ...], trouble: str) -> list[Figure]:
    """Return a row for each code, and how far this package is ahead."""
    limit_s = LIMITS_S[what]
    figures: list[Figure] = []
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.npz")
        data.save(path)
        for code in (OWN, *PEERS):
            failed = trouble if code is not OWN else ""
            result = None if failed else _run(code, path, limit_s, judge, goals)
            if isinstance(result, Result):
                results.append(result)
                note = f"{result.pass_s:.3f} s a pass, peak memory {result.memory_MB:.0f} MB"
                figures.append(Figure(f"{what}: {code.name}", _row(result, goals, limit_s), note))
            else:
                figures.append(Figure(f"{what}: {code.name}", "did not run", failed or str(result)))
    if len(results) > 1:
        figures.append(_ahead(what, results[0], results[1:], goals, limit_s))
    return figures


def _run(code: Code, path: Path, limit_s: float, judge: Judge, goals: tuple[float, ...]) -> Result | str:
    """Run a code; return what came out, or why nothing did."""
    python = Path(sys.executable) if code is OWN else ENVIRONMENT / "bin" / "python"
    # the package spreads its work over threads itself
    library_threads = 1 if code is OWN else THREADS
    limits = {name: str(library_threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    variables = os.environ | limits | {"CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"}
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-m", f"benchmarks.peers.{code.runner}", path, folder, str(limit_s), code.engine]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=2 * limit_s + START_S,
            )
        except subprocess.TimeoutExpired:
            return f"not one result within {2 * limit_s + START_S:.0f} s"
        if done.returncode:
            return _last_line(done.stdout)
        summary = json.loads(Path(folder, "summary.json").read_text())
        reached: dict[str, list[float | None]] = {}
        found: dict[str, float] = {}
        for number, seconds in enumerate(summary["kept_s"]):
            with np.load(Path(folder, f"{number:04d}.npz")) as arrays:
                found = judge(arrays["object"], arrays["probe"])
            for name, value in found.items():
                times = reached.setdefault(name, [None] * len(goals))
                for k, goal in enumerate(goals):
                    if times[k] is None and value <= goal:
                        times[k] = seconds
    return Result(float(np.median(summary["passes_s"])), summary["peak_memory_MB"], reached, found)


def _row(result: Result, goals: tuple[float, ...], limit_s: float) -> str:
    """Return when each goal was reached, by each measure."""
    parts = []
    for name, times in result.reached_s.items():
        steps = ", ".join(
            f"{goal:g} not within {limit_s:.0f} s" if seconds is None else f"{goal:g} in {seconds:.2f} s"
            for goal, seconds in zip(goals, times, strict=True)
        )
        parts.append(f"{name}: {steps}; ends at {result.last[name]:.4f}")
    return "; ".join(parts)


def _ahead(what: str, own: Result, peers: list[Result], goals: tuple[float, ...], limit_s: float) -> Figure:
    """Return the least lead over the peers, a pass and to each goal by the first measure."""
    a_pass = min(peer.pass_s for peer in peers) / own.pass_s
    measure, times = next(iter(own.reached_s.items()))
    parts = []
    for k, (goal, seconds) in enumerate(zip(goals, times, strict=True)):
        others = [peer.reached_s[measure][k] for peer in peers]
        there = [other for other in others if other is not None]
        if seconds is None:
            parts.append(f"{goal:g}: {'not reached, by others' if there else 'nobody'}")
        elif there:
            parts.append(f"{goal:g}: {min(there) / seconds:.1f}")
        else:
            parts.append(f"{goal:g}: more than {limit_s / seconds:.0f} (no other got there)")
    value = f"{a_pass:.1f} a pass; to {measure} {', '.join(parts)}"
    return Figure(f"{what}: times faster than the fastest other", value, "wanted ≥ 10")


def _data_of(scan: SimulatedScan) -> Data:
    corners = np.rint(scan.translations_m[:, ::-1] / PIXEL_M - scan.side / 2)
    return Data(scan.frames, corners, scan.start, **_lengths(scan.geometry))


def _lengths(geometry: Geometry) -> dict[str, float]:
    return {
        "wavelength_m": geometry.wavelength_m,
        "distance_m": geometry.detector_distance_m,
        "detector_pixel_m": geometry.pixel_size_m,
    }


def _judge_of(scan: SimulatedScan) -> Judge:
    """Compare objects with the truth where there was light."""
    lit = np.zeros(scan.object.shape)
    power = np.abs(scan.probe) ** 2
    for row, column in np.rint(scan.translations_m[:, ::-1] / PIXEL_M - scan.side / 2).astype(int):
        lit[row : row + scan.side, column : column + scan.side] += power
    covered = covered_area(np, lit, float(power.max()))

    def judge(image: Any, probe: Any) -> dict[str, float]:
        found = errors(np.where(covered, image, np.complex64(np.nan)), scan.object, scan.side // 6)
        return {"error": found.whole, "contrast error": found.contrast}

    return judge


def _star() -> Data:
    """Return the measured star with the guess of the probe that came with it."""
    with bz2.open(STAR) as stream, np.load(io.BytesIO(stream.read())) as arrays:
        probe = arrays["probe"].reshape(arrays["probe"].shape[-2:])
    frames, translations_m, geometry = star_scan()
    corners = translations_m[:, 1::-1] / geometry.object_pixel_m(frames.shape[-1])
    corners -= np.floor(corners.min(axis=0))
    probe = probe * np.sqrt(frames.sum(axis=(1, 2)).mean() / (np.abs(probe) ** 2).sum())
    return Data(frames.astype(np.float32), corners, probe.astype(np.complex64), **_lengths(geometry))


def _star_judge(data: Data) -> Judge:
    """Take R with windows at fractions of pixels and the scale that fits best."""
    amplitude = np.sqrt(scipy.fft.ifftshift(data.frames, axes=(1, 2)))
    whole = np.floor(data.corners_px).astype(int)
    line = scipy.fft.fftfreq(data.side)
    parts = data.corners_px - whole
    ramps = np.exp(-2j * np.pi * (parts[:, 0, None, None] * line[:, None] + parts[:, 1, None, None] * line))

    def judge(image: Any, probe: Any) -> dict[str, float]:
        single, side = probe.reshape(probe.shape[-2:]), data.side
        image = np.where(np.isfinite(image), image, np.complex64(1))
        probes = scipy.fft.ifft2(scipy.fft.fft2(single) * ramps).astype(np.complex64)
        windows = np.stack([image[row : row + side, column : column + side] for row, column in whole])
        model = np.abs(scipy.fft.fft2(probes * windows))
        model *= (model * amplitude).sum() / (model**2).sum()
        return {"R": float(np.abs(model - amplitude).sum() / amplitude.sum())}

    return judge


def _last_line(text: str) -> str:
    """Return what a program said last, as a cell of a table."""
    lines = text.strip().splitlines() or ["nothing was said"]
    return lines[-1].replace("|", "/")[:200]
