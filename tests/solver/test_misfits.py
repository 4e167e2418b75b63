"""Frames that do not fit: they are suspended, come back, and are left out when they still do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.backend import get_backend
from nsbluesky.solver import misfits
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.misfits import LEAST_FRAMES, LEAST_USES, MOST, SUSPENDED_PASSES, suspend_misfits

COUNT = 40
PLACES_PX = np.stack(np.divmod(np.arange(COUNT), 8), -1)


@pytest.fixture
def store():
    frames = FrameStore(8, get_backend("numpy"))
    frames.put(range(100, 100 + COUNT), np.ones((COUNT, 8, 8)), PLACES_PX)
    frames.uses[:COUNT] = LEAST_USES
    misfit(frames, np.arange(COUNT), 0.05)
    return frames


def misfit(frames, slots, r_factor):
    frames.residuals[slots] = r_factor * frames.amplitude_sums[slots]


def test_what_fits_stays(store):
    misfit(store, np.arange(COUNT), np.linspace(0.03, 0.1, COUNT))
    assert suspend_misfits(store) == {}
    assert len(store.active) == COUNT


def test_a_frame_without_light_is_not_judged(store):
    store.put([107], np.zeros((1, 8, 8)), PLACES_PX[[7]])
    store.uses[7] = LEAST_USES
    misfit(store, 7, 0.2)
    assert 7 in store.active and suspend_misfits(store) == {}
    assert 7 in store.active


@pytest.mark.parametrize("r_factor", [0.2, np.nan, np.inf])
def test_a_misfit_rests_and_has_a_second_chance(store, r_factor):
    misfit(store, 7, r_factor)
    for _ in range(SUSPENDED_PASSES):
        assert suspend_misfits(store) == {}
        assert 7 not in store.active and 7 in store.wanted
    assert suspend_misfits(store) == {}
    assert 7 in store.active


def test_left_out_frames_are_listed_and_come_back_only_when_measured_again(store):
    misfit(store, 7, 0.2)
    listed = {}
    for _ in range(SUSPENDED_PASSES + 2):
        listed.update(suspend_misfits(store))
    assert list(listed) == [107] and "R 0.20" in listed[107] and "0.05" in listed[107]
    assert 7 not in store.wanted
    store.put([107], np.ones((1, 8, 8)), (0, 0))
    assert 7 in store.active


def test_a_frame_that_fits_when_it_comes_back_starts_anew(store):
    for _ in range(3):
        misfit(store, 7, 0.2)
        for _ in range(1 + SUSPENDED_PASSES):
            assert suspend_misfits(store) == {}  # what it was when it went does not count any more
        assert 7 in store.active
        misfit(store, 7, 0.05)
        assert suspend_misfits(store) == {}


@pytest.mark.parametrize(("spread", "suspended"), [(0.15, []), (0.05, [7])])
def test_what_is_odd_depends_on_the_spread_of_all(store, spread, suspended):
    """2.3 times the median: nothing beside frames that differ by 15 %, and odd beside such as differ by 5 %."""
    logs = np.random.default_rng(1).permutation(np.linspace(-2, 2, COUNT))
    misfit(store, np.arange(COUNT), 0.15 * np.exp(spread * logs))
    misfit(store, 7, 2.3 * 0.15)
    suspend_misfits(store)
    assert np.flatnonzero(store.suspended[:COUNT]).tolist() == suspended


def test_frames_over_a_small_object_stay_though_they_fit_worse_than_most(store):
    distance = np.linalg.norm(PLACES_PX - (2, 3), axis=-1)
    r_factors = 0.02 + 0.3 * np.exp(-(distance**2) / 3)
    assert np.count_nonzero(r_factors > misfits.WORSE * np.median(r_factors)) == 5
    misfit(store, np.arange(COUNT), r_factors)
    assert suspend_misfits(store) == {}
    assert not store.suspended[:COUNT].any()
    (middle,) = np.flatnonzero(distance == 0)
    misfit(store, middle, 0.9)  # this one fits worse than its neighbours, too
    suspend_misfits(store)
    assert np.flatnonzero(store.suspended[:COUNT]).tolist() == [middle]


def test_of_neighbours_no_more_than_four_are_left_out(store, monkeypatch):
    """The others are suspended again and again: a hard place is not cleared one frame after another."""
    monkeypatch.setattr(misfits, "MOST", 0.5)
    near = [17, 18, 19, 25, 26]  # each among the twelve nearest of the others
    for frame in near:  # one after another becomes the odd one
        misfit(store, frame, 0.9)
        for _ in range(SUSPENDED_PASSES + 2):
            suspend_misfits(store)
    left_out = [frame for frame in near if frame not in store.wanted]
    assert left_out == near[:-1] and near[-1] not in store.active


def test_frames_that_fit_exactly_make_no_other_odd(store):
    misfit(store, np.arange(COUNT), 0)
    misfit(store, 7, 1e-7)
    suspend_misfits(store)
    assert not store.suspended[:COUNT].any()


@pytest.mark.parametrize("case", ["few frames", "few uses", "no weight"])
def test_who_is_not_judged(store, case):
    misfit(store, 7, 0.5)
    match case:
        case "few frames":
            store.weights[LEAST_FRAMES - 1 : COUNT] = 0
        case "few uses":
            store.uses[7] = LEAST_USES - 1
        case "no weight":
            store.weights[7] = 0
    assert suspend_misfits(store) == {}
    assert not store.suspended[:COUNT].any()


def test_no_more_than_a_part_of_all_rests_and_the_worst_first(store):
    odd = np.arange(0, COUNT, 4)
    misfit(store, odd, np.linspace(0.2, 0.4, len(odd)))
    suspend_misfits(store)
    assert np.flatnonzero(store.suspended[:COUNT]).tolist() == odd[-int(MOST * COUNT) :].tolist()
    suspend_misfits(store)
    assert np.count_nonzero(store.suspended[:COUNT]) == int(MOST * COUNT)


@pytest.mark.parametrize(("unexplained", "stays"), [(0.3, True), (0.8, False), (np.nan, False)])
def test_a_frame_that_the_object_explains_stays_after_its_suspension(store, unexplained, stays):
    misfit(store, 7, 0.2)
    for _ in range(1 + SUSPENDED_PASSES):
        assert suspend_misfits(store, unexplained=lambda slot: unexplained) == {}
    listed = suspend_misfits(store, unexplained=lambda slot: unexplained if slot == 7 else np.nan)
    assert (7 in store.active, listed == {}) == (stays, stays)
