"""Modes that frames ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_scan import Scan, solved

from nsbluesky.backend import Backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver import further_modes, rhythm
from nsbluesky.solver.further_modes import TRIAL_PASSES, FurtherModes, mean_deviation, unexplained
from nsbluesky.solver.held_out import predictions


@pytest.mark.parametrize("mean", [0.0, 0.05, 1.0, 7.0, 60.0, 1e4])
def test_what_photon_noise_makes_of_amplitudes(mean: float) -> None:
    counts = np.random.default_rng(0).poisson(mean, 200_000)
    assert mean_deviation(mean) == pytest.approx(np.abs(np.sqrt(counts) - np.sqrt(mean)).mean(), rel=0.01)


def test_a_model_that_is_right_leaves_nothing_unexplained(difficult_scan: Any, backend: Backend) -> None:
    store, state = difficult_scan(backend, 1)
    slots = store.active
    seen = predictions(backend, state, store, slots, 4)
    intensity = np.fft.fftshift([backend.to_numpy(model).copy() for model, _ in seen], axes=(1, 2))
    factor = 1 / intensity.mean()
    counts = np.random.default_rng(0).poisson(factor * intensity).astype(np.float32)
    counts[:, 3, :10] = np.nan
    store.put(store.seq_nums[slots], counts, store.corners_px[slots], shifts_px=store.shifts_px[slots])
    state.probe *= np.sqrt(factor)
    state.background *= factor
    assert unexplained(backend, state, store, 4) == pytest.approx(0, abs=0.03)
    state.probe *= 0
    state.background = 0.0
    assert unexplained(backend, state, store, 4) == 0


@pytest.mark.parametrize(("most", "asked_for"), [(1, 1), (4, 2)])
def test_two_modes_are_found_where_there_are_two(
    two_mode_scan: Scan, backend: Backend, monkeypatch: pytest.MonkeyPatch, most: int, asked_for: int
) -> None:
    monkeypatch.setattr(rhythm, "RIPE_USES", 16)
    solver = solved(two_mode_scan, backend, passes_final=40, modes=1, most_modes=most)
    assert solver.state is not None
    assert len(solver.state.probe) >= asked_for
    left = unexplained(backend, solver.state, solver.frames, solver.settings.subpixel)
    assert (left < 0.3) == (asked_for == 2)


@pytest.mark.parametrize(("passes", "modes"), [(None, 2), (40, 1)])
def test_a_scan_that_was_fast_goes_on_for_a_mode(
    two_mode_scan: Scan, backend: Backend, passes: int | None, modes: int
) -> None:
    """The last passes, where no number of them is told, are as many as it takes to settle with that mode."""
    solver = solved(two_mode_scan, backend, passes_final=passes, modes=1, most_modes=2)
    assert solver.state is not None
    assert len(solver.state.probe) == modes
    assert solver.passes_done == solver.passes_wanted


def test_no_mode_is_added_where_one_explains_all(
    scan: Scan, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rhythm, "RIPE_USES", 16)
    solver = solved(scan, backend, passes_final=30, modes=1)
    assert solver.state is not None
    assert len(solver.state.probe) == 1


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is left unexplained, look by look."""
    answers: list[float] = []
    monkeypatch.setattr(further_modes, "unexplained", lambda *_: answers.pop(0))
    return answers


def after(state: Any, passes: int) -> Any:
    state.passes += passes
    return state


def test_a_mode_without_effect_is_taken_away_and_no_other_tried(
    difficult_scan: Any, backend: Backend, asked: list[float]
) -> None:
    store, state = difficult_scan(backend, 1)
    settings = SolverSettings(modes=1, most_modes=3, most_variation=0)  # the last one, too, is judged
    modes = FurtherModes(settings, backend)
    asked += [0.5, 0.3, 0.29]
    assert modes.look(state, store)
    assert len(state.probe) == 2
    power = (np.abs(state.probe) ** 2).sum(axis=(1, 2))
    assert power[1] < 0.02 * power[0]
    assert not modes.look(after(state, TRIAL_PASSES - 1), store)
    state.probe[1] *= 4
    assert modes.look(after(state, 1), store)
    assert len(state.probe) == 3
    power = (np.abs(state.probe) ** 2).sum(axis=(1, 2))
    assert power[1] > 0.1 * power[0] and 0.005 < power[2] / power[0] < 0.02, "only the new one is weak"
    resumed = FurtherModes(settings, backend)
    resumed.restore(modes.contents())
    assert resumed.look(after(state, TRIAL_PASSES), store)
    assert len(state.probe) == 2
    assert not resumed.look(after(state, 100), store)
    assert asked == []


