"""The service's process on a disk that is full as long as the file argv[1] is there."""

from __future__ import annotations

import sys
from pathlib import Path

from nsbluesky import disk_space
from nsbluesky.service.order import Order
from nsbluesky.service.process import serve

full, free_bytes = Path(sys.argv[1]), disk_space.free_bytes
disk_space.free_bytes = lambda folder: 0 if full.exists() else free_bytes(folder)
serve(Order.from_line(sys.stdin.buffer.readline()), sys.stdin.buffer, sys.stdout)
