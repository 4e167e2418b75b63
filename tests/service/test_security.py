"""What must be refused is refused and told, and the service lives on."""

from __future__ import annotations

import json
import pickle
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hypothesis
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from nsbluesky.callbacks.frame_readers import HDF5Frames
from nsbluesky.callbacks.stage import DocumentError
from nsbluesky.document_log import DocumentLog
from nsbluesky.service.access import AccessError, Credentials
from nsbluesky.service.connection import connect
from nsbluesky.service.control import Endpoints, ServiceAway, ask, find_endpoints
from nsbluesky.service.keys import KeyFolder
from nsbluesky.service.messages import MAX_CONTROL_BYTES, ControlError, parse_request
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.service.supervisor import ProcessingService
from nsbluesky.service.wire import ACK, DOCUMENT, HELLO, MAX_BYTES, REFUSED, pack, pack_document, unpack
from nsbluesky.settings import SettingsError

TIMEOUT_MS = 10_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("security")


def settings(folder: Path, **more: Any) -> ServiceSettings:
    return ServiceSettings(
        directory=str(folder / "results"),
        roots=(str(folder / "frames"),),
        address="tcp://127.0.0.1:0",
        state=str(folder / "state"),
        warm_up=False,
        **more,
    )


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[ProcessingService]:
    with ProcessingService(settings(folder)) as service:
        yield service
        assert service.restarts == [], "nothing in these tests may bring it down"


@pytest.fixture
def endpoints(service: ProcessingService) -> Endpoints:
    return find_endpoints(service.address)


@pytest.fixture
def socket(endpoints: Endpoints) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(endpoints.documents)
        yield socket


def refused(service: ProcessingService, socket: zmq.Socket[bytes], *parts: bytes) -> str:
    """Send what must be refused; return why it was, and look that the service lives and has told it."""
    before = ask(service.address, "status")["refused"]
    socket.send_multipart(parts)
    assert socket.poll(TIMEOUT_MS)
    kind, reason = socket.recv_multipart()
    assert kind == REFUSED
    assert ask(service.address, "status")["refused"] == before + 1
    log = (Path(service.settings.state) / "logs" / "server.log").read_text()
    assert reason.decode() in log
    return reason.decode()


def token(service: ProcessingService) -> bytes:
    return service.credentials.token.encode()


# ---- documents


def test_a_pickle(service: ProcessingService, socket: zmq.Socket[bytes]) -> None:
    content = pickle.dumps(("run", 0, "start", {"uid": "run"}))
    assert "no message" in refused(service, socket, token(service), DOCUMENT, content)


@pytest.mark.parametrize("parts", [[b""], [b"", b""], [b"", b"", b"", b""]])
def test_messages_of_the_wrong_form(
    service: ProcessingService, socket: zmq.Socket[bytes], parts: list[bytes]
) -> None:
    assert "expected a token" in refused(service, socket, *parts)


@pytest.mark.parametrize("greeting", [7, [1], ["x", []], [1, [2]], [1, "uid"]])
def test_greetings_of_the_wrong_form(service: ProcessingService, socket: zmq.Socket[bytes], greeting: Any) -> None:
    assert "a greeting must" in refused(service, socket, token(service), HELLO, pack(greeting))


def test_an_unknown_kind(service: ProcessingService, socket: zmq.Socket[bytes]) -> None:
    assert "of the kind" in refused(service, socket, token(service), b"run", b"")


@pytest.mark.parametrize("shown", [b"", b"0" * 32])
def test_documents_without_the_token(service: ProcessingService, socket: zmq.Socket[bytes], shown: bytes) -> None:
    content = pack_document("abc", 0, "start", {"uid": "abc", "time": 0.0})
    assert "token" in refused(service, socket, shown, DOCUMENT, content)


def test_a_message_that_is_too_large(
    service: ProcessingService, endpoints: Endpoints, socket: zmq.Socket[bytes]
) -> None:
    """0MQ ends the connection; another one works."""
    socket.send_multipart([token(service), DOCUMENT, bytes(MAX_BYTES + 1)])
    assert not socket.poll(500)
    with zmq.Context() as context, context.socket(zmq.DEALER) as other:
        other.linger = 0
        other.connect(endpoints.documents)
        other.send_multipart([token(service), HELLO, pack((1, []))])
        assert other.poll(TIMEOUT_MS)


