"""A picture goes through the same plan and processing as a sample, and what will be measured is told before."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nsbluesky.cxi import read_cxi
from nsbluesky.rehearsal import Rehearsal, RehearsalPlan, RehearsalSettings
from nsbluesky.settings import SettingsError

QUICK = {"sweep_frames": 0, "modes": 1, "passes_final": 2}


@pytest.fixture
def picture(rng: np.random.Generator) -> np.ndarray:
    return np.kron(rng.random((8, 12)), np.ones((8, 8)))


def quick(**more: object) -> RehearsalSettings:
    return RehearsalSettings(rows=4, columns=5, rate_hz=50.0, num_dark=2, picture_um=1.1).replace(**more)


def test_what_will_be_measured(picture: np.ndarray) -> None:
    plan = RehearsalPlan.make(picture, quick(pattern="raster"))
    assert plan.points_um.shape == (20, 2)
    assert np.ptp(plan.points_um, axis=0) == pytest.approx([0.4, 0.3])
    x0, x1, y0, y1 = plan.extent_um
    assert (x1 - x0, y1 - y0) == pytest.approx((1.1, 0.737), abs=0.012)
    assert (x0 + x1, y0 + y1) == pytest.approx((0, 0), abs=0.012)
    assert plan.sample.photons == pytest.approx(1e7, rel=1e-3)
    assert dataclasses.astuple(plan.settings.optic)[1:] == pytest.approx((240e-6, 60e-9, 110e-6, 12e-6))


def test_overlap_grows_with_the_defocus_and_shrinks_with_the_step(picture: np.ndarray) -> None:
    plan = RehearsalPlan.make(picture, quick())
    assert 0.15 < plan.probe_diameter_um < 0.5
    assert plan.overlap == pytest.approx(1 - 0.1 / plan.probe_diameter_um)
    assert RehearsalPlan.make(picture, quick(step_um=0.2)).overlap < plan.overlap
    assert RehearsalPlan.make(picture, quick(defocus_um=20.0)).overlap > plan.overlap


def test_frames_are_photons_or_words_of_the_camera(picture: np.ndarray) -> None:
    assert RehearsalPlan.make(picture, quick()).frame(3).shape == (104, 104)
    assert RehearsalPlan.make(picture, quick(detector="sensor")).frame(3).shape == (1040, 1152)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": 0}, "rows = 0"),
        ({"step_um": 0.0}, "step_um"),
        ({"rate_hz": 1e4}, "at most 100 Hz"),
        ({"central_stop_um": 300.0}, "less than diameter_um"),
        ({"picture_um": 1000.0}, "0.1 to 40"),
        ({"detector": "perfect"}, "photons, none, sensor"),
        ({"photons": 1e30}, "photons = .* at most 1e"),
    ],
)
def test_wrong_settings(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        quick(**wrong)


def test_what_is_no_picture_and_an_optic_that_does_not_fit(picture: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"none\.png"):
        RehearsalPlan.make(tmp_path / "none.png", quick())
    with pytest.raises(ValueError, match="outer_zone_m"):
        RehearsalPlan.make(picture, quick(outer_zone_nm=5.0))


@pytest.fixture
def rehearsal(picture: np.ndarray, tmp_path: Path) -> Iterator[Rehearsal]:
    rehearsal = Rehearsal(RehearsalPlan.make(picture, quick()), tmp_path, solver=QUICK)
    yield rehearsal
    rehearsal.close()


def test_the_whole_pipeline_runs(rehearsal: Rehearsal, tmp_path: Path) -> None:
    rehearsal.start()
    assert rehearsal.wait(60)
    assert rehearsal.error == ""
    state = rehearsal.pipeline.live.snapshot()
    assert state.finished and len(state.positions_m) == 20
    assert state.reconstruction is not None and state.reconstruction.num_frames == 20
    with read_cxi(next(tmp_path.glob("*.cxi"))) as data:
        assert len(data.images) >= 1


def test_cancel(rehearsal: Rehearsal) -> None:
    first = threading.Event()
    rehearsal.pipeline.subscribe(lambda name, document: first.set() if name == "event_page" else None)
    rehearsal.start()
    assert first.wait(60)
    rehearsal.cancel()
    rehearsal.cancel()  # a second click changes nothing
    assert rehearsal.wait(60)
    assert rehearsal.error == ""


def test_a_rehearsal_that_is_cancelled_before_its_scan_has_begun_measures_nothing(rehearsal: Rehearsal) -> None:
    rehearsal.cancel()
    rehearsal.start()
    assert rehearsal.wait(60)
    assert rehearsal.error == ""
    assert rehearsal.pipeline.live.snapshot().run is None


def test_a_scan_that_fails_is_told(picture: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    rehearsal = Rehearsal(RehearsalPlan.make(picture, quick(step_um=90.0)))
    folder = rehearsal.directory
    rehearsal.start()
    assert rehearsal.wait(60)
    assert "soft limits" in rehearsal.error
    rehearsal.close()
    assert not folder.exists()
