"""A reconstruction that is interrupted anywhere and gone on with gives the same image, bit by bit."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
from damage import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsbluesky.solver.checkpoint import (
    VERSION,
    CheckpointError,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from nsbluesky.solver.engines import ENGINES

ALL_ON = {
    "refine_positions": "frames",
    "refine_flux": True,
    "refine_background": True,
    "probe_variation": 2,
    "object_most": 1.0,
    "probe_radius_m": 2e-7,
    "quality_share": 0.5,
    "held_out": 0.01,
    "batch": 12,
    "coarse_uses": 9,
    "passes_final": 10,
}


def started(scan, backend, **changes):
    solver = scan.solver(backend, **changes)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    solver.withdraw([7])
    solver.finish()
    return solver


def interrupted(scan, backend, path, batches, passes=0, **changes):
    """A solver that was saved so many batches after so many passes, and another one that goes on from there."""
    solver = started(scan, backend, **changes)
    while solver.passes_done < passes:
        solver.step(0.0)
    for _ in range(batches):
        solver.step(0.0)
    solver.save(path)
    other = started(scan, backend, **changes)
    other.load(path)
    return solver, other


def same_end(first, second):
    for solver in (first, second):
        while not solver.finished:
            solver.step(1.0)
    a, b = first.picture(), second.picture()
    np.testing.assert_array_equal(a.object, b.object)
    np.testing.assert_array_equal(a.probe, b.probe)
    assert first.r_factors == second.r_factors
    np.testing.assert_array_equal(first.positions()[1], second.positions()[1])
    assert first.state.background == second.state.background
    np.testing.assert_equal(dataclasses.asdict(first.quality()), dataclasses.asdict(second.quality()))


@pytest.mark.parametrize("algorithm", sorted(ENGINES))
def test_every_engine_goes_on_bit_by_bit(scan, backend, tmp_path, algorithm):
    changes = {"algorithm": f"{algorithm}:4,wasp:2", "coarse_uses": 0, "batch_final": 64, "quality_share": 0.3}
    first, second = interrupted(scan, backend, tmp_path / "c", 1, passes=1, **changes)
    assert second.passes_done == 2  # of four, the last of which is without momentum
    same_end(first, second)


@pytest.mark.parametrize("batches", [12, pytest.param(33, marks=pytest.mark.nightly), 80])
def test_refinement_and_half_sets_go_on_bit_by_bit(scan, backend, tmp_path, batches):
    first, second = interrupted(scan, backend, tmp_path / "c", batches, **ALL_ON)
    assert second.is_coarse == (batches == 12)
    same_end(first, second)
    assert second.refinement.places.rounds > 0 and second.quality().frc is not None
    np.testing.assert_array_equal(first.state.variation, second.state.variation)


def test_an_image_that_was_about_to_settle_ends_with_the_same_pass(scan, backend, tmp_path):
    first, second = interrupted(scan, backend, tmp_path / "c", 1, passes=12, coarse_uses=0, most_modes=2)
    same_end(first, second)
    assert first.passes_done > 12


def test_a_sweep_that_was_interrupted_is_made_again(scan, backend, tmp_path):
    """A checkpoint written while the sweep runs beside the picture."""
    solver = scan.solver(backend, sweep_frames=40, sweep_candidates=5)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    for _ in range(6):
        solver.step(0.0)
    assert solver.sweep is None and solver.state is not None
    solver.save(tmp_path / "c")
    other = scan.solver(backend, sweep_frames=40, sweep_candidates=5)
    other.load(tmp_path / "c")
    other.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    other.finish()
    while not other.finished:
        other.step(1.0)
    assert other.sweep is not None and other.sweep.accepted


def test_frames_that_come_after_the_checkpoint_are_known(scan, backend, tmp_path):
    """As after a crash of the live processing: its documents come once more, in another order, and then new ones."""
    half = len(scan.frames) // 2
    solver = scan.solver(backend, refine_positions="global", passes_final=2)
    solver.add_frames(scan.seq_nums[:half], scan.frames[:half], scan.translations_m[:half])
    for _ in range(100):
        solver.step(0.0)
    solver.save(tmp_path / "c")
    other = scan.solver(backend, refine_positions="global", passes_final=2)
    other.load(tmp_path / "c")
    assert other.num_frames == 0 and not other.has_work
    order = np.random.default_rng(0).permutation(half)
    frames = scan.frames.copy()
    frames[order[3]] *= 2  # cleaned anew with another result: a new frame
    other.add_frames(scan.seq_nums[order], frames[order], scan.translations_m[order])
    uses = other.frames.uses[: len(other.frames)]
    assert other.num_unused == 1 and np.median(uses) > 10
    assert other.picture().num_frames == half - 1  # at once
    other.add_frames(scan.seq_nums[half:], scan.frames[half:], scan.translations_m[half:])
    assert other.num_unused == 1 + len(scan.frames) - half
    other.finish()
    while not other.finished:
        other.step(1.0)
    assert other.picture().num_frames == len(scan.frames)


def test_frames_of_the_checkpoint_get_no_weight_before_they_come(scan, backend, tmp_path):
    solver = started(scan, backend)
    solver.step(0.0)
    solver.save(tmp_path / "checkpoint")
    other = scan.solver(backend)
    other.load(tmp_path / "checkpoint")
    other.set_weight(scan.seq_nums, np.ones(len(scan.frames)))
    assert other.num_frames == 0 and not other.has_work
    other.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    assert other.num_frames == len(scan.frames)


@pytest.mark.parametrize("come_after", [False, True])
def test_frames_that_were_left_out_are_listed_again(scan, backend, tmp_path, come_after):
    places_m = scan.translations_m.copy()
    places_m[60] = scan.translations_m[0]
    solver, other = (scan.solver(backend, defocus_m=scan.defocus_m) for _ in range(2))
    solver.add_frames(scan.seq_nums, scan.frames, places_m)
    solver.finish()
    while not solver.finished:
        solver.step(1.0)
    assert list(solver.rejected) == [61]
    solver.save(tmp_path / "checkpoint")
    if not come_after:
        other.add_frames(scan.seq_nums, scan.frames, places_m)
    other.load(tmp_path / "checkpoint")
    if come_after:
        other.add_frames(scan.seq_nums, scan.frames, places_m)
    assert list(other.rejected) == [61] and "does not fit the others" in other.rejected[61]
    assert other.num_frames == solver.num_frames


def test_what_does_not_belong_together_is_refused(scan, backend, tmp_path):
    path = tmp_path / "c"
    interrupted(scan, backend, path, 20)

    def refuses(message, solver):
        with pytest.raises(CheckpointError, match=message):
            solver.load(path)

    refuses("settings.modes is 1 there and 2 here", started(scan, backend, modes=2))
    other = started(scan, backend)
    other.geometry = other.geometry.replace(energy_eV=900.0)
    refuses("geometry.energy_eV is 1000.0 there", other)
    other = scan.solver(backend)
    other.add_frames(scan.seq_nums[1:], scan.frames[1:], scan.translations_m[1:])
    refuses("other frames", other)
    other = scan.solver(backend)
    other.add_frames(scan.seq_nums, scan.frames[::-1], scan.translations_m)
    refuses("other frames", other)
    longer = started(scan, backend, passes_final=13)  # more passes may be asked for
    longer.load(path)
    assert longer.passes_wanted == 13

    found = read_checkpoint(path)
    found["state"]["object"][3, 3] = np.nan
    write_checkpoint(path, found)
    refuses("not finite", started(scan, backend))
    found["state"]["object"][3, 3] = 1
    del found["queue"]
    write_checkpoint(path, found)
    refuses("damaged", started(scan, backend))


def test_there_is_nothing_to_save_at_first(scan, backend, tmp_path):
    with pytest.raises(RuntimeError, match="nothing to save yet"):
        scan.solver(backend).save(tmp_path / "c")
    with pytest.raises(CheckpointError, match="is not there"):
        scan.solver(backend).load(tmp_path / "c")


SECTIONS = {
    "a": {"array": np.arange(6.0).reshape(2, 3), "nothing": None, "lists": [1, [2.5, float("inf")]]},
    "b": {"empty": np.zeros((0, 3), np.complex64), "big": 2**100},
}


def as_text(sections):
    """What sections hold, arrays with shape and dtype, whatever the order of names."""
    plain = {
        key: {
            name: [str(v.dtype), v.shape, v.tolist()] if isinstance(v, np.ndarray) else v for name, v in part.items()
        }
        for key, part in sections.items()
    }
    return json.dumps(plain, sort_keys=True)


def test_values_come_back_as_they_were(tmp_path):
    write_checkpoint(tmp_path / "c", SECTIONS)
    assert as_text(read_checkpoint(tmp_path / "c")) == as_text(SECTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_two_can_write_the_same_checkpoint(tmp_path, monkeypatch):
    """The one is on its way to the disk when the other begins; what was begun is gone where writing fails."""
    path, fsync = tmp_path / "c", os.fsync

    def second(file):
        monkeypatch.setattr(os, "fsync", fsync)
        write_checkpoint(path, {"a": {"of": "the second"}})
        fsync(file)

    monkeypatch.setattr(os, "fsync", second)
    write_checkpoint(path, SECTIONS)
    assert as_text(read_checkpoint(path)) == as_text(SECTIONS)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        write_checkpoint(path, {"a": {"evil": np.array([{}], object)}})
    assert as_text(read_checkpoint(path)) == as_text(SECTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_foreign_files_and_other_versions_are_named(tmp_path):
    path = tmp_path / "c"
    foreign = [b"", b"no file of this kind", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False"]
    for content in foreign:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is no checkpoint of a reconstruction"):
            read_checkpoint(path)
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        read_checkpoint(path)
    with path.open("wb") as file:
        np.savez(file, data=np.ones(3))
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        read_checkpoint(path)
    told = {"format": "nsbluesky reconstruction", "version": 99}
    with path.open("wb") as file:
        np.savez(file, values=np.frombuffer(json.dumps(told | {"sections": {}}).encode(), np.uint8))
    with pytest.raises(CheckpointError, match=f"another version of nsbluesky \\(format 99, expected {VERSION}\\)"):
        read_checkpoint(path)


def test_nothing_is_ever_unpickled(tmp_path):
    told = {"format": "nsbluesky reconstruction", "version": VERSION, "sections": {"a": {}}, "arrays": ["a/evil"]}
    text = np.frombuffer(json.dumps(told).encode(), np.uint8)
    with (tmp_path / "c").open("wb") as file:
        np.savez(file, allow_pickle=True, **{"values": text, "a/evil": np.array([{}], object)})
    with pytest.raises(CheckpointError, match="allow_pickle=False"):
        read_checkpoint(tmp_path / "c")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        write_checkpoint(tmp_path / "d", {"a": {"evil": np.array([{}], object)}})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_an_error_or_does_no_harm(tmp_path, data):
    path = tmp_path / "c"
    write_checkpoint(path, SECTIONS)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    try:
        found = read_checkpoint(path)
    except CheckpointError:
        return
    assert as_text(found) == as_text(SECTIONS)


def test_what_cannot_be_written_or_removed_is_told_by_its_own_name(tmp_path, caplog):
    """Not by that of a part, which is another one each time: the same warning would come again and again."""
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "c"
    with pytest.raises(NotADirectoryError) as told:
        write_checkpoint(path, {"solver": {"passes": 3}})
    assert told.value.filename == str(path)
    remove_checkpoint(path)
    assert f"{path} cannot be removed: Not a directory" in caplog.text
