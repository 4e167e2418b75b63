"""The schemas on the manual's page are those of the service: what it sends fits, and what it takes is described."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from recorded_scan import RecordedScan, Session, halves, wait_for

from nsbluesky.callbacks.stage_recorder import STAGES
from nsbluesky.service.control import ask
from nsbluesky.service.messages import ACTIONS, ControlError, Request, parse_request
from nsbluesky.service.supervisor import ProcessingService

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "control-messages.md"
BLOCKS = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.M | re.S)]
REQUEST, ANSWER = (jsonschema.Draft202012Validator(schema) for schema in BLOCKS)

FIELDS = {"settings": {"solver.modes": 2}, "frame": 3, "run": "uid", "stages": ["clean"]}


@pytest.fixture(scope="module")
def service(scan: RecordedScan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessingService]:
    with ProcessingService(scan.settings(tmp_path_factory.mktemp("messages"), sweep_frames=0)) as service:
        yield service


def send(service: ProcessingService, message: Any) -> dict[str, Any]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(service.address)
        socket.send(json.dumps(message).encode())
        assert socket.poll(10_000)
        answer: dict[str, Any] = json.loads(socket.recv_multipart()[0])
    ANSWER.validate(answer)
    return answer


def test_a_socket_of_type_req_is_answered(service: ProcessingService) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.connect(service.address)
        for message, ok in (({"do": "status"}, True), ({"do": "pause"}, False), ({}, False)):
            socket.send(json.dumps(message).encode())
            assert socket.poll(10_000)
            answer = json.loads(socket.recv_multipart()[0])
            ANSWER.validate(answer)
            assert answer["ok"] == ok


@pytest.mark.parametrize("action", [action for action in ACTIONS if action != "shutdown"])
def test_each_request_and_its_answer(service: ProcessingService, action: str) -> None:
    """As its owner, as anybody, and with a field too many."""
    message = {"do": action, "token": service.credentials.token}
    REQUEST.validate(message)
    done = send(service, message)
    assert done["ok"]
    full = message | {field: FIELDS[field] for field in ACTIONS[action]}
    REQUEST.validate(full)
    assert send(service, full)["ok"] == (action != "abort")
    assert send(service, {"do": action})["ok"] == (action in ("status", "snapshot"))
    assert not REQUEST.is_valid(message | {"more": 1})
    assert not send(service, message | {"more": 1})["ok"]


def test_the_status_of_a_run(service: ProcessingService, scan: RecordedScan, tmp_path: Path) -> None:
    with Session(service.address, tmp_path, service.credentials) as session:
        session.send(halves(scan.documents)[0])
        wait_for(lambda: bool(ask(service.address, "status")["runs"]))
        assert send(service, {"do": "status"})["runs"][0]["stages"]
        send(service, {"do": "reset", "token": service.credentials.token})


def test_the_page_tells_of_every_action_and_stage() -> None:
    text = PAGE.read_text()
    assert all(f"`{action}`" in text for action in ACTIONS)
    assert all(f"`{stage}`" in text for stage in STAGES)


MESSAGES = st.fixed_dictionaries(
    {"do": st.sampled_from([*ACTIONS, "launch"])},
    optional={
        "token": st.text(max_size=3) | st.integers(),
        "settings": st.just({}) | st.just(3),
        "run": st.text(max_size=3) | st.none(),
        "frame": st.integers() | st.just(True) | st.none(),
        "stages": st.lists(st.text(max_size=3), max_size=2) | st.just("clean"),
    },
)


@given(MESSAGES)
def test_what_the_schema_takes_is_what_the_service_takes(message: dict[str, Any]) -> None:
    try:
        request = parse_request(json.dumps(message).encode())
    except ControlError:
        assert not REQUEST.is_valid(message)
    else:
        assert REQUEST.is_valid(message)
        assert parse_request(Request(request.action, request.token, request.fields).to_bytes()) == request
