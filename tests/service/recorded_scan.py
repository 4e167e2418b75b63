"""A scan that was recorded once, to be sent to services as often as tests like; and what stands in the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from twin_beamline import RIM_PX, TwinBeamline

from nsbluesky.cxi import read_cxi
from nsbluesky.document_log import DocumentLog
from nsbluesky.service.connection import Connection, connect
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.solver.quality import contrast_correlation

TIMEOUT_S = 60.0

GOOD_SOLVER = {"sweep_candidates": 7, "sweep_frames": 40, "sweep_passes": 4, "passes_final": 20, "final_s": 600.0}
"""Enough for an image that can be compared with the truth, however busy the machine: correlations differ by 2 % with
the order of frames."""

Document = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class RecordedScan:
    """The documents of a scan whose frames are on disk."""

    beamline: TwinBeamline
    documents: list[Document]
    folder: Path

    @property
    def uid(self) -> str:
        return str(self.documents[0][1]["uid"])

    @property
    def num_points(self) -> int:
        return int(self.documents[0][1]["ptycho"]["scan"]["num_points"])

    def settings(self, folder: Path, **solver: Any) -> ServiceSettings:
        """Settings of a service that may read these frames."""
        return ServiceSettings(
            directory=str(folder / "results"),
            roots=(str(self.folder),),
            address="tcp://127.0.0.1:0",
            state=str(folder / "state"),
            warm_up=False,
            pipeline=self.beamline.settings(**{**GOOD_SOLVER, **solver}),
        )

    def correlation(self, image: np.ndarray) -> float:
        return contrast_correlation(image, self.beamline.simulator.sample.object, RIM_PX)


class Session:
    """A session that sends documents: the log first, then the connection, as a RunEngine does."""

    def __init__(self, address: str, folder: Path, credentials: Any) -> None:
        self.log = DocumentLog(folder / "documents")
        self.connection = connect(address, self.log, credentials)

    def send(self, documents: Sequence[Document]) -> None:
        for name, document in documents:
            self.log(name, document)
            self.connection(name, document)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close(timeout=0)
        self.log.close()


def assert_all_frames_are_there(connection: Connection, scan: RecordedScan, missing: Sequence[int] = ()) -> None:
    """Every recorded frame is in the image and in the CXI file, except those that are known to be missing."""
    expected = [k for k in range(1, scan.num_points + 1) if k not in missing]
    result = connection.results[scan.uid]
    assert result["final"]
    assert result["num_frames"] == len(expected)
    path = connection.cxi_path(scan.uid)
    assert path is not None
    with read_cxi(path) as cxi:
        assert sorted(cxi.seq_nums.tolist()) == expected


def again(scan: RecordedScan, name: str, clock_s: float = 0.0) -> RecordedScan:
    """Return the same scan as another run, from machines whose clocks are that far ahead."""
    uids = {document["uid"]: f"{document['uid']}-{name}" for _, document in scan.documents if "uid" in document}

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(item) for key, item in value.items()}
        return uids.get(value, value) if isinstance(value, str) else value

    documents = [(kind, renamed(document)) for kind, document in scan.documents]
    for _, document in documents:
        if "time" in document:
            document["time"] += clock_s
    return replace(scan, documents=documents)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what other processes do."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def halves(documents: Sequence[Document]) -> tuple[Sequence[Document], Sequence[Document]]:
    middle = len(documents) // 2
    return documents[:middle], documents[middle:]
