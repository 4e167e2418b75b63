"""CUDA source compiled for the host, where a loop over one thread does what all threads do."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

SHIM = """
#include <math.h>
#define __global__
#define __launch_bounds__(...)
#define __device__ static inline
#define __shared__ static
#define __syncthreads()
#define __threadfence()
static inline int atomicAdd(int* place, int more) { *place += more; return *place - more; }
#define __align__(bytes) alignas(bytes)
struct { int x; } blockIdx = {0}, threadIdx = {0}, blockDim = {1}, gridDim = {1};
"""


def host_launch(source, folder):
    """Return what runs the kernels of `source`, which is compiled in `folder`."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    (folder / "kernels.cpp").write_text(SHIM + source)
    options = ["-O2", "-shared", "-fPIC", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas", "-Werror"]
    subprocess.run([compiler, *options, "-o", "kernels.so", "kernels.cpp"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "kernels.so"))

    def launch(name, size, *arguments):
        def c_value(a):
            if isinstance(a, np.ndarray):
                assert a.flags.c_contiguous
                return ctypes.c_void_p(a.ctypes.data)
            return ctypes.c_float(a) if isinstance(a, float) else ctypes.c_int(a)

        getattr(library, name)(*map(c_value, arguments))

    return launch
