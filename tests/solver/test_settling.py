"""An image that has settled, and one that still moves to its place; the last passes that wait for that."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from small_scan import Scan, solved

from nsbluesky.backend import Backend
from nsbluesky.settings import SettingsError, SolverSettings
from nsbluesky.solver import last_passes
from nsbluesky.solver.gauge import ramp
from nsbluesky.solver.last_passes import LEAST_USES, ROUND, LastPasses
from nsbluesky.solver.pace import LEAST_PASSES, MOST_PASSES, RESTING_PASSES, most_passes
from nsbluesky.solver.settling import SETTLED, Settling


@pytest.fixture
def looked_at(difficult_scan: Any, backend: Backend) -> Any:
    """A function that shows objects one after another, and returns the correlations of their changes."""
    store, state = difficult_scan(backend, 1)

    def correlations(objects: list[Any]) -> list[float]:
        settling = Settling(backend)
        found = []
        for image in objects:
            state.object = np.asarray(image, np.complex64)
            found.append(settling.correlation(state, store))
        return found

    correlations.shape = state.shape  # type: ignore[attr-defined]
    return correlations


def noise(shape: tuple[int, ...], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def test_changes_of_an_image_that_follows_noise_point_back_and_forth(looked_at: Any) -> None:
    images = [1 + 0.1 * noise(looked_at.shape, seed) for seed in range(8)]
    found = looked_at(images)
    assert np.isnan(found[:2]).all()
    assert found[2:] == pytest.approx([-0.5] * 6, abs=0.12)
    assert np.mean(found[2:]) == pytest.approx(-0.5, abs=0.04)


def test_changes_of_an_image_that_moves_point_the_same_way(looked_at: Any) -> None:
    way = 0.2 * noise(looked_at.shape, 0)
    found = looked_at([1 + 0.5**step * way + 0.004 * noise(looked_at.shape, step) for step in range(1, 8)])
    assert min(found[2:4]) > 0.8
    assert found[-1] < SETTLED, "then what is left of the way is less than the noise"


def test_what_data_leave_open_is_no_change(looked_at: Any) -> None:
    shape = looked_at.shape
    still = [1 + 0.1 * noise(shape, seed) for seed in range(3)]
    drifting = [
        image * (1 + 0.1 * step) * np.exp(0.7j * step) * ramp(np, shape, 0.02 * step, -0.01 * step)
        for step, image in enumerate(still)
    ]
    assert looked_at(drifting)[2] == pytest.approx(looked_at(still)[2], abs=0.02)


def test_pixels_without_light_do_not_count(looked_at: Any) -> None:
    images = [1 + 0.1 * noise(looked_at.shape, seed) for seed in range(3)]
    dark = [image.copy() for image in images]
    for step, image in enumerate(dark):
        image[-1] = 100 * step  # a row that no window reaches
    assert looked_at(dark)[2] == pytest.approx(looked_at(images)[2], abs=1e-3)


def test_an_image_on_another_canvas_is_compared_with_none_before(looked_at: Any) -> None:
    shape = looked_at.shape
    wider = (shape[0], shape[1] + 3)
    found = looked_at([noise(shape, 0), noise(shape, 1), noise(wider, 2), noise(wider, 3), noise(wider, 4)])
    assert [math.isnan(value) for value in found] == [True, True, True, True, False]


def test_an_image_that_does_not_change_has_settled(looked_at: Any) -> None:
    assert looked_at([np.ones(looked_at.shape)] * 3)[2] < SETTLED


def test_of_several_states_each_has_to_settle(looked_at: Any) -> None:
    """Also one that is so weak that its changes are lost in the noise of the others."""
    shape = looked_at.shape
    steady = [1 + 0.1 * noise(shape, seed) for seed in range(3)]
    way, weak = noise(shape, 7), noise(shape, 8)
    moving = [0.01 * (weak + 0.8**step * way) for step in range(3)]
    still = [0.01 * (weak + 0.1 * noise(shape, seed)) for seed in range(10, 13)]
    assert looked_at(np.stack([steady, still], axis=1))[2] < SETTLED
    assert looked_at(np.stack([steady, moving], axis=1))[2] > 0.9
    assert looked_at(np.stack([moving, steady], axis=1))[2] > 0.9


@pytest.fixture
def planned(backend: Backend, difficult_scan: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that goes on until the last passes end, with these correlations look by look; returns the rests."""
    store, state = difficult_scan(backend, 1)

    def passes(
        correlations: list[float], uses: float = LEAST_USES, plan: LastPasses | None = None, moving: int = 0
    ) -> list[bool]:
        answers = list(correlations)
        monkeypatch.setattr(last_passes.Settling, "correlation", lambda *_: answers.pop(0))
        plan, rests = plan or LastPasses(SolverSettings(), backend), []
        while len(rests) < plan.wanted:
            plan.look(len(rests), state, store, uses + len(rests), positions_move=len(rests) < moving)
            rests.append(plan.rest(len(rests)))
        assert answers == []
        return rests

    return passes


