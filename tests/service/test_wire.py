"""Documents become bytes and come back; no bytes bring anything but a document or one WireError."""

from __future__ import annotations

import pickle
from datetime import datetime
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from nsbluesky.service.wire import (
    ARRAY,
    DTYPES,
    MAX_BYTES,
    WireError,
    pack,
    pack_document,
    unpack,
    unpack_document,
)

ARRAYS = nps.arrays(dtype=st.sampled_from(sorted(DTYPES)), shape=nps.array_shapes(min_dims=0, max_dims=4, min_side=0))
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
TREES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@given(ARRAYS)
def test_arrays_come_back_bit_by_bit(array: np.ndarray) -> None:
    (back,) = unpack(pack([array]))
    assert back.dtype.str == array.dtype.str and back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(st.dictionaries(st.text(), TREES, max_size=4))
def test_documents_come_back(document: dict[str, Any]) -> None:
    assert unpack_document(pack_document("abc", 7, "event", document)) == ("abc", 7, "event", document)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_document_or_one_error(data: bytes) -> None:
    try:
        run, index, name, document = unpack_document(data)
    except WireError as error:
        assert str(error)
    else:
        assert isinstance(run, str) and index >= 0 and isinstance(document, dict), name


@given(st.data())
def test_damaged_messages_give_a_document_or_one_error(data: st.DataObject) -> None:
    """Damage that leaves most of a message right goes deeper than random bytes do."""
    frame = np.arange(6, dtype="<u2").reshape(2, 3)
    message = bytearray(pack_document("abc", 7, "event", {"data": {"image": frame}, "time": 1.5, "filled": {}}))
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        unpack_document(bytes(message))
    except WireError as error:
        assert str(error)


@given(st.binary(max_size=80))
def test_any_extension_value_gives_an_array_or_one_error(content: bytes) -> None:
    try:
        value = unpack(msgpack.packb(msgpack.ExtType(ARRAY, content)))
    except WireError:
        return
    assert isinstance(value, np.ndarray)


def test_a_pickle_is_refused() -> None:
    with pytest.raises(WireError):
        unpack_document(pickle.dumps(("abc", 0, "start", {"uid": "abc"})))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (("|O", [1], b"12345678"), "expected plain numbers"),
        (("<U4", [1], b"1234567890123456"), "expected plain numbers"),
        (("<u2", [1 << 40, 1 << 40], b""), "whole numbers"),
        (("<u2", [3], b"12"), "must have 6 bytes"),
        (("<u2", [-1, -1], b"12"), "whole numbers"),
        (("<u2", [True], b"12"), "whole numbers"),
        (("<u2", [1] * 9, b"12"), "at most 8 sides"),
        (("<u2", [1]), "without type"),
        (([["<u2"]], [1], b"12"), "no message"),
    ],
)
def test_arrays_that_are_not_what_they_say(content: Any, message: str) -> None:
    with pytest.raises(WireError, match=message):
        unpack(msgpack.packb(msgpack.ExtType(ARRAY, msgpack.packb(content))))


@pytest.mark.parametrize(
    "value",
    [
        ["abc", 0, "start"],
        ["abc", -1, "start", {}],
        ["abc", True, "start", {}],
        [5, 0, "start", {}],
        ["abc", 0, "started", {}],
        ["abc", 0, ["start"], {}],
        ["abc", 0, "start", []],
        ["abc", 0, "start", {1: 2}],
    ],
)
def test_what_is_no_document_is_refused(value: Any) -> None:
    with pytest.raises(WireError):
        unpack_document(pack(value))


def test_sizes_are_bounded() -> None:
    with pytest.raises(WireError, match="at most"):
        pack(np.zeros(MAX_BYTES, np.uint8))
    with pytest.raises(WireError, match="at most"):
        unpack(bytes(MAX_BYTES + 1))


def test_what_documents_hold_besides_json() -> None:
    value = {"a": np.float32(1.5), "b": (1, 2), "c": {3}, "d": np.array(["x", "y"]), "e": np.bool_(True)}
    assert unpack(pack(value)) == {"a": 1.5, "b": [1, 2], "c": [3], "d": ["x", "y"], "e": True}


@pytest.mark.parametrize("value", [object(), 1 << 70, {"a": {"b": lambda: None}}])
def test_what_cannot_be_sent_is_told(value: Any) -> None:
    with pytest.raises(WireError, match="sent"):
        pack(value)


def test_metadata_of_any_type_can_be_sent() -> None:
    start = {"uid": "a", "time": 1.0, "file": Path("/a b"), "when": datetime(2026, 1, 2), "beam": {"phase": 1j}}
    _, _, _, sent = unpack_document(pack_document("a", 0, "start", start))
    assert sent == {"uid": "a", "time": 1.0, "file": "/a b", "when": "2026-01-02 00:00:00", "beam": {"phase": "1j"}}
    with pytest.raises(WireError, match="sent"):
        pack_document("a", 1, "stop", {"file": Path("/a b")})
