"""What the catalog costs a scan: the session's processor time, and how long a run takes until it can be read.

A fly scan on the simulated beamline with small frames gives the documents of a raw and a derived run.  Both are
brought into the catalog again and again under new uids, by the process that writes for a session; as a control, by
the same writer inside this process, which is what it would cost a session without that process.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from bluesky import RunEngine

from benchmarks.figures import Figure
from nsbluesky import session
from nsbluesky.callbacks.derived_run_writer import DerivedRunWriter
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.catalog import Catalog, CatalogWriter, open_catalog
from nsbluesky.catalog.run_writer import run_writer
from nsbluesky.document_log import DocumentLog, read_documents
from nsbluesky.plans import ptycho_fly_scan
from nsbluesky.simulation.beamline import SimulatedBeamline

ROUNDS = 5
SHAPE = (6, 6)
NUM_DARK = 3
PATIENCE_S = 120.0


def measure() -> list[Figure]:
    """Make the documents, and write them in both ways."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:  # on a disk, as a catalog is
        folder = Path(name)
        logs = make_logs(folder)
        counts = [Counter(name for name, _ in read_documents(log)).total() for log in logs]
        with open_catalog(folder / "catalog", readable=[folder]) as catalog:
            writer = catalog.writer()
            started = time.perf_counter()
            write_beside(catalog, writer, renew(logs))
            start_s = time.perf_counter() - started
            assert catalog.writer_pid is not None
            beside = [write_beside(catalog, writer, renew(logs)) for _ in range(ROUNDS)]
            assert writer.errors == {}
            process = psutil.Process(catalog.writer_pid)
            memory_MB, nice = process.memory_info().rss / 1e6, process.nice()
        with open_catalog(folder / "control", readable=[folder]) as catalog:
            client, requests = catalog.client.include_data_sources(), Counter[bool]()
            hooks = catalog.client.context.http_client.event_hooks
            hooks["request"].append(lambda request: requests.update(["/stream/close/" in request.url.path]))
            inside = [write_inside(client, renew(logs)) for _ in range(ROUNDS)]
    spent_s, control_s = (statistics.median(spent for spent, *_ in rounds) for rounds in (beside, inside))
    documents = f"{counts[0]} (raw) + {counts[1]} (derived) documents"
    figures = [
        Figure("processor time of the session for the runs of a scan", f"{spent_s:.3f} s", documents),
        Figure("control: written inside the session", f"{control_s:.2f} s", "of processor time"),
    ]
    waits = ("raw run readable after its stop document", "derived run readable after it is handed over")
    for k, what in enumerate(waits, start=1):
        wait_s, control_s = (statistics.median(times[k] for times in rounds) for rounds in (beside, inside))
        figures.append(Figure(what, f"{wait_s:.2f} s", f"control: {control_s:.2f} s; median of {ROUNDS}"))
    return [
        *figures,
        Figure("first scan of a session, both runs readable", f"{start_s:.1f} s", "the process starts with it"),
        Figure(
            "requests to tiled for the runs of a scan",
            f"{requests[False] / ROUNDS:.0f}",
            f"{requests[True] / ROUNDS:.0f} more, to close streams, are answered before they reach it",
        ),
        Figure("memory of the writing process", f"{memory_MB:.0f} MB", f"which runs at niceness {nice}"),
    ]


def make_logs(folder: Path) -> tuple[Path, Path]:
    """Run a scan, and return the document logs of its raw and its derived run."""
    with SimulatedBeamline(folder / "simulation", layout="none") as beamline:
        site = session.simulated_site(beamline)
        devices = session.fccd(site), session.scan_stage(site), session.shutter(site)
        RE = RunEngine({}, context_managers=[])
        raw, derived = DocumentLog(folder / "raw"), DocumentLog(folder / "derived")
        pipeline = PtychoPipeline(site.pipeline, directory=folder / "results")
        pipeline.subscribe(DerivedRunWriter(folder / "results", derived, cxi=pipeline.cxi))
        RE.subscribe(raw)
        RE.subscribe(pipeline)
        RE(ptycho_fly_scan(*devices, geometry=site.geometry, shape=SHAPE, step_um=site.step_um, num_dark=NUM_DARK))
        pipeline.close()
        for device in devices:
            device.destroy()
    (raw_path,), (derived_path,) = (list(log.directory.glob("*.jsonl")) for log in (raw, derived))
    return raw_path, derived_path


def renew(logs: tuple[Path, Path]) -> tuple[Path, Path]:
    """Return copies of the logs, of runs with new uids."""
    new = {log.stem: str(uuid.uuid4()) for log in logs}
    paths = tuple(log.with_name(f"{new[log.stem]}.jsonl") for log in logs)
    for log, path in zip(logs, paths, strict=True):
        text = log.read_text()
        for uid in new:
            text = text.replace(uid, new[uid])
        path.write_text(text)
    return paths[0], paths[1]


def write_beside(catalog: Catalog, writer: CatalogWriter, logs: tuple[Path, Path]) -> tuple[float, float, float]:
    """Let the process write both runs, as a session does; return processor time, and when each was there."""
    documents = list(read_documents(logs[0]))
    spent_s = time.process_time()
    for name, document in documents:
        writer(name, document)
    stopped = time.perf_counter()
    assert writer.flush(PATIENCE_S)
    raw_s = time.perf_counter() - stopped
    stopped = time.perf_counter()
    writer.write_log(logs[1])
    assert writer.flush(PATIENCE_S)
    derived_s = time.perf_counter() - stopped
    spent_s = time.process_time() - spent_s
    assert all(catalog.client[log.stem].stop["exit_status"] == "success" for log in logs)
    return spent_s, raw_s, derived_s


def write_inside(client: Any, logs: tuple[Path, Path]) -> tuple[float, float, float]:
    """Write both runs in this process; return the same."""
    raw, derived = (list(read_documents(log)) for log in logs)
    spent_s, writer = time.process_time(), run_writer(client)
    for name, document in raw[:-1]:
        writer(name, document)
    stopped = time.perf_counter()
    writer(*raw[-1])
    raw_s = time.perf_counter() - stopped
    stopped, writer = time.perf_counter(), run_writer(client)
    for name, document in derived:
        writer(name, document)
    return time.process_time() - spent_s, raw_s, time.perf_counter() - stopped
