"""Settings of a solver change while it works, and the image goes on."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.settings import SettingsError
from nsbluesky.solver.quality import contrast_correlation


@pytest.fixture
def live(scan, backend):
    """A solver that has had a few passes over all frames."""
    solver = scan.solver(backend, passes_final=8, told_m=scan.defocus_m)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    work(solver, passes=4)
    return solver


def work(solver, passes=None):
    done = 0 if solver.state is None else solver.state.passes
    while solver.has_work and (passes is None or solver.state is None or solver.state.passes < done + passes):
        solver.step(0.0)


def correlation(solver, scan):
    return contrast_correlation(solver.picture().object, scan.object, 24)


@pytest.mark.parametrize(
    "changes", [{"modes": 2}, {"modes": 3}, {"algorithm": "lsqml"}, {"algorithm": "rpie:4,cg:4"}]
)
def test_engine_and_modes_change_and_the_image_stays(live, scan, changes):
    before = live.state
    live.configure(live.settings.replace(**changes))
    assert live.state is before
    assert len(live.state.probe) == live.settings.modes
    live.finish()
    work(live)
    assert live.finished
    assert correlation(live, scan) > 0.9
    assert live.picture().probe.shape[0] == live.settings.modes


def test_fewer_modes_keep_the_light(scan, backend):
    solver = scan.solver(backend, modes=3)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    work(solver, passes=2)
    light = np.sum(np.abs(solver.state.probe) ** 2)
    solver.configure(solver.settings.replace(modes=1))
    assert len(solver.state.probe) == 1
    assert np.sum(np.abs(solver.state.probe) ** 2) == pytest.approx(light, rel=1e-3)


def test_a_defocus_that_is_told_begins_anew_with_it(scan, backend):
    solver = scan.solver(backend, sweep_frames=60, sweep_candidates=5, told_m=-3 * scan.defocus_m)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    solver.step(0.0)
    assert solver.is_searching
    solver.configure(solver.settings.replace(defocus_m=scan.defocus_m))
    solver.finish()
    work(solver)
    assert solver.sweep is None
    assert correlation(solver, scan) > 0.95


def test_what_the_image_before_told_is_forgotten_with_it(live):
    live.step(0.0)
    live.configure(live.settings.replace(defocus_m=2e-6))
    live.step(0.0)
    frames = live.frames
    unused = np.flatnonzero(frames.uses[: len(frames)] == 0)
    assert len(unused)
    assert not frames.light_sums[unused].any()


def test_a_checkpoint_knows_what_a_pass_that_was_broken_off_told(scan, backend, tmp_path):
    solver = scan.solver(backend)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    solver.step(0.0)
    solver.configure(solver.settings.replace(passes_final=9))
    solver.save(tmp_path / "c")
    other = scan.solver(backend, passes_final=9)
    other.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    other.step(0.0)
    other.load(tmp_path / "c")
    assert other.picture().r_factor == solver.picture().r_factor > 0.05


def test_quality_is_told_when_it_is_asked_for(live):
    assert np.isnan(live.quality().r_held_out)
    live.configure(live.settings.replace(held_out=0.1, quality_share=1.0))
    live.finish()
    work(live)
    quality = live.quality()
    assert 0 < quality.r_held_out < 1
    assert quality.half_bit_m > 0
    live.configure(live.settings.replace(held_out=0.0))
    assert np.isnan(live.quality().r_held_out)


def test_positions_are_refined_when_it_is_asked_for(live):
    live.configure(live.settings.replace(refine_positions="frames", refine_start=1))
    live.finish()
    work(live)
    assert live.refinement.places.rounds > 0


def test_a_finished_solver_has_work_again(live):
    live.finish()
    work(live)
    assert live.finished
    live.configure(live.settings.replace(algorithm="wasp:3"))
    assert not live.finished
    work(live)
    assert live.passes_done == 3


def test_an_unknown_engine_changes_nothing(live):
    before = live.settings
    with pytest.raises(SettingsError, match=r"solver.algorithm = 'magic'"):
        live.configure(live.settings.replace(algorithm="magic"))
    assert live.settings is before
    live.finish()
    work(live)
    assert live.finished


def test_before_there_are_frames(scan, backend):
    solver = scan.solver(backend)
    solver.configure(solver.settings.replace(modes=2))
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    work(solver, passes=1)
    assert len(solver.state.probe) == 2
