from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import event_model
import h5py
import numpy as np
import pytest
from raw_runs import (
    DARKS,
    FRAMES,
    PTYCHO,
    X_UM,
    Y_UM,
    Collector,
    RawRun,
    fly_run,
    image_key,
    number_key,
    write_frames,
)

from nsbluesky.callbacks import frame_source
from nsbluesky.callbacks.frame_readers import (
    DocumentError,
    HDF5Frames,
    NotYetWritten,
    frames_of_resource,
    local_path,
)
from nsbluesky.callbacks.frame_source import FrameSource
from nsbluesky.camera.frame_file import ATTRIBUTES, EPICS_EPOCH_S, TIMESTAMP
from nsbluesky.conversion.run_scan import scan_of_run
from nsbluesky.settings import PipelineSettings


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(frame_source, "WAIT_FOR_FILE_S", 0.2)


def feed(documents, settings: PipelineSettings | None = None) -> Collector:
    source, collector = FrameSource(settings), Collector()
    source.subscribe(collector)
    for name, document in documents:
        source(name, document)
    assert source.close(timeout=30)
    return collector


def assert_all_frames(collector: Collector, but: tuple[int, ...] = ()) -> None:
    assert sorted(collector.frames["primary"]) == [k for k in range(1, 11) if k not in but]
    for seq_num, frame in collector.frames["primary"].items():
        np.testing.assert_array_equal(frame, FRAMES[seq_num - 1])
        assert collector.positions[seq_num] == pytest.approx((X_UM[seq_num - 1] * 1e-6, Y_UM[seq_num - 1] * 1e-6))


def test_fly_scan_by_stream_datum(tmp_path):
    collector = feed(fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM))
    assert_all_frames(collector)
    assert sorted(collector.frames["dark"]) == [1, 2, 3]
    np.testing.assert_array_equal(collector.frames["dark"][2], DARKS[1])
    assert collector.health()["lost"] == []


def test_step_scan_with_positions_in_events(tmp_path):
    run = RawRun(tmp_path)
    documents = [
        run.start,
        *run.declare("primary", fccd_image=image_key((6, 5)), stage_x=number_key(), stage_y=number_key("mm")),
    ]
    bundle, resource = run.file("fccd_image", FRAMES)
    documents += resource
    for k in range(10):
        documents.append(run.datum("primary", bundle, k, k + 1))
        documents.append(run.event("primary", k + 1, stage_x=X_UM[k], stage_y=Y_UM[k] / 1000))
    assert_all_frames(feed([*documents, run.stop()]))


def test_motors_that_begin_at_a_whole_number_are_found_as_others(tmp_path):
    """bluesky describes a reading of 0 as an integer, as it does the counters of a detector."""
    ptycho = {key: value for key, value in PTYCHO.items() if key != "keys"}
    run = RawRun(tmp_path, ptycho=ptycho, motors=["stage_x", "stage_y"])
    counter, motor = {**number_key(), "dtype": "integer"}, {**number_key(), "dtype": "integer"}
    keys = {"stats_max": counter, "fccd_image": image_key((6, 5), None), "stage_x": motor, "stage_y": motor}
    documents = [run.start, *run.declare("primary", **keys)]
    documents += [
        run.event("primary", k + 1, stats_max=9, fccd_image=FRAMES[k], stage_x=X_UM[k], stage_y=Y_UM[k])
        for k in range(10)
    ]
    assert_all_frames(feed([*documents, run.stop()]))


def test_inline_frames(tmp_path):
    run = RawRun(tmp_path)
    keys = {"fccd_image": image_key((6, 5), None), "stage_x": number_key(), "stage_y": number_key()}
    documents = [run.start, *run.declare("primary", **keys)]
    documents += [
        run.event("primary", k + 1, fccd_image=FRAMES[k], stage_x=X_UM[k], stage_y=Y_UM[k]) for k in range(10)
    ]
    assert_all_frames(feed([*documents, run.stop()]))


def test_resource_and_datum_of_older_devices(tmp_path):
    write_frames(tmp_path / "old.h5", FRAMES)
    run = RawRun(tmp_path)
    keys = {"fccd_image": image_key((6, 5), "FILESTORE:"), "stage_x": number_key(), "stage_y": number_key()}
    resource = {
        "uid": "r",
        "spec": "AD_HDF5",
        "root": str(tmp_path),
        "resource_path": "old.h5",
        "resource_kwargs": {"frame_per_point": 1},
        "path_semantics": "posix",
        "run_start": run.uid,
    }
    documents = [run.start, *run.declare("primary", **keys), ("resource", resource)]
    for k in range(10):
        datum = {"datum_id": f"r/{k}", "resource": "r", "datum_kwargs": {"point_number": k}}
        documents.append(("datum", datum))
        data = {"fccd_image": f"r/{k}", "stage_x": X_UM[k], "stage_y": Y_UM[k]}
        documents.append(run.event("primary", k + 1, filled={"fccd_image": False}, **data))
    assert_all_frames(feed([*documents, run.stop()]))


