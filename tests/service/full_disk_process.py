"""The service's process whose files cannot grow beyond argv[1] bytes, as on a disk that is full."""

from __future__ import annotations

import resource
import sys

from nsbluesky.service.process import Order, serve

order = Order.from_line(sys.stdin.buffer.readline())
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
serve(order, sys.stdin.buffer, sys.stdout)
