"""``nsbluesky simulate --raw``: raw frames with faults, and the truth of every one of them beside the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from nsbluesky.cli import main
from nsbluesky.cxi import read_cxi
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls

SEED = 651  # of the twelve frames one is lost, one comes twice and one has a wrong number
DARKS = 2


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 × 3 points of two exposures each."""
    path = tmp_path_factory.mktemp("simulate") / "scan.cxi"
    options = ["--raw", "--faults", "heavy", "--shape", "2x3", "--darks", str(DARKS), "--seed", str(SEED)]
    assert main(["simulate", str(path), *options, "--exposures-s", "0.01", "0.001", "--photons"]) == 0
    return path


@pytest.fixture(scope="module")
def truth(heavy: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with h5py.File(heavy.with_suffix(".truth.h5")) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return found


def simulator() -> FrameSimulator:
    return FrameSimulator(gold_balls(), seed=SEED, detector="heavy")


def test_exposures_follow_one_another_at_each_point(heavy: Path) -> None:
    with read_cxi(heavy) as cxi:
        assert (cxi.number_exposures, cxi.exposure_order) == (2, "0.01,0.001")
        assert cxi.dark_data is not None and len(cxi.dark_data) == 2 * DARKS
        for k in range(2 * DARKS):
            expected = simulator().raw_frame(0, 0, shutter_open=False, exposure_s=(0.01, 0.001)[k % 2], index=k)
            np.testing.assert_array_equal(cxi.dark_data[k], expected)


def test_the_truth_tells_which_frame_came_when(heavy: Path, truth: dict[str, Any]) -> None:
    order = truth["frames/taken"]
    np.testing.assert_array_equal(truth["frames/lost"], np.setdiff1d(np.arange(12), order))
    assert len(truth["frames/lost"]) == len(truth["frames/doubled"]) == len(truth["frames/renumbered"]) == 1
    np.testing.assert_array_equal(np.flatnonzero(np.bincount(order) == 2), truth["frames/doubled"])
    np.testing.assert_array_equal(np.unique(order[truth["frames/number"] != order]), truth["frames/renumbered"])
    with read_cxi(heavy) as cxi:
        assert cxi.raw_data is not None and len(cxi.raw_data) == len(order) == 12
        np.testing.assert_array_equal(cxi.translation_m[:, :2], truth["translation_m"][order // 2])


def test_every_frame_is_that_of_the_simulator(heavy: Path, truth: dict[str, Any]) -> None:
    source = simulator()
    with read_cxi(heavy) as cxi:
        assert cxi.raw_data is not None
        for k, taken in enumerate(truth["frames/taken"]):
            x, y = truth["translation_m"][taken // 2]
            one_s = truth["exposures_s"][taken % 2]
            exposure = source.exposure(x, y, shutter_open=True, exposure_s=one_s, index=2 * DARKS + int(taken))
            np.testing.assert_array_equal(cxi.raw_data[k], exposure.words)
            np.testing.assert_array_equal(truth["frames/photons"][k], exposure.photons)
            assert truth["frames/flux"][k] == exposure.flux
            assert truth["frames/lost_packets"][k] == len(exposure.lost_packets)
            assert truth["frames/corrupted"][k] == exposure.corrupted


def test_the_second_exposure_has_a_tenth_of_the_photons(truth: dict[str, Any]) -> None:
    photons = truth["frames/photons"].sum(axis=(1, 2)) / truth["frames/flux"]
    second = truth["frames/taken"] % 2 == 1
    assert photons[second].mean() == pytest.approx(photons[~second].mean() / 10, rel=0.05)


def test_the_truth_tells_all_of_the_detector(truth: dict[str, Any]) -> None:
    model = json.loads(truth["detector"])
    assert model["electronics"]["interference"]["cycles_per_clock"] == truth["interference_cycles_per_clock"].tolist()
    assert truth["interference_amplitude_adu"].shape == (2, 96, 3)
    assert len(truth["bad_adcs"]) == 7
    assert truth["bad_image"].shape == (960, 960)


@pytest.mark.parametrize(("faults", "bad_adcs"), [("none", 0), ("light", 3)])
def test_other_faults(tmp_path: Path, faults: str, bad_adcs: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scan.cxi"
    arguments = ["simulate", str(path), "--raw", "--faults", faults, "--shape", "1x2", "--darks", "1", "--json"]
    assert main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["frames"], summary["frames_lost"], summary["frames_corrupted"]) == (2, 0, 0)
    with h5py.File(path.with_suffix(".truth.h5")) as file:
        assert file["bad_adcs"].shape == (bad_adcs,)
        assert "photons" not in file["frames"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--raw", "--exposures-s", "0.01", "0"], "exposure of 0.0 s: expected a positive number"),
        (["--exposures-s", "0.01", "0.001"], "--raw"),
        (["--photons"], "--raw"),
        (["--faults", "heavy"], "--raw"),
        (["--darks", "3"], "--darks, --faults, --exposures-s and --photons are about raw frames"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", str(tmp_path / "scan.cxi"), "--shape", "1x2", *options]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