def legacy(run: RawRun, spec: str, path: str, **kwargs: object) -> tuple[str, dict]:
    return "resource", {
        "uid": "r",
        "spec": spec,
        "root": str(run.folder),
        "resource_path": path,
        "resource_kwargs": kwargs,
        "path_semantics": "posix",
        "run_start": run.uid,
    }


def legacy_run(run: RawRun, resource: tuple[str, dict], shape: tuple[int, ...], data: list[dict]) -> list:
    """A run of older devices: the n-th event has the n-th of these datum_kwargs."""
    keys = {"fccd_image": image_key(shape, "FILESTORE:"), "stage_x": number_key(), "stage_y": number_key()}
    documents = [run.start, *run.declare("primary", **keys), resource]
    for k, datum in enumerate(data):
        documents.append(("datum", {"datum_id": f"r/{k}", "resource": "r", "datum_kwargs": datum}))
        values = {"fccd_image": f"r/{k}", "stage_x": X_UM[k], "stage_y": Y_UM[k]}
        documents.append(run.event("primary", k + 1, filled={"fccd_image": False}, **values))
    return [*documents, run.stop()]


IMAGES = PipelineSettings().replace(cleaning__layout="none")


def test_the_frames_of_a_point_are_added_up(tmp_path):
    frames = np.stack([FRAMES, FRAMES + 1], axis=1).reshape(20, 6, 5)
    frames[7, 2, 3] = 65535  # did not measure, in one of the frames of point 4
    run = RawRun(tmp_path)
    write_frames(tmp_path / "old.h5", frames)
    resource = legacy(run, "AD_HDF5_SWMR_STREAM", "old.h5", frame_per_point=2)
    old = feed(legacy_run(run, resource, (2, 6, 5), [{"point_number": k} for k in range(10)]), IMAGES)
    expected = 2 * FRAMES.astype(np.uint32) + 1
    expected[3, 2, 3] = 2**32 - 1
    assert set(old.frames["primary"]) == set(range(1, 11))
    for k in range(10):
        np.testing.assert_array_equal(old.frames["primary"][k + 1], expected[k])


def test_of_several_frames_and_positions_of_a_point_in_a_stream(tmp_path):
    run = RawRun(tmp_path)
    position = {**number_key("um", "STREAM:"), "dtype": "array", "shape": [2]}
    keys = {"fccd_image": image_key((2, 6, 5)), "stage_x": position, "stage_y": position}
    documents = [run.start, *run.declare("primary", **keys)]
    for key, values in (
        ("fccd_image", np.repeat(FRAMES, 2, axis=0)),
        ("stage_x", np.stack([X_UM - 1, X_UM + 1], axis=1).ravel()),
        ("stage_y", np.stack([Y_UM, Y_UM], axis=1)),  # a row of the dataset for each point
    ):
        bundle, resource = run.file(key, values)
        documents += [*resource, run.datum("primary", bundle, 0, 4), run.datum("primary", bundle, 4, 10)]
    collector = feed([*documents, run.stop()], IMAGES)
    for k in range(10):
        np.testing.assert_array_equal(collector.frames["primary"][k + 1], 2 * FRAMES[k].astype(np.uint32))
        np.testing.assert_allclose(collector.positions[k + 1], (X_UM[k] * 1e-6, Y_UM[k] * 1e-6))


def test_frames_of_a_point_are_not_added_up_with_a_pedestal(tmp_path):
    run = RawRun(tmp_path)
    write_frames(tmp_path / "old.h5", FRAMES)
    resource = legacy(run, "AD_HDF5", "old.h5", frame_per_point=2)
    stop = feed(legacy_run(run, resource, (2, 6, 5), [{"point_number": 0}])).stop()
    assert "2 frames of one point: expected one" in stop["reason"]


