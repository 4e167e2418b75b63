"""Loops compiled for a CPU: what an update does beside its Fourier transforms, each pixel touched once.

Every loop works on rows, so that what it needs several times stays in the innermost cache, and releases the
interpreter's lock, so that Python threads run side by side.  NumPy's error model is used, for else every division
is a branch.  The same steps over arrays, for a GPU and as a reference, are in `nsbluesky.solver.forward` and
`nsbluesky.solver.windows`.

Products of complex numbers are written out in real numbers: only then do compilers use vector instructions.
"""

from __future__ import annotations

import numpy as np

from nsbluesky.compiled import FAST, njit
from nsbluesky.solver.transform_calls import call_transform

__all__ = [
    "add_and_step",
    "add_power",
    "back_project",
    "change_fields",
    "gather_lines",
    "largest_nearby",
    "multiply_lines",
    "multiply_windows",
    "push",
    "spread_lines",
    "step_probe",
    "step_products",
    "use_frames",
]


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def multiply_windows(objects, probes, which, corners, out):  # type: ignore[no-untyped-def]
    """Write P_jk·O_js for the windows at `corners` (n, 2) of `objects` (states, H, W) into `out`.

    Frame j has the probe number `which`[j] of `probes` (any, modes, N, N); `out` is (n, states·modes, N, N).
    """
    _, modes, side, _ = probes.shape
    for frame in range(len(corners)):
        top, left = corners[frame, 0], corners[frame, 1]
        for state in range(len(objects)):
            for mode in range(modes):
                for row in range(side):
                    window = objects[state, top + row, left : left + side]
                    light, wave = probes[which[frame], mode, row], out[frame, state * modes + mode, row]
                    for column in range(side):
                        a, b = window[column], light[column]
                        wave[column] = complex(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def multiply_lines(spectra, lines):  # type: ignore[no-untyped-def]
    """Multiply spectra (n, modes, N, N) by the product of a number for each row and one for each column.

    These are `lines` (n or 1, 2: rows, columns, N).
    """
    count, modes, side, _ = spectra.shape
    turn = np.empty(side, spectra.dtype)
    for frame in range(count):
        which = frame if len(lines) > 1 else 0
        down, right = lines[which, 0], lines[which, 1]
        for row in range(side):
            a = down[row]
            for column in range(side):
                b = right[column]
                turn[column] = complex(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)
            for mode in range(modes):
                line = spectra[frame, mode, row]
                for column in range(side):
                    x, t = line[column], turn[column]
                    line[column] = complex(x.real * t.real - x.imag * t.imag, x.real * t.imag + x.imag * t.real)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def spread_lines(spectrum, lines, out):  # type: ignore[no-untyped-def]
    """Write a spectrum (modes, N, N), multiplied as by `multiply_lines`, into each of `out` (n, modes, N, N)."""
    modes, side, _ = spectrum.shape
    for number in range(len(lines)):
        down, right = lines[number, 0], lines[number, 1]
        for mode in range(modes):
            for row in range(side):
                a = down[row]
                source, line = spectrum[mode, row], out[number, mode, row]
                for column in range(side):
                    b, x = right[column], source[column]
                    real, imag = a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real
                    line[column] = complex(x.real * real - x.imag * imag, x.real * imag + x.imag * real)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def gather_lines(spectra, lines, out):  # type: ignore[no-untyped-def]
    """Write the sum of spectra (n, modes, N, N), each multiplied as by `multiply_lines`, into `out` (modes, N, N)."""
    count, modes, side, _ = spectra.shape
    for mode in range(modes):
        for row in range(side):
            total = out[mode, row]
            total[:] = 0
            for number in range(count):
                a, right, line = lines[number, 0, row], lines[number, 1], spectra[number, mode, row]
                for column in range(side):
                    b, x, t = right[column], line[column], total[column]
                    real, imag = a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real
                    total[column] = complex(
                        t.real + x.real * real - x.imag * imag, t.imag + x.real * imag + x.imag * real
                    )


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def change_fields(field, amplitude, good, background, epsilon, scale, poisson, sums):  # type: ignore[no-untyped-def]
    """Multiply far fields (n, modes, N, N) by what a likelihood asks for; `sums` (n, 5) become those of the light.

    With I = s²·Σ_k |Ψ_k|² + b and G = √I that is s²·m·(A − G)/(G + ε), or with `poisson` s²·m·(A² − I)/(2·(I + ε)).
    The second is minus half the gradient of Σ m·(I − (A² + ε)·ln(I + ε)) (for ε = 0: Odstrčil, Menzel &
    Guizar-Sicairos, Opt. Express 26, 3108 (2018)), so that it agrees with the first for A near G and many photons.

    m is `good` where the amplitude is not negative, else 0.  s is `scale`: with transforms that lack the factor s of
    unitary ones, both ways, what comes back is as with these.  The sums are those of `nsbluesky.solver.light`.
    """
    gain = scale * scale
    count, modes, side, _ = field.shape
    light = np.empty(side, good.dtype)
    model = np.empty(side, good.dtype)
    zero, half = model.dtype.type(0), model.dtype.type(0.5)
    for frame in range(count):
        total = sums[frame]
        total[:] = 0
        for row in range(side):
            measured, usable = amplitude[frame, row], good[row]
            first = field[frame, 0, row]
            for column in range(side):
                value = first[column]
                light[column] = gain * (value.real * value.real + value.imag * value.imag) + background
            for mode in range(1, modes):
                further = field[frame, mode, row]
                for column in range(side):
                    value = further[column]
                    light[column] += gain * (value.real * value.real + value.imag * value.imag)
            for column in range(side):  # a loop of its own: with what follows it is not vectorised
                model[column] = np.sqrt(light[column])
            misfit, squares, pixels, photons, excess = zero, zero, zero, zero, zero
            for column in range(side):
                calculated = model[column]
                mask = usable[column] if measured[column] >= zero else zero
                difference = (measured[column] - calculated) * mask
                misfit += abs(difference)
                squares += difference * difference
                pixels += mask
                photons += mask * (light[column] - background)
                excess += difference * (measured[column] + calculated)
                model[column] = gain * difference / (calculated + epsilon)
            total[0] += misfit
            total[1] += squares
            total[2] += pixels
            total[3] += photons
            total[4] += excess
            if poisson:
                for column in range(side):
                    mask = usable[column] if measured[column] >= zero else zero
                    counted = measured[column] * measured[column]
                    model[column] = gain * half * mask * (counted - light[column]) / (light[column] + epsilon)
            for mode in range(modes):
                line = field[frame, mode, row]
                for column in range(side):
                    value, factor = line[column], model[column]
                    line[column] = complex(value.real * factor, value.imag * factor)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def back_project(  # type: ignore[no-untyped-def]
    change, probes, which, objects, corners, weights, terms, with_probe, probe_numerators, probe_denominator
):
    """Write w_j Σ_k conj(P_jk)·χ_jsk into `terms` (n, states, N, N); with `with_probe`, also add to the probe's sums.

    These are Σ_js w_j·conj(O_js)·χ_jsk, for each of `probes` (any, modes, N, N), and Σ_js w_j·|O_js|² (N, N).
    """
    count, _, side, _ = change.shape
    modes = probes.shape[1]
    for row in range(side):
        for frame in range(count):
            weight, left = weights[frame], corners[frame, 1]
            for state in range(len(objects)):
                term = terms[frame, state, row]
                for mode in range(modes):
                    light, wave = probes[which[frame], mode, row], change[frame, state * modes + mode, row]
                    if mode == 0:
                        for column in range(side):
                            p, x = light[column], wave[column]
                            term[column] = complex(
                                weight * (p.real * x.real + p.imag * x.imag),
                                weight * (p.real * x.imag - p.imag * x.real),
                            )
                    else:
                        for column in range(side):
                            p, x, t = light[column], wave[column], term[column]
                            term[column] = complex(
                                t.real + weight * (p.real * x.real + p.imag * x.imag),
                                t.imag + weight * (p.real * x.imag - p.imag * x.real),
                            )
                if not with_probe:
                    continue
                window = objects[state, corners[frame, 0] + row, left : left + side]
                for mode in range(modes):
                    wave, total = change[frame, state * modes + mode, row], probe_numerators[which[frame], mode, row]
                    for column in range(side):
                        o, x, t = window[column], wave[column], total[column]
                        total[column] = complex(
                            t.real + weight * (o.real * x.real + o.imag * x.imag),
                            t.imag + weight * (o.real * x.imag - o.imag * x.real),
                        )
                power = probe_denominator[row]
                for column in range(side):
                    o = window[column]
                    power[column] += weight * (o.real * o.real + o.imag * o.imag)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def use_frames(  # type: ignore[no-untyped-def]
    transforms,
    objects,
    probes,
    which,
    corners,
    waves,
    amplitude,
    good,
    background,
    epsilon,
    scale,
    poisson,
    light,
    weights,
    terms,
    with_probe,
    probe_numerators,
    probe_denominator,
):
    """Do the steps of `multiply_windows`, `change_fields` and `back_project` with the transforms in between.

    One frame after the other, so that it stays in the cache of one core meanwhile; `transforms` are those of
    `nsbluesky.fftw.CompiledTransforms`, `scale` is 1/N, `light` takes the sums of `change_fields`, and `waves` (n,
    states·modes, N, N) become χ.
    """
    execute, forward, backward = transforms
    for frame in range(len(corners)):
        here = slice(frame, frame + 1)
        wave = waves[here]
        multiply_windows(objects, probes, which[here], corners[here], wave)
        for mode in range(wave.shape[1]):
            call_transform(execute, forward, wave[0, mode])
        change_fields(wave, amplitude[here], good, background, epsilon, scale, poisson, light[here])
        for mode in range(wave.shape[1]):
            call_transform(execute, backward, wave[0, mode])
        sums = (with_probe, probe_numerators, probe_denominator)
        back_project(wave, probes, which[here], objects, corners[here], weights[here], terms[here], *sums)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def add_and_step(  # type: ignore[no-untyped-def]
    objects, low, high, corners, terms, power, weights, step, averages, pass_numerator, pass_denominator
):
    """Add up the windows of a batch row by row, and step the rows `low` … `high` of all states at once.

    With N = Σ `terms` (n, states, N, N) and D = Σ w·`power` of the windows on a pixel, O += N / (f + s·D + g·max(D,
    h)) for `step` = (f, s, g, h); with `averages`, first N + D·O and D are added to the sums of the pass.
    """
    count, states, side, _ = terms.shape
    floor, slope, share, bound = step[0], step[1], step[2], step[3]
    tiny, zero = np.float32(1e-30), np.float32(0)
    first = max(low, corners[:, 0].min())
    last = min(high, corners[:, 0].max() + side)
    left = corners[:, 1].min()
    width = corners[:, 1].max() + side - left
    numerator = np.zeros(width, objects.dtype)
    denominator = np.zeros(width, power.dtype)
    for state in range(states):
        for row in range(first, last):
            begin, end = width, 0
            for frame in range(count):
                line = row - corners[frame, 0]
                if line < 0 or line >= side:
                    continue
                start = corners[frame, 1] - left
                begin, end = min(begin, start), max(end, start + side)
                n, d = numerator[start : start + side], denominator[start : start + side]
                term, light, weight = terms[frame, state, line], power[line], weights[frame]
                for column in range(side):
                    n[column] += term[column]
                    d[column] += weight * light[column]
            if end <= begin:
                continue
            target = objects[state, row, left + begin : left + end]
            n, d = numerator[begin:end], denominator[begin:end]
            if averages:
                pass_n = pass_numerator[state, row, left + begin : left + end]
                pass_d = pass_denominator[state, row, left + begin : left + end]
                for column in range(end - begin):
                    o, a, b, c = target[column], n[column], d[column], pass_n[column]
                    pass_n[column] = complex(c.real + a.real + b * o.real, c.imag + a.imag + b * o.imag)
                    pass_d[column] += b
            for column in range(end - begin):
                o, a, b = target[column], n[column], d[column]
                scale = max(floor + slope * b + share * max(b, bound), tiny)
                target[column] = complex(o.real + a.real / scale, o.imag + a.imag / scale)
                n[column] = zero
                d[column] = zero


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def step_probe(  # type: ignore[no-untyped-def]
    probe, numerator, denominator, divisor, averages, pass_numerator, pass_denominator
):
    """Step a probe (modes, N, N): P += N / `divisor`; with `averages`, first add N + D·P and D to the pass's sums.

    N is `numerator` (modes, N, N), D is `denominator` (N, N).
    """
    modes, side, _ = probe.shape
    for row in range(side):
        light, scale = denominator[row], divisor[row]
        for mode in range(modes):
            target, step = probe[mode, row], numerator[mode, row]
            if averages:
                total = pass_numerator[mode, row]
                for column in range(side):
                    p, a, b, c = target[column], step[column], light[column], total[column]
                    total[column] = complex(c.real + a.real + b * p.real, c.imag + a.imag + b * p.imag)
            for column in range(side):
                p, a, b = target[column], step[column], scale[column]
                target[column] = complex(p.real + a.real / b, p.imag + a.imag / b)
        if averages:
            total_light = pass_denominator[row]
            for column in range(side):
                total_light[column] += light[column]


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def add_power(probes, weights, out):  # type: ignore[no-untyped-def]
    """Add Σ_j w_j Σ_k |P_jk|² of probes (any, modes, N, N) to `out` (N, N)."""
    count, modes, side, _ = probes.shape
    for row in range(side):
        total = out[row]
        for number in range(count):
            weight = weights[number]
            for mode in range(modes):
                light = probes[number, mode, row]
                for column in range(side):
                    p = light[column]
                    total[column] += weight * (p.real * p.real + p.imag * p.imag)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def push(target, before, velocity, friction):  # type: ignore[no-untyped-def]
    """Take a step of momentum: v ← η·v + (target − before), target ← target + η·v, before ← target."""
    for row in range(len(target)):
        here, was, speed = target[row], before[row], velocity[row]
        for column in range(len(here)):
            a, b, v = here[column], was[column], speed[column]
            real = friction * v.real + a.real - b.real
            imag = friction * v.imag + a.imag - b.imag
            speed[column] = complex(real, imag)
            moved = complex(a.real + friction * real, a.imag + friction * imag)
            here[column] = moved
            was[column] = moved


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def step_products(  # type: ignore[no-untyped-def]
    canvas, direction, probes, probe_directions, which, corners, change, weights, sums
):
    """Add to `sums` (5,) the products of u = ΔO·P, v = O·ΔP and χ over a few frames, weighted.

    These are Re⟨u, χ⟩, Re⟨v, χ⟩, ⟨u, u⟩, ⟨v, v⟩ and Re⟨u, v⟩.
    """
    count, modes, side, _ = change.shape
    zero = weights.dtype.type(0)
    for frame in range(count):
        top, left, number = corners[frame, 0], corners[frame, 1], which[frame]
        ux, vx, uu, vv, uv = 0.0, 0.0, 0.0, 0.0, 0.0
        for mode in range(modes):
            for row in range(side):
                window = canvas[top + row, left : left + side]
                turn = direction[top + row, left : left + side]
                light, bend = probes[number, mode, row], probe_directions[number, mode, row]
                wave = change[frame, mode, row]
                a, b, c, d, e = zero, zero, zero, zero, zero
                for column in range(side):
                    o, t, p, q, x = window[column], turn[column], light[column], bend[column], wave[column]
                    ur, ui = t.real * p.real - t.imag * p.imag, t.real * p.imag + t.imag * p.real
                    vr, vi = o.real * q.real - o.imag * q.imag, o.real * q.imag + o.imag * q.real
                    a += ur * x.real + ui * x.imag
                    b += vr * x.real + vi * x.imag
                    c += ur * ur + ui * ui
                    d += vr * vr + vi * vi
                    e += ur * vr + ui * vi
                ux += a
                vx += b
                uu += c
                vv += d
                uv += e
        weight = weights[frame]
        sums[0] += weight * ux
        sums[1] += weight * vx
        sums[2] += weight * uu
        sums[3] += weight * vv
        sums[4] += weight * uv


@njit(nogil=True, cache=True)
def largest_nearby(image, out):  # type: ignore[no-untyped-def]
    """Write the largest value of each pixel (H, W) and its eight neighbours into `out`; opposite rims touch."""
    height, width = image.shape
    tall = np.empty(width, image.dtype)
    for row in range(height):
        above, here, below = image[row - 1], image[row], image[(row + 1) % height]
        for column in range(width):
            tall[column] = max(above[column], here[column], below[column])
        line = out[row]
        for column in range(1, width - 1):
            line[column] = max(tall[column - 1], tall[column], tall[column + 1])
        line[0] = max(tall[width - 1], tall[0], tall[1])
        line[width - 1] = max(tall[width - 2], tall[width - 1], tall[0])
    return out
