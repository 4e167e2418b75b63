"""Loops compiled for a CPU: amplitudes of frames as they come in, are summed, and are copied out again.

They release the interpreter's lock, as those of `nsbluesky.solver.kernels` do.
"""

from __future__ import annotations

import numpy as np

from nsbluesky.compiled import FAST, njit

__all__ = ["copy_centres", "find_brightest", "sum_amplitudes", "take_roots"]


@njit(nogil=True, cache=True, error_model="numpy")
def copy_centres(spectra, places, rows, scales, backgrounds, out):  # type: ignore[no-untyped-def]
    """Write the lowest frequencies of amplitudes (any, N, N) in FFT order into `rows` of `out` (any, M, M).

    M is even, or N.  Those of a row are multiplied by its number of `scales`, and its photons of `backgrounds` are
    subtracted from what that counted, down to none.  Negative amplitudes, which were not measured, stay so.
    """
    side, gap = out.shape[-1], spectra.shape[-1] - out.shape[-1]
    half = (side + 1) // 2
    zero = out.dtype.type(0)
    for number in range(len(places)):
        spectrum, image = spectra[places[number]], out[rows[number]]
        scale, background = scales[rows[number]], backgrounds[rows[number]]
        for row in range(side):
            source, line = spectrum[row if row < half else row + gap], image[row]
            for column in range(half):
                line[column] = scale * source[column]
            for column in range(half, side):
                line[column] = scale * source[column + gap]
            if background == 0:
                continue
            for column in range(side):
                value = line[column]
                left = np.sqrt(max(value * value - background, zero))
                line[column] = left if value >= zero else value


@njit(nogil=True, cache=True, error_model="numpy")
def take_roots(photons, out):  # type: ignore[no-untyped-def]
    """Write √photons (n, N, N), zero frequency at N//2, into `out` in FFT order; return whether any is no number.

    Negative photons count as none; where they are no number, the root is −1.
    """
    count, side, _ = out.shape
    half = side // 2
    gaps = 0
    for frame in range(count):
        for row in range(side):
            source, line = photons[frame, (row + half) % side], out[frame, row]
            for first, last, ahead in ((0, side - half, half), (side - half, side, half - side)):
                missing = 0
                for column in range(first, last):
                    value = source[column + ahead]
                    line[column] = np.sqrt(max(value, 0))
                    missing += (value - value) != 0  # so of NaN and ∞ alone
                gaps += missing
                if missing:
                    for column in range(first, last):
                        value = source[column + ahead]
                        if value - value != 0:
                            line[column] = -1
    return gaps > 0


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def sum_amplitudes(amplitudes, good, sums):  # type: ignore[no-untyped-def]
    """Write Σ m·A, Σ m·A² and both of the central half into `sums` (n, 4); A (n, N, N) and m (N, N) in FFT order.

    Amplitudes below 0 count as none.
    """
    count, side, _ = amplitudes.shape
    edge = (side - side // 2) // 2
    far = edge + side - side // 2
    sums[:] = 0
    for frame in range(count):
        of_frame = sums[frame]
        for row in range(side):
            line, usable = amplitudes[frame, row], good[row]
            for first, last in ((0, edge), (edge, far), (far, side)):
                total, power = 0.0, 0.0
                for column in range(first, last):
                    value = np.float64(max(line[column], 0) * usable[column])
                    total += value
                    power += value * value
                of_frame[0] += total
                of_frame[1] += power
                if first != edge and (row < edge or row >= far):
                    of_frame[2] += total
                    of_frame[3] += power


@njit(nogil=True, cache=True)
def find_brightest(amplitudes, good, most, piled_up):  # type: ignore[no-untyped-def]
    """Write the largest amplitude of each frame (n, N, N) on a good pixel (N, N) into `most` (n,), 0 for none.

    Into `piled_up` (n,) how many more pixels have it than have up to ½ less, which is the noise of photons.
    """
    count, side, _ = amplitudes.shape
    half, zero = amplitudes.dtype.type(0.5), amplitudes.dtype.type(0)
    for frame in range(count):
        largest = zero
        for row in range(side):
            line, usable = amplitudes[frame, row], good[row]
            for column in range(side):
                largest = max(largest, line[column] * usable[column])
        number = 0
        for row in range(side):
            line, usable = amplitudes[frame, row], good[row]
            for column in range(side):
                if usable[column] > zero and line[column] >= largest - half:
                    number += 1 if line[column] == largest else -1
        most[frame], piled_up[frame] = largest, number