@pytest.mark.parametrize("slices", [False, True])
def test_an_eigers_own_files(tmp_path, slices):
    run = RawRun(tmp_path)
    sequences = {7: FRAMES} if slices else {k: FRAMES[k : k + 1] for k in range(10)}
    for sequence, frames in sequences.items():
        write_frames(tmp_path / f"a_{sequence}_data_000001.h5", frames)
        with h5py.File(tmp_path / f"a_{sequence}_master.h5", "w") as file:
            link = h5py.ExternalLink(f"a_{sequence}_data_000001.h5", "/entry/data/data")
            file.create_group("/entry/data")["data_000001"] = link
    resource = legacy(run, "AD_EIGER_SLICE" if slices else "AD_EIGER2", "a", images_per_file=10)
    data = [{"seq_id": 7, "image_slice": k} if slices else {"seq_id": k} for k in range(10)]
    assert_all_frames(feed(legacy_run(run, resource, (1, 6, 5), data)))


def test_no_more_files_stay_open_than_are_read(tmp_path):
    run = RawRun(tmp_path)
    for k in range(10):
        write_frames(tmp_path / f"a_{k}_master.h5", FRAMES[k : k + 1], "/entry/data/data_000001")
    documents = legacy_run(run, legacy(run, "AD_EIGER", "a"), (1, 6, 5), [{"seq_id": k} for k in range(10)])
    source, collector = FrameSource(), Collector()
    source.subscribe(collector)
    for name, document in documents[:-1]:
        source(name, document)
    assert source.wait(30)
    opened = [link for fd in Path("/proc/self/fd").iterdir() if str(tmp_path) in (link := str(fd.resolve()))]
    source(*documents[-1])
    assert source.close(30)
    assert_all_frames(collector)
    assert len(set(opened)) == 1


@pytest.mark.parametrize(
    ("spec", "datum", "message"),
    [
        ("AD_HDF5_SINGLE", {"point_number": 0}, "resource of spec 'AD_HDF5_SINGLE': expected one of AD_HDF5,"),
        ("AD_HDF5", {"frame": 0}, "expected the row of the frame as 'point_number'"),
        ("AD_EIGER2", {"frame": 0}, "expected the Eiger's sequence as 'seq_id'"),
    ],
)
def test_what_an_older_device_tells_otherwise_is_refused_once(tmp_path, caplog, spec, datum, message):
    run = RawRun(tmp_path)
    with caplog.at_level(logging.CRITICAL, logger="nsbluesky"):
        collector = feed(legacy_run(run, legacy(run, spec, "a.h5"), (1, 6, 5), [datum] * 3))
    assert message in collector.stop()["reason"]
    assert sum(n == "event" and d["data"].get("state") == "error" for n, d in collector.documents) == 1


@pytest.mark.parametrize(
    ("keys", "image", "message"),
    [
        (
            {"image": "camera"},
            FRAMES,
            "no frame: of ptycho.keys['image'], 'camera' is not there: expected one of fccd",
        ),
        ({"x": "sx"}, FRAMES, "no position: of ptycho.keys['x'], 'sx' is not there"),
        ({"y": "temperature"}, FRAMES, "'temperature' is in the stream 'baseline', expected in 'primary'"),
        ({}, FRAMES.astype(np.float32), "a frame of float32: expected integers"),
    ],
)
def test_what_a_run_lacks_is_told_with_the_key(tmp_path, keys, image, message):
    run = RawRun(tmp_path, ptycho={**PTYCHO, "keys": {**PTYCHO["keys"], **keys}})
    described = {"fccd_image": image_key((6, 5), None), "stage_x": number_key(), "stage_y": number_key()}
    documents = [run.start, *run.declare("baseline", temperature=number_key("K"))]
    documents += run.declare("primary", **described)
    documents += [run.event("primary", k + 1, fccd_image=image[k], stage_x=0.0, stage_y=0.0) for k in range(3)]
    assert message in feed([*documents, run.stop()]).stop()["reason"]


def test_frames_in_another_stream_are_told(tmp_path, caplog):
    run = RawRun(tmp_path)
    documents = [run.start, *run.declare("fly", fccd_image=image_key((6, 5))), run.stop()]
    with caplog.at_level(logging.CRITICAL, logger="nsbluesky"):
        reason = feed(documents).stop()["reason"]
    assert "'fccd_image' in the stream 'fly': expected them, and their positions, in 'primary'" in reason


def test_units_of_the_start_document(tmp_path):
    run = RawRun(tmp_path, ptycho={**PTYCHO, "units": {"x": "mm", "y": "um"}})
    keys = {"fccd_image": image_key((6, 5), None), "stage_x": number_key(None), "stage_y": number_key("deg")}
    documents = [run.start, *run.declare("primary", **keys)]
    documents += [run.event("primary", 1, fccd_image=FRAMES[0], stage_x=2.0, stage_y=3.0), run.stop()]
    assert feed(documents).positions[1] == pytest.approx((2e-3, 3e-6))


