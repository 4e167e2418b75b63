"""What a benchmark returns, and the page that is made of it."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy


@dataclass(frozen=True)
class Figure:
    """One measured value."""

    what: str
    value: str
    note: str = ""


def seconds(function: Callable[[], object], runs: int = 5) -> float:
    """Return the median wall time of `function` over some runs, after one that does not count."""
    function()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def section(title: str, command: str, figures: list[Figure]) -> str:
    """Return one section of the page."""
    rows = [f"| {figure.what} | {figure.value} | {figure.note} |" for figure in figures]
    head = ["| what | value | note |", "|---|---|---|"]
    return "\n".join([f"## {title}", "", f"`{command}`", "", *head, *rows, ""])


def machine() -> str:
    """Return one line about the machine and the libraries."""
    model = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open() as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return (
        f"{len(os.sched_getaffinity(0))} cores ({model}), Python {platform.python_version()}, "
        f"NumPy {np.__version__}, SciPy {scipy.__version__}"
    )
