"""The loops of `nsbluesky.solver.kernels` that every batch is made of, in CUDA: each pixel touched once there too.

A batch's way on a device is memory traffic.  As array operations, the modulus alone reads and writes the far fields
four times over; here it does once.  Sums on the canvas are formed by the pixel: each looks which windows lie on it.
So no two threads add to one number, and the result is the same in every run.

The source uses nothing that C++ has not, so that a test compiles it for the host and compares it with its twins.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Launch, cuda_launch
from nsbluesky.solver.light import SUMS

__all__ = ["SOURCE", "DeviceLoops", "device_loops"]

LANES = 1024
"""Threads that share the pixels of a frame where sums over them are formed."""

SOURCE = (
    f"""
#define LANES {LANES}
#define SUMS {SUMS}
"""
    + r"""
struct __align__(8) c64 { float x, y; };

#define EACH(i, total) \
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x, step_ = (long long)gridDim.x * blockDim.x; \
         i < (total); i += step_)

extern "C" __global__
void multiply_windows(
    const c64* objects, const c64* probes, const int* which, const int* corners, c64* out,
    int n, int states, int modes, int side, int height, int width)
{
    const long long pixels = (long long)side * side;
    EACH(i, (long long)n * states * pixels) {
        const long long pixel = i % pixels;
        const int state = (i / pixels) % states;
        const int frame = i / pixels / states;
        const int row = corners[2 * frame] + pixel / side, column = corners[2 * frame + 1] + pixel % side;
        const c64 a = objects[((long long)state * height + row) * width + column];
        for (int mode = 0; mode < modes; ++mode) {
            const c64 b = probes[((long long)which[frame] * modes + mode) * pixels + pixel];
            c64 wave;
            wave.x = a.x * b.x - a.y * b.y;
            wave.y = a.x * b.y + a.y * b.x;
            out[(((long long)frame * states + state) * modes + mode) * pixels + pixel] = wave;
        }
    }
}

extern "C" __global__
void change_fields(
    c64* field, const float* amplitude, const float* good, float* sums, int n, int waves, int pixels, int poisson,
    float background, float epsilon, float scale)
{
    const float gain = scale * scale;
    EACH(i, (long long)n * LANES) {
        const long long frame = i / LANES;
        float residual = 0.0f, squares = 0.0f, good_pixels = 0.0f, photons = 0.0f, excess = 0.0f;
        for (int pixel = i % LANES; pixel < pixels; pixel += LANES) {
            c64* const first = field + frame * waves * pixels + pixel;
            float light = 0.0f;
            for (int wave = 0; wave < waves; ++wave) {
                const c64 a = first[(long long)wave * pixels];
                light += a.x * a.x + a.y * a.y;
            }
            light = gain * light + background;
            const float model = sqrtf(light), measured = amplitude[frame * pixels + pixel];
            const float usable = measured >= 0.0f ? good[pixel] : 0.0f;
            const float difference = usable * (measured - model);
            const float further = measured * measured - light;
            const float factor = gain * (poisson ? 0.5f * usable * further / (light + epsilon)
                                                 : difference / (model + epsilon));
            for (int wave = 0; wave < waves; ++wave) {
                c64 a = first[(long long)wave * pixels];
                a.x *= factor;
                a.y *= factor;
                first[(long long)wave * pixels] = a;
            }
            residual += difference < 0.0f ? -difference : difference;
            squares += difference * difference;
            good_pixels += usable;
            photons += usable * (light - background);
            excess += usable * further;
        }
        float* const lane = sums + SUMS * i;
        lane[0] = residual;
        lane[1] = squares;
        lane[2] = good_pixels;
        lane[3] = photons;
        lane[4] = excess;
    }
}

extern "C" __global__
void project_back(
    const c64* change, const c64* probes, const int* which, const float* weights, c64* terms,
    int n, int states, int modes, int pixels)
{
    EACH(i, (long long)n * states * pixels) {
        const int pixel = i % pixels;
        const long long of_state = i / pixels;
        const int frame = of_state / states;
        c64 sum = {0.0f, 0.0f};
        for (int mode = 0; mode < modes; ++mode) {
            const c64 p = probes[((long long)which[frame] * modes + mode) * pixels + pixel];
            const c64 x = change[(of_state * modes + mode) * pixels + pixel];
            sum.x += p.x * x.x + p.y * x.y;
            sum.y += p.x * x.y - p.y * x.x;
        }
        sum.x *= weights[frame];
        sum.y *= weights[frame];
        terms[i] = sum;
    }
}

