"""What ends a command from outside: Ctrl-C, ``kill`` or a system's manager, a terminal that is closed.

All three interrupt the work in the same way, as a KeyboardInterrupt in the main thread, so that whatever is open is
closed, what is half written is removed, and the command can tell what there is to go on from.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any

__all__ = ["EndedBySignal", "by_signals", "deaf_to_terminals", "ended", "heard_signals", "interruptible"]

WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "ended by SIGTERM",
    signal.SIGHUP: "ended, for the terminal was closed (SIGHUP)",
}
AGAIN_S = 0.05
"""When an interruption that was lost comes again; callbacks into Python are over by then."""

Handler = Callable[[int, object], object]


class EndedBySignal:
    """Which signal has ended the work, if any.

    Attributes
    ----------
    number : signal or None
        The first that came.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self._seen = False
        self._again = False

    @property
    def exit_code(self) -> int:
        """What a shell would tell of a process that the signal has killed."""
        return 128 + (self.number or signal.SIGINT)

    @property
    def words(self) -> str:
        """What has happened, for people."""
        return WORDS[self.number or signal.SIGINT]

    def see(self) -> None:
        """Take note that the work is being ended: no interruption that was lost has to come again."""
        self._seen = True
        # Python remembers an interrupted ``exec`` of a text, as dataclasses make them, till the next one, and
        # ``python -m`` would end by SIGINT for it, whatever the exit code
        exec("")

    def interrupt(self, number: int, frame: object) -> None:
        """Interrupt the main thread; `timeout` and closed terminals send theirs twice, which spoils no closing."""
        if self.number == number != signal.SIGINT and not self._again:
            return
        self._again = False
        self.number = self.number or signal.Signals(number)
        raise KeyboardInterrupt

    def lose(self, unraisable: Any) -> bool:
        """Let an interruption that could not be raised come again, and return whether it was one.

        Python drops what is raised in a destructor, or in a function that C calls, as Numba's compiler does.
        """
        if self.number is None or not isinstance(unraisable.exc_value, KeyboardInterrupt):
            return False
        if not self._seen:
            again = threading.Timer(AGAIN_S, self._come_again)
            again.daemon = True
            again.start()
        return True

    def _come_again(self) -> None:
        main = threading.main_thread().ident
        if not self._seen and self.number is not None and main is not None:
            self._again = True
            signal.pthread_kill(main, self.number)


_current: list[EndedBySignal] = []


def ended() -> bool:
    """Return whether a signal has ended the command that this process is: no error since then is its own."""
    if not _current or _current[-1].number is None:
        return False
    _current[-1].see()
    return True


def heard_signals() -> list[signal.Signals]:
    """Return those of the three that are to be heard: ``nohup`` and background jobs of scripts ignore some."""
    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        return []
    return [number for number in WORDS if signal.getsignal(number) is not signal.SIG_IGN]


@contextlib.contextmanager
def by_signals(handler: Handler, *, then_silent: bool = False) -> Iterator[None]:
    """Let a handler hear the three signals in the block.

    Parameters
    ----------
    handler : callable
        Takes the number of a signal and a frame.
    then_silent : bool, optional
        Whether the process ends after the block: a further signal kills it without a traceback.
    """
    before = {number: signal.signal(number, handler) for number in heard_signals()}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, signal.SIG_DFL if then_silent else former)


@contextlib.contextmanager
def interruptible(*, then_silent: bool = False) -> Iterator[EndedBySignal]:
    """Let each of the three signals interrupt the block; see `by_signals`."""
    asked, tell = EndedBySignal(), sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not asked.lose(unraisable):
            tell(unraisable)

    sys.unraisablehook = hook
    _current.append(asked)
    try:
        with by_signals(asked.interrupt, then_silent=then_silent):
            yield asked
    finally:
        _current.pop()
        sys.unraisablehook = tell


@contextlib.contextmanager
def deaf_to_terminals() -> Iterator[None]:
    """Let threads of this block, and processes that they start, hear no Ctrl-C and no closing of a terminal.

    A terminal tells all processes: workers would die of it, with a traceback each, before they are ended by the one
    that started them, which hears it after the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()  # it ignores Ctrl-C by itself; its start would let this thread hear again
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