def test_a_datum_that_nobody_announced_is_named(tmp_path, caplog):
    run = RawRun(tmp_path)
    keys = {"fccd_image": image_key((6, 5), "FILESTORE:"), "stage_x": number_key(), "stage_y": number_key()}
    documents = [run.start, *run.declare("primary", **keys)]
    documents += [run.event("primary", 1, fccd_image="r/0", stage_x=0.0, stage_y=0.0), run.stop()]
    with caplog.at_level(logging.CRITICAL, logger="nsbluesky"):
        collector = feed(documents)
    assert "no usable datum 'r/0'" in collector.stop()["reason"]


def test_frames_before_darks_wait_for_them(tmp_path):
    """A replay from the databroker may deliver the streams in any order."""
    documents = list(fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM))
    dark_datum = next(i for i, (name, _) in enumerate(documents) if name == "stream_datum")
    darks = documents.pop(dark_datum)
    documents.insert(len(documents) - 1, darks)
    collector = feed(documents)
    assert_all_frames(collector)
    assert [stream for stream, _ in collector.order[:3]] == ["dark"] * 3


def test_later_document_of_the_same_seq_num_wins(tmp_path):
    """After a rewind the plan takes points 2 and 3 again; their frames lie further on in the file."""
    run = RawRun(tmp_path)
    documents = [
        run.start,
        *run.declare("primary", fccd_image=image_key((6, 5)), stage_x=number_key(), stage_y=number_key()),
    ]
    bundle, resource = run.file("fccd_image", FRAMES)
    documents += resource
    for index, seq_num in enumerate([1, 2, 3, 2, 3, 4]):
        documents.append(run.datum("primary", bundle, index, index + 1, seq_num))
        documents.append(run.event("primary", seq_num, stage_x=float(index), stage_y=0.0))
    collector = feed([*documents, run.stop()])
    assert sorted(collector.frames["primary"]) == [1, 2, 3, 4]
    for seq_num, index in {1: 0, 2: 3, 3: 4, 4: 5}.items():
        np.testing.assert_array_equal(collector.frames["primary"][seq_num], FRAMES[index])
        assert collector.positions[seq_num][0] == pytest.approx(index * 1e-6)


def test_point_taken_again_without_position_keeps_the_former_one(tmp_path):
    run = RawRun(tmp_path)
    documents = [
        run.start,
        *run.declare("primary", fccd_image=image_key((6, 5)), stage_x=number_key(), stage_y=number_key()),
    ]
    bundle, resource = run.file("fccd_image", FRAMES)
    documents += [*resource, run.datum("primary", bundle, 0, 1), run.event("primary", 1, stage_x=3.0, stage_y=4.0)]
    documents += [run.datum("primary", bundle, 5, 6, 1), run.stop()]
    collector = feed(documents)
    np.testing.assert_array_equal(collector.frames["primary"][1], FRAMES[5])
    assert collector.positions[1] == pytest.approx((3e-6, 4e-6))


def test_inline_frame_taken_again_is_not_lost(tmp_path):
    run = RawRun(tmp_path)
    keys = {"fccd_image": image_key((6, 5), None), "stage_x": number_key(), "stage_y": number_key()}
    documents = [run.start, *run.declare("primary", **keys)]
    for index, seq_num in enumerate([1, 2, 3, 2, 3, 4]):
        documents.append(run.event("primary", seq_num, fccd_image=FRAMES[index], stage_x=float(index), stage_y=0.0))
    collector = feed([*documents, run.stop()])
    assert [seq_num for _, seq_num in collector.order] == [1, 2, 3, 2, 3, 4]
    assert collector.health()["lost"] == []


def test_an_event_of_other_things_than_frame_and_position_takes_nothing_again(tmp_path):
    """A fly scan tells frames and positions by stream datum; its events tell what else was read."""
    run = RawRun(tmp_path)
    keys = {key: number_key("um", "STREAM:") for key in ("stage_x", "stage_y")}
    documents = [run.start, *run.declare("primary", fccd_image=image_key((6, 5)), **keys, i0=number_key())]
    bundles = []
    for key, values in (("fccd_image", FRAMES), ("stage_x", X_UM), ("stage_y", Y_UM)):
        bundle, resource = run.file(key, values)
        bundles.append(bundle)
        documents += resource
    for k in range(10):
        documents += [*(run.datum("primary", bundle, k, k + 1) for bundle in bundles)]
        documents.append(run.event("primary", k + 1, i0=3.0))
    collector = feed([*documents, run.stop()])
    assert_all_frames(collector)
    assert len(collector.order) == 10