extern "C" __global__
void add_to_probes(
    const c64* change, const c64* objects, const int* which, const int* corners, const float* weights,
    c64* numerators, float* denominator,
    int n, int states, int modes, int probes, int side, int height, int width)
{
    const long long pixels = (long long)side * side;
    EACH(i, (long long)probes * modes * pixels) {
        const long long pixel = i % pixels;
        const int mode = (i / pixels) % modes;
        const int probe = i / pixels / modes;
        const bool adds_light = probe == 0 && mode == 0;
        c64 sum = numerators[i];
        float light = adds_light ? denominator[pixel] : 0.0f;
        for (int frame = 0; frame < n; ++frame) {
            if (which[frame] != probe && !adds_light)
                continue;
            const int row = corners[2 * frame] + pixel / side, column = corners[2 * frame + 1] + pixel % side;
            for (int state = 0; state < states; ++state) {
                const c64 o = objects[((long long)state * height + row) * width + column];
                light += weights[frame] * (o.x * o.x + o.y * o.y);
                if (which[frame] != probe)
                    continue;
                const c64 x = change[(((long long)frame * states + state) * modes + mode) * pixels + pixel];
                sum.x += weights[frame] * (o.x * x.x + o.y * x.y);
                sum.y += weights[frame] * (o.x * x.y - o.y * x.x);
            }
        }
        numerators[i] = sum;
        if (adds_light)
            denominator[pixel] = light;
    }
}

extern "C" __global__
void add_and_step(
    c64* objects, const int* corners, const c64* terms, const float* power, const float* weights,
    c64* pass_numerator, float* pass_denominator,
    int n, int states, int side, int height, int width, int top, int left, int rows, int columns, int averages,
    float floor, float slope, float share, float bound)
{
    EACH(i, (long long)states * rows * columns) {
        const int column = left + i % columns, row = top + (i / columns) % rows;
        const int state = i / columns / rows;
        c64 n_sum = {0.0f, 0.0f};
        float d_sum = 0.0f;
        bool seen = false;
        for (int frame = 0; frame < n; ++frame) {
            const int y = row - corners[2 * frame], x = column - corners[2 * frame + 1];
            if (y < 0 || y >= side || x < 0 || x >= side)
                continue;
            const c64 term = terms[(((long long)frame * states + state) * side + y) * side + x];
            n_sum.x += term.x;
            n_sum.y += term.y;
            d_sum += weights[frame] * power[y * side + x];
            seen = true;
        }
        if (!seen)
            continue;
        const long long place = ((long long)state * height + row) * width + column;
        c64 o = objects[place];
        if (averages) {
            pass_numerator[place].x += n_sum.x + d_sum * o.x;
            pass_numerator[place].y += n_sum.y + d_sum * o.y;
            pass_denominator[place] += d_sum;
        }
        float scale = floor + slope * d_sum + share * (d_sum > bound ? d_sum : bound);
        scale = scale > 1e-30f ? scale : 1e-30f;
        o.x += n_sum.x / scale;
        o.y += n_sum.y / scale;
        objects[place] = o;
    }
}

extern "C" __global__
void step_probe(
    c64* probe, const c64* numerator, const float* denominator, const float* divisor,
    c64* pass_numerator, float* pass_denominator, int modes, int pixels, int averages)
{
    EACH(i, (long long)modes * pixels) {
        const int pixel = i % pixels;
        const c64 step = numerator[i];
        c64 p = probe[i];
        if (averages) {
            pass_numerator[i].x += step.x + denominator[pixel] * p.x;
            pass_numerator[i].y += step.y + denominator[pixel] * p.y;
            if (i < pixels)
                pass_denominator[pixel] += denominator[pixel];
        }
        p.x += step.x / divisor[pixel];
        p.y += step.y / divisor[pixel];
        probe[i] = p;
    }
}

extern "C" __global__
void add_power(const c64* probes, const float* weights, float* out, int count, int modes, int pixels)
{
    EACH(i, pixels) {
        float sum = 0.0f;
        for (int j = 0; j < count; ++j)
            for (int mode = 0; mode < modes; ++mode) {
                const c64 p = probes[((long long)j * modes + mode) * pixels + i];
                sum += weights[j] * (p.x * p.x + p.y * p.y);
            }
        out[i] += sum;
    }
}

