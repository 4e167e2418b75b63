"""How an image goes on from pass to pass, told by how far it has come alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nsbluesky.backend import Backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.further_modes import FurtherModes
from nsbluesky.solver.last_passes import LastPasses
from nsbluesky.solver.pace import LEAST_PASSES, RIPE_USES, SETTLING_PASSES
from nsbluesky.solver.rhythm import HURRY, REST, ImageProgress, Rhythm

COARSE = ImageProgress(is_coarse=True, is_warm=False, probe_is_told=True, frames=100, uses=3.0, passes=3, modes=1)
WHOLE = replace(COARSE, is_coarse=False)
RIPE = replace(WHOLE, uses=float(RIPE_USES), passes=40)

NONE_TRIED = {"tries": "nothing", "before": None, "judged_at": 0, "variation": 0}
TRYING = {"tries": "modes", "before": 0.5, "judged_at": 50, "variation": 0}
"""What further modes tell: that no more are looked for, and that one is on trial until pass 50."""


class Kit:
    """A rhythm with the two that it asks."""

    def __init__(self, backend: Backend, **settings: Any) -> None:
        self.settings = SolverSettings(
            **{"modes": 1, "most_modes": 2, "most_variation": 0, "coarse_uses": 12} | settings
        )
        self.last_passes = LastPasses(self.settings, backend)
        self.modes = FurtherModes(self.settings, backend)
        self.rhythm = Rhythm(self.settings, self.last_passes, self.modes)

    def passes(self, progress: ImageProgress, count: int, r_factor: float = 0.1) -> list[bool]:
        """Make passes that stand alike; return whether each rested."""
        rests = []
        for _ in range(count):
            self.rhythm.begin_pass(progress)
            rests.append(self.rhythm.rests)
            self.rhythm.end_pass(progress, r_factor)
        return rests


@pytest.fixture
def kit(backend: Backend) -> Any:
    """A function of settings that makes a rhythm."""

    def make(**settings: Any) -> Kit:
        return Kit(backend, **settings)

    return make


# Which passes count -------------------------------------------------------------------------------------------


def test_only_passes_over_all_whole_frames_count(kit: Any) -> None:
    rhythm = kit().rhythm
    rhythm.begin_pass(COARSE)
    rhythm.end_pass(COARSE, 0.4)
    assert rhythm.r_factors == []
    rhythm.begin_pass(WHOLE)
    rhythm.restart()  # frames have come
    rhythm.end_pass(WHOLE, 0.3)
    assert rhythm.r_factors == []
    rhythm.begin_pass(WHOLE)
    rhythm.end_pass(WHOLE, 0.2)
    assert rhythm.r_factors == [0.2] and rhythm.passes_done == 1
    rhythm.last_passes.settle(1, 2)
    rhythm.restart()
    assert rhythm.r_factors == [] and rhythm.passes_wanted > 3


# Central halves -----------------------------------------------------------------------------------------------


def leaves_centre(rhythm: Rhythm, progress: ImageProgress, *r_factors: float) -> bool:
    """Whether whole frames follow the last of these passes."""
    left = False
    for r_factor in r_factors:
        rhythm.begin_pass(progress)
        left = rhythm.end_pass(progress, r_factor)
    return left


@pytest.mark.parametrize(("uses", "leaves"), [(11.9, False), (12.0, True)])
def test_whole_frames_follow_when_their_centres_had_their_uses(kit: Any, uses: float, leaves: bool) -> None:
    assert leaves_centre(kit().rhythm, replace(COARSE, uses=uses), 0.5) == leaves


@pytest.mark.parametrize(
    ("told", "warm", "leaves"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_centres_are_not_left_with_a_probe_that_may_be_wrong(kit: Any, told: bool, warm: bool, leaves: bool) -> None:
    progress = replace(COARSE, uses=99.0, probe_is_told=told, is_warm=warm)
    assert leaves_centre(kit().rhythm, progress, 0.5) == leaves


def test_centres_of_no_frames_are_left(kit: Any) -> None:
    assert not leaves_centre(kit().rhythm, replace(COARSE, uses=0.0), 0.5)
    assert leaves_centre(kit().rhythm, replace(COARSE, uses=0.0, frames=0), 0.5)


@pytest.mark.parametrize(
    ("is_last", "second_r", "uses", "leaves"),
    [
        (True, 0.46, 4.0, True),
        (True, 0.46, 3.9, False),
        (True, 0.44, 4.0, False),  # worth its time
        (False, 0.46, 4.0, False),  # more frames come
    ],
)
def test_where_frames_are_all_there_centres_are_left_when_they_gain_little(
    kit: Any, is_last: bool, second_r: float, uses: float, leaves: bool
) -> None:
    rhythm, progress = kit().rhythm, replace(COARSE, uses=uses)
    if is_last:
        rhythm.finish(is_ripe=False)
    assert not leaves_centre(rhythm, progress, 0.5), "there is nothing to compare it with"
    assert leaves_centre(rhythm, progress, second_r) == leaves


def test_gain_is_not_measured_against_a_pass_over_other_frames(kit: Any) -> None:
    rhythm, progress = kit().rhythm, replace(COARSE, uses=4.0)
    rhythm.finish(is_ripe=False)
    rhythm.begin_pass(progress)
    rhythm.restart()
    assert not rhythm.end_pass(progress, 0.5)
    assert not leaves_centre(rhythm, progress, 0.5)
    rhythm.restart()
    assert not leaves_centre(rhythm, progress, 0.5)
    assert leaves_centre(rhythm, progress, 0.5)


@pytest.mark.parametrize(("time_left", "leaves"), [(HURRY, False), (HURRY - 0.01, True)])
def test_in_haste_half_the_uses_of_centres_suffice(kit: Any, time_left: float, leaves: bool) -> None:
    rhythm = kit().rhythm
    rhythm.time_left = time_left
    assert leaves_centre(rhythm, replace(COARSE, uses=6.0), 0.5) == leaves
    assert not leaves_centre(rhythm, replace(COARSE, uses=5.9), 0.5)


# Whether it goes on -------------------------------------------------------------------------------------------


def test_while_frames_may_come_passes_are_wanted_until_the_image_is_ripe(kit: Any) -> None:
    made = kit()
    made.passes(WHOLE, 10 * LEAST_PASSES)
    assert made.rhythm.wants_passes(replace(RIPE, uses=RIPE_USES - 0.1))
    assert not made.rhythm.wants_passes(RIPE)
    assert not made.rhythm.wants_passes(replace(WHOLE, uses=0.0, frames=0)), "there is nothing to ripen"


def test_where_passes_are_told_there_are_no_others(kit: Any) -> None:
    made = kit(passes_final=3)
    made.passes(WHOLE, 2)
    assert made.rhythm.wants_passes(WHOLE)
    made.passes(WHOLE, 1)
    assert not made.rhythm.wants_passes(WHOLE)


def test_the_central_half_is_no_image_to_end_with(kit: Any) -> None:
    rhythm = kit(passes_final=0).rhythm
    rhythm.finish(is_ripe=False)
    assert rhythm.wants_passes(replace(COARSE, uses=99.0))
    assert not rhythm.wants_passes(WHOLE)


def test_a_ripe_image_ends_after_the_least_passes_without_momentum(kit: Any) -> None:
    made = kit()
    made.rhythm.finish(is_ripe=True)
    assert made.passes(RIPE, LEAST_PASSES - 1) == [True] * (LEAST_PASSES - 1)
    assert made.rhythm.wants_passes(RIPE)
    made.passes(RIPE, 1)
    assert not made.rhythm.wants_passes(RIPE) and made.rhythm.passes_done == made.rhythm.passes_wanted
    assert not made.rhythm.wants_passes(WHOLE), "what ripens in a pause does not at the end"


@pytest.mark.parametrize(("passes", "settled"), [(5, False), (6, True)])
def test_an_image_is_settled_after_more_than_half_of_the_least_passes(kit: Any, passes: int, settled: bool) -> None:
    rhythm = kit(passes_final=10).rhythm
    assert rhythm.is_settled(replace(WHOLE, passes=passes)) == settled
    assert not rhythm.is_settled(replace(COARSE, passes=99))


def test_of_several_engines_all_have_their_passes_before_an_image_is_settled(kit: Any) -> None:
    made = kit(algorithm="wasp:2,cg:3")
    made.rhythm.finish(is_ripe=False)
    made.passes(replace(WHOLE, passes=99), 4)
    assert not made.rhythm.is_settled(replace(WHOLE, passes=99))
    made.passes(WHOLE, 1)
    assert made.rhythm.is_settled(WHOLE)


# Engines and momentum -----------------------------------------------------------------------------------------


def test_engines_take_turns_over_whole_frames_and_after_the_last_one(kit: Any) -> None:
    made = kit(algorithm="wasp:2,cg:1,wasp:1")
    made.passes(WHOLE, 3)
    assert (made.rhythm.stage, made.rhythm.algorithm) == (0, "wasp")
    made.rhythm.finish(is_ripe=False)
    made.passes(COARSE, 3)
    seen = []
    for _ in range(4):
        made.passes(WHOLE, 1)
        seen.append((made.rhythm.stage, made.rhythm.algorithm))
    assert seen == [(0, "wasp"), (0, "wasp"), (1, "cg"), (2, "wasp")]
    made.rhythm.configure(made.settings, made.last_passes)
    assert made.rhythm.stage == 0


def test_while_frames_come_a_ripe_image_rests_but_for_a_mode_on_trial(kit: Any) -> None:
    made = kit()
    assert made.passes(replace(RIPE, uses=RIPE_USES - 0.1), 1) == [False]
    assert made.passes(replace(RIPE, is_coarse=True), 1) == [False], "it had these uses on its central half"
    assert made.passes(RIPE, 1) == [True]
    made.modes.restore(TRYING)
    assert made.passes(replace(RIPE, passes=50 - SETTLING_PASSES - 1), 1) == [False]
    assert made.passes(replace(RIPE, passes=50 - SETTLING_PASSES), 1) == [True]


def test_of_told_passes_the_last_ones_rest_and_all_of_an_image_that_was_ripe(kit: Any) -> None:
    for was_ripe, rests in ((False, [False] * 8 + [True] * 2), (True, [True] * 10)):
        made = kit(passes_final=10)
        made.modes.restore(NONE_TRIED)
        made.rhythm.finish(is_ripe=was_ripe)
        assert made.passes(WHOLE, 10) == rests


def test_an_image_that_begins_anew_has_momentum_again(kit: Any) -> None:
    made = kit(passes_final=10)
    made.modes.restore(NONE_TRIED)
    made.rhythm.finish(is_ripe=True)
    made.passes(WHOLE, 3)
    made.rhythm.restart()  # other frames, the same image
    assert made.passes(WHOLE, 1) == [True]
    made.rhythm.begin_anew()
    assert made.passes(WHOLE, 10) == [False] * 8 + [True] * 2


def test_of_told_passes_those_rest_during_which_a_mode_may_be_found(kit: Any) -> None:
    made = kit(passes_final=20)
    made.rhythm.finish(is_ripe=False)
    assert made.passes(WHOLE, 1) == [False]
    assert made.passes(RIPE, 1) == [True]
    assert made.passes(replace(RIPE, modes=2), 1) == [False], "there are as many as are asked for"
    made.modes.restore(TRYING)
    assert made.passes(RIPE, 1) == [False], "the new one is weak"


@pytest.mark.parametrize(("time_left", "passes", "rests"), [(REST, 6, False), (0.24, 6, True), (0.24, 5, False)])
def test_in_haste_an_image_that_had_half_of_its_passes_rests(
    kit: Any, time_left: float, passes: int, rests: bool
) -> None:
    made = kit(passes_final=10)
    made.rhythm.time_left = time_left
    assert made.passes(replace(WHOLE, passes=passes), 1) == [False], "more frames come"
    made.rhythm.finish(is_ripe=False)
    assert made.passes(replace(WHOLE, passes=passes), 1) == [rests]


# Modes --------------------------------------------------------------------------------------------------------


def test_modes_wait_until_an_image_is_at_rest_and_its_probe_is_told(kit: Any) -> None:
    made = kit()
    made.passes(RIPE, SETTLING_PASSES - 1)
    assert not made.rhythm.wants_modes(RIPE)
    made.passes(RIPE, 1)
    assert made.rhythm.wants_modes(RIPE)
    assert not made.rhythm.wants_modes(replace(RIPE, probe_is_told=False))
    made.passes(WHOLE, 1)  # with momentum
    assert not made.rhythm.wants_modes(RIPE)


@pytest.mark.parametrize(("passes_final", "wants"), [(None, True), (10, False)])
def test_an_image_that_settled_before_it_was_ripe_is_asked_for_modes_where_passes_are_not_told(
    kit: Any, passes_final: int | None, wants: bool
) -> None:
    made = kit(passes_final=passes_final)
    made.rhythm.finish(is_ripe=True)
    made.passes(WHOLE, SETTLING_PASSES)
    assert made.rhythm.wants_modes(WHOLE) == wants
    assert not made.rhythm.wants_modes(COARSE)


def test_in_haste_no_mode_is_begun_but_one_on_trial_is_judged(kit: Any) -> None:
    made = kit()
    made.passes(RIPE, SETTLING_PASSES)
    made.rhythm.time_left = REST
    assert (made.rhythm.wants_modes(RIPE), made.rhythm.passes_for_modes) == (True, None)
    made.rhythm.time_left = REST - 0.01
    assert (made.rhythm.wants_modes(RIPE), made.rhythm.passes_for_modes) == (False, 0)
    made.modes.restore(TRYING)
    assert made.rhythm.wants_modes(WHOLE)


def test_of_told_passes_those_to_come_are_left_for_modes(kit: Any) -> None:
    made = kit(passes_final=20)
    made.passes(WHOLE, 3)
    seen = [made.rhythm.passes_for_modes]
    made.rhythm.finish(is_ripe=False)
    made.passes(WHOLE, 3)
    seen.append(made.rhythm.passes_for_modes)
    assert seen == [None, 16], "while more frames come, and after three of 20, where one goes on"


def test_an_image_settles_anew_with_a_mode_and_soon_without_it(kit: Any) -> None:
    made = kit()
    made.rhythm.finish(is_ripe=True)
    made.passes(RIPE, 4)
    assert made.rhythm.passes_wanted == LEAST_PASSES
    made.modes.restore(TRYING)
    made.rhythm.settle_with_modes()
    assert made.rhythm.passes_wanted > 5 + SETTLING_PASSES and not made.last_passes.rest(5)
    made.modes.restore(NONE_TRIED)
    made.rhythm.settle_with_modes()
    assert made.rhythm.passes_wanted == 5 + SETTLING_PASSES and made.last_passes.rest(5)
    made.rhythm.settle_anew()
    assert not made.last_passes.rest(5)


def test_while_frames_come_nothing_has_to_settle_anew(kit: Any) -> None:
    made = kit()
    made.passes(WHOLE, 4)
    before = made.rhythm.passes_wanted
    made.rhythm.settle_anew()
    made.rhythm.settle_with_modes()
    assert made.rhythm.passes_wanted == before


def test_what_is_put_right_leaves_enough_passes_to_settle(kit: Any) -> None:
    made = kit(passes_final=6)
    made.passes(WHOLE, 20)
    assert made.rhythm.lets_settle, "more frames come"
    made.rhythm.finish(is_ripe=False)
    made.passes(WHOLE, 6 - SETTLING_PASSES - 1)
    assert made.rhythm.lets_settle
    made.passes(WHOLE, 1)
    assert not made.rhythm.lets_settle


# Checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more_to_come", [False, True])
def test_it_goes_on_from_a_checkpoint(kit: Any, more_to_come: bool) -> None:
    made, other = (kit(algorithm="wasp:2,cg:9") for _ in range(2))
    made.rhythm.finish(is_ripe=True)
    made.passes(RIPE, 4)
    other.rhythm.restore(made.rhythm.contents(), more_to_come)
    assert other.rhythm.is_last == (not more_to_come)
    assert (other.rhythm.stage, other.rhythm.r_factors) == (1, [0.1] * 4)
    assert other.rhythm.rests
    if not more_to_come:
        assert other.passes(WHOLE, 1) == [True], "the image was ripe at the end of the scan"


def test_what_centres_gained_is_told_after_a_checkpoint(kit: Any) -> None:
    made, other = kit(), kit()
    made.rhythm.finish(is_ripe=False)
    progress = replace(COARSE, uses=4.0)
    leaves_centre(made.rhythm, progress, 0.5)
    other.rhythm.restore(made.rhythm.contents(), False)
    assert leaves_centre(other.rhythm, progress, 0.5)
