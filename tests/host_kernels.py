"""CUDA source compiled for the host, where a loop over one thread does what all threads do, or some threads do it."""

import ctypes
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

SHIM = """
#include <math.h>
#include <pthread.h>
#define __global__
#define __launch_bounds__(...)
#define __device__ static inline
#define __shared__ static
#define __threadfence()
static inline int atomicAdd(int* place, int more) { *place += more; return *place - more; }
#define __align__(bytes) alignas(bytes)
struct place { unsigned x; };
static thread_local struct place blockIdx = {0}, threadIdx = {0};
static struct place blockDim = {1}, gridDim = {1};
static pthread_barrier_t all_threads;
#define __syncthreads() (blockDim.x > 1 ? pthread_barrier_wait(&all_threads) : 0)
extern "C" void set_grid(unsigned blocks, unsigned threads)
{
    gridDim.x = blocks;
    blockDim.x = threads;
    pthread_barrier_init(&all_threads, 0, threads);
}
extern "C" void set_place(unsigned block, unsigned thread)
{
    blockIdx.x = block;
    threadIdx.x = thread;
}
"""


def host_launch(source, folder, threads=1):
    """Return what runs the kernels of `source`, which is compiled in `folder`, in blocks of so many threads."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    (folder / "kernels.cpp").write_text(SHIM + source)
    options = ["-O2", "-shared", "-fPIC", "-pthread", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas", "-Werror"]
    subprocess.run([compiler, *options, "-o", "kernels.so", "kernels.cpp"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "kernels.so"))

    def c_value(a):
        if isinstance(a, np.ndarray):
            assert a.flags.c_contiguous
            return ctypes.c_void_p(a.ctypes.data)
        return ctypes.c_float(a) if isinstance(a, float) else ctypes.c_int(a)

    def launch(name, size, *arguments):
        kernel, values = getattr(library, name), [c_value(a) for a in arguments]
        if threads == 1:
            kernel(*values)
            return

        def run(block, thread):
            library.set_place(block, thread)
            kernel(*values)

        blocks = -(-size // threads)
        library.set_grid(blocks, threads)
        with ThreadPoolExecutor(threads) as pool:
            for block in range(blocks):
                list(pool.map(run, threads * [block], range(threads)))

    return launch
