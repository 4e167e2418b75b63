"""Conversions as a whole: what is in the file, and how one that was killed goes on."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from raw_runs import fly_run
from small_scans import (
    EXPERIMENT,
    NUM_POINTS,
    SETTINGS,
    content,
    convert_file,
    dark_frames,
    places,
    raw_frames,
    write_scan,
)

from nsbluesky.cleaning.clean import clean, trace
from nsbluesky.cleaning.darks import DarkAccumulator
from nsbluesky.cleaning.exposures import combine_exposures
from nsbluesky.cleaning.flags import FrameFlag
from nsbluesky.cleaning.layout import get_layout
from nsbluesky.cleaning.plan import CleaningPlan, plan_for
from nsbluesky.conversion import ConversionError, Workers, convert, scan_of_cxi, stage_path
from nsbluesky.conversion.run_scan import scan_of_run
from nsbluesky.conversion.unfinished import UnfinishedConversion
from nsbluesky.cxi import read_cxi, validate, write_raw_cxi
from nsbluesky.cxi.layout import DETECTOR
from nsbluesky.settings import PipelineSettings

TIMEOUT_S = 60


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "raw.cxi")


def plan_of(frames: Any, darks: Any, settings: PipelineSettings = SETTINGS) -> CleaningPlan:
    layout = get_layout(settings.cleaning, frames.shape[1:])
    accumulator = DarkAccumulator(layout)
    accumulator.add(darks)
    dark = accumulator.result(settings.cleaning)
    return plan_for(frames[: settings.cleaning.center_frames], settings.cleaning, layout, dark, energy_eV=930.0)


# ---- what is in the file


def test_every_frame_is_cleaned_as_by_the_library(raw: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    result = convert_file(raw, tmp_path / "clean.cxi", progress=lambda done, total: told.append((done, total)))
    assert told == [(done, NUM_POINTS) for done in (0, 3, 6, 9, 11)]
    assert validate(tmp_path / "clean.cxi") == []
    frames = raw_frames(NUM_POINTS)
    plan = plan_of(frames, dark_frames(6))
    expected = clean(frames, plan).frames
    with read_cxi(tmp_path / "clean.cxi") as data, read_cxi(raw) as before:
        assert data.frames is not None
        np.testing.assert_array_equal(data.frames[:], expected)
        np.testing.assert_array_equal(data.translation_m[:, :2], places(NUM_POINTS))
        np.testing.assert_allclose(data.illumination_intensities, expected.mean(axis=0), rtol=1e-6)
        assert data.frame_flags.tolist() == [0] * NUM_POINTS and data.frame_weights.tolist() == [1] * NUM_POINTS
        assert data.pixel_size_m == (60e-6, 60e-6) and data.start_time == before.start_time
        assert data.parameters["settings"]["cleaning"] == SETTINGS.cleaning.to_dict()
    assert (result.num_frames, result.num_darks, result.left_out, result.warnings) == (NUM_POINTS, 6, {}, [])
    assert result.center_px == plan.center
    assert not list(tmp_path.glob("*.unfinished"))


def test_frames_are_oriented_as_the_basis_vectors_say(raw: Path, tmp_path: Path) -> None:
    convert_file(raw, tmp_path / "plain.cxi")
    with h5py.File(raw, "r+") as file:
        file[f"{DETECTOR}/basis_vectors"][0] *= -1  # rows run the other way
    convert_file(raw, tmp_path / "flipped.cxi", stages=["dark"])
    with read_cxi(tmp_path / "plain.cxi") as plain, read_cxi(tmp_path / "flipped.cxi") as flipped:
        assert plain.frames is not None and flipped.frames is not None
        rows = (16 - np.arange(16)) % 16
        np.testing.assert_array_equal(flipped.frames[:], plain.frames[:][:, rows])
        assert flipped.orientation == 0


def test_exposures_are_combined_each_with_its_own_darks(tmp_path: Path) -> None:
    times = (0.1, 1.0)
    raw = write_scan(tmp_path / "raw.cxi", times)
    settings = SETTINGS.set_from_text(
        ["cleaning.saturation_word=320"]
    )  # what the long exposure reaches in the middle
    result = convert_file(raw, tmp_path / "clean.cxi", settings=settings)
    long = raw_frames(NUM_POINTS, 1.0, 1)
    assert (long >= 320).any()
    darks = dark_frames(12)
    long_plan = plan_of(long, darks[1::2], settings)
    assert result.center_px == long_plan.center
    short = raw_frames(NUM_POINTS, 0.1, 0)
    centred = settings.replace(cleaning__center_px=long_plan.center)
    parts = [clean(short, plan_of(short, darks[::2], centred)), clean(long, long_plan)]
    with read_cxi(tmp_path / "clean.cxi") as data:
        assert data.frames is not None
        for k in range(NUM_POINTS):
            frames, flags = np.stack([part.frames[k] for part in parts]), np.array([part.flags[k] for part in parts])
            combined, together = combine_exposures(frames, flags, times)
            np.testing.assert_array_equal(data.frames[k], combined)
            assert data.frame_flags[k] == together
        # In the middle the short exposure alone counts: its photons, ten times as many.
        assert np.isfinite(data.frames[:]).all()
        assert data.illumination_intensities is not None
        expected = 1.0 * 20 * np.exp(-((np.indices((40, 44)) - [[[20]], [[22]]]) ** 2).sum(axis=0) / 40)
        assert data.illumination_intensities.sum() == pytest.approx(expected.sum(), rel=0.03)


def test_a_point_without_its_long_exposure_keeps_the_scale(tmp_path: Path) -> None:
    raw = write_scan(tmp_path / "raw.cxi", (0.1, 1.0))
    scan = scan_of_cxi(raw)
    scan.frames[1].rows[5] = -1
    convert(scan, tmp_path / "clean.cxi", SETTINGS)
    with read_cxi(tmp_path / "clean.cxi") as data:
        assert data.frames is not None
        photons = data.frames[:].sum(axis=(1, 2))
    assert photons[5] == pytest.approx(np.delete(photons, 5).mean(), rel=0.15)


def test_a_recorded_run_gives_the_same_as_a_file_of_it(raw: Path, tmp_path: Path) -> None:
    convert_file(raw, tmp_path / "file.cxi")
    x_um, y_um = (places(NUM_POINTS) * 1e6).T
    documents = fly_run(tmp_path, raw_frames(NUM_POINTS), dark_frames(6), x_um, y_um)
    scan = scan_of_run(documents)
    convert(scan, tmp_path / "run.cxi", SETTINGS.replace(cleaning__adu_per_photon=10.0))
    with read_cxi(tmp_path / "file.cxi") as file, read_cxi(tmp_path / "run.cxi") as run:
        assert file.frames is not None and run.frames is not None
        np.testing.assert_array_equal(run.frames[:], file.frames[:])
        np.testing.assert_allclose(run.translation_m, file.translation_m)


def test_frames_off_the_flux_of_the_whole_scan_get_no_weight(tmp_path: Path) -> None:
    """The first one as well, which a median of the scan so far could not tell."""
    raw = write_scan(tmp_path / "raw.cxi")
    with h5py.File(raw, "r+") as file:
        file[f"{DETECTOR}/raw_data"][0] = dark_frames(1, seed=5)[0]
        file[f"{DETECTOR}/raw_data"][6] = raw_frames(1, 8.0, seed=6)[0]
    result = convert_file(raw, tmp_path / "clean.cxi")
    with read_cxi(tmp_path / "clean.cxi") as data:
        flags = np.zeros(NUM_POINTS, int)
        flags[[0, 6]] = FrameFlag.DARK, FrameFlag.BRIGHT
        assert data.frame_flags.tolist() == flags.tolist()
        assert data.frame_weights.tolist() == (flags == 0).tolist()
        assert data.frames is not None
        np.testing.assert_allclose(data.illumination_intensities, data.frames[:][flags == 0].mean(axis=0), atol=1e-5)
    assert result.flagged == {"lost_packets": 0, "saturated": 0, "dark": 1, "bright": 1, "corrupt": 0}


def test_without_darks_it_warns_and_goes_on(tmp_path: Path) -> None:
    raw = write_scan(tmp_path / "raw.cxi", num_darks=0)
    result = convert_file(raw, tmp_path / "clean.cxi", settings=SETTINGS.replace(cleaning__center_px=(20.0, 22.0)))
    (warning,) = result.warnings
    assert warning.startswith("no dark frames: the overscan alone gives the pedestal, and bad pixels stay in")
    assert result.num_darks == 0 and result.num_frames == NUM_POINTS


# ---- stages


def test_stages_are_files_of_their_own(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "clean.cxi"
    convert_file(raw, out, stages=["dark", "photons"], workers=Workers.threads(2))
    frames = raw_frames(NUM_POINTS)
    plan = plan_of(frames, dark_frames(6))
    for stage in ("dark", "photons"):
        path = stage_path(out, stage)
        assert path.name == f"clean.{stage}.cxi" and validate(path) == []
        with read_cxi(path) as data:
            assert data.frames is not None and data.frames.shape == (NUM_POINTS, 32, 32)
            for k in range(NUM_POINTS):
                expected = trace(frames[k], plan)[stage] / (1 if stage == "photons" else 10)
                np.testing.assert_allclose(data.frames[k], expected, rtol=1e-6)
            np.testing.assert_array_equal(data.translation_m[:, :2], places(NUM_POINTS))
            assert data.pixel_size_m == (30e-6, 30e-6) and data.parameters == {"stage": stage}
    convert_file(raw, tmp_path / "plain.cxi")
    left, right = content(out), content(tmp_path / "plain.cxi")
    assert left == right, "keeping stages changes nothing"


@pytest.mark.parametrize("stage", ["colour", "clean", "flat_field"])
def test_a_stage_that_the_settings_do_not_have_is_refused(raw: Path, tmp_path: Path, stage: str) -> None:
    with pytest.raises(ConversionError, match=f"stage '{stage}': expected one of raw, dark, .*photons"):
        convert_file(raw, tmp_path / "clean.cxi", stages=[stage])
    assert not list(tmp_path.glob("clean*"))


# ---- going on

SCRIPT = """
import multiprocessing, sys
sys.path.insert(0, {here!r})
from pathlib import Path
from small_scans import SETTINGS, convert_file
from nsbluesky.conversion import Workers

