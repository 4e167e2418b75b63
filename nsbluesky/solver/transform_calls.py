"""FFTW called by compiled loops, within which Python has no part."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nsbluesky.compiled import njit

__all__ = ["call_transform"]


@intrinsic
def _call_in_place(typing_context: Any, function: Any, plan: Any, address: Any) -> Any:
    """Call function(plan, address, address).

    A function of ctypes would be compiled in as an address of this process, so that nothing could be cached.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function, plan, address = arguments
        form = ir.FunctionType(ir.VoidType(), [plan.type, address.type, address.type])
        builder.call(builder.inttoptr(function, form.as_pointer()), [plan, address, address])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


@njit(nogil=True, cache=True)
def call_transform(function: int, plan: int, wave: Any) -> None:
    """Transform a contiguous wave in place by a function and a plan of FFTW, given by their addresses."""
    _call_in_place(function, plan, wave.ctypes.data)  # type: ignore[call-arg]
