"""Callbacks of documents come, go and fail, and the others notice nothing."""

from __future__ import annotations

from typing import Any

from nsbluesky.callbacks.subscribers import Subscribers

DOCUMENT: dict[str, Any] = {"uid": "a"}


def test_each_gets_every_document_while_it_is_there() -> None:
    subscribers, first, second = Subscribers(), list[Any](), list[Any]()
    token = subscribers.add(lambda *told: first.append(told))
    subscribers.tell("start", DOCUMENT)
    other = subscribers.add(lambda *told: second.append(told))
    assert other != token
    subscribers.tell("event", DOCUMENT)
    subscribers.remove(token)
    subscribers.remove(token)
    assert subscribers.tell("stop", DOCUMENT) == []
    assert [name for name, _ in first] == ["start", "event"]
    assert [name for name, _ in second] == ["event", "stop"]


def test_one_that_fails_is_told_when_all_have_the_document() -> None:
    subscribers, told = Subscribers(), list[Any]()
    error = RuntimeError("not today")

    def fails(name: str, document: dict[str, Any]) -> None:
        raise error

    subscribers.add(fails)
    subscribers.add(lambda *document: told.append(document))
    assert subscribers.tell("start", DOCUMENT) == [(fails, error)]
    assert told == [("start", DOCUMENT)]


def test_one_that_leaves_when_it_is_told() -> None:
    subscribers, told = Subscribers(), list[Any]()

    def once(name: str, document: dict[str, Any]) -> None:
        told.append(name)
        subscribers.remove(token)

    token = subscribers.add(once)
    for name in ("start", "stop"):
        subscribers.tell(name, DOCUMENT)
    assert told == ["start"]
