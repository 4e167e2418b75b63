"""First calls of compiled loops: by several threads and processes at once, and without what extends numba."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher

from nsbluesky.compiled import njit


def test_a_first_call_has_the_compiler_for_itself_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, seen = Dispatcher._compilation_chain_init_hook, []

    def watched(self: Any) -> None:
        seen.append(global_compiler_lock.is_locked())
        begin(self)

    monkeypatch.setattr(Dispatcher, "_compilation_chain_init_hook", watched)

    @njit(nogil=True)
    def doubled(values):  # type: ignore[no-untyped-def]
        return 2 * values

    kinds = (np.float32, np.float64, np.int64, np.complex64)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda kind: doubled(np.ones(3, kind)), kinds))
    assert [array.dtype for array in found] == list(kinds)
    assert len(doubled.signatures) == len(kinds) and seen == [True] * len(kinds)


def test_extensions_of_numba_come_with_the_first_function_of_somebody_else() -> None:
    code = """
        import numba
        from numba.core import entrypoints
        from nsbluesky.compiled import njit

        came = []
        entrypoints.importlib_metadata.entry_points = lambda: came.append("extensions") or Extensions()

        class Extensions:
            def select(self, **_):
                return []

        def doubled(value):
            return 2 * value

        assert njit(nogil=True)(doubled)(2) == 4 and came == [], came
        assert numba.njit(nogil=True)(doubled)(2) == 4 and came == ["extensions"], came
        assert njit(nogil=True)(doubled)(2.0) == 4.0 and came == ["extensions"], came
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


KEPT = """
from nsbluesky.compiled import njit

@njit(nogil=True, cache=True)
def doubled(value):
    return 2 * value

@njit(nogil=True, cache=True)
def halved(value):
    return value / 2
"""

COMPILES = """
import sys
from numba.core import event
from kept import doubled, halved

class Compiles(event.Listener):
    def on_start(self, _):
        print("compiles", flush=True)
        sys.stdin.readline()
    def on_end(self, _):
        pass

event.register("numba:compile", Compiles())
doubled(2)
halved(2)
"""

COMES_LATER = """
import sys
from nsbluesky import compiled
from kept import doubled, halved

pause = compiled.time.sleep
def sleep(seconds):
    print("waits", flush=True)
    pause(seconds)
compiled.time.sleep = sleep
compiled.PATIENCE_S = float(sys.argv[1])
for function in doubled, halved:
    assert function(2) == function.py_func(2)
    print(function.__name__, "loaded" if function.stats.cache_hits else "compiled", flush=True)
"""


class Processes:
    """Run code in processes that keep machine code in one folder."""

    def __init__(self, folder: Path) -> None:
        (folder / "kept.py").write_text(KEPT)
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))
        self._environment = {**os.environ, "PYTHONPATH": path}
        self._stack = contextlib.ExitStack()

    def start(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        command, pipe = [sys.executable, "-c", code, *arguments], subprocess.PIPE
        started = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=self._environment)
        self._stack.enter_context(started)
        self._stack.callback(started.kill)
        return started

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with contextlib.closing(Processes(tmp_path)) as processes:
        yield processes


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yield what a process says, what it says again and again once."""
    assert process.stdout is not None
    return (line for line, _ in itertools.groupby(iter(process.stdout.readline, "")))


def test_one_process_compiles_for_all_and_none_waits_for_the_dead_or_for_ever(processes: Processes) -> None:
    compiling = processes.start(COMPILES)
    assert next(lines(compiling)) == "compiles\n"
    waiting = lines(processes.start(COMES_LATER, "120"))
    assert next(waiting) == "waits\n"
    assert compiling.stdin is not None
    compiling.stdin.write("go on\n")
    assert next(lines(compiling)) == "compiles\n", "the next one: it lets go of each as soon as that is compiled"
    assert [next(waiting), next(waiting)] == ["doubled loaded\n", "waits\n"]
    impatient = lines(processes.start(COMES_LATER, "0"))
    assert list(impatient) == ["doubled loaded\n", "halved compiled\n"]
    compiling.kill()
    assert list(waiting) == ["halved loaded\n"]


def test_where_no_lock_can_be_made_everybody_compiles(processes: Processes, tmp_path: Path) -> None:
    """As on a disk that knows none: here a folder has the name of the file."""
    (tmp_path / "__pycache__" / "kept.doubled.lock").mkdir(parents=True)
    assert list(lines(processes.start(COMES_LATER, "120"))) == ["doubled compiled\n", "halved compiled\n"]