@pytest.mark.parametrize("uid", ["../../etc/x", "a/b", "a" * 65, "", "a\0b", "."])
def test_uids_that_could_name_files_elsewhere(
    service: ProcessingService, socket: zmq.Socket[bytes], uid: str
) -> None:
    content = pack_document(uid, 0, "start", {"uid": uid, "time": 0.0})
    assert "expected a uid" in refused(service, socket, token(service), DOCUMENT, content)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("event", {}),
        ("event", {"descriptor": "d", "data": [1], "seq_num": "x"}),
        ("event_page", {"descriptor": 3, "data": {}}),
        ("descriptor", {"uid": "d"}),
        ("descriptor", {"uid": ["d"], "run_start": {}, "data_keys": 7}),
        ("stream_resource", {"uid": 1, "run_start": "form"}),
        ("stream_datum", {"stream_resource": "none", "indices": {"start": -1}}),
        ("stop", {}),
        ("stop", {"run_start": {"a": 1}}),
    ],
)
def test_documents_of_the_wrong_form(
    service: ProcessingService, socket: zmq.Socket[bytes], name: str, document: dict[str, Any]
) -> None:
    """Passed over, so that what comes after them is taken."""
    uid = f"form-{abs(hash(name + str(document)))}"
    start = run_with_frames_at("file://localhost/none.h5")[0][1] | {"uid": uid}
    stop = {"uid": "s", "run_start": uid, "time": 0.0, "exit_status": "success"}
    for index, (kind, content) in enumerate([("start", start), (name, document), ("stop", stop)]):
        socket.send_multipart([token(service), DOCUMENT, pack_document(uid, index, kind, content)])
    finished = None
    while finished is None:
        assert socket.poll(TIMEOUT_MS)
        kind_of_answer, answer = socket.recv_multipart()
        assert kind_of_answer == ACK
        count, finished, _ = unpack(answer)[2][uid]
    assert count == 3


# ---- control


@pytest.mark.parametrize("action", ["pause", "shutdown", "reset", "configure", "abort", "clear", "checkpoint"])
def test_a_viewer_cannot_control(service: ProcessingService, action: str) -> None:
    for shown in (Credentials(), Credentials(token="0" * 32)):
        with pytest.raises(AccessError, match=f"{action} is not allowed"):
            ask(service.address, action, shown)
    assert ask(service.address, "status")["state"] == "idle"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "no JSON"),
        (b"\x80\x04\x95", "no JSON"),
        (b"[" * 50_000, "no JSON"),
        (b"[]", "JSON object"),
        (b'{"do": "launch"}', "expected one of"),
        (b'{"do": ["status"]}', "expected one of"),
        (b'{"do": "status", "x": 1}', "no field"),
        (b'{"do": "configure", "settings": 3}', "wrong type"),
        (b'{"do": "pause", "token": 5}', "token"),
        (b'{"do": "pause", "token": "\\ud800"}', "pause is not allowed"),
    ],
)
def test_control_messages_of_the_wrong_form(service: ProcessingService, message: bytes, reason: str) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(service.address)
        socket.send(message)
        assert socket.poll(TIMEOUT_MS)
        answer = json.loads(socket.recv())
    assert not answer["ok"] and reason in answer["error"]
    assert ask(service.address, "status")["ok"]


def test_a_control_message_that_is_too_large(service: ProcessingService) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(service.address)
        socket.send(b" " * (MAX_CONTROL_BYTES + 1))
        assert not socket.poll(500)
    assert ask(service.address, "status")["ok"]


@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
def test_any_control_message_gives_a_request_or_one_error(data: bytes) -> None:
    try:
        request = parse_request(data)
    except ControlError as error:
        assert str(error)
    else:
        assert request.action


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["do", "token", "settings", "run", "x"]), inner),
    max_leaves=8,
)


@given(JSON)
def test_any_json_gives_a_request_or_one_error(value: Any) -> None:
    try:
        parse_request(json.dumps(value).encode())
    except ControlError as error:
        assert str(error)


def test_settings_of_the_wrong_form(service: ProcessingService) -> None:
    with pytest.raises(ControlError, match="unknown setting"):
        ask(service.address, "configure", service.credentials, settings={"no_such": 1})
    with pytest.raises(ControlError, match="1 to 64"):
        ask(service.address, "configure", service.credentials, settings={"solver.modes": 0})


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers())
NAMES = st.sampled_from(["solver.modes", "cleaning.center_px", "backend", "queue_bytes", "solver", "solver.x.y", ""])