def test_positions_that_cannot_be_read_cost_their_frames_alone(tmp_path):
    documents = list(fly_run(tmp_path, FRAMES, None, X_UM, Y_UM))
    (path,) = tmp_path.glob("stage_x*.h5")
    path.unlink()
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_dataset("/entry/data/data", data=X_UM, chunks=(1,), fletcher32=True)
        byte = data.id.get_chunk_info(1).byte_offset
    content = bytearray(path.read_bytes())
    content[byte] ^= 0xFF
    hidden = path.rename(tmp_path / "not_yet")
    source, collector = FrameSource(), Collector()
    source.subscribe(collector)
    for name, document in documents[:-1]:
        source(name, document)
    source.wait(timeout=30)  # all positions wait for their file
    hidden.write_bytes(content)
    hidden.rename(path)
    source(*documents[-1])
    assert source.close(timeout=30)
    assert_all_frames(collector, but=(2,))
    assert collector.health()["lost"] == [2]
    assert f"no position: {tmp_path}/stage_x" in collector.health()["message"]


def test_positions_that_were_never_written_cost_their_frames_alone(tmp_path):
    documents = list(fly_run(tmp_path, FRAMES, None, X_UM, Y_UM))
    (path,) = tmp_path.glob("stage_y*.h5")
    write_frames(path, Y_UM[:7])
    collector = feed(documents)
    assert_all_frames(collector, but=(8, 9, 10))
    assert collector.health()["lost"] == [8, 9, 10]


def test_missing_positions_are_listed_as_lost(tmp_path):
    run = RawRun(tmp_path)
    documents = [
        run.start,
        *run.declare("primary", fccd_image=image_key((6, 5)), stage_x=number_key(), stage_y=number_key()),
    ]
    bundle, resource = run.file("fccd_image", FRAMES)
    documents += [*resource, run.datum("primary", bundle, 0, 3), run.event("primary", 1, stage_x=0.0, stage_y=0.0)]
    documents += [run.event("primary", 2, stage_x=0.0), run.stop()]
    collector = feed(documents)
    assert list(collector.frames["primary"]) == [1]
    assert collector.health()["lost"] == [2, 3]
    assert "no position" in collector.health()["message"]
    assert "2 frames lost" in collector.stop()["reason"]


def test_frames_announced_but_never_written_are_lost_and_the_rest_is_saved(tmp_path):
    documents = list(fly_run(tmp_path, FRAMES, None, X_UM, Y_UM))
    write_frames(tmp_path / "fccd_image_1.h5", FRAMES[:6])
    collector = feed(documents)
    assert_all_frames(collector, but=(7, 8, 9, 10))
    assert collector.health()["lost"] == [7, 8, 9, 10]


def test_corrupt_chunk_costs_one_frame(tmp_path):
    import h5py

    documents = list(fly_run(tmp_path, FRAMES, None, X_UM, Y_UM))
    with h5py.File(tmp_path / "fccd_image_1.h5", "w", libver="latest") as file:
        data = file.create_dataset("/entry/data/data", data=FRAMES, chunks=(1, 6, 5), fletcher32=True)
        offset = data.id.get_chunk_info(4).byte_offset
    with (tmp_path / "fccd_image_1.h5").open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff\xfe\xfd")
    collector = feed(documents)
    assert_all_frames(collector, but=(5,))
    assert collector.health()["lost"] == [5]
    assert "cannot be read" in collector.health()["message"]


def test_dark_that_was_never_written_is_told(tmp_path):
    documents = list(fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM))
    write_frames(tmp_path / "fccd_image_1.h5", DARKS[:2])
    collector = feed(documents)
    assert_all_frames(collector)
    assert sorted(collector.frames["dark"]) == [1, 2]
    order = [stream for stream, _ in collector.order]
    assert order == sorted(order), "what is there of the darks comes before the scan"
    warnings = [
        d["data"]["message"] for n, d in collector.documents if n == "event" and d["data"]["state"] == "warning"
    ]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"dark frame 3 is lost: {tmp_path}/fccd_image_1.h5 holds 2 frames")


