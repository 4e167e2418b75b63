"""The server: documents in, publications out, control; one thread and three sockets."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import zmq

from nsbluesky import heap
from nsbluesky.service.access import Credentials
from nsbluesky.service.configured import ConfiguredSettings
from nsbluesky.service.crashes import BlockJournal
from nsbluesky.service.dask_workers import DaskWorkers
from nsbluesky.service.intake import DocumentRefused, Intake
from nsbluesky.service.keys import ROLES, KeyFolder
from nsbluesky.service.listening import bind
from nsbluesky.service.messages import (
    MAX_CONTROL_BYTES,
    OPEN_ACTIONS,
    ControlError,
    Request,
    answer,
    failure,
    parse_request,
)
from nsbluesky.service.processing import Processing
from nsbluesky.service.publisher import Publisher
from nsbluesky.service.rights import Rights
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.service.wire import ACK, DOCUMENT, HELLO, MAX_BYTES, REFUSED, WireError, pack, unpack, unpack_document
from nsbluesky.settings import SettingsError

__all__ = ["ACK", "DOCUMENT", "HELLO", "REFUSED", "Server"]

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
POLL_MS = 50
CHECKPOINT_S = 2.0
"""How long a client may wait for checkpoints, and with it all others and the heartbeat."""
MAX_BATCH = 256
"""Documents that are taken before control and heartbeat have their turn."""
MAX_RUNS_IN_HELLO = 1000


class Server:
    """The sockets of the service.

    Parameters
    ----------
    settings : ServiceSettings
    owner : Credentials
        Of whoever starts the service.
    restarts : sequence of str
        Why processes before this one had to be replaced, for those who look.
    workers : DaskWorkers, optional
        Clean frames.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        owner: Credentials,
        restarts: Sequence[str] = (),
        workers: DaskWorkers | None = None,
    ) -> None:
        self.settings = settings
        self.restarts = list(restarts)
        self._workers = workers
        self.instance = uuid.uuid4().hex
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._rights = Rights(self._context, KeyFolder(settings.keys) if settings.keys else None, owner)
        host = urlparse(settings.address).hostname
        self._documents = self._socket("documents", zmq.ROUTER, f"tcp://{host}:{settings.ports[0]}", MAX_BYTES)
        publications = self._socket("publications", zmq.PUB, f"tcp://{host}:{settings.ports[1]}", MAX_CONTROL_BYTES)
        self._control = self._socket("control", zmq.ROUTER, settings.address, MAX_CONTROL_BYTES)
        self.address = f"tcp://{host}:{_port(self._control)}"
        self.ports = _port(self._documents), _port(publications)
        self._publisher = Publisher(publications, self.instance)
        self._configured = ConfiguredSettings(Path(settings.directory))
        self._pipeline_settings = self._configured.of(settings.pipeline)
        self._journal = BlockJournal(Path(settings.directory), supervisor=os.getppid())
        self._processing = self._begin()
        self._intake = Intake(self._deliver)
        for run in self._processing.finished_before():
            self._intake.finish(run)
        self._owners: dict[str, bytes] = {}
        """Who sends the runs that are open."""
        self._stop = threading.Event()
        self._num_refused = 0
        self._num_bytes = 0
        self._traffic = (time.monotonic(), 0, 0)
        self._MB_s = (0.0, 0.0)
        self._actions: dict[str, Callable[[Request], bytes | list[bytes]]] = {
            "status": lambda _: answer(**self.status()),
            "snapshot": self._snapshot,
            "configure": self._configure,
            "fit": self._fit,
            "pause": self._pause,
            "resume": self._resume,
            "abort": self._abort,
            "clear": self._clear,
            "reset": self._reset,
            "record": self._record,
            "checkpoint": self._checkpoint,
            "shutdown": self._shutdown,
        }

    def run(self) -> None:
        """Serve until `stop`."""
        poller = zmq.Poller()
        for socket in (self._documents, self._control):
            poller.register(socket, zmq.POLLIN)
        next_beat = 0.0
        while not self._stop.is_set():
            ready = dict(poller.poll(POLL_MS))
            if self._documents in ready:
                self._take_documents()
            if self._control in ready:
                self._take_request()
            self._tell_finished()
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + HEARTBEAT_S
                if not self._processing.pipeline.alive:
                    raise RuntimeError("the processing has ended by an error: see the log of run_processor")
                self._look_at_traffic()
                self._publisher.beat(self.status())

    def stop(self) -> None:
        """Let `run` return; any thread."""
        self._stop.set()

    def _look_at_traffic(self) -> None:
        """Note how much came and went since the last look."""
        last, before, now = self._traffic, self._traffic[1:], (self._num_bytes, self._publisher.num_bytes)
        elapsed = max(time.monotonic() - last[0], 1e-3)
        self._MB_s = (1e-6 * (now[0] - before[0]) / elapsed, 1e-6 * (now[1] - before[1]) / elapsed)
        self._traffic = (time.monotonic(), *now)

    def close(self, timeout: float = 0.0) -> None:
        """End the processing and close the sockets."""
        self._processing.close(timeout)
        self._journal.close()
        self._tell_finished()
        self._publisher.close()
        self._documents.close(linger=500)
        self._control.close(linger=500)
        self._rights.close()
        self._context.term()

    def status(self) -> dict[str, Any]:
        """Return what the service is doing: the heartbeat, and the answer to ``status``."""
        pipeline = self._processing.pipeline
        runs = [asdict(run) for run in pipeline.activity()]
        return {
            "instance": self.instance,
            "pid": os.getpid(),
            "restarts": self.restarts,
            "time": time.time(),
            "ports": list(self.ports),
            "state": "paused" if pipeline.paused else "processing" if runs else "idle",
            "workers": self._workers.count if self._workers is not None else 0,
            "recording": self._processing.recording,
            "queue": pipeline.queued,
            "documents": self._intake.num_taken,
            "duplicates": self._intake.num_duplicates,
            "gaps": self._intake.num_gaps,
            "received_MB_s": self._MB_s[0],
            "published_MB_s": self._MB_s[1],
            "refused": self._num_refused,
            "open_runs": self._intake.open_runs,
            "runs": runs,
            "memory_MB": _memory_MB("VmRSS"),
            "peak_memory_MB": _memory_MB("VmHWM"),
        }

    # ---- documents

    def _take_documents(self) -> None:
        touched: dict[bytes, dict[str, None]] = {}
        for _ in range(MAX_BATCH):
            try:
                frames = self._documents.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            identity = frames[0].bytes
            self._num_bytes += sum(len(frame) for frame in frames[1:])
            try:
                runs = self._take_message(identity, frames[1:])
            except (WireError, DocumentRefused) as error:
                self._refuse("a message on the document socket", str(error))
                self._documents.send_multipart([identity, REFUSED, str(error).encode()])
                continue
            touched.setdefault(identity, {}).update(dict.fromkeys(runs))
            self._owners.update((run, identity) for run in runs if self._intake.is_open(run))
        for identity, known in touched.items():
            self._tell_progress(identity, list(known))

    def _take_message(self, identity: bytes, parts: list[zmq.Frame]) -> list[str]:
        """Take a message and return the runs of the documents in it."""
        if len(parts) != 3:
            raise WireError("expected a token, a kind and a content")
        token, kind, content = (part.bytes for part in parts)
        if not self._rights.may_operate(parts[0], token):
            raise DocumentRefused("a token that does not belong to this service")
        if kind == DOCUMENT:
            run, index, name, document = unpack_document(content)
            self._intake.take(run, index, name, document)
            return [run]
        if kind == HELLO:
            return self._greet(identity, content)
        raise WireError(f"a message of the kind {kind!r:.40}: expected {HELLO!r} or {DOCUMENT!r}")

    def _greet(self, identity: bytes, content: bytes) -> list[str]:
        greeting = unpack(content)
        if not isinstance(greeting, list) or len(greeting) != 2:
            raise WireError("a greeting must be a number and a list of runs")
        number, runs = greeting
        if type(number) is not int or not isinstance(runs, list) or not all(isinstance(run, str) for run in runs):
            raise WireError("a greeting must be a number and a list of the uids of runs")
        self._tell_progress(identity, runs[:MAX_RUNS_IN_HELLO], number)
        return []

    def _tell_progress(self, identity: bytes, runs: list[str], greeting: int | None = None) -> None:
        told: dict[str, Any] = {}
        for uid in runs:
            progress = self._intake.progress(uid)
            run = progress.finished
            told[uid] = (
                progress.next,
                None if run is None else asdict(run),
                run is not None and self._publisher.shows(run.derived_uid),
            )
        self._documents.send_multipart([identity, ACK, pack((self.instance, greeting, told))])

    def _deliver(self, name: str, document: dict[str, Any]) -> None:
        """Give a document to the processing; one of the wrong form is passed over, or it would come for ever."""
        try:
            self._processing(name, document)
        except Exception as error:
            log.debug("what was passed over", exc_info=True)
            self._refuse(f"a {name} document", f"{type(error).__name__}: {error}")

    def _tell_finished(self) -> None:
        runs = self._processing.newly_finished()
        if runs:
            heap.trim()
        for run in runs:
            self._intake.finish(run)
            log.info("run %s is finished: %s", run.raw_uid, run.exit_status or "left alone")
        for run in runs:
            owner = self._owners.pop(run.raw_uid, None)
            if owner is not None:
                self._tell_progress(owner, [run.raw_uid])
            if run.raw_uid in self._processing.not_whole:  # who sends it again wants it again
                self._intake.forget(run.raw_uid)

    # ---- control

    def _take_request(self) -> None:
        frames = self._control.recv_multipart(copy=False)
        identity, *envelope = (frame.bytes for frame in frames[:-1])
        route = [identity, *(part for part in envelope[:1] if not part)]  # a REQ socket waits for its empty part
        try:
            if envelope not in ([], [b""]):
                raise ControlError("expected one part")
            request = parse_request(frames[-1].bytes)
        except ControlError as error:
            self._refuse("a control message", str(error))
            self._control.send_multipart([*route, failure(str(error))])
            return
        token = request.token.encode(errors="replace")  # half a character is a text in JSON, too
        if request.action not in OPEN_ACTIONS and not self._rights.may_operate(frames[-1], token):
            self._refuse(request.action, "no right")
            reason = f"{request.action} is not allowed: it needs the token or key of an operator of this service"
            self._control.send_multipart([*route, failure(reason, refused=True)])
            return
        if request.action not in OPEN_ACTIONS:
            log.info("control: %s %s", request.action, request.fields)
        try:
            reply = self._actions[request.action](request)
        except (ControlError, SettingsError, OSError) as error:
            reply = failure(str(error))
        except Exception as error:  # of a message that nobody thought of: the documents of scans must go on
            log.exception("%s failed", request.action)
            reply = failure(f"{request.action} failed ({type(error).__name__}: {error}): see the log of the server")
        self._control.send_multipart([*route, *([reply] if isinstance(reply, bytes) else reply)])

    def _refuse(self, what: str, why: str) -> None:
        self._num_refused += 1
        log.warning("refused %s: %s", what, why)

    def _snapshot(self, _: Request) -> list[bytes]:
        """Tell the state so far: a part for each document, as all together may be more than a message."""
        number, documents = self._publisher.snapshot()
        return [answer(instance=self.instance, number=number), *map(pack, documents)]

    def _configure(self, request: Request) -> bytes:
        """Change settings of the runs that start from now on and, where that can be, of those that go on."""
        changes = request.fields.get("settings", {})
        self._pipeline_settings = self._processing.pipeline.configure(changes)
        if changes:
            try:
                self._configured.keep(self.settings.pipeline, self._pipeline_settings)
            except OSError as error:  # as on a full disk: they are in force all the same
                log.error("a process that takes over will not have the changed settings: %s", error)
        return answer(settings=self._pipeline_settings.to_dict())

    def _fit(self, request: Request) -> bytes:
        self._processing.pipeline.show_fit(request.fields.get("frame"))
        return answer()

    def _pause(self, _: Request) -> bytes:
        self._processing.pipeline.pause()
        return answer()

    def _resume(self, _: Request) -> bytes:
        self._processing.pipeline.resume()
        return answer()

    def _abort(self, request: Request) -> bytes:
        """End a run that goes on, or the final passes of those that have ended."""
        run = request.fields.get("run")
        if run is None:
            self._processing.pipeline.abort()
            return answer()
        if run not in self._intake.open_runs:
            raise ControlError(f"run {run!r:.80} is not open: see 'open_runs' in the status")
        self._intake.end(run)
        self._processing.end_run(run)
        self._processing.pipeline.abort()
        return answer()

    def _clear(self, _: Request) -> bytes:
        self._publisher.clear()
        return answer()

    def _reset(self, _: Request) -> bytes:
        """Begin all open runs anew; their documents come again from the sessions' logs."""
        runs = self._intake.open_runs
        begun, closed = self._begin(), self._processing  # where it cannot begin, what there is goes on
        closed.close(0)
        self._publisher.drop_open()
        self._processing = begun
        for uid in runs:
            closed.pipeline.forget(uid)
            self._intake.forget(uid)
            self._owners.pop(uid, None)
        return answer(runs=runs)

    def _record(self, request: Request) -> bytes:
        """Record what stages yield from now on; all that were recorded before are left out where not named."""
        stages = request.fields.get("stages", [])
        if not all(isinstance(stage, str) for stage in stages):
            raise ControlError("record: stages must be a list of texts")
        self._processing.record(stages)
        return answer(recording=self._processing.recording)

    def _checkpoint(self, _: Request) -> bytes:
        """Write down the images that form, and tell where."""
        if self._processing.pipeline.paused:
            raise ControlError("the processing is paused: resume it before a checkpoint")
        try:
            written = self._processing.pipeline.save(CHECKPOINT_S)
        except TimeoutError:
            raise ControlError(
                f"the processing is busy with one block for longer than {CHECKPOINT_S:g} s: checkpoints are written "
                "after it; ask again to learn where"
            ) from None
        return answer(checkpoints={uid: str(path) for uid, paths in written.items() for path in paths})

    def _shutdown(self, _: Request) -> bytes:
        self.stop()
        return answer()

    # ---- making

    def _begin(self) -> Processing:
        workers = self._workers.workers if self._workers is not None else None
        return Processing(self.settings, self._pipeline_settings, self._publisher, workers, self._journal)

    def _socket(self, name: str, kind: int, address: str, max_bytes: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        self._rights.protect(socket, name, *(("operator",) if name == "documents" else ROLES))
        socket.linger = 0
        socket.maxmsgsize = max_bytes
        bind(socket, address.replace(":0", ":*") if address.endswith(":0") else address)
        return socket


def _port(socket: zmq.Socket[bytes]) -> int:
    return int(str(socket.getsockopt_string(zmq.LAST_ENDPOINT)).rpartition(":")[2])


def _memory_MB(what: str) -> float:
    """Return the memory of this process, as a line of /proc/self/status tells it; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(what + ":")), 0.0)