@hypothesis.settings(max_examples=50)
@given(st.dictionaries(NAMES, VALUES, max_size=3), st.integers())
def test_any_settings_give_an_answer_or_one_error(
    service: ProcessingService, changes: dict[str, Any], frame: int
) -> None:
    told = ask(service.address, "configure", service.credentials, settings={})["settings"]
    for action, fields in (("configure", {"settings": changes}), ("fit", {"frame": frame})):
        try:
            ask(service.address, action, service.credentials, **fields)
        except ControlError as error:
            assert "see the log of the server" not in str(error)
    ask(service.address, "fit", service.credentials)
    before = {"solver.modes": told["solver"]["modes"], "cleaning.center_px": told["cleaning"]["center_px"]}
    before |= {name: told[name] for name in ("backend", "queue_bytes")}
    ask(service.address, "configure", service.credentials, settings=before)


# ---- keys


def test_beyond_loopback_keys_are_needed(folder: Path) -> None:
    for address in ("tcp://0.0.0.0:60610", "tcp://*:0", "tcp://beamline.example:60610"):
        with pytest.raises(SettingsError, match="make keys"):
            ServiceSettings(directory=str(folder), roots=("/",), address=address)


def test_keys(tmp_path: Path) -> None:
    """Known keys do what their role may; unknown and missing ones reach nothing."""
    keys = KeyFolder(tmp_path / "keys")
    server_key = keys.make_server()
    operator = Credentials.read(keys.add("session", "operator"))
    viewer = Credentials.read(keys.add("window", "viewer"))
    with ProcessingService(settings(tmp_path, keys=str(keys.directory))) as service:
        assert ask(service.address, "status", operator)["ok"]
        assert ask(service.address, "pause", operator)["ok"]
        assert ask(service.address, "status", viewer)["state"] == "paused"
        with pytest.raises(AccessError, match="resume is not allowed"):
            ask(service.address, "resume", viewer)
        assert ask(service.address, "resume", service.credentials)["ok"], "whoever started it may do everything"
        for stranger in (Credentials.make(server_key), Credentials.make(operator.public_key), Credentials()):
            told = "with this key" if stranger.server_key else "without keys"
            with pytest.raises(ServiceAway, match=f"running there, {told}"):
                ask(service.address, "status", stranger, timeout_s=0.5)
        endpoints = find_endpoints(service.address, operator)
        assert answers(endpoints.documents, operator)
        assert not answers(endpoints.documents, viewer), "documents come from operators"
        (keys.directory / "clients" / "window.json").unlink()
        with pytest.raises(ServiceAway):
            ask(service.address, "status", viewer, timeout_s=0.5)
        assert service.restarts == []
    log = (Path(service.settings.state) / "logs" / "rights.log").read_text()
    assert viewer.public_key in log and "refused a connection for documents" in log


def answers(address: str, credentials: Credentials) -> bool:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        credentials.apply(socket)
        socket.connect(address)
        socket.send_multipart([b"", HELLO, pack((1, []))])
        return bool(socket.poll(1000))


def test_secrets_are_for_the_owner_alone(tmp_path: Path, service: ProcessingService) -> None:
    keys = KeyFolder(tmp_path)
    carried = keys.add("session", "operator")
    secret = [*tmp_path.rglob("*.json"), *(Path(service.settings.state) / "services").glob("*.json")]
    assert len(secret) == 4
    assert all(path.stat().st_mode & 0o077 == 0 for path in secret)
    for path, read in (
        (keys.directory / "server.json", keys.server_keys),
        (carried, lambda: Credentials.read(carried)),
    ):
        path.chmod(0o640)
        with pytest.raises(AccessError, match=f"other users can read it: run 'chmod 600 {path}'"):
            read()
    for name in ("../x", "", "a/b"):
        with pytest.raises(AccessError, match="expected a name"):
            keys.add(name, "viewer")


# ---- paths


