"""What becomes of the runs of a session: logged, stored, processed, and waited for when it ends."""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsbluesky.folders import STATE, require_folder, state_directory
from nsbluesky.latest import Latest
from nsbluesky.refusals import refusing
from nsbluesky.service.finished import DERIVED, FinishedRun, FinishedRuns, RunEnds

if TYPE_CHECKING:
    from bluesky import RunEngine

    from nsbluesky.callbacks.pipeline import PtychoPipeline
    from nsbluesky.catalog import Catalog, CatalogWriter
    from nsbluesky.document_log import DocumentLog
    from nsbluesky.service.connection import Connection
    from nsbluesky.service.supervisor import ProcessingService
    from nsbluesky.session import Site

__all__ = ["before_threads_end", "processing_service", "start_processing", "subscribe"]

logger = logging.getLogger(__name__)

SERVICE = "NSBLUESKY_SERVICE"
"""Environment variable: address of the processing service, or "none" to process in the session itself."""

IN_SESSION = "none"


def processing_service(site: Site, directory: Path | None = None, **options: Any) -> ProcessingService:
    """Return a processing service for this session, to be entered with ``with``; it ends with the session.

    Parameters
    ----------
    site : Site
        Says how runs are processed, and where frames are.
    directory : path, optional
        Images go to ``results`` below it, logs to ``service``; by default the user's folders of data and of logs.
    **options
        Of `ProcessingService`.
    """
    from nsbluesky.folders import data_directory
    from nsbluesky.service.settings import ServiceSettings
    from nsbluesky.service.supervisor import ProcessingService

    state = "" if directory is None else str(directory.resolve() / "service")
    directory = (data_directory() if directory is None else directory).resolve()
    settings = ServiceSettings(
        directory=str(directory / "results"),
        roots=(str(Path(site.read_path).resolve()), str(directory)),
        address="tcp://127.0.0.1:0",
        state=state,
        pipeline=site.pipeline,
    )
    return ProcessingService(settings, **options)


def start_processing(site: Site) -> ProcessingService | str | None:
    """Return what processes the runs of this session: a process of its own, which ends with the session.

    No crash of the processing reaches the session then, and the scan does not share Python's lock with it.
    It returns at once, before that process is ready.  ``NSBLUESKY_SERVICE`` in the environment names a service that
    runs already; "none" leaves the processing to the session, for which None stands.

    Raises
    ------
    OSError
        If nothing can be written into the user's folder of states, where the service has its logs.
    """
    chosen = os.environ.get(SERVICE, "")
    if chosen:
        return None if chosen == IN_SESSION else chosen
    with refusing(OSError):
        require_folder(state_directory(), STATE)
    service = processing_service(site)
    service.begin()  # `subscribe` asks for its address, and waits
    before_threads_end(service.stop)
    return service


def subscribe(
    RE: RunEngine,
    catalog: Catalog,
    site: Site,
    directory: Path | None = None,
    service: ProcessingService | str | None = None,
) -> PtychoPipeline | Connection:
    """Subscribe the document log, the catalog and the processing to a RunEngine, in this order; return the last.

    Parameters
    ----------
    RE : RunEngine
    catalog : Catalog
        For the raw and the derived runs.
    site : Site
        Says how runs are processed.
    directory : path, optional
        Documents go to ``documents`` below it, images to ``results``; the user's data folder by default.
    service : ProcessingService or str, optional
        A processing service, or the address of one: it processes in the place of this session, with its own settings
        and folders.  None processes in the session.
    """
    from nsbluesky.document_log import DocumentLog
    from nsbluesky.folders import data_directory

    directory = data_directory() if directory is None else directory
    results = directory / "results"
    log = DocumentLog(directory / "documents")
    writer = catalog.writer()
    RE.subscribe(log)
    RE.subscribe(writer)
    processing: PtychoPipeline | Connection
    if service is not None:
        processing = _connect_to(service, log)
        processing.on_finished(functools.partial(_store_derived_run, writer))
        finished = processing.finished
    else:
        from nsbluesky.callbacks.derived_run_writer import DerivedRunWriter
        from nsbluesky.callbacks.pipeline import PtychoPipeline

        derived = DocumentLog(results / DERIVED)
        ended = _EndedRuns(results, writer)
        finished = ended.finished
        processing = PtychoPipeline(site.pipeline, directory=results)
        assert processing.cxi is not None  # it has a directory
        files = DerivedRunWriter(derived.directory, derived, cxi=processing.cxi)
        processing.subscribe(files)
        processing.subscribe(RunEnds(processing.cxi, files, derived, ended))
        processing.warm_up()
    catalog.find_finished = functools.partial(_find_finished, results, finished)
    before_threads_end(functools.partial(_end_processing, processing, service))
    RE.subscribe(processing)
    return processing


