"""Every command on small inputs: what it writes, and what it says where it cannot."""

from __future__ import annotations

import bz2
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.fft
from bluesky import RunEngine
from PIL import Image
from recorded_run import TIMEOUT_S, RecordedRun
from twin_beamline import QUICK_SOLVER, RIM_PX, make_twin_beamline

from nsbluesky import backend, disk_space
from nsbluesky.callbacks import frame_source
from nsbluesky.callbacks.derived_run import DerivedRun
from nsbluesky.catalog import Catalog
from nsbluesky.cli import main
from nsbluesky.commands import demo, ioc, only_one_writes, status
from nsbluesky.cxi import CxiFile, read_cxi, validate
from nsbluesky.cxi.layout import (
    DATA,
    DETECTOR,
    FRAME_FLAGS,
    FRAME_WEIGHTS,
    PROPAGATION,
    SEQ_NUM,
    SOURCE,
    SOURCE_DISTANCE,
    TRANSLATION,
)
from nsbluesky.devices.detector import DATASET
from nsbluesky.document_log import DocumentLog, read_documents
from nsbluesky.plans import ptycho_fly_scan, ptycho_scan
from nsbluesky.replay import NO_END, replay
from nsbluesky.settings import PipelineSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import from_picture, gold_balls
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.quality import contrast_correlation
from nsbluesky.viewer.file_state import fit_of_frame, reconstruction_of

MASK = f"{DETECTOR}/mask"
QUICK = [f"--set={name}={value}" for name, value in QUICK_SOLVER.items() if name != "passes_final"]
ONE_PASS = ["--passes", "1", *QUICK]


class Commands:
    """Runs commands as a shell does, and looks at both of its streams."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def run(self, *arguments: str | Path) -> dict[str, Any]:
        """Run a command that must work, and return its summary."""
        self._capsys.readouterr()
        code = main([str(a) for a in arguments] + ["--json"])
        out, err = self._capsys.readouterr()
        assert (code, err) == (0, "")
        assert out.count("\n") == 1
        summary = json.loads(out)
        assert isinstance(summary, dict)
        return summary

    def fail(self, *arguments: str | Path) -> str:
        """Run a command that must fail, and return the one line that it says."""
        self._capsys.readouterr()
        code = main([str(a) for a in arguments])
        out, err = self._capsys.readouterr()
        assert code == 1
        assert out == ""
        assert err.count("\n") == 1, err
        assert err.startswith(f"nsbluesky {arguments[0]}: ")
        return err.strip()


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def clean(folder: Path) -> Path:
    assert main(["simulate", str(folder / "clean.cxi"), "--shape", "6x6", "--step-um", "0.06"]) == 0
    return folder / "clean.cxi"


@pytest.fixture(scope="module")
def raw(folder: Path) -> Path:
    arguments = ["--raw", "--shape", "2x3", "--step-um", "0.06", "--darks", "5"]
    assert main(["simulate", str(folder / "raw.cxi"), *arguments]) == 0
    return folder / "raw.cxi"


@pytest.fixture(scope="module")
def reconstruction(clean: Path) -> Path:
    out = clean.with_name("reconstruction.cxi")
    assert main(["reconstruct", str(clean), str(out), "--passes", "2", *QUICK]) == 0
    return out


def assert_picture(path: Path) -> None:
    """A picture of something: many colours, none of them everywhere."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colours is not None
    counts = sorted(count for count, _ in colours)
    assert len(counts) > 50
    assert counts[-1] < 0.97 * sum(counts)


# ---- simulate