def run_with_frames_at(uri: str, dataset: str = "/entry/data/data") -> list[tuple[str, dict[str, Any]]]:
    """A run of one frame whose file somebody has chosen."""
    uid = f"path-{abs(hash((uri, dataset)))}"
    now = time.time()
    ptycho = {
        "energy_eV": 930.0,
        "detector_distance_m": 0.25,
        "pixel_size_m": 30e-6,
        "keys": {"image": "image", "x": "x", "y": "y"},
        "scan": {"num_points": 1},
    }
    image = {"source": "x", "dtype": "array", "shape": [8, 8], "external": "STREAM:"}
    number = {"source": "x", "dtype": "number", "shape": [], "units": "um"}
    parameters = {"dataset": dataset, "swmr": True, "chunk_shape": [1, 8, 8]}
    stamps = {"x": now, "y": now}
    return [
        ("start", {"uid": uid, "time": now, "ptycho": ptycho}),
        (
            "descriptor",
            {
                "uid": f"{uid}-d",
                "run_start": uid,
                "time": now,
                "name": "primary",
                "data_keys": {"image": image, "x": number, "y": number},
            },
        ),
        (
            "stream_resource",
            {
                "uid": f"{uid}-r",
                "run_start": uid,
                "data_key": "image",
                "mimetype": "application/x-hdf5",
                "uri": uri,
                "parameters": parameters,
            },
        ),
        (
            "stream_datum",
            {
                "uid": f"{uid}-r/0",
                "stream_resource": f"{uid}-r",
                "descriptor": f"{uid}-d",
                "indices": {"start": 0, "stop": 1},
                "seq_nums": {"start": 1, "stop": 2},
            },
        ),
        (
            "event",
            {
                "uid": f"{uid}-e",
                "descriptor": f"{uid}-d",
                "time": now,
                "seq_num": 1,
                "data": {"x": 0.0, "y": 0.0},
                "timestamps": stamps,
            },
        ),
        ("stop", {"uid": f"{uid}-s", "run_start": uid, "time": now, "exit_status": "success"}),
    ]


def process(service: ProcessingService, documents: list[tuple[str, dict[str, Any]]], folder: Path) -> str:
    """Process a run and return what its derived run says at the end."""
    log = DocumentLog(folder / "documents")
    with connect(service.address, log, service.credentials) as connection:
        for name, document in documents:
            log(name, document)
            connection(name, document)
        assert connection.wait(30)
        return connection.finished[documents[0][1]["uid"]].reason


def write_frames(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", libver="latest") as file:
        file["/entry/data/data"] = np.ones((1, 8, 8), np.uint16)
    return path


@pytest.mark.parametrize("template", ["file://localhost{frames}/../secret.h5", "{frames}/%2e%2e/secret.h5", "{link}"])
def test_paths_out_of_the_roots(service: ProcessingService, folder: Path, tmp_path: Path, template: str) -> None:
    write_frames(folder / "secret.h5")
    link = folder / "frames" / "link.h5"
    link.parent.mkdir(exist_ok=True)
    if not link.exists():
        link.symlink_to(folder / "secret.h5")
    reason = process(service, run_with_frames_at(template.format(frames=folder / "frames", link=link)), tmp_path)
    assert "1 frame lost" in reason and "lies outside" in reason


@pytest.mark.parametrize("kind", ["external link", "virtual dataset", "external storage"])
def test_files_that_lead_out_of_the_roots(
    service: ProcessingService, folder: Path, tmp_path: Path, kind: str
) -> None:
    secret = write_frames(folder / "secret.h5")
    path = folder / "frames" / f"{kind.replace(' ', '-')}.h5"
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w", libver="latest") as file:
        if kind == "external link":
            file["/entry/data/data"] = h5py.ExternalLink(secret, "/entry/data/data")
        elif kind == "virtual dataset":
            layout = h5py.VirtualLayout((1, 8, 8), np.uint16)
            layout[:] = h5py.VirtualSource(secret, "/entry/data/data", shape=(1, 8, 8))
            file.create_virtual_dataset("/entry/data/data", layout)
        else:
            file.create_dataset("/entry/data/data", (1, 8, 8), np.uint16, external=[(secret, 0, 128)])
    assert HDF5Frames(path, "/entry/data/data").read(0, 1).any(), "where any folder may be read it works"
    place = f"takes frames from {secret.resolve()}, which lies outside {path.parent}"
    expected = "lies outside the file, in external storage" if kind == "external storage" else place
    with pytest.raises(DocumentError, match=re.escape(expected)):
        HDF5Frames(path, "/entry/data/data", [path.parent]).read(0, 1)
    reason = process(service, run_with_frames_at(f"file://localhost{path}"), tmp_path)
    assert "1 frame lost" in reason


def test_frames_within_the_roots_are_read(service: ProcessingService, folder: Path, tmp_path: Path) -> None:
    """The counterpart: what the tests above ask for works where it may."""
    path = write_frames(folder / "frames" / "good.h5")
    assert "lost" not in process(service, run_with_frames_at(f"file://localhost{path}"), tmp_path)