MOVES, STANDS = 0.5, -0.5


def test_passes_end_when_the_image_has_settled_and_rested(planned: Any) -> None:
    rests = planned([math.nan, math.nan, MOVES, STANDS])
    assert rests == [False] * 3 * ROUND + [True] * RESTING_PASSES


def test_a_probe_that_sways_at_first_has_not_settled(planned: Any) -> None:
    """Few uses: the correlation is not minded."""
    late = -(-LEAST_USES // ROUND)
    rests = planned([math.nan, math.nan, *[STANDS] * (late - 1)], uses=0)
    assert rests == [False] * late * ROUND + [True] * RESTING_PASSES


def test_an_image_whose_positions_are_on_their_way_has_not_settled(planned: Any) -> None:
    rests = planned([math.nan, math.nan, *[STANDS] * 3], moving=3 * ROUND + 1)
    assert rests == [False] * 4 * ROUND + [True] * RESTING_PASSES


def test_an_image_that_never_settles_ends(planned: Any, difficult_scan: Any, backend: Backend) -> None:
    frames = len(difficult_scan(backend, 1)[0].active)
    most = most_passes(frames)
    assert most > MOST_PASSES == most_passes(1000)
    assert planned([MOVES] * (most // ROUND + 1)) == [False] * most + [True] * RESTING_PASSES


def test_an_object_of_several_states_may_take_longer(backend: Backend, difficult_scan: Any) -> None:
    store, state = difficult_scan(backend, 1)
    state.object = np.stack([state.object] * 2)
    one, two = (most_passes(len(store.active), states) for states in (1, 2))
    plan = LastPasses(SolverSettings(), backend)
    plan.begin(one)
    plan.look(one, state, store, uses=one, positions_move=False)
    assert not plan.rest(one)
    plan.begin(two)
    plan.look(two, state, store, uses=two, positions_move=False)
    assert plan.rest(two)


def test_passes_begin_anew_with_another_mode_and_are_gone_on_with(planned: Any, backend: Backend) -> None:
    plan = LastPasses(SolverSettings(), backend)
    plan.begin(20)
    resumed = LastPasses(SolverSettings(), backend)
    resumed.restore(plan.contents())
    assert resumed.wanted == 20 + ROUND + RESTING_PASSES
    assert planned([STANDS], plan=resumed) == [False] * 20 + [True] * RESTING_PASSES
    plan.settle(20, 3)
    resumed.restore(plan.contents())
    assert resumed.wanted == 23 and resumed.rest(20)


@pytest.mark.parametrize(
    ("settings", "rests"),
    [
        ({"passes_final": 12}, [False] * 10 + [True] * 2),
        ({"passes_final": 40}, [False] * 35 + [True] * RESTING_PASSES),
        ({"algorithm": "wasp:2,cg:6"}, [False, True, *[False] * 5, True]),
    ],
)
def test_told_passes_are_as_many_as_are_told(planned: Any, backend: Backend, settings: Any, rests: Any) -> None:
    plan = LastPasses(SolverSettings(**settings), backend)
    assert plan.are_told and plan.least == plan.wanted
    assert planned([], plan=plan) == rests
    assert plan.stage(0) == 0 and plan.stage(len(rests) - 1) == len(plan.stages) - 1


def test_an_unknown_engine_is_named(backend: Backend) -> None:
    with pytest.raises(SettingsError, match="'magic': expected one of wasp"):
        LastPasses(SolverSettings(algorithm="magic"), backend)


def test_a_fast_scan_goes_on_until_its_image_has_settled(
    scan: Scan, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten passes are too few for it; R tells little of that."""
    seen = []
    correlation = Settling.correlation

    def noted(*arguments: Any) -> float:
        seen.append(correlation(*arguments))
        return seen[-1]

    monkeypatch.setattr(Settling, "correlation", noted)
    solver = solved(scan, backend)
    assert max(seen[2:-1], default=1.0) >= SETTLED > seen[-1]
    assert solver.passes_done == solver.passes_wanted == (len(seen) - 1) * ROUND + RESTING_PASSES
    solver.set_weight(scan.seq_nums[:1], [0.0])
    solver.set_weight(scan.seq_nums[:1], [1.0])  # it is as one that has just come
    assert solver.passes_done == 0
    while not solver.finished:
        solver.step(0.0)
    assert solver.passes_done >= LEAST_PASSES
