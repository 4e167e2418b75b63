"""The stages on raw FCCD frames of the simulated camera: what comes out is what really fell on the sensor."""

from __future__ import annotations

import dataclasses

import event_model
import numpy as np
import pytest
from raw_runs import PTYCHO, Collector, RawRun, image_key, number_key
from simulated_runs import METRES_PER_UM, process, simulate

from nsbluesky.callbacks.dark_averager import DarkAverager
from nsbluesky.callbacks.frame_cleaner import FrameCleaner
from nsbluesky.callbacks.low_resolution_imager import LowResolutionImager
from nsbluesky.settings import CleaningSettings, PipelineSettings


@pytest.fixture(scope="module")
def scan():
    return simulate("cosmic", (4, 4))


@pytest.fixture(scope="module")
def low_resolution(scan, tmp_path_factory):
    settings = scan.settings(publish_hz=1000.0)
    return process(LowResolutionImager(settings), scan.documents(tmp_path_factory.mktemp("run")))


def test_dark_statistics(scan, tmp_path):
    dark = process(DarkAverager(scan.settings()), scan.documents(tmp_path)).last("dark_statistics")
    assert dark["num_frames"] == 10
    np.testing.assert_allclose(dark["mean"], scan.darks.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(dark["std"], scan.darks.std(axis=0, ddof=1), atol=0.01)
    assert dark["bad_adcs"] == scan.simulator.truth()["bad_adcs"].tolist()


def test_run_with_nothing_but_darks(scan, tmp_path):
    documents = scan.documents(tmp_path, order=lambda points: [])
    dark = process(DarkAverager(scan.settings()), documents)
    assert dark.last("dark_statistics")["num_frames"] == 10
    assert dark.stop["exit_status"] == "success"


def test_clean_frames_are_the_photons_that_were_expected(scan, low_resolution):
    """The total within 1 %, each bin within photon noise."""
    good = low_resolution.last("detector")["mask"] == 0
    assert sorted(low_resolution.clean) == list(range(1, 17))
    for seq_num, frame in low_resolution.clean.items():
        x, y = scan.points_um[seq_num - 1] * METRES_PER_UM
        expected = scan.simulator.expected_clean(x, y)
        assert frame[good].sum() == pytest.approx(expected[good].sum(), rel=0.01)
        noise = (frame[good] - expected[good]) / np.sqrt(expected[good] + 0.5)
        assert np.mean(noise**2) == pytest.approx(1, abs=0.15)


def test_detector_tells_centre_and_mask(scan, low_resolution):
    detector = low_resolution.last("detector")
    center = scan.simulator.center_px
    assert (detector["center_row_px"], detector["center_column_px"]) == pytest.approx(center, abs=3)
    assert detector["mask"].shape == (104, 104)
    assert 0 < (detector["mask"] != 0).sum() < 500
    assert detector["pixel_size_m"] == pytest.approx(240e-6)


def test_low_resolution_images_lie_on_the_scan(scan, low_resolution):
    image = low_resolution.last("low_resolution")
    assert image["num_frames"] == 16
    assert np.isfinite(image["transmission"]).sum() >= 12
    x0, x1, y0, y1 = image["extent_m"]
    x, y = scan.points_um.T * METRES_PER_UM
    assert x0 <= x.min() < x.max() <= x1
    assert y0 <= y.min() < y.max() <= y1
    assert image["illumination"].shape == (104, 104)


def test_orientation_turns_frames_and_mask_alike(scan, tmp_path):
    plain = process(FrameCleaner(scan.settings()), scan.documents(tmp_path / "plain"))
    turned = process(FrameCleaner(scan.settings()), scan.documents(tmp_path / "turned", orientation=1))
    flip = (104 - np.arange(104)) % 104
    np.testing.assert_array_equal(turned.clean[3], plain.clean[3][flip])
    np.testing.assert_array_equal(turned.last("detector")["mask"], plain.last("detector")["mask"][flip])


def test_missing_darks_are_told_and_the_overscan_serves_instead(scan, tmp_path):
    streams = process(FrameCleaner(scan.settings()), scan.documents(tmp_path, darks=False))
    warnings = [data["message"] for data in streams.events["health"] if data["state"] == "warning"]
    assert len(warnings) == 1
    assert warnings[0].startswith("no dark frames")
    assert len(streams.clean) == 16
    x, y = scan.points_um[0] * METRES_PER_UM
    expected = scan.simulator.expected_clean(x, y)
    bright = expected > 0.1 * expected.max()
    assert streams.clean[1][bright].sum() == pytest.approx(expected[bright].sum(), rel=0.05)


def test_fewer_frames_than_the_centre_wants_are_cleaned_at_the_end(scan, tmp_path):
    streams = process(FrameCleaner(scan.settings()), scan.documents(tmp_path, order=lambda points: points[:6]))
    assert sorted(streams.clean) == [1, 2, 3]


def test_frames_without_light_are_listed_and_the_scan_goes_on(scan, tmp_path, caplog):
    """The shutter opens late: no centre on the first four frames, so they are bad; the next four give one."""
    caplog.set_level("CRITICAL", logger="nsbluesky")
    unlit = dataclasses.replace(scan, frames=np.concatenate([scan.darks[:4], scan.frames[4:]]))
    settings = scan.settings().replace(cleaning__center_frames=4)
    streams = process(FrameCleaner(settings), unlit.documents(tmp_path))
    assert sorted(streams.clean) == list(range(5, 17))
    assert streams.last("health")["bad"] == [1, 2, 3, 4]
    assert "shows no light" in streams.stop["reason"]


def test_all_frames_that_fit_no_layout_are_listed(scan, tmp_path, caplog):
    """Those that waited for the centre as well as the one that came last."""
    caplog.set_level("CRITICAL", logger="nsbluesky")
    settings = scan.settings().replace(cleaning__layout="csx", cleaning__center_frames=8)
    streams = process(FrameCleaner(settings), scan.documents(tmp_path))
    assert streams.clean == {}
    assert not any(
        "no dark frames" in health["message"] for health in streams.events["health"]
    )  # they could not be used
    assert streams.last("health")["bad"] == list(range(1, 17))
    assert "set cleaning.layout=cosmic" in streams.stop["reason"]


def test_documents_validate(low_resolution):
    for name, document in low_resolution.documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(document)


def test_darks_taken_again_during_the_scan_count_from_then_on(scan, tmp_path):
    """The detector's level rises by 40 ADU after half of the points; without overscan the darks alone tell it."""
    run = RawRun(tmp_path, ptycho={**PTYCHO, **scan.simulator.geometry.to_dict()})
    shape, half, rise = scan.frames.shape[1:], len(scan.frames) // 2, np.uint16(40)
    documents = [run.start, *run.declare("dark", fccd_image=image_key(shape))]
    bundle, resource = run.file("fccd_image", scan.darks)
    documents += [*resource, run.datum("dark", bundle, 0, 10)]
    again, again_resource = run.file("fccd_image", scan.darks + rise)
    documents += run.declare("primary", fccd_image=image_key(shape), stage_x=number_key(), stage_y=number_key())
    frames = np.concatenate([scan.frames[:half], scan.frames[half:] + rise])
    bundle, resource = run.file("fccd_image", frames)
    documents += resource
    for k, (x, y) in enumerate(scan.points_um):
        if k == half:
            documents += [*again_resource, run.datum("dark", again, 0, 10, first_seq_num=11)]
        documents.append(run.datum("primary", bundle, k, k + 1))
        documents.append(run.event("primary", k + 1, stage_x=float(x), stage_y=float(y)))
    settings = scan.settings()
    cleaning = settings.cleaning.replace(overscan="none", center_frames=2, center_px=scan.simulator.center_px)
    result = process(FrameCleaner(settings.replace(cleaning=cleaning)), [*documents, run.stop()])
    first, second = result.events["dark_statistics"]
    assert first["num_frames"] == second["num_frames"] == 10
    np.testing.assert_allclose(second["mean"] - first["mean"], rise, atol=0.01)
    good = result.last("detector")["mask"] == 0
    for seq_num, frame in result.clean.items():
        x, y = scan.points_um[seq_num - 1] * METRES_PER_UM
        assert frame[good].sum() == pytest.approx(scan.simulator.expected_clean(x, y)[good].sum(), rel=0.02)


def test_a_point_taken_again_only_in_part_stays_whole(tmp_path, rng):
    """The run ends after a rewind, when the second exposure has come again and the first has not."""
    run = RawRun(tmp_path, ptycho={**PTYCHO, "exposures_s": [0.01, 0.001]})
    disk = np.hypot(*np.mgrid[-16:16, -16:16]) < 6
    keys = {"fccd_image": image_key((32, 32), None), "stage_x": number_key(), "stage_y": number_key()}
    documents = [run.start, *run.declare("primary", **keys)]
    for seq_num in (1, 2, 3, 4, 5, 2):
        frame = rng.poisson((200 if seq_num % 2 else 20) * disk).astype("<u2")
        documents.append(run.event("primary", seq_num, fccd_image=frame, stage_x=float(seq_num), stage_y=0.0))
    cleaning = {"layout": "none", "crop_px": 24, "frame_px": 24, "center_frames": 2}
    settings = PipelineSettings(backend="numpy", cleaning=CleaningSettings(**cleaning))
    collector, cleaner = Collector(), FrameCleaner(settings)
    cleaner.subscribe(collector)
    for name, document in [*documents, run.stop("abort")]:
        cleaner(name, document)
    assert cleaner.close(60)
    assert [seq_num for stream, seq_num in collector.order if stream == "clean"] == [1, 2, 3]