def tell(done, total):
    if done >= {kill_after}:
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        sys.stdin.read()  # until the test kills this process

if __name__ == "__main__":
    convert_file(Path(sys.argv[1]), Path(sys.argv[2]), workers=Workers.{kind}(2), progress=tell,
                 settings=SETTINGS.replace(block_frames=1), stages=["dark"])
"""


def killed_conversion(raw: Path, out: Path, kill_after: int, kind: str, folder: Path) -> list[int]:
    """Begin a conversion in a process, kill it after so many points, and return the pids of its workers."""
    script = folder / "script.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent), kill_after=kill_after, kind=kind))
    process = subprocess.Popen(
        [sys.executable, str(script), str(raw), str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdin is not None
    with process.stdin, process.stdout:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(TIMEOUT_S) == -signal.SIGKILL
    return workers


@pytest.mark.parametrize("kind", [pytest.param("threads", marks=pytest.mark.nightly), "processes"])
def test_a_killed_conversion_goes_on_where_it_was(raw: Path, tmp_path: Path, kind: str) -> None:
    out, whole = tmp_path / "clean.cxi", tmp_path / "whole.cxi"
    settings = SETTINGS.replace(block_frames=1)
    convert_file(raw, whole, settings=settings, stages=["dark"])
    orphans = killed_conversion(raw, out, 4, kind, tmp_path)
    assert not out.exists()
    for pid in orphans:  # each ends by itself
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([descriptor], [], [], TIMEOUT_S)[0]
        os.close(descriptor)
    assert (kind == "processes") == bool(orphans)

    with pytest.raises(ConversionError, match=r"clean\.cxi\.unfinished holds .* not finished \(.*add --resume"):
        convert_file(raw, out, settings=settings, stages=["dark"])
    told: list[int] = []
    convert_file(
        raw, out, settings=settings, stages=["dark"], resume=True, progress=lambda done, _: told.append(done)
    )
    assert told[0] >= 4 and told[-1] == NUM_POINTS
    assert content(out) == content(whole)
    assert {**content(stage_path(out, "dark")), "result": 0} == {**content(stage_path(whole, "dark")), "result": 0}
    assert not list(tmp_path.glob("*.unfinished"))


class StopHere(Exception):
    """Ends a conversion from within."""


def begun_conversion(raw: Path, out: Path, **options: Any) -> Path:
    """Begin a conversion, stop it after some blocks, and return the folder of what is there."""

    def stop(done: int, total: int) -> None:
        if done >= 6:
            raise StopHere

    with pytest.raises(StopHere):
        convert_file(raw, out, progress=stop, **options)
    return out.with_name(f"{out.name}.unfinished")


def test_a_damaged_block_is_cleaned_again(raw: Path, tmp_path: Path) -> None:
    convert_file(raw, tmp_path / "whole.cxi")
    folder = begun_conversion(raw, tmp_path / "clean.cxi")
    cut, changed = sorted(folder.glob("block-*.npz"))[:2]
    cut.write_bytes(cut.read_bytes()[:-100])
    words = bytearray(changed.read_bytes())
    words[len(words) // 2] ^= 0xFF
    changed.write_bytes(words)
    (folder / ".block-0000009.npz.abc.part").write_bytes(b"half a block")
    convert_file(raw, tmp_path / "clean.cxi", resume=True)
    assert content(tmp_path / "clean.cxi") == content(tmp_path / "whole.cxi")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": SETTINGS.replace(cleaning__frame_px=8)}, r"other settings \(cleaning\.frame_px = 16, now 8\)"),
        ({"settings": SETTINGS.replace(block_frames=4)}, r"other settings \(block_frames = 3, now 4\)"),
        ({"stages": ["dark"]}, r"other stages to save \(stages = \[\], now \['dark'\]\)"),
    ],
)
def test_going_on_with_anything_else_is_refused(
    raw: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = begun_conversion(raw, tmp_path / "clean.cxi")
    before = sorted(folder.iterdir())
    with pytest.raises(ConversionError, match=f"was begun with {message}: expected the same; remove the folder"):
        convert_file(raw, tmp_path / "clean.cxi", resume=True, **change)
    assert sorted(folder.iterdir()) == before


def test_going_on_with_another_source_is_refused_and_with_a_moved_one_is_not(raw: Path, tmp_path: Path) -> None:
    begun_conversion(raw, tmp_path / "clean.cxi")
    other = write_scan(tmp_path / "other.cxi", seed=3)
    with pytest.raises(ConversionError, match=r"begun with another source \(.*raw\.cxi, now .*other\.cxi\)"):
        convert_file(other, tmp_path / "clean.cxi", resume=True)
    moved = raw.rename(tmp_path / "moved.cxi")
    assert convert_file(moved, tmp_path / "clean.cxi", resume=True).num_frames == NUM_POINTS


def test_going_on_with_another_version_is_refused(raw: Path, tmp_path: Path) -> None:
    description = begun_conversion(raw, tmp_path / "clean.cxi") / "conversion.json"
    description.write_text(json.dumps({**json.loads(description.read_text()), "version": "0.0.1"}))
    with pytest.raises(ConversionError, match=r"another version of nsbluesky \(version = 0\.0\.1, now "):
        convert_file(raw, tmp_path / "clean.cxi", resume=True)


def test_a_damaged_description_is_told(raw: Path, tmp_path: Path) -> None:
    (begun_conversion(raw, tmp_path / "clean.cxi") / "conversion.json").write_text("{")
    with pytest.raises(ConversionError, match=r"conversion\.json is damaged: .*remove the folder to begin anew"):
        convert_file(raw, tmp_path / "clean.cxi", resume=True)


def test_resume_begins_where_nothing_began_and_ends_where_all_is_done(raw: Path, tmp_path: Path) -> None:
    first = convert_file(raw, tmp_path / "clean.cxi", resume=True)
    before = (tmp_path / "clean.cxi").stat().st_mtime_ns
    told: list[int] = []
    again = convert_file(raw, tmp_path / "clean.cxi", resume=True, progress=lambda done, _: told.append(done))
    assert again == first and told == [] and (tmp_path / "clean.cxi").stat().st_mtime_ns == before
    other = SETTINGS.replace(cleaning__frame_px=8)
    convert_file(raw, tmp_path / "clean.cxi", resume=True, settings=other)
    with read_cxi(tmp_path / "clean.cxi") as data:
        assert data.frames is not None and data.frames.shape[1:] == (8, 8)


def test_one_conversion_at_a_time_writes_a_file(raw: Path, tmp_path: Path) -> None:
    with (
        UnfinishedConversion(tmp_path / "clean.cxi", {}, resume=False),
        pytest.raises(ConversionError, match=rf"in use by process {os.getpid()} \(another conversion\): wait"),
    ):
        convert_file(raw, tmp_path / "clean.cxi")


def test_an_output_that_is_there_stays_until_the_new_one_is_complete(raw: Path, tmp_path: Path) -> None:
    convert_file(raw, tmp_path / "clean.cxi")
    before = content(tmp_path / "clean.cxi")
    begun_conversion(raw, tmp_path / "clean.cxi", settings=SETTINGS.replace(cleaning__frame_px=8))
    assert content(tmp_path / "clean.cxi") == before


# ---- memory

PEAK = """
import resource, sys
sys.path.insert(0, {here!r})
from pathlib import Path
from small_scans import SETTINGS, convert_file
settings = SETTINGS.replace(cleaning__crop_px=480, cleaning__frame_px=240)
convert_file(Path(sys.argv[1]), Path(sys.argv[2]), settings=settings)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.nightly
def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    """120 frames more are 63 MB of raw and 28 MB of clean frames more."""
    rng = np.random.default_rng(0)
    frame = rng.integers(100, 110, (512, 512), np.uint16)
    frame[200:300, 200:300] += 500
    peaks = []
    for num in (30, 150):
        path = tmp_path / f"{num}.cxi"
        write_raw_cxi(path, (frame for _ in range(num)), [frame - 1, frame], places(num), **EXPERIMENT)
        script = PEAK.format(here=str(Path(__file__).parent))
        command = [sys.executable, "-c", script, str(path), str(tmp_path / "clean.cxi")]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert abs(peaks[1] - peaks[0]) < 20e6
