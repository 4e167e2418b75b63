"""Schedules of engines, from text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbluesky.settings import PipelineSettings, SettingsError, SolverSettings
from nsbluesky.solver.engines import ENGINES
from nsbluesky.solver.pace import LEAST_PASSES
from nsbluesky.solver.schedule import Stage, check_engines, parse_schedule, stage_of, stages_of


def test_engines_with_and_without_passes():
    assert parse_schedule("wasp", 10) == (Stage("wasp", 10),)
    assert parse_schedule(" wasp : 20 , lsqml", 7) == (Stage("wasp", 20), Stage("lsqml", 7))


@pytest.mark.parametrize(
    "text",
    ["", "magic", "wasp,", "wasp:", "wasp:0", "wasp:-3", "wasp:2.5", "wasp:1:2", "wasp:200000", "wasp:" + 5000 * "9"],
)
def test_anything_else_is_refused_with_what_was_expected(text):
    with pytest.raises(SettingsError, match=r"^solver\.algorithm = .*: expected"):
        parse_schedule(text, 10)


@given(st.lists(st.tuples(st.sampled_from(sorted(ENGINES)), st.integers(1, 50)), min_size=1, max_size=5))
def test_every_pass_has_its_stage(plan):
    stages = parse_schedule(",".join(f"{name}:{passes}" for name, passes in plan), 3)
    turns = [stage_of(stages, done) for done in range(sum(stage.passes for stage in stages))]
    for number, stage in enumerate(stages):
        assert [left for turn, left in turns if turn == number] == list(range(stage.passes, 0, -1))
    assert stage_of(stages, len(turns)) == (len(stages) - 1, 0)


def test_settings_that_tell_no_passes_have_the_least():
    assert stages_of(SolverSettings(algorithm="raar", passes_final=None)) == (Stage("raar", LEAST_PASSES),)
    assert stages_of(SolverSettings(algorithm="raar", passes_final=7)) == (Stage("raar", 7),)


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["solver.algorithm=magic"], r"solver\.algorithm = 'magic'"),
        (["second_engine=magic"], "second_engine = 'magic'"),
        (["solver.algorithm=raar", "solver.probe_variation=1"], r"solver\.probe_variation = 1 with algorithm 'raar'"),
    ],
)
def test_engines_are_refused_before_a_run(texts, told):
    check_engines(PipelineSettings())
    with pytest.raises(SettingsError, match=f"^{told}.*: expected"):
        check_engines(PipelineSettings().set_from_text(texts))