def test_simulate_does_not_begin_on_a_full_disk(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 would crash, and leave a part of the file."""
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: 0)
    out = tmp_path / "scan.cxi"
    assert f"{out}: no space left" in commands.fail("simulate", out, "--shape", "3x4")
    assert not list(tmp_path.iterdir())


def test_simulate(commands: Commands, tmp_path: Path) -> None:
    summary = commands.run("simulate", tmp_path / "new" / "scan.cxi", "--shape", "3x4", "--seed", "1")
    path, truth = tmp_path / "new" / "scan.cxi", tmp_path / "new" / "scan.truth.h5"
    assert (summary["cxi"], summary["truth"], summary["frames"]) == (str(path), str(truth), 12)
    assert validate(path) == []
    sample = gold_balls()
    with read_cxi(path) as cxi:
        assert cxi.frames is not None and cxi.frames.shape == (12, sample.frame_px, sample.frame_px)
        assert cxi.energy_eV == pytest.approx(sample.energy_eV)
        expected = FrameSimulator(sample, layout="none", seed=1).expected_photons(*cxi.translation_m[5, :2])
        deviation = (cxi.frames[5] - expected) / np.sqrt(np.maximum(expected, 1))
        assert np.abs(deviation[expected > 5].mean()) < 0.1
        width_m = np.ptp(cxi.translation_m[:, 0])
    assert width_m == pytest.approx(summary["step_um"] * 3e-6, rel=0.3)
    with h5py.File(truth) as file:
        np.testing.assert_array_equal(file["object"], sample.object)


def test_simulate_is_the_same_for_the_same_seed(commands: Commands, tmp_path: Path) -> None:
    frames = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        commands.run("simulate", tmp_path / f"{name}.cxi", "--shape", "1x2", "--seed", seed)
        with read_cxi(tmp_path / f"{name}.cxi") as cxi:
            assert cxi.frames is not None
            frames.append(cxi.frames[:])
    np.testing.assert_array_equal(frames[0], frames[1])
    assert (frames[0] != frames[2]).any()


def test_simulate_raw_frames(raw: Path) -> None:
    with read_cxi(raw) as cxi:
        assert cxi.frames is None
        assert cxi.raw_data is not None and cxi.raw_data.shape == (6, 1040, 1152)
        assert cxi.dark_data is not None and len(cxi.dark_data) == 5
        assert cxi.raw_data[0].sum() > cxi.dark_data[0].sum()


def test_simulate_any_picture(commands: Commands, tmp_path: Path) -> None:
    rows, columns = np.mgrid[:60, :90]
    picture = tmp_path / "stripes.png"
    Image.fromarray(np.where((columns // 9 + rows // 20) % 2, 230, 20).astype(np.uint8)).save(picture)
    commands.run("simulate", tmp_path / "scan.cxi", "--image", picture, "--shape", "2x2", "--pattern", "raster")
    with h5py.File(tmp_path / "scan.truth.h5") as file:
        truth = file["object"][()]
    np.testing.assert_array_equal(truth, from_picture(picture).object)
    assert truth.shape[1] / truth.shape[0] == pytest.approx(1.5, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step-um", "0"], "step_um"),
        (["--step-um", "nan"], "step_um"),
        (["--step-um", "1e9"], "the width of the sample; if that is in nm, write 1e+06"),
        (["--step-um", "6e-8"], "--step-um 6e-08: expected µm, at least"),
        (["--raw", "--darks", "99999999"], "--darks 99999999: expected at most 10000"),
        (["--image", "no-such.png"], "no-such.png: No such file"),
        (["--image", __file__], "expected a picture, as PNG"),
        (["--near-field", "--raw"], "--near-field has no raw FCCD frames"),
    ],
)
def test_simulate_says_what_is_wrong(commands: Commands, tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in commands.fail("simulate", tmp_path / "scan.cxi", *arguments)
    assert not (tmp_path / "scan.cxi").exists()


@pytest.mark.parametrize("arguments", [[], ["--raw", "--darks", "1"]], ids=["clean", "raw"])
def test_an_interrupted_simulation_leaves_what_was_there(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {"scan.cxi": b"an earlier scan", "scan.truth.h5": b"its truth"}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    make = FrameSimulator.exposure

    def interrupted(*given: Any, index: int, **more: Any) -> Any:
        if index == 3:
            raise KeyboardInterrupt
        return make(*given, index=index, **more)

    monkeypatch.setattr(FrameSimulator, "exposure", interrupted)
    assert main(["simulate", str(tmp_path / "scan.cxi"), "--shape", "2x3", *arguments]) == 130
    assert capsys.readouterr().out == ""
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---- raw2cxi


def test_raw2cxi(commands: Commands, raw: Path, tmp_path: Path) -> None:
    summary = commands.run("raw2cxi", raw, tmp_path / "clean.cxi")
    assert (summary["frames"], summary["darks"]) == (6, 5)
    assert validate(tmp_path / "clean.cxi") == []
    simulator = FrameSimulator(gold_balls())
    assert summary["center_row_px"] == pytest.approx(simulator.center_px[0], abs=2)
    assert summary["center_column_px"] == pytest.approx(simulator.center_px[1], abs=2)
    assert set(simulator.truth()["bad_adcs"]) <= set(summary["bad_adcs"])
    with read_cxi(raw) as before, read_cxi(tmp_path / "clean.cxi") as after:
        np.testing.assert_array_equal(after.translation_m, before.translation_m)
        assert after.frames is not None
        photons = (after.frames[:] * after.good).sum(axis=(1, 2))
        expected = [
            (simulator.expected_clean(x, y) * after.good).sum() for x, y in before.translation_m[:, :2].tolist()
        ]
        np.testing.assert_allclose(photons, expected, rtol=0.05)
        assert after.pixel_size_m[0] == pytest.approx(8 * before.pixel_size_m[0])
        np.testing.assert_allclose(after.illumination_intensities, after.frames[:].mean(axis=0), rtol=1e-5)


def test_raw2cxi_with_another_binning(commands: Commands, raw: Path, tmp_path: Path) -> None:
    summary = commands.run("raw2cxi", raw, tmp_path / "c.cxi", "--set", "cleaning.frame_px=208")
    assert summary["pixel_size_um"] == pytest.approx(120)
    with read_cxi(tmp_path / "c.cxi") as cxi:
        assert cxi.frames is not None and cxi.frames.shape[1:] == (208, 208)


def test_raw2cxi_refuses_clean_files_and_its_own_input(commands: Commands, clean: Path, raw: Path) -> None:
    assert "no raw_data" in commands.fail("raw2cxi", clean, clean.with_name("new.cxi"))
    before = raw.read_bytes()
    assert "reads" in commands.fail("raw2cxi", raw, raw)
    assert raw.read_bytes() == before


# ---- reconstruct


def test_reconstruct(commands: Commands, clean: Path, tmp_path: Path) -> None:
    out, png = tmp_path / "new" / "out.cxi", tmp_path / "new" / "object.png"
    summary = commands.run("reconstruct", clean, out, "--passes", "3", "--png", png, *QUICK, "--set", "seed=1")
    assert (summary["frames_used"], summary["frames_rejected"], summary["pixels_left_out"]) == (36, 0, 0)
    assert 0 < summary["r_factor"] < 0.3
    assert summary["object_pixel_nm"] == pytest.approx(gold_balls().pixel_m * 1e9, rel=1e-3)
    assert validate(out) == []
    with read_cxi(clean) as before, read_cxi(out) as after:
        assert before.frames is not None and after.frames is not None
        np.testing.assert_array_equal(after.frames[:], before.frames[:])
        np.testing.assert_array_equal(after.translation_m, before.translation_m)
        (image,) = after.images
    assert image.errors[-1] == pytest.approx(summary["r_factor"])
    assert len(image.errors) == summary["passes"] == 3
    assert image.parameters["seed"] == 1 and image.parameters["sweep_candidates"] == 3
    assert image.probe is not None and image.probe.shape[0] == 2
    with h5py.File(clean.with_suffix(".truth.h5")) as file:
        truth = file["object"][()]
    measured = np.where(image.mask == 0, image.object, np.nan)
    blank = np.where(image.mask == 0, 1 + 0j, np.nan)
    assert contrast_correlation(measured, truth, RIM_PX) > 0.5 > contrast_correlation(blank, truth, RIM_PX)
    assert_picture(png)


@pytest.mark.parametrize("where", [pytest.param("between", marks=pytest.mark.nightly), "writing"])
def test_reconstruct_goes_on_after_it_was_killed(
    commands: Commands, clean: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SIGKILL, a pass after a checkpoint or while the next one is written.

    With SciPy's transforms, which round alike in all processes: so small a scan makes 1e-3 of 1e-7.
    """
    monkeypatch.setattr(backend, "_host_transforms", lambda: scipy.fft)
    whole, out = tmp_path / "whole.cxi", tmp_path / "out.cxi"
    checkpoint = tmp_path / "out.cxi.checkpoint"
    options = ["--passes", "6", "--algorithm", "wasp:4,cg", "--checkpoint-s", "0", *QUICK]
    options += ["--set", "refine_flux=true", "--set", "coarse_uses=1"]
    uninterrupted = commands.run("reconstruct", clean, whole, *options)
    assert uninterrupted["passes_before"] == 0 and not list(tmp_path.glob("*.checkpoint"))
    child = subprocess.run(
        [
            sys.executable,
            Path(__file__).parent / "deadly_reconstruction.py",
            where,
            "reconstruct",
            clean,
            out,
            *options,
        ],
        check=False,
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert checkpoint.exists() and not out.exists()
    expected = f"{checkpoint} is not of this reconstruction: settings.modes is 2 there and 1 here; begin anew"
    assert expected in commands.fail("reconstruct", clean, out, *options, "--modes", "1", "--resume")
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-1000])
    assert "damaged" in commands.fail("reconstruct", clean, out, *options, "--resume")
    checkpoint.write_bytes(content)
    resumed = commands.run("reconstruct", clean, out, *options, "--resume")
    assert resumed["passes_before"] == 4
    assert resumed["r_factor"] == pytest.approx(uninterrupted["r_factor"], rel=1e-6)
    assert not list(tmp_path.glob("*.checkpoint*"))
    with read_cxi(whole) as first, read_cxi(out) as second:
        (before,), (after,) = first.images, second.images
    assert len(after.errors) == 10
    np.testing.assert_allclose(after.errors, before.errors, rtol=1e-4)
    for name in ("object", "probe"):
        image, expected = getattr(after, name), getattr(before, name)
        np.testing.assert_allclose(image, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate", "s.cxi", "--seed", "9" * 30], "expected a whole number from 0 on, and below 2⁶³"),
        (["reconstruct", "c.cxi", "o.cxi", "--source-distance-m", "nan"], "'nan': expected a finite number"),
        (["reconstruct", "c.cxi", "o.cxi", "--source-distance-m", "near"], "'near': expected a finite number"),
        (["reconstruct", "c.cxi", "o.cxi", "--checkpoint-s", "inf"], "'inf': expected a finite number"),
        (["reconstruct", "c.cxi", "o.cxi", "--workers", "100000"], "'100000': expected at most"),
        (["raw2cxi", "r.cxi", "c.cxi", "--processes", "--workers", "100000"], "'100000': expected at most"),
        (["serve", "--workers", "100000"], "'100000': expected at most"),
        (["camera", "--rate-hz", "inf"], "'inf': expected a finite number"),
        (["camera", "--port", "99999"], "'99999': expected a port, 0 to 65535"),
        (["ioc", "--ports", "1", "99999"], "'99999': expected a port, 0 to 65535"),
    ],
)
def test_numbers_that_no_option_can_take_are_refused_before_anything_is_done(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.count("\n") == 1 and message in err
    assert not list(tmp_path.iterdir())


def test_demo_tells_that_a_rate_is_too_slow(commands: Commands, tmp_path: Path) -> None:
    told = commands.fail("demo", "--out", tmp_path / "out", "--rate", "1e-9")
    assert told == "nsbluesky demo: --rate 1e-09: expected at least 0.01 frames a second"
    assert not list(tmp_path.iterdir())


def test_reconstruct_with_nothing_to_resume_begins_anew(commands: Commands, clean: Path, tmp_path: Path) -> None:
    summary = commands.run("reconstruct", clean, tmp_path / "o.cxi", "--passes", "1", "--resume", *QUICK)
    assert (summary["passes"], summary["passes_before"]) == (1, 0)
    assert "--checkpoint-s" in commands.fail("reconstruct", clean, tmp_path / "o.cxi", "--checkpoint-s", "-1")


def test_reconstruct_leaves_frames_of_weight_0_out(commands: Commands, clean: Path, tmp_path: Path) -> None:
    weighted, out = tmp_path / "weighted.cxi", tmp_path / "out.cxi"
    shutil.copy(clean, weighted)
    with h5py.File(weighted, "r+") as file:
        file[FRAME_WEIGHTS][[3, 7]] = 0
        file[FRAME_FLAGS][[3, 7]] = 4
        file[SEQ_NUM][:] += 100
    summary = commands.run("reconstruct", weighted, out, "--passes", "1", *QUICK)
    assert (summary["frames_used"], summary["frames_left_out"]) == (34, 2)
    with read_cxi(weighted) as before, read_cxi(out) as after:
        for name in ("frame_weights", "frame_flags", "seq_nums"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize("looks", [0, 1, 2, 3])
def test_reconstruct_tells_which_file_the_disk_has_no_room_for(
    commands: Commands, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """HDF5 would crash; there is room as long as it has been looked for so many times."""
    out = tmp_path / "out.cxi"
    free = iter([10 * disk_space.MARGIN_BYTES] * looks)
    with monkeypatch.context() as full:
        full.setattr(disk_space, "free_bytes", lambda folder: next(free, 0))
        told = commands.fail("reconstruct", clean, out, "--passes", "1", *QUICK)
    assert f"{out}: no space left: 0 MB are free in {tmp_path}, 64 MB stay free: make space" in told
    assert not list(tmp_path.iterdir()) and next(free, None) is None


FULL_DISK = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_reconstruct_goes_on_where_a_checkpoint_cannot_be_written(
    commands: Commands, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It warns once, tries again, and tells at the end."""
    tries = 0

    def full(descriptor: int) -> None:
        nonlocal tries
        tries += 1
        if tries != 2:
            raise FULL_DISK

    out = tmp_path / "out.cxi"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning) as told:
        summary = commands.run("reconstruct", clean, out, "--passes", "5", "--checkpoint-s", "0", *QUICK)
    first, last = (str(warning.message) for warning in told)
    assert first.startswith(f"{out}.checkpoint cannot be written (No space left on device): ")
    assert "goes on" in first and "make space" in first
    assert last == f"4 checkpoints could not be written to {out}.checkpoint; the last that could is of pass 2"
    assert (summary["checkpoints_missed"], tries) == (4, 5)
    assert list(tmp_path.iterdir()) == [out] and validate(out) == []


def test_reconstruct_makes_the_folder_anew_that_was_removed_meanwhile(
    commands: Commands, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results" / "out.cxi"
    save = IncrementalSolver.save

    def after_all_was_removed(self: IncrementalSolver, path: Path) -> None:
        shutil.rmtree(out.parent, ignore_errors=True)
        save(self, path)

    monkeypatch.setattr(IncrementalSolver, "save", after_all_was_removed)
    with pytest.warns(UserWarning) as told:
        commands.run("reconstruct", clean, out, "--passes", "2", "--checkpoint-s", "0", *QUICK)
    first, last = (str(warning.message) for warning in told)
    assert f"{out}.checkpoint cannot be written (No such file or directory)" in first
    assert last == f"2 checkpoints could not be written to {out}.checkpoint; none could"
    assert validate(out) == []


def test_reconstruct_that_cannot_write_its_image_tells_what_to_go_on_from(
    commands: Commands, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.cxi"
    options = ["--passes", "2", "--checkpoint-s", "0", *QUICK]
    with monkeypatch.context() as full:
        free = iter([10 * disk_space.MARGIN_BYTES])
        full.setattr(disk_space, "free_bytes", lambda folder: next(free, 0))
        told = commands.fail("reconstruct", clean, out, *options)
    assert f"{out} cannot be written (no space left: 0 MB are free" in told
    assert told.endswith(f"go on from {out}.checkpoint by --resume")
    assert commands.run("reconstruct", clean, out, *options, "--resume")["passes_before"] > 0
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_reconstruct_tells_which_picture_cannot_be_written(commands: Commands, clean: Path, tmp_path: Path) -> None:
    out, png = tmp_path / "out.cxi", tmp_path / "object.png"
    png.symlink_to("/dev/full")
    told = commands.fail("reconstruct", clean, out, "--passes", "1", "--png", png, *QUICK)
    assert told == f"nsbluesky reconstruct: {png}: No space left on device"
    assert validate(out) == []


def test_reconstruct_from_the_probe_in_the_file(commands: Commands, reconstruction: Path, tmp_path: Path) -> None:
    summary = commands.run(
        "reconstruct", reconstruction, tmp_path / "o.cxi", "--passes", "1", "--modes", "1", "--use-probe"
    )
    assert summary["defocus_um"] is None and summary["passes"] == 1
    with read_cxi(tmp_path / "o.cxi") as cxi:
        probe = cxi.images[0].probe
        assert probe is not None and probe.shape[0] == 1


def test_reconstruct_from_all_modes_of_the_probe_in_the_file(
    commands: Commands, clean: Path, reconstruction: Path, tmp_path: Path
) -> None:
    """As other programs write them: one after the other in one array."""
    source = tmp_path / "modes.cxi"
    shutil.copyfile(clean, source)
    with read_cxi(reconstruction) as cxi, h5py.File(source, "a") as file:
        probe = cxi.images[0].probe
        assert probe is not None
        file[f"{SOURCE}/illumination"] = np.concatenate([0.3 * probe[:1, ::-1], probe[:1]])
    summary = commands.run(
        "reconstruct", source, tmp_path / "o.cxi", "--passes", "1", "--modes", "2", "--use-probe", *QUICK
    )
    assert summary["defocus_um"] is None and summary["r_factor"] < 0.5
    with read_cxi(tmp_path / "o.cxi") as cxi:
        found = cxi.images[0].probe
    assert found is not None and len(found) == 2
    overlap = np.abs(np.vdot(found[0], probe[0])) / np.linalg.norm(found[0]) / np.linalg.norm(probe[0])
    assert overlap > 0.9


def test_what_cannot_be_told_of_the_positions_is_no_number_in_the_summary(
    capsys: pytest.CaptureFixture[str], clean: Path, tmp_path: Path
) -> None:
    source = tmp_path / "dim.cxi"
    shutil.copyfile(clean, source)
    with h5py.File(source, "a") as file:
        file[DATA][...] *= 1e-12
    options = ("--set", "refine_positions=frames", "--passes", "20")
    assert main(["reconstruct", str(source), str(tmp_path / "o.cxi"), *options, *QUICK]) == 0
    told = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told["position errors nm"] == "-" and "nan" not in told.values()


@pytest.mark.parametrize("algorithm", ["raar", "epie"])
def test_reconstruct_by_another_algorithm(commands: Commands, clean: Path, tmp_path: Path, algorithm: str) -> None:
    out = tmp_path / "o.cxi"
    commands.run("reconstruct", clean, out, "--algorithm", algorithm, "--passes", "1", "--modes", "1", *QUICK)
    with read_cxi(out) as cxi:
        assert cxi.images[0].parameters["algorithm"] == algorithm


def test_reconstruct_says_what_is_wrong(commands: Commands, clean: Path, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.cxi"
    file = tmp_path / "file"
    file.touch()
    for arguments, message in (
        ([tmp_path / "none.cxi", out], "none.cxi: no such file"),
        ([file, out], str(file)),
        ([raw, out], "raw2cxi"),
        ([clean, out, "--use-probe"], "no illumination"),
        ([clean, out, "--set", "colour=3"], "colour"),
        ([clean, out, "--set", "solver.modes=3"], "solver"),
        ([clean, out, "--set", "batch=many"], "batch = 'many': expected a whole number"),
        ([clean, out, "--set", "alpha=much"], "alpha = 'much': expected a number"),
        ([clean, out, "--set", "leave_out_pixels=no"], "leave_out_pixels = 'no': expected true or false"),
        ([clean, out, "--also", clean], "expected another file, for the frames of this one are used already"),
        ([clean, out, "--also", raw, "--also", raw], f"--also {raw}: expected another file"),
        ([clean, out, "--set", "batch"], "KEY=VALUE"),
        ([clean, out, "--modes", "0"], "modes"),
        ([clean, out, "--passes", "0"], "passes"),
        ([clean, out, "--set", "passes_final=0"], "passes_final = 0: expected 1 or more"),
        ([clean, clean], "reads"),
        ([clean, tmp_path], "folder"),
        ([clean, file / "out.cxi"], str(file)),
        ([clean, out, "--png", file / "o.png"], str(file)),
        ([clean, out, "--png", out], "or writes"),
        ([clean, out, "--png", f"{out}.checkpoint"], "or writes"),
    ):
        assert message in commands.fail("reconstruct", *arguments)
    assert not out.exists()


def test_no_device_is_replaced_by_an_image(commands: Commands, clean: Path, tmp_path: Path) -> None:
    device = tmp_path / "null"
    os.mkfifo(device)
    assert "is a device or a pipe: expected a file" in commands.fail("reconstruct", clean, device)
    assert device.is_fifo()


def test_one_reconstruction_at_a_time_writes_a_file(commands: Commands, clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.cxi"
    with only_one_writes(out, "reconstruct"):
        told = commands.fail("reconstruct", clean, out, "--passes", "1", *QUICK)
        assert f"{out} is in use by process {os.getpid()} (nsbluesky reconstruct): wait for its end, or" in told
        commands.run("reconstruct", clean, tmp_path / "another.cxi", "--passes", "1", *QUICK)
    assert list(tmp_path.iterdir()) == [tmp_path / "another.cxi"]


@pytest.mark.parametrize(
    ("kind", "mark"), [("i4", -1), ("i8", -2), ("u4", 2**32 - 1), ("f4", 2**32), ("u8", 2**64 - 1)]
)
def test_gaps_of_a_photon_counter_are_masked(
    commands: Commands, clean: Path, tmp_path: Path, kind: str, mark: int
) -> None:
    """What is negative in some frames only, or as large, was measured."""
    source, out = tmp_path / "counter.cxi", tmp_path / "out.cxi"
    shutil.copyfile(clean, source)
    gaps = np.zeros((104, 104), bool)
    gaps[50:52], gaps[7, 8] = True, True
    with h5py.File(source, "a") as file:
        photons = file[DATA][()].astype(kind)
        del file[DATA]
        photons[:, gaps] = mark
        photons[::2, 20, 20], photons[5, 50, 50] = mark, mark
        file[DATA] = photons
    summary = commands.run("reconstruct", source, out, "--passes", "1", *QUICK)
    with read_cxi(out) as data:
        np.testing.assert_array_equal(data.good, ~gaps)
    assert summary["pixels_masked"] == gaps.sum() == 209


def test_a_mask_the_other_way_round_is_told(clean: Path, tmp_path: Path) -> None:
    source = tmp_path / "inverse.cxi"
    shutil.copyfile(clean, source)
    with h5py.File(source, "a") as file:
        mask = np.ones((104, 104), np.uint8)
        mask[30:80] = 0  # bad, by its writer
        del file[MASK]
        file[MASK] = mask
    with pytest.warns(UserWarning, match="leaves out 52 % of all pixels: in CXI 0 is good"):
        main(["reconstruct", str(source), str(tmp_path / "out.cxi"), "--passes", "1", *QUICK])


def test_frames_with_the_direct_beam_in_their_corners_are_told(clean: Path, tmp_path: Path) -> None:
    """As an FFT leaves them; their image takes eight times as long, is wrong, and R is low."""
    source = tmp_path / "unshifted.cxi"
    shutil.copyfile(clean, source)
    with h5py.File(source, "a") as file:
        photons = file[DATA][()]
        del file[DATA]
        file[DATA] = np.fft.ifftshift(photons, axes=(1, 2))
    with pytest.warns(UserWarning, match="of the light is in the four corners of the frames: expected"):
        main(["reconstruct", str(source), str(tmp_path / "out.cxi"), *ONE_PASS, "--set=sweep_frames=0"])


def test_a_second_scan_that_lies_too_far_away_is_told(clean: Path, tmp_path: Path) -> None:
    """Half of the frames would be missing in silence."""
    source = with_translations(clean, tmp_path, lambda t: t + np.where(np.arange(36)[:, None] < 17, 1.0, 0.0))
    with pytest.warns(UserWarning, match="17 of 36 frames are not in the image: 17 for no usable position; so is"):
        main(["reconstruct", str(source), str(tmp_path / "out.cxi"), *ONE_PASS])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda t: np.where(np.arange(36)[:, None] == 7, np.nan, t), "of 36 frames and 36 translations, 35 belong"),
        (lambda t: t[:30], "of 36 frames and 30 translations, 30 belong"),
        (lambda t: np.concatenate([t, t[:3]]), "of 36 frames and 39 translations, 36 belong"),
    ],
)
def test_frames_and_translations_that_are_not_as_many_are_told(
    clean: Path, tmp_path: Path, wrong: Callable[[Any], Any], told: str
) -> None:
    with pytest.warns(UserWarning, match=told):
        main(["reconstruct", str(with_translations(clean, tmp_path, wrong)), str(tmp_path / "out.cxi"), *ONE_PASS])


def test_frames_without_any_translation_are_told(commands: Commands, clean: Path, tmp_path: Path) -> None:
    source = with_translations(clean, tmp_path, lambda t: t * np.nan)
    assert "has 36 frames and 36 translations: expected a finite" in commands.fail(
        "reconstruct", source, tmp_path / "o"
    )


def with_translations(clean: Path, folder: Path, change: Callable[[Any], Any]) -> Path:
    source = folder / "changed.cxi"
    shutil.copyfile(clean, source)
    with h5py.File(source, "a") as file:
        translation_m = file[TRANSLATION][()]
        del file[TRANSLATION]
        file[TRANSLATION] = change(translation_m)
    return source


@pytest.mark.parametrize("value", [0, np.nan])
def test_a_probe_without_light_is_refused(commands: Commands, clean: Path, tmp_path: Path, value: float) -> None:
    source = tmp_path / "dark.cxi"
    shutil.copyfile(clean, source)
    with h5py.File(source, "a") as file:
        file[f"{SOURCE}/illumination"] = np.full((104, 104), value, np.complex64)
    assert "the probe is dark, or no number" in commands.fail("reconstruct", source, tmp_path / "o", "--use-probe")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_scan_in_micrometres_is_refused_and_an_earlier_output_stays(
    commands: Commands, clean: Path, tmp_path: Path, workers: str
) -> None:
    source, out = tmp_path / "um.cxi", tmp_path / "out.cxi"
    shutil.copyfile(clean, source)
    with h5py.File(source, "a") as file:
        file[TRANSLATION][...] *= 1e6
    out.write_bytes(b"an earlier image")
    told = commands.fail("reconstruct", source, out, "--workers", workers, *QUICK)
    assert "of the 36 frames can be used" in told
    assert "expected translations in metres; they look like micrometres" in told
    assert out.read_bytes() == b"an earlier image"


def test_an_image_that_is_no_number_is_not_written(
    commands: Commands, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("nsbluesky.commands.reconstruct")
    reconstruct = module.reconstruct

    def diverge(*given: Any, **how: Any) -> Any:
        return replace(reconstruct(*given, **how), r_factors=np.array([0.2, np.nan]))

    monkeypatch.setattr(module, "reconstruct", diverge)
    out = tmp_path / "out.cxi"
    out.write_text("an earlier image")
    assert "R is nan" in commands.fail("reconstruct", clean, out, "--passes", "1", *QUICK)
    assert out.read_text() == "an earlier image" and list(tmp_path.iterdir()) == [out]


# ---- quality


def test_quality_of_one(commands: Commands, reconstruction: Path) -> None:
    summary = commands.run("quality", reconstruction)
    assert summary.keys() == {"object_pixel_nm", "r_factor", "measured_part_of_the_picture"}
    assert 0 < summary["r_factor"] < 0.3 and 0.3 < summary["measured_part_of_the_picture"] <= 1


def test_quality_of_two(commands: Commands, reconstruction: Path, tmp_path: Path) -> None:
    summary = commands.run("quality", reconstruction, shutil.copy(reconstruction, tmp_path / "again.cxi"))
    assert summary["contrast_correlation"] == pytest.approx(1)
    assert summary["half_bit_resolution_nm"] == pytest.approx(summary["object_pixel_nm"])
    assert summary["r_factor_of_b"] == summary["r_factor"]


def test_the_pixel_of_an_image_without_its_size_is_that_of_the_frames(
    commands: Commands, capsys: pytest.CaptureFixture[str], reconstruction: Path, tmp_path: Path
) -> None:
    """As other programs write it; where the frames give none, nothing is told."""
    other = Path(shutil.copy(reconstruction, tmp_path / "other.cxi"))
    with h5py.File(other, "r+") as file:
        del file["entry_1/image_1/image_size"]
    pixel_nm = commands.run("quality", reconstruction)["object_pixel_nm"]
    assert commands.run("quality", other)["object_pixel_nm"] == pytest.approx(pixel_nm)
    compared = commands.run("quality", reconstruction, other)
    assert compared["half_bit_resolution_nm"] == pytest.approx(pixel_nm)
    with h5py.File(other, "r+") as file:
        detector = file["entry_1/instrument_1/detector_1"]
        for name, size_m in (("x_pixel_size", 3e-5), ("y_pixel_size", 4e-5)):
            del detector[name]
            detector[name] = size_m
    assert main(["quality", str(other)]) == 0
    assert re.search(r"^object pixel nm +-$", capsys.readouterr().out, re.MULTILINE)
    assert "the pixel of one of them is unknown" in commands.fail("quality", reconstruction, other)


def write_image(path: Path, image: np.ndarray, pixel_m: float) -> Path:
    side = 16
    with CxiFile.create(
        path, energy_eV=800.0, detector_distance_m=0.2, pixel_size_m=1e-4, frame_shape=(side, side)
    ) as cxi:
        cxi.append(np.ones((1, side, side), np.float32), np.zeros((1, 2)))
        cxi.write_image(image, np.ones((1, side, side), np.complex64), pixel_m, {}, np.array([0.2]))
    return path


def test_quality_of_pictures_that_have_nothing_in_common(
    commands: Commands, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Even then the summary is JSON, which knows no infinite resolution."""
    noise = (rng.normal(size=(2, 64, 64)) + 1j * rng.normal(size=(2, 64, 64))).astype(np.complex64)
    a, b = (write_image(tmp_path / f"{k}.cxi", image, 1e-8) for k, image in enumerate(noise))
    summary = commands.run("quality", a, b)
    assert summary["contrast_correlation"] < 0.5
    assert summary["half_bit_resolution_nm"] is None or summary["half_bit_resolution_nm"] > 20


def test_quality_says_what_is_wrong(commands: Commands, clean: Path, reconstruction: Path, tmp_path: Path) -> None:
    assert "no reconstruction" in commands.fail("quality", clean)
    assert "no reconstruction" in commands.fail("quality", reconstruction, clean)
    assert "no such file" in commands.fail("quality", tmp_path / "none.cxi")
    assert "no such file" in commands.fail("quality", reconstruction, tmp_path / "none.cxi")
    assert "from other frames" in commands.fail("quality", reconstruction, reconstruction)
    assert f"{tmp_path} is a folder: expected a file" in commands.fail("quality", tmp_path)
    other = write_image(tmp_path / "other.cxi", np.ones((32, 32), np.complex64), 5e-8)
    assert "expected the same" in commands.fail("quality", reconstruction, other)


# ---- near field


def test_a_scan_in_the_near_field(commands: Commands, tmp_path: Path) -> None:
    """From the simulator through files to the frame that the window models."""
    path, out = tmp_path / "near.cxi", tmp_path / "image.cxi"
    commands.run("simulate", path, "--near-field", "--shape", "5x5", "--step-um", "1.5")
    assert validate(path) == []
    with read_cxi(path) as cxi:
        geometry = cxi.geometry()
        assert geometry.is_near and geometry.source_distance_m == pytest.approx(0.008)
    commands.run("reconstruct", path, out, "--passes", "15", "--modes", "1")
    with read_cxi(out) as cxi:
        assert cxi.geometry() == geometry and cxi.frames is not None
        assert cxi.images[-1].pixel_m == pytest.approx(geometry.object_pixel_m(128))
        picture = reconstruction_of(cxi, cxi.images[-1])
        corrected_m = cxi.images[-1].translation_m
        fit = fit_of_frame(cxi, picture, 12, cxi.frames[12].astype(np.float32), corrected_m)
    assert fit is not None and fit.r_factor < 0.15


def test_the_near_field_can_be_told(commands: Commands, tmp_path: Path) -> None:
    """Files of other programs do not say it."""
    path, out = tmp_path / "near.cxi", tmp_path / "image.cxi"
    commands.run("simulate", path, "--near-field", "--shape", "1x3", "--step-um", "1.5")
    with h5py.File(path, "r+") as file:
        del file[PROPAGATION], file[SOURCE_DISTANCE]
    commands.run("reconstruct", path, out, "--passes", "1", "--source-distance-m", "0.008")
    with read_cxi(path) as given, read_cxi(out) as cxi:
        assert not given.geometry().is_near
        assert cxi.geometry() == given.geometry().replace(propagation="near", source_distance_m=0.008)
    with h5py.File(path, "r+") as file:
        file[PROPAGATION] = "sideways"
    assert "propagation = 'sideways'" in commands.fail("reconstruct", path, out)


def test_the_picture_of_a_reconstruction_is_png(commands: Commands, clean: Path, tmp_path: Path) -> None:
    """It is told before minutes of work."""
    assert "ends in .png" in commands.fail("reconstruct", clean, tmp_path / "out.cxi", "--png", tmp_path / "o.jpg")


# ---- serve


@pytest.mark.parametrize("option", ["--root", "--keys"])
def test_a_root_or_keys_that_are_not_there(commands: Commands, tmp_path: Path, option: str) -> None:
    missing = tmp_path / "missing"
    assert "no such folder" in commands.fail("serve", "--out", tmp_path / "results", option, missing)


# ---- view


@pytest.mark.parametrize("kind", ["clean", "raw", "reconstruction"])
def test_screenshot_of_any_file(
    commands: Commands, request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    summary = commands.run("view", request.getfixturevalue(kind), "--screenshot", tmp_path / "new" / "window.png")
    assert summary["picture"] == str(tmp_path / "new" / "window.png")
    assert_picture(tmp_path / "new" / "window.png")


def test_view_says_what_is_wrong(commands: Commands, clean: Path, tmp_path: Path) -> None:
    assert "no such file" in commands.fail("view", tmp_path / "none.cxi", "--screenshot", tmp_path / "w.png")
    assert "or writes" in commands.fail("view", clean, "--screenshot", clean)
    assert "ends in .png" in commands.fail("view", clean, "--screenshot", tmp_path / "w.foo")
    (tmp_path / "folder.png").mkdir()
    assert "folder" in commands.fail("view", clean, "--screenshot", tmp_path / "folder.png")
    for picture, message in (
        (tmp_path / "none.png", "No such file"),
        (Path(__file__), "expected a picture, as PNG"),
        (clean, "HDF5"),
    ):
        assert message in commands.fail("view", "--picture", picture, "--screenshot", tmp_path / "w.png")
    assert not (tmp_path / "w.png").exists()


# ---- import-star


def test_import_star(commands: Commands, tmp_path: Path, rng: np.random.Generator) -> None:
    frames = rng.poisson(5.0, (1, 4, 32, 32)).astype(np.float32)
    scan = rng.uniform(0, 20, (1, 4, 2)).astype(np.float32)
    arrays = io.BytesIO()
    np.savez(arrays, data=frames, scan=scan)
    source = tmp_path / "star.npz.bz2"
    source.write_bytes(bz2.compress(arrays.getvalue()))
    assert commands.run("import-star", source, tmp_path / "star.cxi")["frames"] == 4
    assert validate(tmp_path / "star.cxi") == []
    with read_cxi(tmp_path / "star.cxi") as cxi:
        assert cxi.frames is not None
        np.testing.assert_array_equal(np.fft.ifftshift(cxi.frames[:], axes=(1, 2)), frames[0])
        pixel_m = cxi.geometry().object_pixel_m(32)
        np.testing.assert_allclose(cxi.translation_m[:, 1::-1] / pixel_m, scan[0], rtol=1e-5)


def test_import_star_says_what_is_wrong(commands: Commands, clean: Path, tmp_path: Path) -> None:
    assert "npz.bz2" in commands.fail("import-star", clean, tmp_path / "star.cxi")
    assert "none.bz2" in commands.fail("import-star", tmp_path / "none.bz2", tmp_path / "star.cxi")


# ---- replay


@pytest.fixture
def recorded(RE: RunEngine, tmp_path: Path) -> tuple[str, Path, list[str]]:
    """A scan of 16 points: its uid, the log that has it, and the settings for it."""
    beamline = make_twin_beamline(tmp_path)
    RE.subscribe(DocumentLog(tmp_path / "log"))
    uid = RE(ptycho_fly_scan(*beamline.devices, **beamline.arguments((4, 4)), rate_hz=50.0)).run_start_uids[0]
    cleaning = beamline.simulator.cleaning_settings.to_dict()
    settings = [f"--set=cleaning.{name}={json.dumps(value)}" for name, value in cleaning.items()]
    settings += [f"--set=solver.{name}={value}" for name, value in QUICK_SOLVER.items()]
    return uid, tmp_path / "log", settings


def assert_replayed(summary: dict[str, Any]) -> None:
    assert summary["frames_used"] == 16
    assert 0 < summary["r_factor"] < 0.5
    assert validate(Path(summary["cxi"])) == []
    with read_cxi(summary["cxi"]) as cxi:
        assert cxi.seq_nums.tolist() == list(range(1, 17))
        assert len(cxi.images) == 1 and cxi.images[0].complete
    assert_picture(Path(summary["object_picture"]))


def test_replay_from_the_log(commands: Commands, recorded: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    uid, log, settings = recorded
    assert_replayed(commands.run("replay", uid[:8], "--log", log, "--out", tmp_path / "out", *settings))


def test_replay_tells_what_was_lost_and_what_it_warns_of(
    commands: Commands, recorded: tuple[str, Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the windows do: here of a run without darks, whose last frame is not in its file."""
    monkeypatch.setattr(frame_source, "WAIT_FOR_FILE_S", 0.0)
    uid, path, settings = recorded
    documents = list(read_documents(uid, path))
    (dark,) = (document["uid"] for name, document in documents if name == "descriptor" and document["name"] == "dark")
    log = DocumentLog(tmp_path / "without")
    for name, document in documents:
        if dark not in (document["uid"], document.get("descriptor")):
            log(name, document)
    for frames in tmp_path.glob("*.h5"):
        with h5py.File(frames, "r+") as file:
            if DATASET in file and len(file[DATASET]) == 16:
                file[DATASET].resize(15, axis=0)
    summary = commands.run("replay", uid, "--log", log.directory, "--out", tmp_path / "out", *settings)
    assert (summary["frames_used"], summary["frames_lost"], summary["frames_bad"]) == (15, [16], [])
    (warning,) = summary["warnings"]
    assert warning.startswith("no dark frames")


def test_each_replay_into_a_folder_has_its_picture(
    commands: Commands, recorded: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    """The picture of other settings must not take the place of the one to compare with."""
    uid, log, settings = recorded
    arguments = ["replay", uid, "--log", log, "--out", tmp_path / "out", *settings]
    first, second = (
        Path(commands.run(*arguments, *more)["object_picture"]) for more in ([], ["--set=solver.seed=1"])
    )
    assert [path.name for path in (first, second)] == [f"{uid[:8]}_clean.png", f"{uid[:8]}_clean_2.png"]
    assert_picture(first)
    assert_picture(second)


def test_replay_tells_how_the_run_ended(
    commands: Commands, recorded: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    uid, log, settings = recorded
    cut = tmp_path / "cut" / f"{uid}.jsonl"
    cut.parent.mkdir()
    cut.write_bytes((log / cut.name).read_bytes()[:-9])  # in the middle of its stop document
    assert commands.run("replay", "-1", "--log", log, "--out", tmp_path / "out", *settings)["run"] == uid
    for folder, ended in ((log, "success"), (cut.parent, f"abort: {NO_END}")):
        summary = commands.run("replay", uid, "--log", folder, "--out", tmp_path / folder.name, *settings)
        assert_replayed(summary)
        assert summary["run_ended"] == ended


def processed(results: Path, raw_uid: str, settings: PipelineSettings, *changed: PipelineSettings) -> None:
    """Leave the documents of a processing, and of changes of its settings."""
    run = DerivedRun({"uid": raw_uid}, settings)
    log = DocumentLog(results / "derived")
    log("start", run.start_document)
    for new in changed:
        for name, document in run.event("settings", settings=new.to_json(), changes="{}"):
            log(name, document)
    log.close()


def test_replay_takes_the_settings_that_the_run_was_processed_with(
    commands: Commands, recorded: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    """The defaults are another detector mode, with which there is no frame; what suited the session is left."""
    uid, log, settings = recorded
    was = PipelineSettings().set_from_text([text.removeprefix("--set=") for text in settings])
    session = was.replace(block_frames=3, checkpoint_s=7.0, solver__publish_hz=9.0, solver__modes=3)
    processed(tmp_path / "results", "another", PipelineSettings())
    processed(tmp_path / "results", uid, was, session)
    summary = commands.run("replay", uid[:8], "--log", log, "--out", tmp_path / "out", "--set", "solver.subpixel=2")
    assert_replayed(summary)
    assert summary["settings_from"] == "the run's processing, as they were at its end"
    (change,) = summary["settings_changed_in_the_run"]
    assert re.fullmatch(rf"after \d+\.\d s: solver\.modes=3 \(was {was.solver.modes}\)", change)
    assert summary["settings_changed"] == ["solver.subpixel=2"]
    with read_cxi(summary["cxi"]) as cxi:
        used = cxi.images[0].parameters["settings"]
    expected = PipelineSettings(warm_start=False, cleaning=was.cleaning, solver=was.solver)
    assert used == expected.replace(solver__modes=3, solver__subpixel=2).to_dict()


def test_replay_with_settings_of_another_version(
    recorded: tuple[str, Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names that are gone are told and left; a value that cannot be any more is an error with a way out."""
    uid, log, settings = recorded
    told = PipelineSettings().set_from_text([text.removeprefix("--set=") for text in settings]).to_dict()
    told["solver"]["colour"] = told["sound"] = 1
    derived = DocumentLog(tmp_path / "results" / "derived")
    derived("start", {"uid": "derived", "raw_uid": uid, "time": 0.0, "settings": told})
    told["solver"]["modes"] = 0
    derived("start", {"uid": "newer", "raw_uid": uid, "time": 1.0, "settings": told})
    derived.close()
    arguments = ["replay", uid, "--log", str(log), "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert f"as run {uid[:8]} was processed, modes = 0: expected 1 to 64; --defaults" in capsys.readouterr().err
    (tmp_path / "results" / "derived" / "newer.jsonl").unlink()
    assert main(arguments) == 0
    assert re.search(r"settings unknown now +solver.colour; sound\n", capsys.readouterr().out)
    assert main([*arguments, "--defaults"]) == 1
    assert re.search(r"settings from +the package's defaults\n", capsys.readouterr().out)


def test_replay_from_the_catalog(
    commands: Commands, recorded: tuple[str, Path, list[str]], tmp_path: Path, catalog: Catalog
) -> None:
    uid, log, settings = recorded
    writer = catalog.writer()
    replay(read_documents(uid, log), writer)
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    where = ["--catalog", catalog.directory, "--from-catalog", "--log", log, "--out", tmp_path / "out"]
    summary = commands.run("replay", uid, *where, *settings)
    assert_replayed(summary)
    assert summary["settings_from"] == "the package's defaults"
    was = PipelineSettings().set_from_text([text.removeprefix("--set=") for text in settings])
    derived = DerivedRun({"uid": uid}, was)
    writer("start", derived.start_document)
    for new in (was.replace(solver__subpixel=2), was.replace(solver__subpixel=2, solver__algorithm="rpie")):
        for name, document in derived.event("settings", settings=new.to_json(), changes="{}"):
            writer(name, document)
    writer(*derived.stop())
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    again = commands.run("replay", uid, *where)
    assert_replayed(again)
    assert again["settings_from"] == "the run's processing, as they were at its end"
    first, second = again["settings_changed_in_the_run"]
    assert first.endswith("s: solver.subpixel=2 (was 4)")
    assert second.endswith("s: solver.algorithm=rpie (was wasp)")
    with read_cxi(again["cxi"]) as cxi:
        used = cxi.images[0].parameters["settings"]["solver"]
    assert (used["subpixel"], used["algorithm"]) == (2, "rpie")


def test_a_second_replay_into_the_same_folder_is_refused_and_harms_nothing(
    commands: Commands, recorded: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    uid, log, settings = recorded
    out = tmp_path / "out"
    arguments = ["replay", uid, "--log", str(log), "--out", str(out), *settings, "--json"]
    command = [sys.executable, "-m", "nsbluesky.cli", *arguments, "--speed", "0.2"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while first.poll() is None and not any(out.glob("*.cxi")):
        threading.Event().wait(0.01)
    first.send_signal(signal.SIGSTOP)  # in the middle of its work, for as long as this takes
    os.waitpid(first.pid, os.WUNTRACED)  # its threads go on for a moment
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    told = commands.fail(*arguments)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    first.send_signal(signal.SIGCONT)
    summary, _ = first.communicate(timeout=TIMEOUT_S)
    work = f"process {first.pid} (nsbluesky replay)"
    assert f"{out} is in use by {work}: wait for its end, or give another --out" in told
    assert_replayed(json.loads(summary))
    assert_replayed(commands.run(*arguments[:-1]))


def test_replay_says_what_is_wrong(commands: Commands, recorded: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    uid, path, settings = recorded
    log = ["--log", path]
    assert "nowhere" in commands.fail("replay", "nowhere", *log)
    for command in (["replay", uid], ["raw2cxi", "--run", uid, tmp_path / "clean.cxi"]):
        assert "nolog: no such folder" in commands.fail(*command, "--log", tmp_path / "nolog")
    assert "no such document log" in commands.fail("replay", uid, "--out", tmp_path)
    assert "speed" in commands.fail("replay", uid, *log, "--speed", "0", "--out", tmp_path, *settings)
    assert "colour" in commands.fail("replay", uid, *log, "--set", "solver.colour=1")
    assert "expected one of" in commands.fail("replay", uid, *log, "--set", "colours.x=1")


def test_a_catalog_that_is_not_there_is_told_without_the_seconds_of_its_import(tmp_path: Path) -> None:
    code = "import sys; from nsbluesky.cli import main\n"
    code += f"print(main(['replay', 'abc', '--catalog', {str(tmp_path)!r}]), 'tiled' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "1 False\n" and "holds no catalog" in done.stderr


def test_replay_tells_a_geometry_that_cannot_be_used(
    recorded: tuple[str, Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uid, path, settings = recorded
    log = DocumentLog(tmp_path / "wrong")
    for name, document in read_documents(uid, path):
        ptycho = {"ptycho": {**document["ptycho"], "energy_eV": -1.0}} if name == "start" else {}
        log(name, document | ptycho)
    log.close()
    assert main(["replay", uid, "--log", str(tmp_path / "wrong"), "--out", str(tmp_path / "out"), *settings]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "nsbluesky replay: no image came out of the processing; "
        "geometry failed: energy_eV = -1.0: expected a positive number"
    )


def test_replay_tells_of_a_full_disk(
    recorded: tuple[str, Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An image that is in no file is no result; with space there is one."""
    uid, log, settings = recorded
    arguments = ["replay", uid, "--log", str(log), "--out", str(tmp_path / "out"), *settings]
    with monkeypatch.context() as full:
        full.setattr(disk_space, "free_bytes", lambda folder: 0)
        assert main(arguments) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert re.search(r"no space left: 0 MB are free in .*: make space", told)
    assert "no file that is whole" not in told, "no frame was cleaned"
    free = iter([2**40])  # as it begins, and no more
    with monkeypatch.context() as full:
        full.setattr(disk_space, "free_bytes", lambda folder: next(free, 0))
        assert main(arguments) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"the image is in no file that is whole: .*no space left: 0 MB are free in .*: make space", told)
    assert main(arguments) == 0


def test_replay_tells_which_file_is_gone(
    recorded: tuple[str, Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(frame_source, "WAIT_FOR_FILE_S", 0.0)
    uid, log, settings = recorded
    for path in tmp_path.glob("*.h5"):
        path.unlink()
    assert main(["replay", uid, "--log", str(log), "--out", str(tmp_path / "out"), *settings]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.search(rf"no image .*: 16 frames lost \(.*{tmp_path}/\w+\.h5 is not there", told)


def test_status_tells_what_a_stage_raised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = {"stage": "geometry", "num_blocks": 0, "rate_hz": 0.0, "age_s": 1.0, "queue": 0}
    failed = {"state": "error", "error": "energy_eV = -1.0: expected a positive number"}
    told = {"ok": True, "time": 0.0, "runs": [{"raw_uid": "0123456789", "num_frames": 0, "stages": [stage | failed]}]}
    monkeypatch.setattr(status, "ask", lambda *_: told)
    assert main(["status"]) == 0
    assert "error, 0 blocks, 0.0/s, the last 1.0 s ago, 0 wait: energy_eV = -1.0" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["resume", "resume 0123", "logs", "logs server"])
def test_a_folder_that_is_not_there_is_not_an_empty_one(commands: Commands, tmp_path: Path, command: str) -> None:
    option = "--log" if command.startswith("resume") else "--directory"
    assert "nowhere: no such folder" in commands.fail(*command.split(), option, tmp_path / "nowhere")


# ---- demo and ioc


@pytest.mark.parametrize("command", ["demo", "replay latest"])
def test_wrong_settings_are_told_before_anything_starts(
    commands: Commands, recorded: tuple[str, Path, list[str]], tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    log = ["--log", recorded[1]] if command != "demo" else []
    message = commands.fail(*command.split(), *log, "--out", out, "--set", "solver.colour=3")
    assert "'colour'" in message and "algorithm" in message
    assert not out.exists()


@pytest.mark.parametrize("rate", ["0", "-1", "nan"])
def test_a_rate_that_cannot_be_is_told_before_anything_starts(commands: Commands, tmp_path: Path, rate: str) -> None:
    out = tmp_path / "out"
    assert f"--rate {rate}: expected a positive number" in commands.fail("demo", "--out", out, "--rate", rate)
    assert "--rate 101: expected at most 100 frames" in commands.fail("demo", "--out", out, "--rate", "101")
    assert not out.exists()


def test_frames_of_the_simulated_beamline_do_not_go_into_the_folder_of_a_session() -> None:
    """Which the docs call ``beamline``."""
    parser = ArgumentParser()
    ioc.add_arguments(parser)
    assert parser.parse_args([]).directory == Path("ioc-output")


def test_no_beamline_where_nothing_can_be_written(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert str(file) in commands.fail("demo", "--out", file)
    assert str(file) in commands.fail("ioc", "--directory", file / "beamline")
    assert f"{file} (File exists): expected a writable folder" in commands.fail("keys", file)


def test_ctrl_c_ends_the_scan_of_a_demo_in_order(RE: RunEngine, tmp_path: Path) -> None:
    """The run has its stop document and the shutter is closed before the command ends."""
    beamline = make_twin_beamline(tmp_path)
    recorded = RecordedRun()
    RE.subscribe(recorded)
    some = recorded.when(lambda run: len(run.data("primary")) >= 5)

    def press() -> None:
        if some.wait(TIMEOUT_S):
            os.kill(os.getpid(), signal.SIGINT)

    finger = threading.Thread(target=press)
    finger.start()
    plan = ptycho_scan(*beamline.devices, **beamline.arguments((20, 20)))
    with pytest.raises(KeyboardInterrupt):
        demo._scan(RE, plan, 400, pipeline=None, catalog=None)
    finger.join(TIMEOUT_S)
    assert recorded.stop["exit_status"] == "abort"
    assert not beamline.shutter.is_open


def test_ioc_of_an_unknown_detector(commands: Commands, tmp_path: Path) -> None:
    assert "cosmic" in commands.fail("ioc", "--directory", tmp_path, "--layout", "polaroid")


@pytest.mark.parametrize("option", ["--log", "--catalog"])
def test_where_a_run_is_looked_for_is_refused_with_a_file(commands: Commands, tmp_path: Path, option: str) -> None:
    """Else a newcomer believes that a run was converted."""
    told = commands.fail("raw2cxi", tmp_path / "raw.cxi", tmp_path / "clean.cxi", option, tmp_path)
    assert "--log and --catalog are where a run is looked for: expected --run UID" in told
