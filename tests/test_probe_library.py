"""Probes of earlier runs: lent to later runs of the same setup, kept in bounds, and never in anybody's way."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from damage import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsbluesky import probe_library
from nsbluesky.geometry import Geometry, Optic
from nsbluesky.probe_library import KeptProbe, ProbeLibrary, Setup
from nsbluesky.solver.checkpoint import write_checkpoint

GEOMETRY = Geometry(930.0, 0.1, 30e-6, Optic(diameter_m=240e-6, outer_zone_m=60e-9, central_stop_m=110e-6))
SETUP = Setup.of(GEOMETRY, 8, 9.6e-9)
NOON = 1.7e9


def kept(run="first", time=NOON, modes=2, seed=0):
    rng = np.random.default_rng(seed)
    probe = rng.normal(size=(modes, 8, 8)) + 1j * rng.normal(size=(modes, 8, 8))
    return KeptProbe(probe.astype(np.complex64), run, time, 0.1)


@pytest.fixture
def library(tmp_path):
    return ProbeLibrary(tmp_path / "probes")


def names(library):
    return sorted(path.name for path in library.directory.iterdir())


def test_a_probe_comes_back_as_it_was_to_any_process(library):
    library.keep(SETUP, kept())
    lent = ProbeLibrary(library.directory).lend(SETUP, NOON + 1)
    np.testing.assert_array_equal(lent.probe, kept().probe)
    assert (lent.run, lent.time, lent.r_factor) == ("first", NOON, 0.1)
    assert names(library) == ["first.probe"]


def test_nothing_is_there_at_first(library):
    assert library.lend(SETUP, NOON) is None
    assert not library.directory.exists()


@pytest.mark.parametrize(
    ("geometry", "frame_px", "pixel_m", "fits"),
    [
        (GEOMETRY.replace(optic__defocus_m=2e-5), 8, 9.6e-9, True),
        (GEOMETRY.replace(energy_eV=935.0), 8, 9.6e-9 * 930 / 935, True),
        (GEOMETRY.replace(orientation=3), 8, 9.6e-9, True),
        (GEOMETRY.replace(energy_eV=950.0), 8, 9.6e-9, False),
        (GEOMETRY, 16, 9.6e-9, False),
        (GEOMETRY, 8, 9.9e-9, False),
        (GEOMETRY.replace(optic__outer_zone_m=45e-9), 8, 9.6e-9, False),
        (GEOMETRY.replace(optic__central_stop_m=0.0), 8, 9.6e-9, False),
        (GEOMETRY.replace(optic__kind="mirror"), 8, 9.6e-9, False),
    ],
)
def test_a_setup_is_energy_optic_and_pixels(library, geometry, frame_px, pixel_m, fits):
    library.keep(SETUP, kept())
    assert (library.lend(Setup.of(geometry, frame_px, pixel_m), NOON + 1) is not None) == fits


def test_a_run_that_is_processed_again_gets_neither_its_own_probe_nor_a_later_one(library):
    library.keep(SETUP, kept())
    assert library.lend(SETUP, NOON) is None
    assert library.lend(SETUP, NOON - 60) is None
    assert library.keep(SETUP, kept("earlier", NOON - 60)) is None, "and does not replace it"
    assert names(library) == ["first.probe"]
    assert library.keep(SETUP, kept(modes=1)) is not None, "but its own"
    assert len(library.lend(SETUP, NOON + 1).probe) == 1


def test_one_probe_of_each_setup_the_newest(library):
    library.keep(SETUP, kept("a", NOON))
    other = replace(SETUP, energy_eV=700.0)
    library.keep(other, kept("b", NOON + 1))
    library.keep(SETUP, kept("c", NOON + 2))
    assert names(library) == ["b.probe", "c.probe"]
    assert library.lend(SETUP, NOON + 9).run == "c"
    assert library.lend(other, NOON + 9).run == "b"
    library.keep(replace(SETUP, energy_eV=706.0), kept("d", NOON + 4))
    library.keep(replace(SETUP, energy_eV=694.0), kept("e", NOON + 3))  # both are near 700 eV, but not each other
    assert names(library) == ["c.probe", "d.probe", "e.probe"]
    assert library.lend(other, NOON + 9).run == "d"


def test_old_setups_are_dropped(library, monkeypatch):
    monkeypatch.setattr(probe_library, "MOST_SETUPS", 3)
    for k in range(6):
        library.keep(replace(SETUP, energy_eV=700.0 + 20 * k), kept(f"run{k}", NOON + k))
    assert names(library) == ["run3.probe", "run4.probe", "run5.probe"]
    library.keep(replace(SETUP, energy_eV=800.0), kept("run6", NOON + 6))
    assert names(library) == ["run3.probe", "run4.probe", "run6.probe"], "in the place of its own setup's"


def test_a_uid_that_is_no_file_name_is_not_written(library):
    assert library.keep(SETUP, kept("../evil")) is None
    assert not library.directory.exists()


def test_a_probe_that_cannot_be_written_leaves_the_earlier_one(library, monkeypatch):
    library.keep(SETUP, kept())

    def full(*arguments, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(probe_library, "write_checkpoint", full)
    with pytest.raises(OSError, match="no space"):
        library.keep(SETUP, kept("second", NOON + 1))
    assert library.lend(SETUP, NOON + 2).run == "first"


PROBE = kept().probe
WRONG = {
    "another kind of file": ("reconstruction", {}, {}),
    "no setup": ("probe", None, {}),
    "another side": ("probe", {"frame_px": 16}, {}),
    "no frequency": ("probe", {"energy_eV": float("nan")}, {}),
    "text for a number": ("probe", {"pixel_m": "wide"}, {}),
    "an unknown optic": ("probe", {"optic": {"lens": 1}}, {}),
    "not finite": ("probe", {}, {"probe": np.where(PROBE.real < 1, PROBE, np.complex64(np.nan))}),
    "dark": ("probe", {}, {"probe": np.zeros_like(PROBE)}),
    "no modes": ("probe", {}, {"probe": PROBE[:0]}),
    "real numbers": ("probe", {}, {"probe": PROBE.real.copy()}),
    "no array": ("probe", {}, {"probe": "a probe"}),
    "no run": ("probe", {}, {"run": 7}),
    "no time": ("probe", {}, {"time": None}),
}


@pytest.mark.parametrize("case", WRONG)
def test_foreign_files_are_told_once_and_passed_over(library, caplog, case):
    library.keep(replace(SETUP, energy_eV=400.0), kept("good"))
    kind, setup, content = WRONG[case]
    told = {"energy_eV": 930.0, "optic": SETUP.optic.to_dict(), "frame_px": 8, "pixel_m": 9.6e-9}
    sections = {"kept": {"run": "x", "time": NOON, "r_factor": 0.1, "probe": PROBE} | content}
    if setup is not None:
        sections["setup"] = told | setup
    write_checkpoint(library.directory / "foreign.probe", sections, kind=kind)
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        assert library.lend(SETUP, NOON + 1) is None
    (record,) = caplog.records
    assert "foreign.probe is not used" in record.getMessage()
    assert library.lend(replace(SETUP, energy_eV=400.0), NOON + 1).run == "good"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_passed_over_or_does_no_harm(library, data):
    path = library.keep(SETUP, kept())
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    lent = library.lend(SETUP, NOON + 1)
    if lent is not None:
        np.testing.assert_array_equal(lent.probe, PROBE)
    path.unlink()
