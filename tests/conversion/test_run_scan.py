"""Raw scans from the documents of recorded runs: frames by reference, in whatever order the documents came."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from raw_runs import DARKS, FRAMES, PTYCHO, X_UM, Y_UM, RawRun, fly_run, image_key, number_key

from nsbluesky.conversion import ConversionError
from nsbluesky.conversion.run_scan import scan_of_run
from nsbluesky.replay import NO_END
from nsbluesky.settings import SettingsError


def step_run(folder: Path, seq_nums: list[int], rows: list[int], *, exposures_s: tuple[float, ...] = (1.0,)) -> list:
    """Return documents of a step scan whose point `seq_nums[k]` is row `rows[k]` of the file."""
    run = RawRun(folder, ptycho={**PTYCHO, "exposures_s": list(exposures_s)})
    keys = {"fccd_image": image_key((6, 5)), "stage_x": number_key(), "stage_y": number_key()}
    documents = [run.start, *run.declare("primary", **keys)]
    bundle, resource = run.file("fccd_image", FRAMES)
    documents += resource
    for seq_num, row in zip(seq_nums, rows, strict=True):
        documents.append(run.datum("primary", bundle, row, row + 1, first_seq_num=seq_num))
        documents.append(run.event("primary", seq_num, stage_x=0.5 * seq_num, stage_y=-0.25 * seq_num))
    return [*documents, run.stop()]


def test_a_fly_scan(tmp_path: Path) -> None:
    scan = scan_of_run(fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM))
    assert len(scan) == 10 and scan.exposures_s == (1.0,) and scan.left_out == {}
    np.testing.assert_array_equal(scan.frames[0].read(), FRAMES)
    np.testing.assert_array_equal(scan.darks[0].read(), DARKS)
    np.testing.assert_allclose(scan.translation_m, np.stack([X_UM, Y_UM], axis=1) * 1e-6)
    assert scan.geometry.energy_eV == PTYCHO["energy_eV"] and isinstance(scan.start_time, float)


def test_a_record_without_documents() -> None:
    with pytest.raises(ConversionError, match="is empty"):
        scan_of_run([])


def test_a_point_that_was_taken_again_counts_once_and_the_later_wins(tmp_path: Path) -> None:
    scan = scan_of_run(step_run(tmp_path, [1, 2, 3, 2], [0, 1, 2, 3]))
    assert scan.seq_nums.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(scan.frames[0].read(), FRAMES[[0, 3, 2]])


def test_exposures_follow_one_another_and_one_may_be_missing(tmp_path: Path) -> None:
    scan = scan_of_run(step_run(tmp_path, [1, 2, 4, 5, 6], [0, 1, 2, 3, 4], exposures_s=(0.1, 1.0)))
    assert scan.seq_nums.tolist() == [1, 2, 3] and scan.exposures_s == (0.1, 1.0)
    assert [stored.recorded.tolist() for stored in scan.frames] == [[True, False, True], [True] * 3]
    np.testing.assert_array_equal(scan.frames[1].read(), FRAMES[[1, 2, 4]])
    np.testing.assert_allclose(scan.translation_m[1, 0], 2e-6)  # where the exposure that is there was taken


def test_points_without_frame_or_position_are_left_out(tmp_path: Path) -> None:
    documents = step_run(tmp_path, [1, 2, 3], [0, 1, 2])
    datum, event = documents[5], documents[8]  # of points 2 and 3
    assert datum[0] == "stream_datum" and event[0] == "event"
    scan = scan_of_run(document for document in documents if document not in (datum, event))
    assert scan.seq_nums.tolist() == [1] and scan.left_out == {2: "no frame", 3: "no position"}


def test_a_run_that_was_cut_off_has_the_points_before(tmp_path: Path) -> None:
    scan = scan_of_run(step_run(tmp_path, [1, 2, 3], [0, 1, 2])[:7])
    assert scan.seq_nums.tolist() == [1, 2]
    assert scan.warnings == (f"not all of a scan may be here, the run ended with abort: {NO_END}",)


def test_a_run_that_was_aborted_is_told(tmp_path: Path) -> None:
    *documents, (_, stop) = step_run(tmp_path, [1, 2, 3], [0, 1, 2])
    assert scan_of_run([*documents, ("stop", stop)]).warnings == ()
    ended = stop | {"exit_status": "abort", "reason": "beam lost"}
    (warning,) = scan_of_run([*documents, ("stop", ended)]).warnings
    assert warning.endswith("the run ended with abort: beam lost")


def test_runs_that_cannot_be_converted(tmp_path: Path) -> None:
    run = RawRun(tmp_path)
    keys = {"fccd_image": image_key((6, 5), None), "stage_x": number_key(), "stage_y": number_key()}
    head = [run.start, *run.declare("primary", **keys)]
    with pytest.raises(ConversionError, match="no frame with a position"):
        scan_of_run(head)
    event = run.event("primary", 1, fccd_image=FRAMES[0], stage_x=1.0, stage_y=1.0)
    with pytest.raises(ConversionError, match=r"lie in its documents: .*nsbluesky replay"):
        scan_of_run([*head, event])
    with pytest.raises(SettingsError, match="energy_eV"):
        scan_of_run([RawRun(tmp_path, ptycho={}).start])
    with pytest.raises(ConversionError, match=r"exposure of -0\.1 s: expected a positive number"):
        scan_of_run(step_run(tmp_path, [1], [0], exposures_s=(-0.1, 1.0)))
