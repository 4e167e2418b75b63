"""Documents as bytes and back: msgpack with NumPy arrays, and nothing that could run code.

An array is an extension value that holds its type, its shape and its bytes.  Only types of plain numbers are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import event_model
import msgpack
import numpy as np

from nsbluesky.document_log import encode, encode_metadata

__all__ = [
    "ACK",
    "DOCUMENT",
    "HEARTBEAT",
    "HELLO",
    "MAX_BYTES",
    "REFUSED",
    "WireError",
    "pack",
    "pack_document",
    "unpack",
    "unpack_document",
]

HELLO, DOCUMENT = b"hello", b"document"
"""What a session sends."""
ACK, REFUSED = b"ack", b"refused"
"""What it gets: how far its runs are, or why not."""
HEARTBEAT = b"heartbeat"
"""What is published beside documents."""

MAX_BYTES = 64 * 2**20
"""Larger messages are neither made nor read: frames travel by reference."""

MAX_DIMENSIONS = 8
ARRAY = 1
"""Code of the extension value."""

DTYPES = frozenset(
    np.dtype(order + code).str
    for order in "<>"
    for code in ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16")
)
"""Types of arrays that are taken, as `numpy.dtype.str` tells them."""

DOCUMENT_NAMES = frozenset(name.name for name in event_model.DocumentNames)


class WireError(ValueError):
    """Bytes that are no message, or a value that cannot become one; the message says which and why."""


def pack(value: Any, default: Callable[[Any], Any] | None = None) -> bytes:
    """Return a value as bytes.

    Parameters
    ----------
    value : object
        None, numbers, texts, bytes, lists, mappings, and NumPy arrays of numbers, in each other.  Tuples and sets
        become lists.
    default : callable, optional
        Returns one of these for what is none.

    Raises
    ------
    WireError
        If it holds anything else or is too large.
    """
    try:
        data: bytes = msgpack.packb(value, default=default or _to_plain)
    except OverflowError:
        raise WireError("an integer of more than 64 bits cannot be sent: make it a float or a text") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"a value cannot be sent: {error}") from error
    if len(data) > MAX_BYTES:
        raise WireError(f"a message of {len(data)} bytes: expected at most {MAX_BYTES}; refer to frames in a file")
    return data


def unpack(data: bytes | memoryview) -> Any:
    """Return the value that bytes hold; its arrays are read-only views of them.

    Raises
    ------
    WireError
        If they hold no value, more than one, or an array that is not what it says.
    """
    if len(data) > MAX_BYTES:
        raise WireError(f"a message of {len(data)} bytes: expected at most {MAX_BYTES}")
    try:
        return msgpack.unpackb(data, ext_hook=_to_array, strict_map_key=False)
    except WireError:
        raise
    except Exception as error:  # what a hostile message brings to light: one error, whatever it is
        raise WireError(f"{len(data)} bytes are no message: {type(error).__name__}: {error}") from error


def pack_document(run: str, index: int, name: str, document: Mapping[str, Any]) -> bytes:
    """Return a document as bytes, with its run's uid and its place among that run's documents.

    In a start document, what is no plain value, as a path or a date, becomes a text: so it does in the document log.
    """
    return pack((run, index, name, document), partial(_to_plain, encode=encode_metadata) if name == "start" else None)


def unpack_document(data: bytes | memoryview) -> tuple[str, int, str, dict[str, Any]]:
    """Return run, index, name and document.

    Raises
    ------
    WireError
        If the bytes are not what `pack_document` makes.
    """
    value = unpack(data)
    if not isinstance(value, list) or len(value) != 4:
        raise WireError("expected a run, an index, a name and a document")
    run, index, name, document = value
    if not isinstance(run, str) or type(index) is not int or index < 0:
        raise WireError("expected the uid of a run and the index of the document in it")
    if not isinstance(name, str) or name not in DOCUMENT_NAMES:
        raise WireError(f"a document named {name!r:.40}: expected one of {', '.join(sorted(DOCUMENT_NAMES))}")
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise WireError(f"a {name} document that is no object")
    return run, index, name, document


def _to_plain(value: Any, encode: Callable[[Any], Any] = encode) -> Any:
    """Return what msgpack knows for what documents hold besides."""
    if not isinstance(value, np.ndarray):
        return encode(value)
    if value.dtype.str not in DTYPES:
        return value.tolist()
    content = (value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
    return msgpack.ExtType(ARRAY, msgpack.packb(content))


def _to_array(code: int, data: bytes) -> np.ndarray[Any, Any]:
    if code != ARRAY:
        raise WireError(f"an extension value of code {code}: expected {ARRAY}, an array")
    content = msgpack.unpackb(data)
    if not isinstance(content, list) or len(content) != 3:
        raise WireError("an array without type, shape and bytes")
    dtype, shape, values = content
    if dtype not in DTYPES:
        raise WireError(f"an array of type {dtype!r:.40}: expected plain numbers")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise WireError(f"an array's shape must be a list of at most {MAX_DIMENSIONS} sides")
    if not all(type(side) is int and 0 <= side <= MAX_BYTES for side in shape):
        raise WireError("an array's sides must be whole numbers from 0 on")
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if not isinstance(values, bytes) or len(values) != expected:
        raise WireError(f"an array of type {dtype} and shape {tuple(shape)} must have {expected} bytes")
    return np.frombuffer(values, dtype=dtype).reshape(shape)
