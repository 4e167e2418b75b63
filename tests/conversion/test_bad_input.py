"""Bad input, each through the command: one clear line, no output, nothing left behind."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from nsbluesky.cleaning.layout import LAYOUTS, by_adc
from nsbluesky.cli import main
from nsbluesky.cxi import read_cxi
from nsbluesky.cxi.layout import DETECTOR, TRANSLATION

RAW, DARK = f"{DETECTOR}/raw_data", f"{DETECTOR}/dark_data"
COSMIC = LAYOUTS["cosmic"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad-input") / "raw.cxi"
    assert main(["simulate", str(path), "--raw", "--shape", "1x4", "--step-um", "0.1", "--darks", "4"]) == 0
    return path


def put(name: str, values: np.ndarray) -> Callable[[h5py.File], None]:
    """Return what replaces a dataset."""

    def change(file: h5py.File) -> None:
        axes = file[name].attrs["axes"]
        del file[name]
        layout = {"chunks": (1, *values.shape[1:]), "maxshape": (None, *values.shape[1:])}
        file.create_dataset(name, data=values, **layout).attrs["axes"] = axes

    return change


def turn_into(function: Callable[[np.ndarray], np.ndarray], name: str) -> Callable[[h5py.File], None]:
    return lambda file: put(name, function(file[name][()]))(file)


def say_that_there_are_exposures(file: h5py.File) -> None:
    file[f"{DETECTOR}/number_exposures"][()] = 2
    file[f"{DETECTOR}/exposure_order"][()] = "-0.01,0.1"
    file[TRANSLATION][1::2] = file[TRANSLATION][::2]


def move_overscan(frames: np.ndarray) -> np.ndarray:
    """Return frames of a camera whose overscan columns are 10 and 11."""
    return np.roll(by_adc(frames, COSMIC), -1, axis=-1).reshape(frames.shape)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            turn_into(lambda a: a[:, :1000], RAW),
            [],
            "frames of 1000 × 1152 .*set cleaning.layout=",
        ),
        (
            turn_into(lambda a: a[:, :1000], DARK),
            [],
            r"dark frames \(4, 1000, 1152\).*: expected \(n, 1040, 1152\)",
        ),
        (
            turn_into(lambda a: a[:, 0], RAW),
            [],
            r"raw_data is uint16 \(4, 1152\): .* \(N, rows, columns\)",
        ),
        (turn_into(lambda a: a.astype(np.float32), RAW), [], "raw_data is float32: expected raw words, uint16"),
        (turn_into(lambda a: a.astype(np.int16), DARK), [], "dark_data is int16: expected raw words, uint16"),
        (turn_into(lambda a: a[:1].repeat(4, 0), DARK), [], "same value in all 4 dark frames: expected read noise"),
        (turn_into(np.zeros_like, DARK), [], "same value in all 4 dark frames"),
        (turn_into(move_overscan, RAW), [], "overscan_columns = .* hold light"),
        (turn_into(lambda a: a[:0], RAW), [], "no point has 1 frames"),
        (turn_into(lambda a: np.zeros_like(a) + 4096, RAW), [], "the mean frame shows no light: open the shutter"),
        (say_that_there_are_exposures, [], r"exposure of -0\.01 s: expected a positive number of seconds"),
        (None, ["--exposures-s", "-1"], r"exposure of -1\.0 s: expected a positive number of seconds"),
        (
            None,
            ["--set", "cleaning.flat_field=flat.npy"],
            "flat_field = 'flat.npy': 1 values are zero, negative or no",
        ),
        (None, ["--set", "cleaning.layout=csx"], "frames of 1040 × 1152 with layout 'csx'"),
        (None, ["--save-stage", "colour"], "stage 'colour': expected one of raw, dark, overscan"),
    ],
)
def test_one_line_says_what_is_wrong(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[h5py.File], None] | None,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    flat = np.ones(COSMIC.image_shape, np.float32)
    flat[3, 4] = np.nan
    np.save("flat.npy", flat)
    shutil.copy(whole, "raw.cxi")
    if change is not None:
        with h5py.File("raw.cxi", "r+") as file:
            change(file)
    assert_fails(["raw.cxi", "clean.cxi", *options], message, capsys)
    assert not list(tmp_path.glob("clean*"))


def assert_fails(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["raw2cxi", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("nsbluesky raw2cxi: ") and err.count("\n") == 1, err
    assert re.search(message, err), err


def test_a_file_that_was_cut_off(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content = whole.read_bytes()
    Path("raw.cxi").write_bytes(content[: len(content) // 2])
    assert_fails(["raw.cxi", "clean.cxi"], "raw.cxi: HDF5 cannot read it, .*copy it again", capsys)
    Path("raw.cxi").write_bytes(b"no file")
    assert_fails(["raw.cxi", "clean.cxi"], "raw.cxi is no HDF5 file: expected a CXI file", capsys)
    assert_fails(["none.cxi", "clean.cxi"], "none.cxi: no such file", capsys)
    assert not list(tmp_path.glob("clean*"))


def test_without_darks_it_stops_unless_it_is_told_to_go_on(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw.cxi"
    shutil.copy(whole, raw)
    with h5py.File(raw, "r+") as file:
        del file[DARK]
    clean = str(tmp_path / "clean.cxi")
    assert_fails([str(raw), clean], "no dark frames: expected some, .*--set cleaning.subtract_dark=false", capsys)
    assert not list(tmp_path.glob("clean*"))
    assert main(["raw2cxi", str(raw), clean, "--set", "cleaning.subtract_dark=false"]) == 0
    assert main(["raw2cxi", str(whole), str(tmp_path / "with-darks.cxi")]) == 0
    with read_cxi(clean) as without, read_cxi(tmp_path / "with-darks.cxi") as with_darks:
        assert "no dark frames" in without.parameters["result"]["warnings"][0]
        assert without.frames is not None and with_darks.frames is not None
        good = without.good & with_darks.good
        photons = [(data.frames[:] * good).sum() for data in (without, with_darks)]
    assert photons[0] == pytest.approx(photons[1], rel=0.1)
