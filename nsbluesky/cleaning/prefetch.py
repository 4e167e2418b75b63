"""What numba has no word for: asking memory for a row before it is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nsbluesky.compiled import njit

__all__ = ["fetch_row"]

LINE_WORDS = 32  # of a processor's cache line
FOR_READING, INTO_SECOND_CACHE, DATA = 0, 2, 1  # as the instruction counts


@intrinsic
def _fetch(typing_context: Any, frames: Any, f: Any, row: Any, column: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        array = context.make_array(kind)(context, builder, arguments[0])
        place: Any = cgutils.get_item_pointer(context, builder, kind, array, arguments[1:], wraparound=False)  # type: ignore[no-untyped-call]
        byte, number = ir.PointerType(ir.IntType(8)), ir.IntType(32)
        form = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], form)
        how = [number(k) for k in (FOR_READING, INTO_SECOND_CACHE, DATA)]
        builder.call(fetch, [builder.bitcast(place, byte), *how])
        return context.get_dummy_value()

    return types.void(frames, f, row, column), generate


@njit(nogil=True, forceinline=True)
def fetch_row(frames: npt.NDArray[np.uint16], f: int, row: int) -> None:
    """Have a raw row of frame `f` (frames (n, rows, columns)) on its way from memory while others are worked on."""
    for column in range(0, frames.shape[2], LINE_WORDS):
        _fetch(frames, f, row, column)  # type: ignore[call-arg]