def test_the_scan_waits_for_the_darks_of_every_exposure(tmp_path):
    run = RawRun(tmp_path)
    documents = [run.start, *run.declare("dark", fccd_image=image_key((6, 5)))]
    documents += run.declare("dark_1", fccd_image=image_key((6, 5)))
    keys = {"fccd_image": image_key((6, 5), None), "stage_x": number_key(), "stage_y": number_key()}
    documents += run.declare("primary", **keys)
    documents += [run.event("primary", k + 1, fccd_image=FRAMES[k], stage_x=1.0, stage_y=1.0) for k in range(2)]
    for stream in ("dark_1", "dark"):
        bundle, resource = run.file("fccd_image", DARKS)
        documents += [*resource, run.datum(stream, bundle, 0, len(DARKS))]
    collector = feed([*documents, run.stop()])
    assert [stream for stream, _ in collector.order] == ["dark_1"] * 3 + ["dark"] * 3 + ["primary"] * 2


def test_wrong_shaped_frame_costs_one_frame(tmp_path):
    run = RawRun(tmp_path)
    keys = {"fccd_image": image_key((6, 5), None), "stage_x": number_key(), "stage_y": number_key()}
    documents = [run.start, *run.declare("primary", **keys)]
    for k in range(10):
        frame = FRAMES[k] if k != 2 else FRAMES[k][:3]
        documents.append(run.event("primary", k + 1, fccd_image=frame, stage_x=X_UM[k], stage_y=Y_UM[k]))
    collector = feed([*documents, run.stop()])
    assert_all_frames(collector, but=(3,))
    assert "(3, 5)" in collector.health()["message"]


def other_camera(run: RawRun, mimetype: str) -> event_model.ComposeStreamResourceBundle:
    """Return the file of another camera than the plan's, as `RawRun.datum` takes it."""
    return event_model.compose_stream_resource(
        mimetype=mimetype,
        uri="file://localhost/other",
        data_key="other_image",
        parameters={},
        start={"uid": run.uid},
    )


@pytest.mark.parametrize("mimetype", ["multipart/related;type=image/tiff", "application/x-hdf5"])
def test_what_another_camera_writes_is_not_looked_at(tmp_path, mimetype):
    run = RawRun(tmp_path)
    keys = {"fccd_image": image_key((6, 5)), "other_image": image_key((4, 4))}
    documents = [run.start, *run.declare("primary", **keys, stage_x=number_key(), stage_y=number_key())]
    bundle, resource = run.file("fccd_image", FRAMES)
    other = other_camera(run, mimetype)
    documents += [*resource, ("stream_resource", dict(other.stream_resource_doc))]
    for k in range(10):
        documents += [
            run.datum("primary", bundle, k, k + 1),
            run.event("primary", k + 1, stage_x=X_UM[k], stage_y=Y_UM[k]),
        ]
        documents.append(run.datum("primary", other, k, k + 1))
    documents.append(run.stop())
    collector = feed(documents)
    assert_all_frames(collector)
    assert collector.health()["lost"] == []
    assert collector.stop()["reason"] == ""
    assert len(scan_of_run(documents)) == 10


def test_a_file_that_cannot_be_used_loses_its_frames_with_the_reason(tmp_path, caplog):
    run = RawRun(tmp_path)
    documents = [run.start, *run.declare("primary", other_image=image_key((4, 4)))]
    run.start[1]["ptycho"] = {**PTYCHO, "keys": {"image": "other_image", "x": "stage_x", "y": "stage_y"}}
    other = other_camera(run, "image/tiff")
    documents += [("stream_resource", dict(other.stream_resource_doc))]
    documents += [run.datum("primary", other, 0, 2), run.datum("primary", other, 2, 3), run.stop()]
    with caplog.at_level(logging.CRITICAL, logger="nsbluesky"):
        collector = feed(documents)
    assert collector.health()["lost"] == [1, 2, 3]
    assert "frame 3: its file cannot be used: stream resource of type 'image/tiff'" in collector.health()["message"]
    assert collector.stop()["reason"].startswith("3 frames lost; frames: stream resource of type 'image/tiff'")


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_a_file_that_cannot_be_looked_at_again_just_now_is_later(tmp_path, monkeypatch, error):
    path = tmp_path / "grows.h5"
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_dataset("data", (1, 6, 5), "<u2", maxshape=(None, 6, 5), chunks=(1, 6, 5))
        file.swmr_mode = True
        reader = HDF5Frames(path, "data")
        reader.read(0, 1)

        def refresh(dataset: h5py.Dataset) -> None:
            raise error("unable to refresh dataset")

        with monkeypatch.context() as patch:
            patch.setattr(h5py.Dataset, "refresh", refresh)
            with pytest.raises(NotYetWritten, match="unable to refresh"):
                reader.read(0, 2)
        data.resize(2, axis=0)
        data[:] = FRAMES[:2]
        data.flush()
        np.testing.assert_array_equal(reader.read(0, 2), FRAMES[:2])
        reader.close()


