"""First calls of compiled loops: by several threads at once, and without what extends numba."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
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
