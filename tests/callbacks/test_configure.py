"""Settings that change while a run goes on, and what is told of a frame that somebody looks at."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from simulated_runs import Streams, simulate

from nsbluesky.backend import BackendError
from nsbluesky.callbacks.cxi_writer import CXIWriter
from nsbluesky.callbacks.incremental_reconstructor import IncrementalReconstructor
from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.cxi import read_cxi
from nsbluesky.settings import SettingsError

TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def scan():
    return simulate("none", (8, 8), points_across=20)


class HalfWay:
    """A run whose second half of documents comes when the first half is worked off and something was done."""

    def __init__(self, scan, folder, **solver):
        settings = {"sweep_frames": 0, "passes_final": 3, "final_s": 1e6, "publish_hz": 1000.0, **solver}
        self.processor = IncrementalReconstructor(scan.settings(**settings))
        self.streams, self.live = Streams(), LivePlots()
        self._pictures = threading.Event()
        self.cxi = CXIWriter(folder / "cxi")
        for callback in (self.streams, self.live, self.cxi, self._note):
            self.processor.subscribe(callback)
        documents = scan.documents(folder)
        half = 2 * len(documents) // 3
        self._give(documents[:half])
        assert self.processor.wait(TIMEOUT_S) and self._pictures.wait(TIMEOUT_S)
        self.clean_before = dict(self.streams.clean)
        self._rest = documents[half:]

    def _note(self, name, document):
        if "reconstruction" in self.streams.events:
            self._pictures.set()

    def _give(self, documents):
        for name, document in documents:
            self.processor(name, document)

    def go_on(self):
        self._give(self._rest)
        assert self.processor.close(TIMEOUT_S)
        assert self.streams.stop["exit_status"] == "success"
        assert self.streams.stop["reason"] == ""


def test_engine_and_modes_of_a_run_that_goes_on(scan, tmp_path):
    run = HalfWay(scan, tmp_path, modes=1)
    assert len(run.streams.last("reconstruction")["probe"]) == 1
    told = run.processor.configure({"solver.modes": 3, "solver.algorithm": "rpie", "solver.subpixel": 2})
    assert told.solver.modes == 3 and told.solver.subpixel == 2
    run.go_on()
    assert len(run.streams.last("reconstruction")["probe"]) == 3
    assert run.streams.last("reconstruction")["num_frames"] == 64
    (change,) = run.streams.events["settings"]
    assert json.loads(change["changes"]) == {"solver.modes": 3, "solver.algorithm": "rpie"}
    settings = run.live.snapshot().run.settings
    assert (settings.solver.modes, settings.solver.algorithm, settings.solver.subpixel) == (3, "rpie", 4)
    with read_cxi(run.cxi.path) as data:
        assert data.images[-1].parameters["settings"]["solver"]["modes"] == 3


def test_thresholds_count_for_the_frames_that_come(scan, tmp_path):
    run = HalfWay(scan, tmp_path)
    run.processor.configure({"cleaning.photon_threshold": 30.0, "cleaning.frame_px": 52})
    run.go_on()
    before = run.clean_before
    later = {k: frame for k, frame in run.streams.clean.items() if k not in before}
    assert len(later) >= 8
    assert min(frame[frame > 0].min() for frame in before.values()) < 5
    assert all(frame.shape == before[1].shape for frame in later.values())
    lonely = sum(int(np.sum((frame > 0) & (frame < 3))) for frame in later.values()) / len(later)
    lonely_before = sum(int(np.sum((frame > 0) & (frame < 3))) for frame in before.values()) / len(before)
    assert lonely < 0.5 * lonely_before


def test_what_cannot_be_is_refused_and_changes_nothing(scan, tmp_path, monkeypatch):
    run = HalfWay(scan, tmp_path)

    def absent(name):
        raise BackendError("no such device")

    monkeypatch.setattr("nsbluesky.callbacks.run_processor.get_backend", absent)
    before = run.processor.settings
    for changes, message in (
        ({"solver.algorithm": "magic"}, "expected one of"),
        ({"solver.modes": 0}, "1 to 64"),
        ({"solver.mode": 1}, "unknown setting"),
        ({"backend": "cupy"}, "no such device"),
    ):
        with pytest.raises(SettingsError, match=message):
            run.processor.configure(changes)
    assert run.processor.settings is before
    run.go_on()
    assert "settings" not in run.streams.events


def test_a_backend_is_for_the_runs_that_start_from_then_on():
    processor = IncrementalReconstructor()
    before = processor.backend
    processor.configure({"backend": "numpy"})
    assert processor.backend is not before
    now = processor.backend
    processor.configure({"solver.modes": 2})
    assert processor.backend is now
    processor.close(0)


def test_the_fit_of_the_frame_that_is_looked_at(scan, tmp_path):
    run = HalfWay(scan, tmp_path)
    fits = run.streams.events["diffraction_fit"]
    assert fits[-1]["raw_seq_num"] > 1
    run.processor.show_fit(5)
    run.go_on()
    fit = run.streams.last("diffraction_fit")
    assert fit["raw_seq_num"] == 5
    known = np.isfinite(fit["data"])
    np.testing.assert_allclose(fit["data"][known], np.maximum(run.streams.clean[5], 0)[known], rtol=1e-4, atol=1e-4)
    assert 0 < fit["r_frame"] < 0.6
    state = run.live.snapshot()
    assert state.fit is not None and state.fit.seq_num == 5


def test_corrected_positions_are_told_while_the_run_goes_on(scan, tmp_path):
    run = HalfWay(scan, tmp_path, passes_final=10)
    assert run.live.snapshot().corrections is None
    run.processor.configure({"solver.refine_positions": "frames", "solver.refine_start": 1})
    run.go_on()
    state = run.live.snapshot()
    assert state.corrections is not None
    assert len(state.corrections.seq_nums) == len(state.corrections.positions_m) == 64


def test_quality_is_told_when_it_is_switched_on(scan, tmp_path):
    run = HalfWay(scan, tmp_path)
    assert np.isnan(run.live.snapshot().history.resolution_m).all()
    run.processor.configure({"solver.quality_share": 1.0, "solver.held_out": 0.05})
    run.go_on()
    history = run.live.snapshot().history
    assert np.isfinite(history.r_held_out[-1]) and np.isfinite(history.resolution_m[-1])
    assert history.resolution_m[-1] == run.streams.last("reconstruction")["resolution_half_bit_m"]
