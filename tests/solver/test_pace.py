"""When a live image goes on: in a pause of the scan, at its end, and where somebody waits for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_scan import Scan

from nsbluesky.backend import Backend
from nsbluesky.solver import further_modes
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.pace import LEAST_PASSES, RIPE_USES


def add(solver: IncrementalSolver, scan: Scan, part: slice) -> None:
    solver.add_frames(scan.seq_nums[part], scan.frames[part], scan.translations_m[part])


def work(solver: IncrementalSolver) -> None:
    """Work until there is nothing to do."""
    while solver.has_work:
        solver.step(1.0)


def mean_uses(solver: IncrementalSolver) -> float:
    return float(np.mean(solver.frames.uses[solver.frames.active]))


def test_in_a_pause_the_image_ripens_and_then_waits(scan: Scan, backend: Backend) -> None:
    """The ten passes that would count after the last frame are far fewer; endless ones would heat the room."""
    solver = scan.solver(backend, told_m=scan.defocus_m)
    add(solver, scan, slice(24))
    work(solver)
    assert not solver.is_coarse and not solver.finished
    assert RIPE_USES <= mean_uses(solver) < RIPE_USES + 2
    add(solver, scan, slice(24, 36))
    assert solver.has_work, "frames that come after the pause are used at once"
    work(solver)
    assert RIPE_USES <= mean_uses(solver) < RIPE_USES + 2 and solver.num_unused == 0
    solver.finish()
    work(solver)
    assert solver.finished and solver.passes_done == LEAST_PASSES, "a ripe image needs no more"


def test_where_passes_are_told_a_pause_has_no_others(scan: Scan, backend: Backend) -> None:
    solver = scan.solver(backend, told_m=scan.defocus_m, passes_final=3)
    add(solver, scan, slice(24))
    work(solver)
    assert solver.passes_done == 3 and mean_uses(solver) < RIPE_USES / 2


def test_without_last_passes_too_the_image_is_of_whole_frames_at_the_end(scan: Scan, backend: Backend) -> None:
    solver = scan.solver(backend, told_m=scan.defocus_m, passes_final=0)
    assert not solver.is_settled, "there is no image"
    add(solver, scan, slice(24))
    solver.finish()
    work(solver)
    assert solver.finished and not solver.is_coarse
    assert solver.state is not None and solver.state.probe.shape == (1, 48, 48)


@pytest.fixture
def waiting(scan: Scan, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes a solver which looks for modes after its last frame; `left` unexplained, look by look."""

    def make(left: list[float], *, ripe: bool = False, most_modes: int = 2) -> IncrementalSolver:
        solver = scan.solver(backend, told_m=scan.defocus_m, modes=1, most_modes=most_modes)
        add(solver, scan, slice(24))
        if ripe:
            work(solver)
        monkeypatch.setattr(further_modes, "unexplained", lambda *_: left.pop(0))
        solver.finish()
        return solver

    return make


def modes_of(solver: IncrementalSolver) -> int:
    return 0 if solver.state is None else len(solver.state.probe)


@pytest.mark.parametrize("ripe", [False, True])
@pytest.mark.parametrize(("time_left", "modes"), [(1 / 4, 2), (0.24, 1)])
def test_in_haste_no_mode_is_begun(waiting: Any, ripe: bool, time_left: float, modes: int) -> None:
    """The image would have to settle anew with it, which takes as long as all the passes before."""
    solver = waiting([0.5], ripe=ripe)
    solver.time_left = time_left
    while not solver.finished and modes_of(solver) < 2:
        solver.step(0.0)
    assert modes_of(solver) == modes
    assert modes == 2 or not ripe or solver.passes_done == LEAST_PASSES


@pytest.mark.parametrize(("left", "modes"), [(0.1, 2), (0.49, 1)])
def test_in_haste_a_mode_that_is_tried_is_judged_and_no_other_begun(waiting: Any, left: float, modes: int) -> None:
    looks = [0.5, left]
    solver = waiting(looks, most_modes=3)
    while modes_of(solver) < 2:
        solver.step(0.0)
    solver.time_left = 0.24
    work(solver)
    assert solver.finished and looks == []
    assert modes_of(solver) == modes
