"""Where arrays live."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading

import numpy as np
import pytest

from nsbluesky.backend import BackendError, get_backend


def test_transforms_are_unitary_and_inverse():
    backend = get_backend("numpy")
    rng = np.random.default_rng(0)
    waves = (rng.normal(size=(3, 16, 12)) + 1j * rng.normal(size=(3, 16, 12))).astype(np.complex64)
    field = backend.fft2(waves.copy())
    assert field.dtype == np.complex64
    assert np.allclose(field, np.fft.fft2(waves, norm="ortho"), atol=1e-5)
    assert np.linalg.norm(field) == pytest.approx(np.linalg.norm(waves), rel=1e-5)
    assert np.allclose(backend.ifft2(field), waves, atol=1e-5)


def test_both_libraries_of_transforms_on_a_host_agree(monkeypatch):
    pytest.importorskip("pyfftw")
    fast = get_backend("numpy", threads=2)
    monkeypatch.setitem(sys.modules, "pyfftw", None)  # as if it were not installed
    plain = get_backend("numpy", threads=2)
    rng = np.random.default_rng(1)
    waves = (rng.normal(size=(4, 5, 26, 26)) + 1j * rng.normal(size=(4, 5, 26, 26))).astype(np.complex64)
    for name in ("fft2", "ifft2"):
        found = [np.array(backend.map(getattr(backend, name), waves.copy())) for backend in (fast, plain)]
        assert found[0].dtype == np.complex64
        assert np.allclose(*found, atol=1e-5)


def test_the_transforms_of_fftw_bring_no_dask_along():
    """Half of a service's start, and of the time until a crashed one is back."""
    pytest.importorskip("pyfftw")
    script = "import sys, numpy; from nsbluesky.backend import get_backend; backend = get_backend('numpy')\n"
    script += "backend.fft2(numpy.ones((4, 4)))\n"
    script += "print(backend.compiled_transforms(4, 'complex64') is None, 'pyfftw' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "False False\n"


@pytest.mark.parametrize("library", ["pyfftw", "scipy"])
def test_transforms_of_any_number_layout_and_precision(library, monkeypatch):
    if library == "pyfftw":
        pytest.importorskip("pyfftw")
    else:
        monkeypatch.setitem(sys.modules, "pyfftw", None)
    backend = get_backend("numpy")
    rng = np.random.default_rng(2)
    for number in (1, 7, 15, 17):
        waves = rng.normal(size=(number, 2, 10, 12)) + 1j * rng.normal(size=(number, 2, 10, 12))
        for given, precision in ((waves, 1e-14), (waves.astype(np.complex64), 1e-5)):
            found = backend.fft2(given.copy(), unitary=False)
            assert found.dtype == given.dtype and found.shape == given.shape
            assert np.allclose(found, np.fft.fft2(waves), rtol=0, atol=1e2 * precision)
            assert np.allclose(backend.ifft2(found, unitary=False), 120 * waves, rtol=0, atol=1e2 * precision)
    swapped = waves.swapaxes(-1, -2).copy(order="K")
    assert not swapped.flags.c_contiguous
    assert np.allclose(backend.ifft2(swapped.copy(order="K")), np.fft.ifft2(swapped, norm="ortho"))
    odd = np.zeros(2 * 120 + 1, np.complex64)[1:].reshape(2, 10, 12)  # not aligned as plans want it
    odd[...] = waves[:2, 0]
    assert np.allclose(backend.fft2(odd.copy(order="K")), np.fft.fft2(waves[:2, 0], norm="ortho"), atol=1e-5)
    assert np.allclose(backend.fft2(odd), np.fft.fft2(waves[:2, 0], norm="ortho"), atol=1e-5)
    real = rng.normal(size=(10, 12)).astype(np.float32)
    real.flags.writeable = False
    assert np.allclose(backend.fft2(real), np.fft.fft2(real, norm="ortho"), atol=1e-5)


def test_map_keeps_the_order_and_uses_threads():
    backend = get_backend("numpy", threads=2)
    meet = threading.Barrier(2, timeout=10)

    def work(number, text):
        meet.wait()  # returns only if two threads are at work at once
        return f"{number}{text}"

    assert backend.map(work, [1, 2], ["a", "b"]) == ["1a", "2b"]
    assert get_backend("numpy", threads=1).map(lambda n: n + 1, [1, 2]) == [2, 3]


def test_threads_that_rest_change_nothing_but_who_works():
    backend = get_backend("numpy", threads=2)
    backend.idle_threads = 1
    assert backend.working == 1
    assert set(backend.map(lambda _: threading.get_ident(), [1, 2])) == {threading.get_ident()}
    backend.idle_threads = 5
    assert backend.working == 1 and backend.threads == 2


def test_map_hands_errors_on():
    def fail(number):
        raise RuntimeError(f"part {number}")

    with pytest.raises(RuntimeError, match="part"):
        get_backend("numpy", threads=2).map(fail, [1, 2])


def test_transfers_copy_nothing_on_a_host():
    backend = get_backend("numpy")
    array = np.zeros(3)
    assert backend.to_numpy(array) is array and backend.from_numpy(array) is array
    assert not backend.on_device


def test_an_unknown_backend_is_refused():
    with pytest.raises(BackendError, match="'tpu': expected auto, numpy or cupy"):
        get_backend("tpu")


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed here")
def test_without_cupy_auto_is_numpy_and_cupy_says_what_to_do():
    assert get_backend("auto").name == "numpy"
    with pytest.raises(BackendError, match="CuPy is not installed"):
        get_backend("cupy")


def test_a_call_that_fails_is_told_after_all_have_ended():
    ended = []
    meet = threading.Barrier(2, timeout=10)

    def half_fails(n):
        meet.wait()
        if n == 0:
            raise ValueError("first")
        ended.append(n)

    with pytest.raises(ValueError, match="first"):
        get_backend("numpy", threads=2).map(half_fails, [0, 1])
    assert ended == [1]


@pytest.mark.parametrize("working", [1, 2, 3])
def test_many_calls_are_shared_by_few_threads(working):
    meet = threading.Barrier(working, timeout=10)
    names = set()

    def work(n):
        if threading.get_ident() not in names:
            names.add(threading.get_ident())
            meet.wait()  # nobody goes on before all have one
        return n * n

    assert get_backend("numpy", threads=working).map(work, range(40)) == [n * n for n in range(40)]
    assert len(names) == working
    assert threading.get_ident() in names
