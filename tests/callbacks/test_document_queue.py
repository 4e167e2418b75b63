from __future__ import annotations

import queue

import numpy as np
import pytest

from nsbluesky.callbacks.document_queue import DocumentQueue


def event(k: int) -> dict:
    return {"uid": str(k), "data": {"image": np.full((10, 10), k, dtype="<u2"), "x": float(k)}}


def test_order_and_content_survive_the_file():
    """200 bytes an image, room for three: the other seven wait in files and come back as they were, in order."""
    documents = DocumentQueue(max_bytes=600)
    for k in range(10):
        documents.put("event", event(k))
    assert documents.spilled == 7
    assert documents.bytes_in_memory == 600
    for k in range(10):
        item = documents.get(timeout=1)
        np.testing.assert_array_equal(item.document["data"]["image"], event(k)["data"]["image"])
        assert item.document["data"]["x"] == k
    assert documents.bytes_in_memory == 0
    assert len(documents) == 0
    documents.close()


def test_memory_is_used_again_when_it_is_free():
    documents = DocumentQueue(max_bytes=200)
    for k in range(5):
        documents.put("event", event(k))
        documents.get(timeout=1)
    assert documents.spilled == 0


def test_frames_in_a_page_wait_in_files_as_well():
    """A column of a page is a list of them."""
    documents = DocumentQueue(max_bytes=600)
    columns = {
        "image": [event(k)["data"]["image"] for k in range(5)],
        "x": [0.0, 1.0, 2.0, 3.0, 4.0],
        "two": [[1], [2]],
    }
    documents.put("event_page", {"uid": [], "data": columns})
    assert (documents.spilled, documents.bytes_in_memory) == (2, 600)
    data = documents.get(timeout=0).document["data"]
    np.testing.assert_array_equal(data["image"], columns["image"])
    assert (data["x"], data["two"]) == (columns["x"], columns["two"])
    assert documents.bytes_in_memory == 0
    documents.close()


def test_references_never_wait_in_files():
    documents = DocumentQueue(max_bytes=0)
    for k in range(1000):
        documents.put("stream_datum", {"uid": str(k)})
    assert documents.spilled == 0
    assert [documents.get(timeout=0).document["uid"] for _ in range(1000)] == [str(k) for k in range(1000)]
    documents.close()


def test_a_full_disk_costs_memory(monkeypatch):
    """Not the document, and not the scan whose thread it is."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    documents = DocumentQueue(max_bytes=0)
    documents.put("event", event(3))
    assert documents.spilled == 0 and documents.bytes_in_memory == 200
    np.testing.assert_array_equal(documents.get(timeout=0).document["data"]["image"], event(3)["data"]["image"])
    assert documents.bytes_in_memory == 0
    documents.close()


def test_objects_stay_in_memory():
    """They go into no file without pickle; whoever reads the document tells what is wrong with it."""
    documents = DocumentQueue(max_bytes=0)
    documents.put("event", {"data": {"names": np.array(["a", None], object)}})
    assert documents.get(timeout=0).document["data"]["names"].tolist() == ["a", None]
    assert (documents.spilled, documents.bytes_in_memory) == (0, 0)
    documents.close()


@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_an_array_that_cannot_be_read_back_costs_its_document_alone(tmp_path, monkeypatch, damage):
    """Neither the memory that its other arrays took, nor the file that is left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    documents = DocumentQueue(max_bytes=200)
    two = {"uid": "two", "data": {"small": np.zeros(50), "image": np.zeros(100, "<u2"), "x": 0.0}}
    for document in (two, event(1)):
        documents.put("event", document)
    spilled = sorted(tmp_path.rglob("*.npy"))
    assert len(spilled) == 2 and documents.bytes_in_memory == 200
    if damage == "gone":
        spilled[0].unlink()
    else:
        spilled[0].write_bytes(spilled[0].read_bytes()[:-10])
    with pytest.raises((OSError, ValueError)):
        documents.get(timeout=0)
    assert documents.bytes_in_memory == 0 and not spilled[0].exists()
    np.testing.assert_array_equal(documents.get(timeout=0).document["data"]["image"], event(1)["data"]["image"])
    documents.close()


@pytest.mark.parametrize("document", [{}, {"data": None}, {"data": [1]}])
def test_an_event_that_is_none_is_for_its_reader_to_tell(document):
    documents = DocumentQueue(max_bytes=0)
    documents.put("event", document)
    assert documents.get(timeout=0).document == document


def test_empty():
    with pytest.raises(queue.Empty):
        DocumentQueue(0).get(timeout=0)


def test_temporary_files_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    documents = DocumentQueue(max_bytes=0)
    documents.put("event", event(1))
    assert len(list(tmp_path.iterdir())) == 1
    documents.close()
    assert list(tmp_path.iterdir()) == []


def test_writers_that_come_between_have_files_of_their_own(monkeypatch):
    """While one writes an array to a file, another one may."""
    waiting, save = DocumentQueue(max_bytes=0), np.save
    between = iter([2])

    def save_after_another(path, array, **how):
        for number in between:
            waiting.put("event", {"data": {"image": np.full((3, 3), number)}})
        save(path, array, **how)

    monkeypatch.setattr(np, "save", save_after_another)
    waiting.put("event", {"data": {"image": np.full((3, 3), 1)}})
    images = [waiting.get(timeout=0).document["data"]["image"] for _ in range(2)]
    assert sorted(int(image[0, 0]) for image in images) == [1, 2]
    assert waiting.spilled == 2
    waiting.close()


def test_writers_that_come_between_keep_the_limit_of_the_memory():
    """One that looked before another one put its array must not trust what it saw."""
    waiting = DocumentQueue(max_bytes=200)
    between, lock = iter([2]), waiting._writing

    class LockAfterAnother:
        def __enter__(self):
            for number in between:
                waiting.put("event", event(number))
            return lock.__enter__()

        def __exit__(self, *error):
            return lock.__exit__(*error)

    waiting._writing = LockAfterAnother()
    waiting.put("event", event(1))
    assert (waiting.spilled, waiting.bytes_in_memory) == (1, 200)
    assert [waiting.get(timeout=0).document["data"]["x"] for _ in range(2)] == [2, 1]
    waiting.close()
