"""Whatever dies, hangs or is cut: no recorded frame is lost, and the same run is finished."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from recorded_scan import TIMEOUT_S, RecordedScan, Session, again, assert_all_frames_are_there, halves, wait_for

from nsbluesky.service import crashes, supervisor
from nsbluesky.service.access import Credentials, local_credentials
from nsbluesky.service.connection import GREETING_S
from nsbluesky.service.control import ask
from nsbluesky.service.crashes import MAX_CRASHES, BlockJournal, CrashRecord
from nsbluesky.service.finished import FinishedRuns
from nsbluesky.service.messages import ControlError
from nsbluesky.service.order import Order
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.service.supervisor import ProcessingService, ServiceError
from nsbluesky.service.wire import pack
from nsbluesky.simulation.loopback import free_port
from nsbluesky.simulation.network import CuttableNetwork

POISON = Path(__file__).with_name("poisoned_process.py")


class Derived:
    """A viewer that keeps what tells of frames and of ends."""

    def __init__(self) -> None:
        self.stops: list[dict[str, Any]] = []
        self.messages: list[str] = []
        self.has_frames = threading.Event()

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        if name == "event_page" and "photons" in document["data"]:
            self.has_frames.set()
        elif name == "stop":
            self.stops.append(document)
        elif name == "event" and "message" in document["data"]:
            self.messages.append(document["data"]["message"])


@pytest.fixture(scope="module")
def undisturbed(scan: RecordedScan, tmp_path_factory: pytest.TempPathFactory) -> float:
    """How good the image is where nothing goes wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with (
        ProcessingService(scan.settings(folder)) as service,
        Session(service.address, folder, service.credentials) as session,
    ):
        session.send(scan.documents)
        assert session.connection.wait(TIMEOUT_S)
        assert_all_frames_are_there(session.connection, scan)
        return scan.correlation(session.connection.results[scan.uid]["object"])


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGKILL, id="killed", marks=pytest.mark.nightly),
        pytest.param(signal.SIGSTOP, id="hanging"),
    ],
)
def test_a_process_that_dies_or_hangs_in_the_middle(
    scan: RecordedScan, undisturbed: float, tmp_path: Path, number: signal.Signals
) -> None:
    derived = Derived()
    first, second = halves(scan.documents)
    with (
        ProcessingService(scan.settings(tmp_path), heartbeat_timeout_s=3.0) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        session.connection.subscribe(derived)
        session.send(first)
        assert derived.has_frames.wait(TIMEOUT_S)
        pid, instance = service.pid, service.instance
        os.kill(pid, number)
        session.send(second)
        assert service.wait_for_restart(1, TIMEOUT_S)
        assert service.pid != pid and service.instance != instance
        assert session.connection.wait(TIMEOUT_S)
        assert_all_frames_are_there(session.connection, scan)
        assert [stop["exit_status"] for stop in derived.stops] == ["abort", "success"]
        assert f"started again ({service.restarts[0]})" in derived.stops[0]["reason"]
        again = scan.correlation(session.connection.results[scan.uid]["object"])
    assert undisturbed > 0.9
    assert again > 0.95 * undisturbed
    (reason,) = service.restarts
    assert reason.startswith("killed by signal 9" if number == signal.SIGKILL else "no heartbeat for 3 s")


def test_a_process_that_is_replaced_goes_on_from_its_checkpoint(scan: RecordedScan, tmp_path: Path) -> None:
    """Written when asked for; the first picture of the next process has the passes of the one before it.

    So has the next process the settings that were changed: with others the checkpoint would not be its own.
    """
    pictures: dict[str, list[float]] = {}
    streams: dict[str, str] = {}

    def note(name: str, document: dict[str, Any]) -> None:
        if name == "descriptor" and document["name"] == "reconstruction":
            streams[document["uid"]] = document["run_start"]
        elif name == "event" and document["descriptor"] in streams:
            pictures.setdefault(streams[document["descriptor"]], []).append(document["data"]["num_passes"])

    first, second = halves(scan.documents)
    with (
        ProcessingService(scan.settings(tmp_path, sweep_frames=0, publish_hz=1000.0, passes_final=100)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        session.connection.subscribe(note)
        ask(service.address, "configure", service.credentials, settings={"solver.modes": 1, "solver.most_modes": 1})
        session.send(first)
        wait_for(lambda: any(passes[-1] >= 90 for passes in pictures.values()))
        told = ask(service.address, "checkpoint", service.credentials)["checkpoints"]
        assert told == {scan.uid: str(tmp_path / "results" / f"{scan.uid}.checkpoint")}
        os.kill(service.pid, signal.SIGKILL)
        assert service.wait_for_restart(1, TIMEOUT_S)
        session.send(second)
        assert session.connection.wait(TIMEOUT_S)
        assert_all_frames_are_there(session.connection, scan)
        assert len(session.connection.results[scan.uid]["probe"]) == 1
    before, after = pictures.values()
    assert after[0] >= 80 > before[0]  # frames that come with the first block are known
    assert not list((tmp_path / "results").glob("*.checkpoint"))


def test_a_process_that_dies_before_a_run_that_was_ended_is_over_leaves_no_checkpoint(
    scan: RecordedScan, tmp_path: Path
) -> None:
    """The next process leaves such a run alone, so nobody would ever go on from it."""
    first, _ = halves(scan.documents)
    with (
        ProcessingService(scan.settings(tmp_path, sweep_frames=0)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):

        def checkpoints() -> list[str]:
            try:
                written: list[str] = ask(service.address, "checkpoint", service.credentials)["checkpoints"]
            except ControlError as busy:  # it compiles, on a machine that does other things
                assert "ask again" in str(busy)
                return []
            return written

        session.send(first)
        wait_for(lambda: bool(checkpoints()))
        ask(service.address, "pause", service.credentials)
        ask(service.address, "abort", service.credentials, run=scan.uid)
        assert list((tmp_path / "results").glob("*.checkpoint"))
        os.kill(service.pid, signal.SIGKILL)
        assert service.wait_for_restart(1, TIMEOUT_S)
        assert not list((tmp_path / "results").glob("*.checkpoint"))


@pytest.mark.nightly
def test_kills_at_any_moment(scan: RecordedScan, tmp_path: Path) -> None:
    """Before the first document, between documents, and after the last one."""
    quarter = len(scan.documents) // 3
    with (
        ProcessingService(scan.settings(tmp_path, passes_final=2, sweep_frames=0)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        for kill in range(4):
            os.kill(service.pid, signal.SIGKILL)
            session.send(scan.documents[kill * quarter : (kill + 1) * quarter])
            assert service.wait_for_restart(kill + 1, TIMEOUT_S)
        assert session.connection.wait(TIMEOUT_S)
        assert_all_frames_are_there(session.connection, scan)


def test_a_network_that_is_cut(scan: RecordedScan, tmp_path: Path) -> None:
    """What was on its way is lost, noticed, and sent again; the processing goes on where it was."""
    first, second = halves(scan.documents)
    derived = Derived()
    with ProcessingService(scan.settings(tmp_path, passes_final=2, sweep_frames=0)) as service:
        ports = ask(service.address, "status")["ports"]
        with (
            CuttableNetwork(service.address, *ports) as network,
            Session(network.address, tmp_path, service.credentials) as session,
        ):
            session.connection.subscribe(derived)
            session.send(first)
            assert derived.has_frames.wait(TIMEOUT_S)
            network.cut()
            session.send(second)
            assert session.connection.queued > 0
            assert not session.connection.wait(0.5)
            network.heal()
            assert session.connection.wait(TIMEOUT_S)
            assert_all_frames_are_there(session.connection, scan)
            status = ask(service.address, "status")
            assert status["documents"] == len(scan.documents)
            assert [stop["exit_status"] for stop in derived.stops] == ["success"]
        assert service.restarts == []


def test_a_service_that_comes_late(scan: RecordedScan, tmp_path: Path) -> None:
    """The scan does not wait: its documents do, in the log."""
    address = f"tcp://127.0.0.1:{free_port()}"
    service = ProcessingService(scan.settings(tmp_path, passes_final=2, sweep_frames=0).replace(address=address))
    with Session(address, tmp_path, service.credentials) as session:
        session.send(scan.documents)
        assert session.connection.queued == len(scan.documents)
        with service:
            assert session.connection.wait(TIMEOUT_S)
            assert_all_frames_are_there(session.connection, scan)


BUSY = """
from nsbluesky.service import intake
from nsbluesky.service.process import main

intake.MAX_OPEN_RUNS = 2
main()
"""


def test_more_runs_than_are_taken_at_once(scan: RecordedScan, tmp_path: Path) -> None:
    """Those that are left wait for their turn: whoever waits for all of them does not give up."""
    runs = [again(scan, f"{k}").documents for k in range(5)]
    service = ProcessingService(scan.settings(tmp_path, passes_final=2, sweep_frames=0))
    service.command = (sys.executable, "-c", BUSY)  # type: ignore[misc]
    with service, Session(service.address, tmp_path, service.credentials) as session:
        ask(service.address, "pause", service.credentials)
        for documents in runs:
            start = {key: value for key, value in documents[0][1].items() if key != "ptycho"}  # of no interest here
            session.send([("start", start), documents[-1]])
        wait_for(lambda: session.connection.queued == 6)
        assert not session.connection.wait(2 * GREETING_S)
        assert session.connection.errors == {}
        ask(service.address, "resume", service.credentials)
        assert session.connection.wait_while_served() == ""
        assert len(session.connection.finished) == 5
        assert ask(service.address, "status")["refused"] == 0


def test_a_finished_run_is_not_processed_again(scan: RecordedScan, tmp_path: Path) -> None:
    """Neither by this life of the service nor by the next one."""
    with (
        ProcessingService(scan.settings(tmp_path, passes_final=2, sweep_frames=0)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        session.send(scan.documents)
        assert session.connection.wait(TIMEOUT_S)
        finished = session.connection.finished[scan.uid]
        image = session.connection.results[scan.uid]["object"]
        for life in range(2):
            if life:
                os.kill(service.pid, signal.SIGKILL)
                assert service.wait_for_restart(1, TIMEOUT_S)
            with Session(service.address, tmp_path / "again", service.credentials) as other:
                other.send(scan.documents)
                assert other.connection.wait(TIMEOUT_S)
                assert other.connection.finished[scan.uid] == finished
                assert_all_frames_are_there(other.connection, scan)
                again = other.connection.results[scan.uid]["object"]
                np.testing.assert_array_equal(again[: len(image), : image.shape[1]], image)
    assert len(list((tmp_path / "results").glob("*.cxi"))) == 1


# ---- poisoned frames


def poisoned(settings: ServiceSettings, kind: str, seq_num: int, **options: Any) -> ProcessingService:
    service = ProcessingService(settings, **options)
    service.command = (sys.executable, str(POISON), kind, str(seq_num))  # type: ignore[misc]
    return service


@pytest.mark.parametrize(
    ("kind", "reason", "block_timeout_s"),
    [
        ("crash", "killed by signal 11 in frames", 120.0),
        pytest.param("hang", "frames works on one block", 6.0, marks=pytest.mark.nightly),
    ],
)
def test_a_poisoned_frame_is_left_out_after_two_tries(
    scan: RecordedScan, undisturbed: float, tmp_path: Path, kind: str, reason: str, block_timeout_s: float
) -> None:
    derived = Derived()
    settings = scan.settings(tmp_path, passes_final=2, sweep_frames=0)
    with (
        poisoned(settings, kind, 23, block_timeout_s=block_timeout_s) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        session.connection.subscribe(derived)
        session.send(scan.documents)
        assert session.connection.wait(TIMEOUT_S)
        assert_all_frames_are_there(session.connection, scan, missing=[23])
        assert session.connection.live.snapshot().lost == (23,)
        assert len(service.restarts) == 2
        assert all(reason in told for told in service.restarts), service.restarts
    assert derived.stops[-1]["reason"] == "1 frame lost"
    assert any("frame 23: left out: the processing died 2 times" in message for message in derived.messages)


def test_a_run_that_kills_again_and_again_is_given_up(tmp_path: Path) -> None:
    journal = BlockJournal(tmp_path, 1)
    record = CrashRecord(tmp_path, 1)
    assert record.note_crash("killed by signal 11") == "", "nothing was at work"
    for _ in range(MAX_CRASHES):
        journal.begin("run", "reconstruction", "", [])
        assert FinishedRuns(tmp_path).read() == []
        assert record.note_crash("killed by signal 11") == "in reconstruction"
    (given_up,) = FinishedRuns(tmp_path).read()
    assert given_up.raw_uid == "run" and given_up.exit_status == "fail"
    assert "given up: the processing died 8 times, at last in reconstruction" in given_up.reason


def test_want_of_memory_is_a_runs_fault_and_no_frames(tmp_path: Path) -> None:
    record = CrashRecord(tmp_path, 1)
    for _ in range(MAX_CRASHES):
        BlockJournal(tmp_path, 1).begin("run", "clean", "primary", [5, 6])
        assert FinishedRuns(tmp_path).read() == []
        record.note_crash("killed by signal 9", of_frames=False)
    (given_up,) = FinishedRuns(tmp_path).read()
    assert "given up: the processing died 8 times" in given_up.reason
    assert BlockJournal(tmp_path, 1).tries("run", "primary", 5) == 0


def test_the_block_at_work(tmp_path: Path) -> None:
    journal = BlockJournal(tmp_path, 1)
    record = CrashRecord(tmp_path, 1)
    journal.begin("run", "clean", "primary", [5, 6, 7])
    journal.end()
    assert record.note_crash("") == "", "it was done"
    journal.begin("run", "clean", "primary", [5, 6, 7])
    assert record.note_crash("") == "in clean, primary 5 to 7"
    next_life = BlockJournal(tmp_path, 1)
    assert [next_life.tries("run", "primary", k) for k in (4, 5, 7, 8)] == [0, 1, 1, 0]
    assert next_life.tries("run", "dark", 5) == 0 == next_life.tries("other", "primary", 5)
    assert next_life.isolate("run", "primary", [3, 4, 5, 6]) == [3, 4]
    assert next_life.isolate("run", "primary", [5, 6, 7]) == [5]
    assert next_life.isolate("run", "primary", [8, 9]) == [8, 9]


def test_a_journal_that_is_closed_writes_nothing_more(tmp_path: Path) -> None:
    """A thread that is still at work then must not leave a block that a later process is blamed for."""
    journal = BlockJournal(tmp_path, 1)
    journal.begin("run", "clean", "primary", [5])
    (path,) = tmp_path.iterdir()
    assert str(path) in Path("/proc/self/maps").read_text()
    journal.close()
    assert str(path) not in Path("/proc/self/maps").read_text()
    journal.begin("run", "clean", "primary", [6])
    journal.end()
    assert not path.exists()


def test_services_that_share_a_folder_have_each_their_own_block(tmp_path: Path) -> None:
    one, other = BlockJournal(tmp_path, 1), BlockJournal(tmp_path, 2)
    one.begin("run", "clean", "primary", [5, 6, 7])
    other.begin("another", "clean", "primary", [1])
    BlockJournal(tmp_path, 3).close()
    assert CrashRecord(tmp_path, 1).note_crash("") == "in clean, primary 5 to 7"
    assert CrashRecord(tmp_path, 2).suspects().keys() == {"run"}
    assert len(list(tmp_path.glob("block-at-work*"))) == 2


def test_without_space_for_its_file_a_block_is_written_down_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that cannot begin is tried five times, and then the service is given up."""
    monkeypatch.setattr(crashes, "RETRY_S", 0.0)
    away = tmp_path / "away"
    journal, record = BlockJournal(away, 1), CrashRecord(away, 1)
    for _ in range(3):
        journal.begin("run", "clean", "primary", [5, 6, 7])
        journal.end()
    assert len(caplog.messages) == 1 and "cannot be written down" in caplog.text
    away.mkdir()
    journal.begin("run", "clean", "primary", [5, 6, 7])
    assert record.note_crash("") == "in clean, primary 5 to 7"


def test_the_next_process_takes_the_file_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no space that others may have taken meanwhile."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    BlockJournal(tmp_path, 1).begin("run", "clean", "primary", [5, 6, 7])
    monkeypatch.setattr(Path, "write_bytes", full)
    journal, record = BlockJournal(tmp_path, 1), CrashRecord(tmp_path, 1)
    assert record.note_crash("") == ""
    journal.begin("run", "clean", "primary", [5])
    monkeypatch.undo()
    assert record.note_crash("") == "in clean, primary 5 to 5"


TALKATIVE = """
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.service.process import main

make_stages = PtychoPipeline.make_stages

def make_and_print(self):
    print("x" * 200_000, flush=True)
    return make_stages(self)

PtychoPipeline.make_stages = make_and_print
main()
"""


def test_what_a_plug_in_prints_is_no_answer_and_stops_nothing(scan: RecordedScan, tmp_path: Path) -> None:
    service = ProcessingService(scan.settings(tmp_path, passes_final=2, sweep_frames=0), heartbeat_timeout_s=3.0)
    service.command = (sys.executable, "-c", TALKATIVE)  # type: ignore[misc]
    with service, Session(service.address, tmp_path, service.credentials) as session:
        session.send(scan.documents)
        assert session.connection.wait(TIMEOUT_S)
        assert_all_frames_are_there(session.connection, scan)
        assert service.restarts == []
    assert "x" * 200_000 in (tmp_path / "state" / "logs" / "process.err").read_text()


@pytest.fixture
def quick_settings(tmp_path: Path) -> ServiceSettings:
    """Of a service that is soon ready."""
    return ServiceSettings(
        directory=str(tmp_path / "results"),
        roots=("/",),
        address="tcp://127.0.0.1:0",
        state=str(tmp_path / "state"),
        warm_up=False,
    )


def test_a_machine_that_was_suspended_is_no_silence(
    quick_settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a batch system stops a job: this process has not heard the child, and could not."""
    suspended_s = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + suspended_s[0])
    monkeypatch.setattr(supervisor, "time", clock)
    with ProcessingService(quick_settings, heartbeat_timeout_s=60.0) as service:
        for _ in range(5):
            suspended_s[0] += 1000.0
            service.wait_for_restart(1, 0.3)
    assert service.restarts == []


def test_who_asks_for_a_process_that_is_being_replaced_gets_the_next_one(
    quick_settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two there is none, and the service runs all the same."""
    asked: list[Future[int]] = []
    with ProcessingService(quick_settings) as service, ThreadPoolExecutor(1) as session:
        before, note_crash = service.pid, service._note_crash

        def ask_meanwhile(reason: str) -> str:
            asked.append(session.submit(lambda: service.pid))
            futures.wait(asked, timeout=0.5)
            return note_crash(reason)

        monkeypatch.setattr(service, "_note_crash", ask_meanwhile)
        os.kill(before, signal.SIGKILL)
        assert service.wait_for_restart(1, TIMEOUT_S)
        assert asked[0].result(TIMEOUT_S) == service.pid != before


def test_a_service_that_was_given_up_can_be_started_again(
    quick_settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not blamed for its former life."""
    monkeypatch.setattr(supervisor, "MAX_FAILURES", 1)
    service = ProcessingService(quick_settings)
    working = service.command
    service.start()
    service.command = ("/no/such/program",)  # type: ignore[misc]
    os.kill(service.pid, signal.SIGKILL)
    with pytest.raises(ServiceError, match="does not start"):
        service.wait(TIMEOUT_S)
    service.stop()
    service.command = working  # type: ignore[misc]
    with service:
        ask(service.address, "shutdown", service.credentials)
        assert service.wait(TIMEOUT_S)
    assert service.wait(0), "what was stopped has ended"


def test_a_suspension_in_the_middle_of_a_block_is_no_work(
    scan: RecordedScan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the process is replaced when the machine goes on, and frames are suspected that nothing is wrong with."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(supervisor, "time", clock)
    service, suspensions = (
        ProcessingService(scan.settings(tmp_path), block_timeout_s=120.0),
        supervisor._Suspensions(),
    )

    def stuck_after(*times_s: float, block_s: float) -> str:
        for time_s in times_s:
            clock.now += time_s
            suspensions.look()
        return service._stuck(
            pack((0, 0, 0, {"runs": [{"stages": [{"stage": "clean", "block_s": block_s}]}]})), suspensions
        )

    assert not stuck_after(1.0, 1000.0, 1.0, block_s=1002.0)
    assert not stuck_after(*(100 * [1.0]), block_s=1102.0)
    assert not stuck_after(0.5, block_s=100.0), "another block, which began after the suspension"
    assert stuck_after(*(30 * [1.0]), block_s=1132.5) == "clean works on one block for more than 120 s"
    assert stuck_after(block_s=130.0), "and so would one that began after it"


def test_a_service_that_cannot_start(scan: RecordedScan, tmp_path: Path) -> None:
    service = ProcessingService(scan.settings(tmp_path))
    service.command = (sys.executable, "-c", "raise SystemExit('no such thing')")  # type: ignore[misc]
    with pytest.raises(ServiceError, match="does not start: no such thing"):
        service.start()
    with pytest.raises(ServiceError, match="not running"):
        _ = service.pid
    service.command = (sys.executable, "-c", "")  # type: ignore[misc]
    with pytest.raises(ServiceError, match="it ended, or gave no answer"):  # the log has the words of the one before
        service.start()
    service.command = (sys.executable, "-c", "print('hello', flush=True)")  # type: ignore[misc]
    with pytest.raises(ServiceError, match="it ended, or gave no answer"):
        service.start()


def test_a_start_on_a_thread_is_waited_for_by_whoever_needs_the_service(scan: RecordedScan, tmp_path: Path) -> None:
    service = ProcessingService(scan.settings(tmp_path))
    works = service.command
    service.command = (sys.executable, "-c", "raise SystemExit('no such thing')")  # type: ignore[misc]
    service.begin()
    for _ in range(2):
        with pytest.raises(ServiceError, match="does not start: no such thing"):
            _ = service.address
    service.stop()
    service.command = works  # type: ignore[misc]
    service.begin()
    assert ask(service.address, "status", service.credentials)
    service.stop()
    service.begin()
    service.stop()
    with pytest.raises(ServiceError, match="not running"):
        _ = service.pid


def test_a_start_that_cannot_be_told_of_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(supervisor, "tell_service", full)
    settings = ServiceSettings(
        directory=str(tmp_path / "results"),
        roots=("/",),
        address="tcp://127.0.0.1:0",
        state=str(tmp_path / "state"),
        warm_up=False,
    )
    service = ProcessingService(settings)
    with pytest.raises(ServiceError, match="No space left"):
        service.start()
    with pytest.raises(ServiceError, match="not running"):
        _ = service.pid


@pytest.mark.nightly
def test_restarts_that_fail_first(scan: RecordedScan, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither where there is no program, nor where it ends at once, is the service given up."""
    with ProcessingService(scan.settings(tmp_path)) as service:
        working = service.command
        service.command = ("/no/such/program",)  # type: ignore[misc]
        os.kill(service.pid, signal.SIGKILL)
        wait_for(lambda: "does not start: [Errno 2]" in caplog.text)
        service.command = (sys.executable, "-c", "")  # type: ignore[misc]
        wait_for(lambda: "does not start: it ended" in caplog.text)
        service.command = working  # type: ignore[misc]
        assert service.wait_for_restart(1, TIMEOUT_S)
        ask(service.address, "shutdown", service.credentials)
        assert service.wait(TIMEOUT_S), "it was not given up"


def test_a_service_that_is_given_up_leaves_no_credentials(
    scan: RecordedScan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients would go on trying a dead one by them."""
    monkeypatch.setattr(supervisor, "MAX_FAILURES", 1)
    with ProcessingService(scan.settings(tmp_path)) as service:
        address = service.address
        assert local_credentials(address, tmp_path / "state") == service.credentials
        service.command = ("/no/such/program",)  # type: ignore[misc]
        os.kill(service.pid, signal.SIGKILL)
        with pytest.raises(ServiceError, match="does not start"):
            service.wait(TIMEOUT_S)
        assert local_credentials(address, tmp_path / "state") == Credentials()


def test_a_process_that_is_dead_before_it_has_its_order(
    scan: RecordedScan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be sent must not be tried again, and fail, where the pipe is closed."""
    service = ProcessingService(scan.settings(tmp_path))
    service.command = (sys.executable, "-c", "raise SystemExit('no such thing')")  # type: ignore[misc]
    to_line = Order.to_line

    def late(order: Order) -> bytes:
        assert service._child is not None
        service._child.wait(TIMEOUT_S)
        return to_line(order)

    monkeypatch.setattr(Order, "to_line", late)
    with pytest.raises(ServiceError, match="does not start: no such thing"):
        service.start()
