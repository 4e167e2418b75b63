"""Threads that help with small calls."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from nsbluesky import helpers


def names_of(threads):
    meet = threading.Barrier(threads, timeout=10)
    names = []

    def work():
        names.append(threading.current_thread().name)
        meet.wait()  # returns only if all are at work at once

    helpers.share(work, threads)
    return names


def test_work_is_done_by_as_many_threads_as_told_this_one_among_them():
    for threads in (1, 2, 5, 2):
        names = names_of(threads)
        assert len(names) == threads
        assert names.count(threading.current_thread().name) == 1


def test_helpers_are_used_again():
    names_of(4)
    before = threading.active_count()
    for _ in range(10):
        names_of(4)
    assert threading.active_count() == before


def test_work_that_is_shared_may_share_work():
    ended = []
    helpers.share(lambda: helpers.share(lambda: ended.append(threading.get_ident()), 2), 2)
    assert len(ended) == 4


def test_an_error_of_a_helper_is_raised_after_all_have_ended_and_spoils_nothing():
    here = threading.get_ident()
    ended = []

    def fails():
        if threading.get_ident() != here:
            raise ValueError("of a helper")
        ended.append(here)

    for _ in range(3):
        with pytest.raises(ValueError, match="of a helper"):
            helpers.share(fails, 2)
    assert ended == [here] * 3
    assert len(names_of(3)) == 3


FORK = """
import multiprocessing, threading
from nsbluesky import helpers

def used():
    meet = threading.Barrier(3, timeout=10)
    helpers.share(meet.wait, 3)

used()
child = multiprocessing.get_context("fork").Process(target=used)
child.start()
child.join(30)
print("the child ended with", child.exitcode)
child.kill()
"""


def test_a_child_has_helpers_of_its_own():
    """In a process of its own: a child would keep the pipes of what other tests have started."""
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("the child ended with 0", "")
