"""The documents of a growing HDF5 file: StreamResource once, then StreamDatum for the rows that are new."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from event_model import compose_stream_resource

from nsbluesky.file_uris import HDF5_MIMETYPE

__all__ = ["Asset", "StreamAssets", "StreamKey"]

Asset = tuple[str, Any]
"""Name and document."""


@dataclass(frozen=True)
class StreamKey:
    """One data key whose values are the rows of a dataset.

    Attributes
    ----------
    name : str
        Data key.
    dataset : str
        Path in the file.
    shape : tuple of int
        Of one row; () for numbers.
    dtype_numpy : str
        Such as "<u2".
    source : str
    units : str
        Empty where there is none.
    """

    name: str
    dataset: str
    shape: tuple[int, ...]
    dtype_numpy: str
    source: str
    units: str = ""

    @property
    def data_key(self) -> dict[str, Any]:
        """The entry of an event descriptor."""
        key: dict[str, Any] = {
            "source": self.source,
            "dtype": "array" if self.shape else "number",
            "dtype_numpy": self.dtype_numpy,
            "shape": list(self.shape),
            "external": "STREAM:",
        }
        if self.units:
            key["units"] = self.units
        return key


class StreamAssets:
    """What was told of one file, and what is to be told next.

    Parameters
    ----------
    keys : sequence of StreamKey
        Rows of all of them are written together.
    uri : callable
        Returns the file's URI; first called when there is a row, as a plugin may name its file only then.
    rows_per_chunk : int
        Of the datasets.
    """

    def __init__(self, keys: Sequence[StreamKey], uri: Callable[[], str], rows_per_chunk: int = 1) -> None:
        self._keys = tuple(keys)
        self._uri = uri
        self._rows_per_chunk = rows_per_chunk
        self._bundles: list[Any] = []
        self._told = 0

    @property
    def told(self) -> int:
        """Rows that documents were made for."""
        return self._told

    def skip_to(self, row: int) -> None:
        """Leave out rows up to this one: frames of a point that is taken again belong to no event."""
        self._told = max(self._told, row)

    def documents(self, stop: int) -> Iterator[Asset]:
        """Yield the documents for the rows before `stop` that were not told yet."""
        if stop <= self._told:
            return
        if not self._bundles:
            uri = self._uri()
            for key in self._keys:
                parameters = {
                    "dataset": key.dataset,
                    "swmr": True,
                    "chunk_shape": (self._rows_per_chunk, *key.shape),
                }
                bundle = compose_stream_resource(
                    mimetype=HDF5_MIMETYPE, uri=uri, data_key=key.name, parameters=parameters
                )
                self._bundles.append(bundle)
                yield "stream_resource", bundle.stream_resource_doc
        start, self._told = self._told, stop
        for bundle in self._bundles:
            yield "stream_datum", bundle.compose_stream_datum({"start": start, "stop": stop})