extern "C" __global__
void push(c64* target, c64* before, c64* velocity, int size, float friction)
{
    EACH(i, size) {
        c64 here = target[i], speed = velocity[i];
        speed.x = friction * speed.x + here.x - before[i].x;
        speed.y = friction * speed.y + here.y - before[i].y;
        here.x += friction * speed.x;
        here.y += friction * speed.y;
        velocity[i] = speed;
        target[i] = before[i] = here;
    }
}
"""
)


class DeviceLoops:
    """Loops with the names, arguments and results of those in `nsbluesky.solver.kernels`.

    Arrays are of the device, contiguous, in single precision; which probe, corners and weights may be of the host.

    Parameters
    ----------
    xp : module
    launch : Launch
        What runs the kernels of `SOURCE`.
    """

    def __init__(self, xp: ModuleType, launch: Launch) -> None:
        self._xp = xp
        self._launch = launch

    def _run(self, name: str, size: int, *arguments: Any) -> None:
        for argument in arguments:
            if hasattr(argument, "flags") and not argument.flags.c_contiguous:
                raise ValueError(f"{name}: an array of shape {argument.shape} is not contiguous")
        self._launch(name, size, *arguments)

    def _whole(self, numbers: Any) -> Any:
        return self._xp.asarray(np.ascontiguousarray(numbers, np.int32))

    def _real(self, numbers: Any) -> Any:
        return self._xp.asarray(np.ascontiguousarray(numbers, np.float32))

    def multiply_windows(self, objects: Any, probes: Any, which: Any, corners: Any, out: Any) -> None:
        """See the twin."""
        (states, height, width), (_, modes, side, _) = objects.shape, probes.shape
        arrays = objects, probes, self._whole(which), self._whole(corners), out
        sizes = len(corners), states, modes, side, height, width
        self._run("multiply_windows", len(corners) * states * side**2, *arrays, *sizes)

    def change_fields(
        self,
        field: Any,
        amplitude: Any,
        good: Any,
        background: float,
        epsilon: float,
        scale: float,
        poisson: bool,
        sums: Any,
    ) -> None:
        """See the twin."""
        count, waves, side, _ = field.shape
        of_lanes = self._xp.empty((count, LANES, SUMS), np.float32)
        sizes = count, waves, side**2, int(poisson)
        numbers = map(float, (background, epsilon, scale))
        self._run("change_fields", count * LANES, field, amplitude, good, of_lanes, *sizes, *numbers)
        sums[...] = of_lanes.sum(axis=1)

    def back_project(
        self,
        change: Any,
        probes: Any,
        which: Any,
        objects: Any,
        corners: npt.NDArray[np.int64],
        weights: Any,
        terms: Any,
        with_probe: bool,
        probe_numerators: Any,
        probe_denominator: Any,
    ) -> None:
        """See the twin."""
        (states, height, width), (count, modes, side, _) = objects.shape, probes.shape
        numbers, light = self._whole(which), self._real(weights)
        sizes = len(corners), states, modes
        size = len(corners) * states * side**2
        self._run("project_back", size, change, probes, numbers, light, terms, *sizes, side**2)
        if with_probe:
            arrays = change, objects, numbers, self._whole(corners), light, probe_numerators, probe_denominator
            self._run("add_to_probes", count * modes * side**2, *arrays, *sizes, count, side, height, width)

    def add_and_step(
        self,
        objects: Any,
        low: int,
        high: int,
        corners: npt.NDArray[np.int64],
        terms: Any,
        power: Any,
        weights: Any,
        step: npt.NDArray[np.float32],
        averages: bool,
        pass_numerator: Any,
        pass_denominator: Any,
    ) -> None:
        """See the twin."""
        (states, height, width), side = objects.shape, terms.shape[-1]
        top, left = max(low, int(corners[:, 0].min())), int(corners[:, 1].min())
        rows = min(high, int(corners[:, 0].max()) + side) - top
        columns = int(corners[:, 1].max()) + side - left
        if rows <= 0:
            return
        arrays = objects, self._whole(corners), terms, power, self._real(weights), pass_numerator, pass_denominator
        sizes = len(corners), states, side, height, width, top, left, rows, columns, int(averages)
        self._run("add_and_step", states * rows * columns, *arrays, *sizes, *step.tolist())

    def step_probe(
        self,
        probe: Any,
        numerator: Any,
        denominator: Any,
        divisor: Any,
        averages: bool,
        pass_numerator: Any,
        pass_denominator: Any,
    ) -> None:
        """See the twin."""
        arrays = probe, numerator, denominator, divisor, pass_numerator, pass_denominator
        self._run("step_probe", probe.size, *arrays, len(probe), denominator.size, int(averages))

    def add_power(self, probes: Any, weights: npt.NDArray[np.float32], out: Any) -> None:
        """See the twin."""
        count, modes = probes.shape[:2]
        self._run("add_power", out.size, probes, self._real(weights), out, count, modes, out.size)

    def push(self, target: Any, before: Any, velocity: Any, friction: np.float32) -> None:
        """See the twin."""
        self._run("push", target.size, target, before, velocity, target.size, float(friction))


@functools.cache
def device_loops(xp: ModuleType) -> DeviceLoops:
    """Return the loops of a device's array module."""
    return DeviceLoops(xp, cuda_launch(xp, SOURCE))