def _end_processing(processing: PtychoPipeline | Connection, service: ProcessingService | str | None) -> None:
    """Close the processing when it is through with the runs that have ended, or on Ctrl-C."""
    runs = ", ".join(uid[:8] for uid in processing.unfinished)
    if runs:
        later = f"'nsbluesky resume {runs.partition(',')[0]}' finishes it later"
        print(f"still being processed: run {runs}; the session ends with that (Ctrl-C: at once, {later})", flush=True)
        try:
            why = _wait_for(processing, service)
        except KeyboardInterrupt:
            why = "Ctrl-C"
        if why:
            print(f"not finished, {why}: {later}", flush=True)
    processing.close(timeout=0)


def _wait_for(processing: PtychoPipeline | Connection, service: ProcessingService | str | None) -> str:
    """Wait for what is processed; return why that is in vain, else ""."""
    from nsbluesky.service.connection import Connection
    from nsbluesky.service.supervisor import ProcessingService, ServiceError

    if not isinstance(processing, Connection):
        processing.wait()
        return ""
    try:
        has_ended = functools.partial(service.wait, 0) if isinstance(service, ProcessingService) else None
        return processing.wait_while_served(has_ended)
    except ServiceError as error:
        return str(error)


def _connect_to(service: ProcessingService | str, log: DocumentLog) -> Connection:
    from nsbluesky.service.connection import connect

    if isinstance(service, str):
        return connect(service, log)
    return connect(service.address, log, service.credentials)


class _EndedRuns:
    """What became of the runs that the session itself processes.

    Parameters
    ----------
    results : path
    writer : CatalogWriter
    """

    def __init__(self, results: Path, writer: CatalogWriter) -> None:
        self.finished: dict[str, FinishedRun] = Latest()
        self._record = FinishedRuns(results)
        self._writer = writer

    def __call__(self, run: FinishedRun, is_whole: bool) -> None:
        """Let the catalog have a run, and record one that is whole, so that none is processed twice."""
        self.finished[run.raw_uid] = run
        _store_derived_run(self._writer, run)
        if is_whole:
            self._record.add(run)


def _store_derived_run(writer: CatalogWriter, run: FinishedRun) -> None:
    """Let the catalog have a derived run from its document log."""
    if run.documents:
        writer.write_log(run.documents)
    elif run.derived_uid:
        logger.error("run %s: the processing has left nothing for the catalog: %s", run.raw_uid[:8], run.reason)


def _find_finished(results: Path, finished: Mapping[str, FinishedRun], raw_uid: str) -> FinishedRun | None:
    """Return what became of the processing of a run, in this session or in another one with the same folder.

    What is recorded is whole, also where the processing in this session has failed before.
    """
    return FinishedRuns(results).find(raw_uid) or finished.get(raw_uid)


def before_threads_end(close: Callable[[], object]) -> None:
    """Call `close` with the session, last in, first out."""
    # `atexit` is too late: tiled stops its server with the threads, by this same hook, which runs last in, first out
    threading._register_atexit(close)  # type: ignore[attr-defined]
