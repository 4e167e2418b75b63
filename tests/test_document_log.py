"""The verbatim log: every document of every run, in order, whatever happens to the writer."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plans as bp
from hypothesis import example, given
from hypothesis import strategies as st
from ophyd.sim import SynAxis, SynGauss

from nsbluesky.document_log import (
    DocumentLog,
    DocumentLogError,
    GrowingLog,
    end_log,
    find_log,
    find_runs,
    read_documents,
)

Document = tuple[str, dict[str, Any]]


def documents_of_run(uid: str, time: float = 1.0, **data: Any) -> list[Document]:
    descriptor = {"uid": f"{uid}-d", "run_start": uid, "name": "primary", "time": time, "data_keys": {}}
    event = {"uid": f"{uid}-e", "descriptor": f"{uid}-d", "seq_num": 1, "time": time, "data": data, "timestamps": {}}
    stop = {"uid": f"{uid}-s", "run_start": uid, "time": time, "exit_status": "success"}
    return [("start", {"uid": uid, "time": time}), ("descriptor", descriptor), ("event", event), ("stop", stop)]


def write(log: DocumentLog, documents: list[Document]) -> None:
    for name, document in documents:
        log(name, document)


def test_a_real_run_is_logged_verbatim(RE: RunEngine, tmp_path: Path) -> None:
    seen: list[Document] = []
    RE.subscribe(lambda name, document: seen.append((name, json.loads(json.dumps(document)))))
    RE.subscribe(DocumentLog(tmp_path))
    motor = SynAxis(name="motor")
    uid = RE(bp.scan([SynGauss("det", motor, "motor", 0, 1)], motor, -1, 1, 3)).run_start_uids[0]
    assert [name for name, _ in seen] == ["start", "descriptor", "event", "event", "event", "stop"]
    assert list(read_documents(uid, tmp_path)) == seen
    assert list(read_documents(uid[:8], tmp_path)) == seen
    assert list(read_documents(tmp_path / f"{uid}.jsonl")) == seen


def test_overlapping_runs_do_not_mix(tmp_path: Path) -> None:
    a, b = documents_of_run("a"), documents_of_run("b")
    log = DocumentLog(tmp_path)
    for one, other in zip(a, b, strict=True):
        write(log, [one, other])
    assert list(read_documents("a", tmp_path)) == a
    assert list(read_documents("b", tmp_path)) == b


def test_a_start_document_that_comes_again_is_not_logged_again(tmp_path: Path) -> None:
    start, *others = documents_of_run("a")
    write(DocumentLog(tmp_path), [start, others[0], start, *others[1:]])
    assert list(read_documents("a", tmp_path)) == [start, *others]


def test_resources_of_old_and_new_devices_belong_to_their_run(tmp_path: Path) -> None:
    start, descriptor, event, stop = documents_of_run("a")
    assets = [
        ("resource", {"uid": "r"}),
        ("datum", {"datum_id": "r/0", "resource": "r"}),
        ("resource", {"uid": "q", "run_start": "a"}),
        ("datum_page", {"datum_id": ["q/0"], "resource": "q"}),
        ("stream_resource", {"uid": "s", "run_start": "a"}),
        ("stream_datum", {"uid": "s/0", "stream_resource": "s", "descriptor": "a-d"}),
    ]
    documents = [start, descriptor, *assets, event, stop]
    *began, ended = documents_of_run("z")  # open all the while: what tells no run may be of either
    unseen = documents_of_run("unseen")[1:]
    write(DocumentLog(tmp_path), [*documents_of_run("before"), *began, *unseen, *documents, ended])
    assert list(read_documents("before", tmp_path)) == documents_of_run("before")
    assert list(read_documents("a", tmp_path)) == documents
    assert list(read_documents("z", tmp_path)) == [*began, *assets[:2], ended]


@pytest.mark.parametrize("dtype", ["<u2", ">f4", "c8", "?", "<i8"])
def test_inline_arrays_survive_bit_by_bit(tmp_path: Path, dtype: str) -> None:
    image = (np.arange(24).reshape(2, 3, 4) % 5).astype(dtype)[:, ::2]
    documents = documents_of_run("a", image=image, count=np.int64(3), mean=np.float32(0.5), many=[np.bool_(True)])
    write(DocumentLog(tmp_path), documents)
    data = list(read_documents("a", tmp_path))[2][1]["data"]
    np.testing.assert_array_equal(data["image"], image)
    assert data["image"].dtype == image.dtype
    data["image"][0] = 0  # like any other event's array it can be written to
    assert data["count"] == 3 and data["mean"] == 0.5 and data["many"] == [True]


def test_every_document_is_on_disk_at_once_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    documents = documents_of_run("a")
    log = DocumentLog(tmp_path)
    for count, document in enumerate(documents, start=1):
        write(log, [document])
        assert list(read_documents("a", tmp_path)) == documents[:count]
    path = tmp_path / "a.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert list(read_documents("a", tmp_path)) in [documents[:n] for n in range(5)]


def test_a_log_is_ended_for_a_session_that_died_as_it_wrote(tmp_path: Path) -> None:
    *documents, _ = documents_of_run("a")
    log, path = DocumentLog(tmp_path), tmp_path / "a.jsonl"
    write(log, documents)
    with pytest.raises(DocumentLogError, match="the run goes on"):
        end_log(path)
    log.close()
    path.write_bytes(path.read_bytes() + b'{"name": "ev')
    assert end_log(path)
    *before, (name, stop) = read_documents(path)
    assert before == documents
    assert (name, stop["run_start"], stop["exit_status"]) == ("stop", "a", "abort")
    assert not end_log(path)


@given(st.binary(max_size=200))
@example(b'{"name": 3, "doc": {}}')
@example(b'{"name": "event", "doc": []}')
def test_damage_in_the_middle_is_told(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.jsonl"
    path.write_bytes(b'{"name": "start", "doc": {"uid": "a"}}\n' + noise + b'\n{"name": "stop", "doc": {}}\n')
    with pytest.raises(DocumentLogError, match=r"line \d+ is no document"):
        list(read_documents(path))


def test_a_growing_log_is_followed_line_by_line(tmp_path: Path) -> None:
    log, documents = DocumentLog(tmp_path), documents_of_run("run", x=1.5)
    log(*documents[0])
    path = tmp_path / "run.jsonl"
    growing = GrowingLog(path)
    assert list(growing.new_documents()) == documents[:1]
    assert list(growing.new_documents()) == []
    write(log, documents[1:3])
    line = json.dumps({"name": "stop", "doc": documents[3][1]})
    with path.open("a") as file:
        file.write(line[:20])
        file.flush()
        assert list(growing.new_documents()) == documents[1:3]
        file.write(line[20:] + "\nnothing\n")
    found = growing.new_documents()
    assert next(found) == documents[3]
    with pytest.raises(DocumentLogError, match="line 5 is no document"):
        next(found)
    growing.close()
    log.close()


def test_a_replayed_run_leaves_its_log_alone(tmp_path: Path) -> None:
    write(DocumentLog(tmp_path), documents_of_run("a", value=1))
    again = DocumentLog(tmp_path)
    write(again, documents_of_run("a", value=2))
    assert list(read_documents("a", tmp_path)) == documents_of_run("a", value=1)
    assert again.errors == {}


def test_trouble_ends_the_log_not_the_run(tmp_path: Path) -> None:
    log = DocumentLog(tmp_path)
    write(log, documents_of_run("bad", value=object()))
    write(log, documents_of_run("../outside"))
    write(log, documents_of_run("good"))
    assert log.errors.keys() == {"bad", "../outside"}
    assert [name for name, _ in read_documents("bad", tmp_path)] == ["start", "descriptor"]
    assert list(read_documents("good", tmp_path)) == documents_of_run("good")
    assert not (tmp_path.parent / "outside.jsonl").exists()


def test_metadata_of_any_type_cost_no_run(tmp_path: Path) -> None:
    (_, start), *others = documents_of_run("a")
    odd = {"file": Path("/a b"), "when": datetime(2026, 1, 2), "beam": {"phase": 1j}, "steps": np.arange(2)}
    log = DocumentLog(tmp_path)
    write(log, [("start", start | odd), *others])
    (_, logged), *rest = read_documents("a", tmp_path)
    assert log.errors == {} and rest == others
    assert logged.pop("steps").tolist() == [0, 1]
    assert logged == start | {"file": "/a b", "when": "2026-01-02 00:00:00", "beam": {"phase": "1j"}}


def test_a_text_that_is_no_unicode_costs_no_run(tmp_path: Path) -> None:
    """As a file name that is no UTF-8 gives one; the catalog cannot store it."""
    (_, start), *others = documents_of_run("a")
    log = DocumentLog(tmp_path)
    write(log, [("start", start | {"sample": "gold\udce4 \ud83d\ude00 ä \\ud"}), *others])
    (_, logged), *rest = read_documents("a", tmp_path)
    assert log.errors == {} and rest == others
    assert logged["sample"] == "gold\N{REPLACEMENT CHARACTER} \N{GRINNING FACE} ä \\ud"


def test_runs_are_found_newest_first(tmp_path: Path) -> None:
    log = DocumentLog(tmp_path)
    for uid, time in (("old", 1.0), ("new", 3.0), ("middle", 2.0)):
        write(log, documents_of_run(uid, time))
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "other.jsonl").write_text("hello\n")
    assert [run.uid for run in find_runs(tmp_path)] == ["new", "middle", "old"]
    assert find_runs(tmp_path)[0].start == {"uid": "new", "time": 3.0}


def test_a_run_by_its_scan_id_or_its_place_from_the_last_as_in_a_catalog(tmp_path: Path) -> None:
    log = DocumentLog(tmp_path)
    for uid, time, scan_id in (("7a", 1.0, 41), ("b", 2.0, 41), ("c", 3.0, 7)):
        log("start", {"uid": uid, "time": time, "scan_id": scan_id})
    log.close()
    found = {text: find_log(text, tmp_path).stem for text in ("41", "7", "-1", "-3")}
    assert found == {"41": "b", "7": "7a", "-1": "c", "-3": "7a"}, "of 41 the latest; 7 begins a uid"
    for text in ("42", "-4", "-0", "--1"):
        with pytest.raises(DocumentLogError, match="no such document log"):
            find_log(text, tmp_path)


def test_the_latest_run_goes_by_that_name(tmp_path: Path) -> None:
    with pytest.raises(DocumentLogError, match=r"no run is in this document log"):
        find_log("latest", tmp_path)
    log = DocumentLog(tmp_path)
    for uid, time in (("old", 1.0), ("new", 3.0), ("middle", 2.0)):
        write(log, documents_of_run(uid, time))
    assert find_log("latest", tmp_path).stem == "new"


def test_unknown_and_ambiguous_runs_are_told_at_once(tmp_path: Path) -> None:
    log = DocumentLog(tmp_path)
    write(log, documents_of_run("aa1"))
    write(log, documents_of_run("aa2"))
    with pytest.raises(DocumentLogError, match="2 runs begin with 'aa'"):
        read_documents("aa", tmp_path)
    with pytest.raises(DocumentLogError, match="no such document log: check uid or scan_id, and folder"):
        read_documents("b", tmp_path)
    with pytest.raises(DocumentLogError, match="letters, digits"):
        read_documents("../aa1", tmp_path)