@pytest.mark.parametrize(
    ("left", "kept"),
    [(0.2, 3), (0.43, 3), (0.44, 0), (0.6, 0)],  # three modes of 100 frames explain 0.03 of any noise
)
def test_a_probe_may_vary_where_no_further_mode_explains_what_is_left(
    difficult_scan: Any, backend: Backend, asked: list[float], monkeypatch: pytest.MonkeyPatch, left: float, kept: int
) -> None:
    store, state = difficult_scan(backend, 1)
    monkeypatch.setattr(type(store), "active", np.arange(100))
    modes = FurtherModes(SolverSettings(modes=1, most_modes=3), backend)
    asked += [0.55, 0.54, 0.53, left]
    assert modes.look(state, store) and (len(state.probe), modes.variation) == (2, 0)
    assert modes.look(after(state, TRIAL_PASSES), store) and (len(state.probe), modes.variation) == (1, 0)
    assert modes.look(after(state, 1), store) and (len(state.probe), modes.variation) == (1, 3)
    assert modes.is_trying and modes.grows(state.passes)
    resumed = FurtherModes(modes.settings, backend)
    resumed.restore(modes.contents())
    assert resumed.variation == 3
    assert not resumed.look(after(state, TRIAL_PASSES - 1), store)
    assert resumed.look(after(state, 1), store) == (kept == 0)
    assert (len(state.probe), resumed.variation) == (1, kept)
    assert not resumed.is_open(1) and not resumed.is_trying
    resumed.reset()
    assert resumed.variation == 0, "another image begins without"
    assert asked == []


@pytest.mark.parametrize(
    ("left", "modes", "variation"),
    [(0.06, 2, 0), (0.04, 1, 3), (0.019, 1, 0)],
)
def test_little_is_left_for_a_mode_and_less_for_variation(
    difficult_scan: Any, backend: Backend, asked: list[float], left: float, modes: int, variation: int
) -> None:
    store, state = difficult_scan(backend, 1)
    further = FurtherModes(SolverSettings(modes=1), backend)
    asked += [left]
    assert further.look(state, store) == (modes + variation > 1)
    assert (len(state.probe), further.variation) == (modes, variation)
    assert further.is_open(modes) == (modes + variation > 1)


@pytest.mark.parametrize(
    "settings",
    [{"algorithm": "wasp:9,cg:9"}, {"object_modes": 2}, {"probe_variation": 2}, {"most_variation": 0}],
)
def test_a_probe_does_not_vary_where_it_may_not_or_does(
    difficult_scan: Any, backend: Backend, asked: list[float], settings: dict[str, Any]
) -> None:
    store, state = difficult_scan(backend, 1)
    modes = FurtherModes(SolverSettings(modes=1, most_modes=1, **settings), backend)
    assert not modes.is_open(1)
    assert not modes.look(state, store)
    assert modes.variation == 0


@pytest.mark.parametrize(
    ("changes", "begins_anew"), [({"most_modes": 3}, True), ({"most_variation": 2}, True), ({"batch": 9}, False)]
)
def test_other_numbers_of_modes_are_looked_for_anew(
    backend: Backend, changes: dict[str, int], begins_anew: bool
) -> None:
    settings = SolverSettings(modes=1, most_modes=2, most_variation=0)
    modes = FurtherModes(settings, backend)
    modes.restore({"tries": "nothing", "before": None, "judged_at": 0, "variation": 0})
    modes.configure(settings.replace(**changes))
    assert modes.is_open(1) == begins_anew
    assert modes.is_open(2) == begins_anew


def test_a_mode_that_could_not_be_judged_is_not_tried(
    difficult_scan: Any, backend: Backend, asked: list[float]
) -> None:
    store, state = difficult_scan(backend, 1)
    asked += [0.5]
    assert not FurtherModes(SolverSettings(modes=1), backend).look(state, store, TRIAL_PASSES)
    assert len(state.probe) == 1


def test_half_sets_keep_their_images_when_a_mode_comes(two_mode_scan: Scan, backend: Backend) -> None:
    solver = two_mode_scan.solver(backend, sweep_frames=0, modes=1, coarse_uses=0, quality_share=1.0, passes_final=8)
    solver.add_frames(two_mode_scan.seq_nums, two_mode_scan.frames, two_mode_scan.translations_m)
    solver.finish()
    while solver.passes_done < 2:
        solver.step(0.0)
    solver.configure(solver.settings.replace(modes=2))
    passes = solver._image.quality.halves.passes
    assert passes > 0
    while not solver.finished:
        solver.step(0.0)
    assert solver._image.quality.halves.passes > passes
    assert solver.quality().frc is not None
