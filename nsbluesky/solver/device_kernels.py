"""The solver's kernels for a GPU, in CUDA that C++ understands: a test compiles them for the host.

Each pixel is touched once.  Sums on the canvas are formed by the pixel, which looks which windows lie on it, and sums
over pixels in the order of the blocks; so no two threads add to one number, and the result is the same in every run.

`nsbluesky.solver.device_loops` starts them.
"""

from __future__ import annotations

from nsbluesky.backend import KERNEL_THREADS
from nsbluesky.solver.light import NOT_MEASURED, SUMS
from nsbluesky.solver.shifts import RINGING

__all__ = ["SOURCE"]

SOURCE = (
    f"""
#define THREADS {KERNEL_THREADS}
#define SUMS {SUMS}
#define RINGING {float(RINGING)}f
#define MISSING ({NOT_MEASURED}f)
"""
    + r"""
#define LISTED 256
#ifdef __CUDA_ARCH__
#define WARP 32
#else  // threads of a host exchange nothing
#define WARP 1
#endif

struct __align__(8) c64 { float x, y; };

// The pixels of each item, as a frame is one, are shared by some blocks, whose threads take them in turn.
#define EACH_ITEM(item, items) \
    for (int block_ = blockIdx.x, item = block_ / tiles; block_ < (items) * tiles; \
         block_ += gridDim.x, item = block_ / tiles)
#define EACH_BLOCK for (int block_ = blockIdx.x; block_ < tiles; block_ += gridDim.x)
#define EACH_PIXEL(pixel, pixels) \
    for (int pixel = block_ % tiles * blockDim.x + threadIdx.x; pixel < (pixels); pixel += tiles * blockDim.x)

__device__ float of_half(unsigned short bits)
{
    const unsigned exponent = bits >> 10 & 31u, mantissa = bits & 1023u;
    union { unsigned bits; float value; } found;
    if (exponent == 0)
        found.value = mantissa * 5.9604644775390625e-8f;
    else
        found.bits = (exponent == 31 ? 255u : exponent + 112u) << 23 | mantissa << 13;
    return bits >> 15 ? -found.value : found.value;
}

__device__ c64 turn_of(const c64* lines, const int* steps, int row, int column, int side)
{
    const c64 down = lines[steps[0] * side + row], right = lines[steps[1] * side + column];
    c64 both;
    both.x = down.x * right.x - down.y * right.y;
    both.y = down.x * right.y + down.y * right.x;
    return both;
}

__device__ float amplitude_at(
    unsigned long long address, float gain, float background, int pixel, int side, int whole, int is_half)
{
    int place = pixel;
    if (whole != side) {  // the lowest frequencies
        const int row = pixel / side, column = pixel % side;
        place = (row + (2 * row < side ? 0 : whole - side)) * whole + column + (2 * column < side ? 0 : whole - side);
    }
    const float kept = is_half ? of_half(((const unsigned short*)address)[place]) : ((const float*)address)[place];
    const float found = gain * kept;
    if (background == 0.0f || found < 0.0f)
        return found;
    const float photons = found * found - background;
    return photons > 0.0f ? sqrtf(photons) : 0.0f;
}

extern "C" __global__
void take_amplitudes(
    const unsigned long long* addresses, const float* gains, const float* backgrounds, const int* held,
    const int* numbers, float* out, int n, int side, int whole, int is_half, int holds_out, int tiles)
{
    EACH_ITEM(frame, n) {
        const unsigned long long address = addresses[frame];
        const float gain = gains[frame], background = backgrounds[frame];
        EACH_PIXEL(pixel, side * side)
            out[(long long)frame * side * side + pixel] =
                holds_out && numbers[pixel] == held[frame]
                    ? MISSING : amplitude_at(address, gain, background, pixel, side, whole, is_half);
    }
}

// What each thread of a block has of some sums, the last of which are maxima, becomes that of all in thread 0.
template <int ROWS, int MAXIMA> __device__ void fold_threads(float (&own)[ROWS], float (*of_warps)[ROWS])
{
#ifdef __CUDA_ARCH__
    for (int step = WARP / 2; step > 0; step /= 2)
        for (int row = 0; row < ROWS; ++row) {
            const float other = __shfl_down_sync(0xffffffffu, own[row], step);
            own[row] = row < ROWS - MAXIMA ? own[row] + other : other > own[row] ? other : own[row];
        }
#endif
    if (threadIdx.x % WARP == 0)
        for (int row = 0; row < ROWS; ++row)
            of_warps[threadIdx.x / WARP][row] = own[row];
    __syncthreads();
    if (threadIdx.x == 0)
        for (int warp = 1; warp < (int)blockDim.x / WARP; ++warp)
            for (int row = 0; row < ROWS; ++row) {
                const float other = of_warps[warp][row];
                own[row] = row < ROWS - MAXIMA ? own[row] + other : other > own[row] ? other : own[row];
            }
    __syncthreads();
}

// The same over some blocks: true in thread 0 of the last of them to be done, which then has what all had.
template <int ROWS, int MAXIMA>
__device__ bool fold_blocks(float (&own)[ROWS], float* parts, int* counter, int block, int blocks)
{
    __shared__ float of_warps[THREADS / WARP][ROWS];
    __shared__ int is_last;
    fold_threads<ROWS, MAXIMA>(own, of_warps);
    if (threadIdx.x == 0) {
        for (int row = 0; row < ROWS; ++row)
            parts[block * ROWS + row] = own[row];
        __threadfence();
        is_last = atomicAdd(counter, 1) == blocks - 1;
    }
    __syncthreads();
    if (is_last) {
        const volatile float* const all = parts;
        for (int row = 0; row < ROWS; ++row) {
            own[row] = 0.0f;
            for (int other = threadIdx.x; other < blocks; other += blockDim.x) {
                const float part = all[other * ROWS + row];
                own[row] = row < ROWS - MAXIMA ? own[row] + part : part > own[row] ? part : own[row];
            }
        }
        fold_threads<ROWS, MAXIMA>(own, of_warps);
        if (threadIdx.x == 0)
            *counter = 0;
    }
    return is_last && threadIdx.x == 0;
}

// The mean and the maximum of what some blocks know in parts.
__device__ void fold_light(
    float sum, float most, float* parts, int* counter, float* found, int block, int blocks, int pixels)
{
    float own[2] = {sum, most};
    if (fold_blocks<2, 1>(own, parts, counter, block, blocks)) {
        found[0] = own[0] / pixels;
        found[1] = own[1];
    }
}

extern "C" __global__
void spread_lines(
    const c64* field, const c64* lines, const int* steps, c64* out, int count, int modes, int side, int tiles,
    float scale)
{
    const int pixels = side * side;
    EACH_ITEM(number, count) {
        EACH_PIXEL(pixel, pixels) {
            const c64 turn = turn_of(lines, steps + 2 * number, pixel / side, pixel % side, side);
            for (int mode = 0; mode < modes; ++mode) {
                const c64 a = field[mode * pixels + pixel];
                c64 moved;
                moved.x = scale * (a.x * turn.x - a.y * turn.y);
                moved.y = scale * (a.x * turn.y + a.y * turn.x);
                out[(long long)(number * modes + mode) * pixels + pixel] = moved;
            }
        }
    }
}

extern "C" __global__
void gather_lines(
    const c64* spectra, const c64* lines, const int* steps, c64* out, int count, int modes, int side, int tiles,
    float scale)
{
    const int pixels = side * side;
    EACH_ITEM(mode, modes) {
        EACH_PIXEL(pixel, pixels) {
            c64 sum = {0.0f, 0.0f};
            for (int number = 0; number < count; ++number) {
                const c64 turn = turn_of(lines, steps + 2 * number, pixel / side, pixel % side, side);
                const c64 a = spectra[(long long)(number * modes + mode) * pixels + pixel];
                sum.x += a.x * turn.x + a.y * turn.y;
                sum.y += a.y * turn.x - a.x * turn.y;
            }
            sum.x *= scale;
            sum.y *= scale;
            out[mode * pixels + pixel] = sum;
        }
    }
}

extern "C" __global__
void multiply_windows(
    const c64* objects, const c64* probes, const int* which, const int* corners, c64* out,
    int n, int states, int modes, int side, int height, int width, int tiles)
{
    const int pixels = side * side;
    EACH_ITEM(item, n * states) {
        const int frame = item / states, state = item % states;
        const c64* const window = objects + ((long long)state * height + corners[2 * frame]) * width
                                  + corners[2 * frame + 1];
        const c64* const light = probes + (long long)which[frame] * modes * pixels;
        c64* const waves = out + (long long)item * modes * pixels;
        EACH_PIXEL(pixel, pixels) {
            const c64 a = window[(long long)(pixel / side) * width + pixel % side];
            for (int mode = 0; mode < modes; ++mode) {
                const c64 b = light[mode * pixels + pixel];
                c64 wave;
                wave.x = a.x * b.x - a.y * b.y;
                wave.y = a.x * b.y + a.y * b.x;
                waves[mode * pixels + pixel] = wave;
            }
        }
    }
}

extern "C" __global__ __launch_bounds__(THREADS, 6)
void change_fields(
    c64* field, const float* amplitude, const unsigned long long* addresses, const float* gains,
    const float* backgrounds, const int* held, const int* numbers, const float* good, float* parts, int* counters,
    float* sums,
    int n, int waves, int side, int poisson, int stored, int whole, int is_half, int holds_out, int tiles,
    float background, float epsilon, float scale)
{
    const float gain = scale * scale;
    const int pixels = side * side;
    EACH_ITEM(frame, n) {
        const unsigned long long address = stored ? addresses[frame] : 0;
        const float own_gain = stored ? gains[frame] : 1.0f, further_light = stored ? backgrounds[frame] : 0.0f;
        float residual = 0.0f, squares = 0.0f, good_pixels = 0.0f, photons = 0.0f, excess = 0.0f;
        EACH_PIXEL(pixel, pixels) {
            c64* const place = field + (long long)frame * waves * pixels + pixel;
            c64 first = *place;
            float light = first.x * first.x + first.y * first.y;
            for (int wave = 1; wave < waves; ++wave) {
                const c64 a = place[(long long)wave * pixels];
                light += a.x * a.x + a.y * a.y;
            }
            light = gain * light + background;
            const float measured =
                stored ? amplitude_at(address, own_gain, further_light, pixel, side, whole, is_half)
                       : amplitude[(long long)frame * pixels + pixel];
            const bool is_held = holds_out && numbers[pixel] == held[frame];
            const float model = sqrtf(light), usable = measured >= 0.0f && !is_held ? good[pixel] : 0.0f;
            const float difference = usable * (measured - model);
            const float further = measured * measured - light;
            const float factor = gain * (poisson ? 0.5f * usable * further / (light + epsilon)
                                                 : difference / (model + epsilon));
            first.x *= factor;
            first.y *= factor;
            *place = first;
            for (int wave = 1; wave < waves; ++wave) {
                c64 a = place[(long long)wave * pixels];
                a.x *= factor;
                a.y *= factor;
                place[(long long)wave * pixels] = a;
            }
            residual += difference < 0.0f ? -difference : difference;
            squares += difference * difference;
            good_pixels += usable;
            photons += usable * (light - background);
            excess += usable * further;
        }
        float own[SUMS] = {residual, squares, good_pixels, photons, excess};
        float* const of_frame = parts + frame * tiles * SUMS;
        if (fold_blocks<SUMS, 0>(own, of_frame, counters + frame, block_ % tiles, tiles))
            for (int sum = 0; sum < SUMS; ++sum)
                sums[frame * SUMS + sum] = own[sum];
        __syncthreads();
    }
}

extern "C" __global__
void project_back(
    const c64* change, const c64* probes, const int* which, const float* weights, c64* terms,
    int n, int states, int modes, int pixels, int tiles)
{
    EACH_ITEM(item, n * states) {
        const int frame = item / states;
        const float weight = weights[frame];
        const c64* const light = probes + (long long)which[frame] * modes * pixels;
        const c64* const waves = change + (long long)item * modes * pixels;
        EACH_PIXEL(pixel, pixels) {
            c64 sum = {0.0f, 0.0f};
            for (int mode = 0; mode < modes; ++mode) {
                const c64 p = light[mode * pixels + pixel], x = waves[mode * pixels + pixel];
                sum.x += p.x * x.x + p.y * x.y;
                sum.y += p.x * x.y - p.y * x.x;
            }
            sum.x *= weight;
            sum.y *= weight;
            terms[(long long)item * pixels + pixel] = sum;
        }
    }
}

extern "C" __global__
void add_to_probes(
    const c64* change, const c64* objects, const int* which, const int* corners, const float* weights,
    c64* numerators, float* denominator, float* parts, int* counter, float* found,
    int n, int states, int modes, int probes, int side, int height, int width, int fresh, int tiles)
{
    const int pixels = side * side;
    EACH_ITEM(item, probes * modes) {
        const int probe = item / modes, mode = item % modes;
        const bool adds_light = item == 0;
        float sum_of_light = 0.0f, most_light = 0.0f;
        EACH_PIXEL(pixel, pixels) {
            const int row = pixel / side, column = pixel % side;
            c64 sum = {0.0f, 0.0f};
            float light = 0.0f;
            #pragma unroll 4
            for (int frame = 0; frame < n; ++frame) {
                if (which[frame] != probe && !adds_light)
                    continue;
                const float weight = weights[frame];
                const c64* o = objects + (long long)(corners[2 * frame] + row) * width + column
                               + corners[2 * frame + 1];
                const c64* x = change + ((long long)frame * states * modes + mode) * pixels + pixel;
                for (int state = 0; state < states; ++state) {
                    const c64 a = *o;
                    light += weight * (a.x * a.x + a.y * a.y);
                    if (which[frame] == probe) {
                        const c64 b = *x;
                        sum.x += weight * (a.x * b.x + a.y * b.y);
                        sum.y += weight * (a.x * b.y - a.y * b.x);
                    }
                    o += (long long)height * width;
                    x += (long long)modes * pixels;
                }
            }
            c64* const place = numerators + (long long)item * pixels + pixel;
            if (!fresh) {
                sum.x += place->x;
                sum.y += place->y;
                light += adds_light ? denominator[pixel] : 0.0f;
            }
            *place = sum;
            if (adds_light) {
                denominator[pixel] = light;
                sum_of_light += light;
                most_light = light > most_light ? light : most_light;
            }
        }
        if (adds_light)
            fold_light(sum_of_light, most_light, parts, counter, found, block_, tiles, pixels);
    }
}

extern "C" __global__ __launch_bounds__(THREADS, 6)
void add_and_step(
    c64* objects, const int* corners, const c64* terms, const c64* probes, const int* which, const float* power,
    const float* weights, const float* bounds, c64* pass_numerator, float* pass_denominator,
    int n, int states, int modes, int side, int height, int width, int top, int left, int rows, int columns,
    int averages, float floor, float per_mean, float slope, float share)
{
    __shared__ int reaches[LISTED], near[LISTED], count;
    floor += per_mean * bounds[0];
    const unsigned width_here = columns, height_here = rows, size = states * height_here * width_here;
    const int pixels = side * side, waves = modes ? modes : 1;
    for (unsigned begin = blockIdx.x * blockDim.x; begin < size; begin += gridDim.x * blockDim.x) {
        const unsigned i = begin + threadIdx.x, last = begin + blockDim.x - 1;
        const unsigned line = i / width_here, first_line = begin / width_here, last_line = last / width_here;
        const int column = left + i % width_here, row = top + line % height_here, state = line / height_here;
        const bool is_line = first_line == last_line;
        const bool ends_state = first_line / height_here != last_line / height_here;
        const int first_row = ends_state ? top : top + first_line % height_here;
        const int last_row = ends_state ? top + rows - 1 : top + last_line % height_here;
        const int first_column = is_line ? left + begin % width_here : left;
        const int last_column = is_line ? left + last % width_here : left + columns - 1;
        c64 n_sum = {0.0f, 0.0f};
        float d_sum = 0.0f;
        bool seen = false;
        for (int known = 0; known < n; known += LISTED) {
            const int listed = n - known < LISTED ? n - known : LISTED;
            for (int k = threadIdx.x; k < listed; k += blockDim.x) {  // which windows reach the pixels of this block
                const int y = corners[2 * (known + k)], x = corners[2 * (known + k) + 1];
                reaches[k] = y <= last_row && first_row < y + side && x <= last_column && first_column < x + side;
            }
            __syncthreads();
            if (threadIdx.x == 0) {
                count = 0;
                for (int k = 0; k < listed; ++k)
                    if (reaches[k])
                        near[count++] = known + k;
            }
            __syncthreads();
            #pragma unroll 4
            for (int k = 0; k < count; ++k) {
                const int frame = near[k];
                const unsigned y = row - corners[2 * frame], x = column - corners[2 * frame + 1];
                const bool inside = i < size && y < (unsigned)side && x < (unsigned)side;
                const int pixel = inside ? y * side + x : 0, item = inside ? frame * states + state : 0;
                const c64* const term = terms + (long long)item * waves * pixels + pixel;
                const float weight = weights[frame];
                c64 sum = {0.0f, 0.0f};
                if (modes == 0)  // projected back already
                    sum = *term;
                for (int mode = 0; mode < modes; ++mode) {
                    const c64 p = probes[(long long)(which[frame] * modes + mode) * pixels + pixel];
                    const c64 a = term[(long long)mode * pixels];
                    sum.x += weight * (p.x * a.x + p.y * a.y);
                    sum.y += weight * (p.x * a.y - p.y * a.x);
                }
                const float light = weight * power[pixel];
                n_sum.x += inside ? sum.x : 0.0f;
                n_sum.y += inside ? sum.y : 0.0f;
                d_sum += inside ? light : 0.0f;
                seen = seen || inside;
            }
            __syncthreads();
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
        float scale = floor + slope * d_sum + share * (d_sum > bounds[1] ? d_sum : bounds[1]);
        scale = scale > 1e-30f ? scale : 1e-30f;
        o.x += n_sum.x / scale;
        o.y += n_sum.y / scale;
        objects[place] = o;
    }
}

extern "C" __global__
void step_probe_by_rule(
    c64* probe, const c64* numerator, const float* denominator, const float* bounds,
    c64* pass_numerator, float* pass_denominator, int modes, int side, int moved, int averages, int tiles,
    float floor, float slope, float share)
{
    const int pixels = side * side;
    EACH_BLOCK {
        EACH_PIXEL(pixel, pixels) {
            float light = denominator[pixel];
            if (moved) {
                light = RINGING * bounds[1];
                for (int row = pixel / side + side - 1; row <= pixel / side + side + 1; ++row)
                    for (int column = pixel % side + side - 1; column <= pixel % side + side + 1; ++column) {
                        const float near = denominator[row % side * side + column % side];
                        light = near > light ? near : light;
                    }
            }
            float divisor = floor + slope * light + share * bounds[1];
            divisor = divisor > 1e-30f ? divisor : 1e-30f;
            for (int mode = 0; mode < modes; ++mode) {
                const int i = mode * pixels + pixel;
                const c64 step = numerator[i];
                c64 p = probe[i];
                if (averages) {
                    pass_numerator[i].x += step.x + light * p.x;
                    pass_numerator[i].y += step.y + light * p.y;
                }
                p.x += step.x / divisor;
                p.y += step.y / divisor;
                probe[i] = p;
            }
            if (averages)
                pass_denominator[pixel] += light;
        }
    }
}

extern "C" __global__
void step_probe(
    c64* probe, const c64* numerator, const float* denominator, const float* divisor,
    c64* pass_numerator, float* pass_denominator, int modes, int pixels, int averages, int tiles)
{
    EACH_ITEM(mode, modes) {
        EACH_PIXEL(pixel, pixels) {
            const int i = mode * pixels + pixel;
            const c64 step = numerator[i];
            c64 p = probe[i];
            if (averages) {
                pass_numerator[i].x += step.x + denominator[pixel] * p.x;
                pass_numerator[i].y += step.y + denominator[pixel] * p.y;
                if (mode == 0)
                    pass_denominator[pixel] += denominator[pixel];
            }
            p.x += step.x / divisor[pixel];
            p.y += step.y / divisor[pixel];
            probe[i] = p;
        }
    }
}

extern "C" __global__
void add_power(
    const c64* probes, const float* weights, float* out, float* parts, int* counter, float* found,
    int count, int modes, int pixels, int fresh, int tiles)
{
    EACH_BLOCK {
        float sum_of_light = 0.0f, most_light = 0.0f;
        EACH_PIXEL(pixel, pixels) {
            float sum = fresh ? 0.0f : out[pixel];
            for (int j = 0; j < count; ++j)
                for (int mode = 0; mode < modes; ++mode) {
                    const c64 p = probes[(long long)(j * modes + mode) * pixels + pixel];
                    sum += weights[j] * (p.x * p.x + p.y * p.y);
                }
            out[pixel] = sum;
            sum_of_light += sum;
            most_light = sum > most_light ? sum : most_light;
        }
        fold_light(sum_of_light, most_light, parts, counter, found, block_, tiles, pixels);
    }
}

extern "C" __global__
void push(c64* target, c64* before, c64* velocity, int size, float friction)
{
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < (unsigned)size; i += gridDim.x * blockDim.x) {
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
