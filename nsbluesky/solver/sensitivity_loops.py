"""Loops compiled for a CPU: the sums that `nsbluesky.solver.sensitivity` forms over frames.

They release the interpreter's lock, as those of `nsbluesky.solver.kernels` do.
"""

from __future__ import annotations

import numpy as np

from nsbluesky.compiled import FAST, njit
from nsbluesky.solver.kernels import multiply_windows, spread_lines
from nsbluesky.solver.transform_calls import call_transform

__all__ = ["NUMBERS", "add_sums", "measure_frames"]

NUMBERS = 16
"""Sums over half of a frame's rows, the even or the odd ones: curvature (rr, rc, cc, rf, cf, ff), gradient (3), Σ d²,
pixels, three for the background, excess, and light."""


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def measure_frames(  # type: ignore[no-untyped-def]
    transforms, objects, fields, lines, corners, amplitude, good, background, epsilon, waves, sums
):
    """Add the sums of a few frames to `sums` (n, 2, NUMBERS), one after the other, so that it stays in the cache.

    `fields` (1 or n, modes, N, N) are the transforms of their probes, which `lines` (n, 2, N) move; `waves` (1, modes
    or 3·modes of all states, N, N) is work space, with room for the derivatives where they are wanted.
    """
    execute, forward, backward = transforms
    count, (_, modes, side, _) = len(corners), fields.shape
    light = np.empty((1, waves.shape[1] // len(objects), side, side), fields.dtype)
    scale = light.real.dtype.type(1 / side)  # of both lines: that of the way back, and that of the way there
    which = np.zeros(1, np.int64)
    slope = np.empty(side, np.complex64)
    for pixel in range(side):
        slope[pixel] = complex(0, -2 * np.pi * (pixel if pixel < (side + 1) // 2 else pixel - side) / side)
    same = False
    for frame in range(count):
        here = slice(frame, frame + 1)
        if frame > 0:
            same = len(fields) == 1 and (lines[frame] == lines[frame - 1]).all()
        if not same:
            spread_lines(fields[frame if len(fields) > 1 else 0], scale * lines[here], light[:, :modes])
            if light.shape[1] > modes:
                for mode in range(modes):
                    for row in range(side):
                        down = slope[row]
                        for column in range(side):
                            value, right = light[0, mode, row, column], slope[column]
                            light[0, modes + mode, row, column] = value * down
                            light[0, 2 * modes + mode, row, column] = value * right
            for wave in range(light.shape[1]):
                call_transform(execute, backward, light[0, wave])
        multiply_windows(objects, light, which, corners[here], waves)
        for wave in range(waves.shape[1]):
            call_transform(execute, forward, waves[0, wave])
        add_sums(waves, modes * len(objects), amplitude[here], good, background, epsilon, sums[here])


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def add_sums(far, modes, amplitude, good, background, epsilon, sums):  # type: ignore[no-untyped-def]
    """Add the sums of a few frames with far fields (n, modes or 3·modes, N, N) to `sums` (n, 2, NUMBERS)."""
    count, waves, side, _ = far.shape
    light = np.empty(side, good.dtype)
    by_row = np.empty(side, good.dtype)
    by_column = np.empty(side, good.dtype)
    zero = light.dtype.type(0)
    one = light.dtype.type(1)
    half = light.dtype.type(0.5)
    for frame in range(count):
        for row in range(side):
            light[:] = zero
            by_row[:] = zero
            by_column[:] = zero
            for mode in range(modes):
                wave = far[frame, mode, row]
                for column in range(side):
                    w = wave[column]
                    light[column] += w.real * w.real + w.imag * w.imag
            for mode in range(modes if waves > modes else 0):
                wave, down, right = (
                    far[frame, mode, row],
                    far[frame, modes + mode, row],
                    far[frame, 2 * modes + mode, row],
                )
                for column in range(side):
                    w, d, r = wave[column], down[column], right[column]
                    by_row[column] += w.real * d.real + w.imag * d.imag
                    by_column[column] += w.real * r.real + w.imag * r.imag
            measured, usable = amplitude[frame, row], good[row]
            rr, rc, cc, rf, cf, ff = zero, zero, zero, zero, zero, zero
            gr, gc, gf, dd, pixels, bn, bd, bv = zero, zero, zero, zero, zero, zero, zero, zero
            excess, all_light = zero, zero
            for column in range(side):
                mask = usable[column] if measured[column] >= zero else zero
                power = light[column] + background
                model = np.sqrt(power)
                inverse = one / (model + epsilon)
                r, c, f = by_row[column] * inverse, by_column[column] * inverse, half * light[column] * inverse
                difference = (measured[column] - model) * mask
                rr += mask * r * r
                rc += mask * r * c
                cc += mask * c * c
                rf += mask * r * f
                cf += mask * c * f
                ff += mask * f * f
                gr += difference * r
                gc += difference * c
                gf += difference * f
                dd += difference * difference
                pixels += mask
                beyond = measured[column] * measured[column] - power
                excess += mask * beyond
                all_light += mask * light[column]
                weight = mask / ((power + one) * (power + one))
                bn += weight * (measured[column] * measured[column] - light[column])
                bd += weight
                bv += weight * beyond * (weight * beyond)
            total = sums[frame, row % 2]
            total[0] += rr
            total[1] += rc
            total[2] += cc
            total[3] += rf
            total[4] += cf
            total[5] += ff
            total[6] += gr
            total[7] += gc
            total[8] += gf
            total[9] += dd
            total[10] += pixels
            total[11] += bn
            total[12] += bd
            total[13] += bv
            total[14] += excess
            total[15] += all_light