@pytest.mark.parametrize("size", [0, 30, 100, 4000])
def test_a_file_that_was_cut_off_is_not_waited_for_in_hdf5(tmp_path, size):
    """HDF5 reads its metadata again and again in SWMR mode, for hours."""
    path = tmp_path / "cut.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("entry/data/data", data=np.zeros((40, 6, 5), "<u2"), chunks=(1, 6, 5))
    reader = HDF5Frames(path, "entry/data/data")
    assert reader.read(0, 40).shape == (40, 6, 5)
    reader.close()
    os.truncate(path, size)
    with pytest.raises(NotYetWritten, match=f"is cut off: it ends after {size} bytes" if size else "can be read"):
        reader.read(0, 40)


def test_an_unexpected_error_of_one_position_costs_no_other(tmp_path, monkeypatch):
    read = HDF5Frames.read

    def stumble(self: HDF5Frames, start: int, stop: int) -> np.ndarray:
        if "stage_x" in self.path.name and start <= 1 < stop:
            raise RuntimeError("a filter that is not installed")
        return read(self, start, stop)

    monkeypatch.setattr(HDF5Frames, "read", stumble)
    collector = feed(list(fly_run(tmp_path, FRAMES, None, X_UM, Y_UM)))
    assert_all_frames(collector, but=(2,))
    assert "no position: a filter that is not installed" in collector.health()["message"]


def test_times_that_cannot_be_read_are_left_out(tmp_path, monkeypatch):
    path = tmp_path / "frames.h5"
    with h5py.File(path, "w") as file:
        file["data"], file[f"{ATTRIBUTES}/{TIMESTAMP}"] = FRAMES, np.arange(10.0)
    reader = HDF5Frames(path, "data")
    assert reader.times_s(0, 2) is not None

    def refresh(dataset: h5py.Dataset) -> None:
        raise RuntimeError("unable to refresh dataset")

    monkeypatch.setattr(h5py.Dataset, "refresh", refresh)
    assert reader.times_s(0, 2) is None
    reader.close()


def test_the_path_of_a_resource_is_no_address(tmp_path):
    """It may hold what an address could not."""
    folder = tmp_path / "scan#12 at 50%20"
    document = {
        "spec": "AD_HDF5",
        "root": str(tmp_path),
        "resource_path": f"{folder.name}/x.h5",
        "resource_kwargs": {},
    }
    assert frames_of_resource(document, [tmp_path]).path == folder / "x.h5"
    with pytest.raises(DocumentError, match="lies outside"):
        frames_of_resource({**document, "resource_path": "../x.h5"}, [tmp_path])
    with pytest.raises(DocumentError, match="expected an absolute path"):
        frames_of_resource({**document, "root": ""}, [tmp_path])


def test_positions_without_units_are_refused(tmp_path, caplog):
    run = RawRun(tmp_path)
    documents = [
        run.start,
        *run.declare("primary", fccd_image=image_key((6, 5)), stage_x=number_key(None), stage_y=number_key()),
    ]
    documents += [run.event("primary", 1, stage_x=0.0, stage_y=0.0), run.stop()]
    with caplog.at_level(logging.CRITICAL, logger="nsbluesky"):
        collector = feed(documents)
    assert "'stage_x' has no units" in collector.stop()["reason"]


def test_abort_in_the_middle_keeps_what_came(tmp_path):
    documents = list(fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM))
    data = [i for i, (name, _) in enumerate(documents) if name == "stream_datum"]
    stop = ("stop", {**documents[-1][1], "exit_status": "abort"})
    collector = feed([*documents[: data[7]], stop])
    assert sorted(collector.frames["primary"]) == list(range(1, 9))
    assert collector.stop()["exit_status"] == "abort"


def test_derived_documents_validate(tmp_path):
    for name, document in feed(fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM)).documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(document)


def test_runs_of_other_plans_are_left_alone(tmp_path):
    run = RawRun(tmp_path, ptycho=None)
    del run.start[1]["ptycho"]
    assert feed([run.start, run.stop()]).documents == []


