"""The last picture of a derived run from its files, where nobody was listening when it was published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from nsbluesky.document_log import read_documents

__all__ = ["read_last_picture"]

STREAM = "reconstruction"


def read_last_picture(path: str | Path) -> dict[str, Any] | None:
    """Return the data of the last ``reconstruction`` event of a derived run; None where there is none.

    Parameters
    ----------
    path : path
        Document log of a derived run whose arrays are in files.

    Raises
    ------
    DocumentLogError, OSError
        If the log or a file cannot be read.
    """
    import h5py

    descriptor = ""
    data: dict[str, Any] = {}
    resources: dict[str, Mapping[str, Any]] = {}
    for name, document in read_documents(path):
        if name == "descriptor" and document["name"] == STREAM:
            descriptor = document["uid"]
        elif name == "stream_resource":
            resources[document["uid"]] = document
        elif name == "stream_datum" and document["descriptor"] == descriptor:
            resource = resources[document["stream_resource"]]
            with h5py.File(unquote(urlparse(resource["uri"]).path), "r") as file:
                last = document["indices"]["stop"] - 1
                data[resource["data_key"]] = file[resource["parameters"]["dataset"]][last]
        elif name == "event" and document["descriptor"] == descriptor:
            data |= document["data"]
    return data or None
