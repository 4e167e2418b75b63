"""LivePlots keeps the newest of everything, whatever comes, and never draws or raises."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from typing import Any

import event_model
import numpy as np
import pytest
from derived_scan import FRAME_PX, OBJECT_PIXEL_M, RAW_SHAPE, DerivedScan

from nsbluesky.callbacks.derived_run import DerivedRun
from nsbluesky.callbacks.live_plots import MAX_WARNINGS, LivePlots
from nsbluesky.settings import PipelineSettings


@pytest.fixture
def live() -> LivePlots:
    return LivePlots()


@pytest.fixture
def scan(live: LivePlots) -> DerivedScan:
    scan = DerivedScan(live)
    scan.start()
    return scan


def test_before_a_run_everything_is_empty() -> None:
    state = LivePlots().snapshot()
    assert state.run is None
    assert state.raw is None
    assert state.positions_m.shape == (0, 2)
    assert not state.finished
    assert state.errors == []


def test_the_run_is_named(live: LivePlots, scan: DerivedScan) -> None:
    run = live.snapshot().run
    assert run is not None
    assert (run.uid, run.raw_uid, run.num_points) == (scan.run.uid, "0123456789abcdef", 36)
    assert run.label == "run 01234567 · raster · 6 × 6 · step 0.1 µm · 930 eV"


def test_the_newest_frame_of_a_block_is_kept_as_a_pointer(live: LivePlots, scan: DerivedScan) -> None:
    raw, clean = scan.raw(1, 2, 3), scan.clean(1, 2)
    state = live.snapshot()
    assert state.raw is not None
    assert state.clean is not None
    assert (state.raw.seq_num, state.clean.seq_num) == (3, 2)
    assert np.shares_memory(state.raw.image, raw[2])
    assert np.shares_memory(state.clean.image, clean[1])
    assert state.raw.image.shape == RAW_SHAPE


def test_darks_of_a_second_exposure_are_frames_too(live: LivePlots, scan: DerivedScan) -> None:
    frames = np.zeros((2, 4, 5), np.uint16)
    scan.feed(scan.run.page("dark_1", [1, 2], [0.0, 0.0], frame=frames))
    state = live.snapshot()
    assert state.raw is not None and state.raw.seq_num == 2
    assert not state.streams


def test_frames_in_single_events_are_shown_too(live: LivePlots, scan: DerivedScan) -> None:
    frame = np.ones((FRAME_PX, FRAME_PX), np.float32)
    scan.event("clean", frame=frame, x_m=1e-6, y_m=2e-6, photons=256.0)
    state = live.snapshot()
    assert state.clean is not None
    assert state.clean.image is frame
    np.testing.assert_allclose(state.positions_m, [[1e-6, 2e-6]])


def test_other_streams_in_pages_are_shown_too(live: LivePlots) -> None:
    def packed(name: str, document: dict[str, object]) -> None:
        live(*(("event_page", dict(event_model.pack_event_page(document))) if name == "event" else (name, document)))

    scan = DerivedScan(packed)
    scan.start()
    scan.health(num_frames=7)
    summary = live.snapshot().summary
    assert summary is not None
    assert summary.num_frames == 7


def test_positions_are_ordered_by_seq_num_and_the_later_wins(live: LivePlots, scan: DerivedScan) -> None:
    scan.raw(3, 1)
    again = {"frame": np.zeros((1, *RAW_SHAPE)), "x_m": np.array([7e-6]), "y_m": np.array([8e-6])}
    scan.feed(scan.run.page("primary", [1], [0.0], **again))
    np.testing.assert_allclose(live.snapshot().positions_m, [(7e-6, 8e-6), scan.position_m(3)])


def test_many_positions_fit(live: LivePlots, scan: DerivedScan) -> None:
    scan.raw(*range(1, 2001))
    assert live.snapshot().positions_m.shape == (2000, 2)


def test_a_snapshot_does_not_change_any_more(live: LivePlots, scan: DerivedScan) -> None:
    scan.raw(1)
    before = live.snapshot()
    scan.raw(2)
    scan.health(lost=(4,))
    assert before.positions_m.shape == (1, 2)
    assert before.raw is not None
    assert before.raw.seq_num == 1
    assert before.lost == ()
    assert live.snapshot().version > before.version


def test_parts_that_did_not_change_stay_the_same_objects(live: LivePlots, scan: DerivedScan) -> None:
    scan.raw(1)
    scan.reconstruction(10, 0.2)
    before = live.snapshot()
    assert live.snapshot() is before
    scan.clean(1)
    after = live.snapshot()
    assert after.reconstruction is before.reconstruction
    assert after.raw is before.raw
    assert after.clean is not before.clean


def test_darks_and_detector(live: LivePlots, scan: DerivedScan) -> None:
    mean = scan.dark_statistics()
    scan.detector()
    state = live.snapshot()
    assert state.dark is not None
    assert state.detector is not None
    assert state.dark.mean is mean
    assert state.dark.bad_adcs == (2,)
    assert state.detector.center_px == (19.5, 23.25)


def test_low_resolution_images_keep_the_units_of_their_descriptor(live: LivePlots) -> None:
    def with_units(name: str, document: dict[str, object]) -> None:
        if name == "descriptor":
            document["data_keys"]["dpc_x"]["units"] = "rad"  # type: ignore[index]
        live(name, document)

    scan = DerivedScan(with_units)
    scan.start()
    images = scan.low_resolution(10)
    low = live.snapshot().low_resolution
    assert low is not None
    assert low.dpc_y is images["dpc_y"]
    assert low.units["dpc_x"] == "rad"
    assert low.units["transmission"] == "photons"
    assert low.extent_m == pytest.approx((49.95e-6, 50.55e-6, -20.05e-6, -19.45e-6), rel=1e-9, abs=0)


def test_pictures_make_a_history(live: LivePlots, scan: DerivedScan) -> None:
    scan.reconstruction(10, 0.4)
    newest = scan.reconstruction(20, 0.2, final=True)
    state = live.snapshot()
    assert state.reconstruction is not None
    assert state.reconstruction.object is newest["object"]
    assert state.reconstruction.pixel_size_m == OBJECT_PIXEL_M
    assert state.reconstruction.final
    np.testing.assert_array_equal(state.history.num_frames, [10, 20])
    np.testing.assert_array_equal(state.history.r_factor, [0.4, 0.2])
    assert (np.diff(state.history.time_s) >= 0).all()


def test_sweep(live: LivePlots, scan: DerivedScan) -> None:
    defocus, residual = scan.sweep(accepted=False)
    sweep = live.snapshot().sweep
    assert sweep is not None
    np.testing.assert_array_equal(sweep.sweep_defocus_m, defocus)
    np.testing.assert_array_equal(sweep.sweep_residual, residual)
    assert (sweep.defocus_m, sweep.confidence, sweep.accepted) == (6e-6, 0.33, False)


def test_an_error_stays_in_sight_while_others_are_well(live: LivePlots, scan: DerivedScan) -> None:
    scan.health("CleanFrames", "error", "shape (3, 4): expected (5, 6)", lost=(3,), bad=(4, 5))
    scan.health("pipeline", "ok", num_frames=9, lost=(3, 8), bad=(4,))
    state = live.snapshot()
    assert [(stage.stage, stage.message) for stage in state.errors] == [
        ("CleanFrames", "shape (3, 4): expected (5, 6)")
    ]
    assert (state.lost, state.bad) == ((3, 8), (4,))
    assert state.summary is not None
    assert (state.summary.rate_hz, state.summary.queue, state.summary.num_frames) == (12.5, 3, 9)


def test_warnings_are_kept_once(live: LivePlots, scan: DerivedScan) -> None:
    for message in ["no darks", *[f"w{k}" for k in range(MAX_WARNINGS - 1)], "no darks"]:
        scan.health("pipeline", "warning", message)
    scan.health("pipeline", "ok")
    assert len(live.snapshot().warnings) == MAX_WARNINGS
    assert live.snapshot().warnings.count("no darks") == 1


def test_the_end_is_told(live: LivePlots, scan: DerivedScan) -> None:
    scan.stop("abort", "2 frames lost")
    state = live.snapshot()
    assert state.finished
    assert state.run is not None
    assert (state.run.exit_status, state.run.reason) == ("abort", "2 frames lost")


def test_a_new_run_begins_with_nothing_and_the_old_one_is_left_out(live: LivePlots, scan: DerivedScan) -> None:
    scan.raw(1)
    scan.health("CleanFrames", "error", "broken")
    second = DerivedScan(live)
    second.start()
    state = live.snapshot()
    assert state.raw is None
    assert len(state.positions_m) == 0
    assert state.errors == []
    scan.raw(2)
    scan.reconstruction(5, 0.3)
    scan.stop()
    state = live.snapshot()
    assert state.raw is None
    assert state.reconstruction is None
    assert not state.finished


def test_raw_runs_are_not_shown(live: LivePlots) -> None:
    run = event_model.compose_run(metadata={"plan_name": "ptycho_scan"})
    live("start", dict(run.start_doc))
    live("stop", dict(run.compose_stop()))
    assert live.snapshot().run is None


@pytest.mark.parametrize(
    "ptycho", [5, [1, 2], None, {"energy_eV": "much"}, {"scan": 7}, {"exposures_s": 3.0, "scan": {"shape": 5}}]
)
def test_a_run_of_odd_metadata_is_shown(live: LivePlots, caplog: pytest.LogCaptureFixture, ptycho: Any) -> None:
    """What is wrong with it, its processing tells; nothing here may hide that."""
    run = DerivedRun({"uid": "0123456789", "ptycho": ptycho}, PipelineSettings())
    live("start", run.start_document)
    shown = live.snapshot()
    assert shown.run is not None and shown.run.label == "run 01234567"
    assert shown.errors == [] and not caplog.records


def test_a_document_that_cannot_be_used_is_told_and_not_raised(
    live: LivePlots, scan: DerivedScan, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        scan.event("low_resolution", transmission=np.zeros((2, 2)))
    (error,) = live.snapshot().errors
    assert error.stage == "LivePlots"
    assert "dpc_x" in error.message
    scan.raw(1)
    assert live.snapshot().raw is not None


def test_a_reader_sees_whole_parts_while_another_thread_feeds(live: LivePlots, scan: DerivedScan) -> None:
    """R is 1/frames in each document: a history of mixed documents would break that."""

    def feed() -> None:
        for frames in range(1, 300):
            scan.reconstruction(frames, 1 / frames)

    feeder = threading.Thread(target=feed)
    feeder.start()
    seen = 0
    while feeder.is_alive() or not seen:
        history = live.snapshot().history
        np.testing.assert_allclose(history.r_factor * history.num_frames, 1)
        seen = max(seen, len(history.r_factor))
    feeder.join()
    assert len(live.snapshot().history.r_factor) == 299


def test_it_imports_no_qt() -> None:
    code = "import sys, nsbluesky.callbacks.live_plots; sys.exit(any('Qt' in m or 'qt' in m for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