def test_run_with_unusable_geometry_is_told_where_errors_of_stages_are(tmp_path, caplog):
    run = RawRun(tmp_path, ptycho={**PTYCHO, "energy_eV": -1.0})
    with caplog.at_level(logging.CRITICAL, logger="nsbluesky"):
        collector = feed([run.start, run.stop()])
    told = collector.documents[2][1]["data"]
    assert (told["stage"], told["state"]) == ("geometry", "error")
    assert told["message"] == "energy_eV = -1.0: expected a positive number"
    assert collector.stop()["reason"] == "geometry: energy_eV = -1.0: expected a positive number"


def test_what_the_processing_does_tells_an_unusable_geometry(tmp_path, caplog):
    run = RawRun(tmp_path, ptycho={**PTYCHO, "energy_eV": -1.0})
    source = FrameSource()
    with caplog.at_level(logging.CRITICAL, logger="nsbluesky"):
        source(*run.start)
        assert source.wait(timeout=30)
        ((stage,),) = (told.stages for told in source.activity())
        assert (stage.stage, stage.state) == ("geometry", "error")
        assert stage.error == "energy_eV = -1.0: expected a positive number"
        source(*run.stop())
        assert source.close(timeout=30)


def test_reader_waits_for_a_growing_file(tmp_path):
    import h5py

    path = tmp_path / "growing.h5"
    reader = HDF5Frames(path, "/entry/data/data")
    with pytest.raises(NotYetWritten, match="not there"):
        reader.read(0, 1)
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_dataset("/entry/data/data", (0, 6, 5), "<u2", maxshape=(None, 6, 5), chunks=(1, 6, 5))
        file.swmr_mode = True
        with pytest.raises(NotYetWritten, match="holds 0 frames, 1 were announced"):
            reader.read(0, 1)
        data.resize(2, axis=0)
        data[:] = FRAMES[:2]
        data.flush()
        np.testing.assert_array_equal(reader.read(0, 2), FRAMES[:2])
        reader.close()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("https://example.org/x.h5", "expected a file on this machine"),
        ("file://elsewhere/data/x.h5", "expected a file on this machine"),
        ("relative/x.h5", "expected an absolute path"),
        ("file://localhost/data/../etc/passwd", "lies outside"),
    ],
)
def test_paths_are_checked(tmp_path, uri, message):
    with pytest.raises(DocumentError, match=message):
        local_path(uri, roots=[tmp_path])


TAKEN_S = np.linspace(0.1, 0.9, 10)
"""When the frames were taken, in seconds after the start of the run."""


@pytest.mark.parametrize(
    ("age_s", "clock_ahead_s", "told"),
    [(2.0, 0.0, True), (3600.0, 0.0, False), (2.0, 50.0, False), (2.0, -50.0, False)],
    ids=["live", "recorded", "detector's clock ahead", "detector's clock behind"],
)
def test_frames_are_as_old_as_their_file_tells_while_the_scan_runs(tmp_path, age_s, clock_ahead_s, told):
    documents = list(fly_run(tmp_path, FRAMES, None, X_UM, Y_UM))
    started = time.time() - age_s
    documents[0] = "start", {**documents[0][1], "time": started}
    with h5py.File(tmp_path / "fccd_image_1.h5", "a", libver="latest") as file:
        file[f"{ATTRIBUTES}/{TIMESTAMP}"] = started + TAKEN_S + clock_ahead_s - EPICS_EPOCH_S
    before = time.time()
    collector = feed(documents)
    times = np.concatenate([d["time"] for n, d in collector.documents if n == "event_page"])
    if told:
        np.testing.assert_allclose(times, started + TAKEN_S, rtol=0, atol=1e-3)
    else:
        assert (times >= before).all()


def test_frames_beside_a_bad_one_keep_their_own_times(tmp_path):
    documents = list(fly_run(tmp_path, FRAMES, None, X_UM, Y_UM))
    started = time.time() - 2.0
    documents[0] = "start", {**documents[0][1], "time": started}
    with h5py.File(tmp_path / "fccd_image_1.h5", "w", libver="latest") as file:
        data = file.create_dataset("/entry/data/data", data=FRAMES, chunks=(1, 6, 5), fletcher32=True)
        offset = data.id.get_chunk_info(1).byte_offset
        file[f"{ATTRIBUTES}/{TIMESTAMP}"] = started + TAKEN_S - EPICS_EPOCH_S
    with (tmp_path / "fccd_image_1.h5").open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff\xfe\xfd")
    collector = feed(documents)
    assert_all_frames(collector, but=(2,))
    times = np.concatenate([d["time"] for n, d in collector.documents if n == "event_page"])
    np.testing.assert_allclose(times, started + np.delete(TAKEN_S, 1), rtol=0, atol=1e-3)
