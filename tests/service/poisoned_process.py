"""The service's process with frames that kill or hold it: argv names what, and the frame's number."""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import Any

from nsbluesky.callbacks.frame_source import ReadFrames
from nsbluesky.service.order import Order
from nsbluesky.service.process import serve

KIND, SEQ_NUM = sys.argv[1], int(sys.argv[2])
read = ReadFrames._read


def read_poisoned(self: ReadFrames, stream: str, block: list[int]) -> Any:
    """Die, or work for ever, on one frame, as a broken filter of HDF5 would."""
    if stream == "primary" and SEQ_NUM in block:
        if KIND == "crash":
            signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)
        while True:
            time.sleep(0.1)
    return read(self, stream, block)


ReadFrames._read = read_poisoned  # type: ignore[method-assign]
serve(Order.from_line(sys.stdin.buffer.readline()), sys.stdin.buffer, sys.stdout)
