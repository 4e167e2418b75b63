"""A search for the probe and the image beside it share the solver's time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from small_scan import Scan

from nsbluesky.backend import Backend
from nsbluesky.geometry import Optic
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.turns import SWEEP_SHARE

SWEEP = {"sweep_frames": 40, "sweep_candidates": 7, "sweep_passes": 4, "find_orientation": False}


def solver_of(scan: Scan, backend: Backend, frames: int, **settings: Any) -> IncrementalSolver:
    solver = scan.solver(backend, **SWEEP | settings)
    solver.add_frames(scan.seq_nums[:frames], scan.frames[:frames], scan.translations_m[:frames])
    return solver


def turns_taken(solver: IncrementalSolver, monkeypatch: pytest.MonkeyPatch, batches: int) -> str:
    """Return who had each batch: "s" for the search, "i" for the image."""
    taken: list[str] = []
    for worker, letter in ((solver._search, "s"), (solver._image, "i")):
        one_batch = worker.one_batch
        monkeypatch.setattr(worker, "one_batch", lambda work=one_batch, letter=letter: (taken.append(letter), work()))
    for _ in range(batches):
        solver.step(0.0)
    return "".join(taken)


def test_while_frames_come_the_image_has_its_turns_beside_the_search(
    scan: Scan, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = solver_of(scan, backend, SWEEP["sweep_frames"])
    taken = turns_taken(solver, monkeypatch, 5 * (SWEEP_SHARE + 1))
    assert solver.is_searching and solver.state is not None
    assert "i" * 2 not in taken, "the image is never ahead"
    assert taken.count("i") == 5


def test_once_frames_are_all_the_image_waits_for_the_search(
    scan: Scan, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = solver_of(scan, backend, SWEEP["sweep_frames"])
    solver.finish()
    taken = turns_taken(solver, monkeypatch, 5 * (SWEEP_SHARE + 1))
    assert solver.is_searching
    assert set(taken) == {"s"}


@pytest.mark.parametrize("optic", ["declared", "unknown"])
def test_before_there_is_a_search_an_image_begins_where_an_optic_is_declared(
    scan: Scan, backend: Backend, monkeypatch: pytest.MonkeyPatch, optic: str
) -> None:
    if optic == "unknown":
        scan = replace(scan, geometry=scan.geometry.replace(optic=Optic()))
    solver = solver_of(scan, backend, SWEEP["sweep_frames"] - 1)
    assert solver.has_work == (optic == "declared")
    assert set(turns_taken(solver, monkeypatch, 3)) == ({"i"} if optic == "declared" else set())


def test_of_too_few_frames_there_is_no_image_until_they_are_all(scan: Scan, backend: Backend) -> None:
    solver = solver_of(scan, backend, 1)
    assert not solver.has_work
    solver.finish()
    assert solver.has_work
