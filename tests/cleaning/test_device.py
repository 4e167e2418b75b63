"""The cleaning on a GPU: its kernels against their twins, its order of steps against the compiled cleaning.

Without a GPU the CUDA source is compiled for the host (`host_kernels`).
"""

import dataclasses

import numpy as np
import pytest
from host_kernels import host_launch
from test_loops import LINES, SMALL, darks, raw_frames

from nsbluesky.backend import BackendError, get_backend
from nsbluesky.cleaning import clean as clean_module
from nsbluesky.cleaning.clean import clean, clean_reference
from nsbluesky.cleaning.device import BLOCK_FRAMES, DeviceCleaning
from nsbluesky.cleaning.device_kernels import SOURCE, twin_launch
from nsbluesky.cleaning.layout import LAYOUTS
from nsbluesky.cleaning.plan import make_plan
from nsbluesky.cleaning.spikes import NO_LINES

CHANGES = [
    {},
    {"overscan": "none"},
    {"overscan": "median"},
    {"overscan": "minimum"},
    {"gain_words": "13_bits"},
    {"gain_words": "csxtools"},
    {"photons": "none", "frame_px": 96},
    {"photons": "counting"},
    {"frame_px": 480},
    {"downsample": "fourier", "frame_px": 100},
    {"spikes": "lines"},
    {"spikes": "fourier"},
    {"beamstop_radius_m": 1e-3, "beamstop_transmission": 0.1},
]


@pytest.fixture(scope="session")
def source_launch(tmp_path_factory):
    """Run the CUDA source, compiled for the host."""
    return host_launch(SOURCE, tmp_path_factory.mktemp("kernels"))


def plan_of(changes, center=(479.5, 479.5), layout="cosmic", xp=np):
    changes = {"photons": "threshold", **changes}
    lines = LINES if changes.get("spikes") == "lines" else NO_LINES
    dark = darks(LAYOUTS[layout], lines=lines)
    return make_plan(SMALL.replace(**changes), LAYOUTS[layout], dark, center, energy_eV=900.0, xp=xp)


def cleaned(plan, frames, launch):
    out = np.full((len(frames), plan.frame_px, plan.frame_px), np.nan, np.float32)
    doubts = DeviceCleaning(plan, launch)(frames, out)
    return out, doubts


def assert_close(found, expected):
    """Check agreement but for pixels within a rounding error of the threshold, which bring their neighbours along."""
    scale = np.abs(expected).max()
    assert scale > 10
    assert (np.abs(found - expected) > 1e-4 + 2e-6 * scale).mean() < 0.02
    assert np.abs(found - expected).max() < 0.01 * scale + 1


@pytest.fixture(params=["twin", "source"])
def launch(request):
    return twin_launch if request.param == "twin" else request.getfixturevalue("source_launch")


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_each_step_agrees_with_the_reference(changes, launch):
    plan = plan_of(changes)
    frames = raw_frames(plan.layout, 2)
    expected = np.empty((2, plan.frame_px, plan.frame_px), np.float32)
    clean_reference(frames, plan, expected)
    found, doubts = cleaned(plan, frames, launch)
    assert_close(found, expected)
    assert not np.any(doubts)


def test_darks_of_each_gain_agree_with_the_reference(launch, rng):
    layout = LAYOUTS["cosmic"]
    steps = rng.normal(40, 10, (2, *layout.shape)).astype(np.float32)
    dark = dataclasses.replace(darks(layout), gain_steps=steps)
    settings = SMALL.replace(gain_words="csxtools", photons="none")
    plan = make_plan(settings, layout, dark, (479.5, 479.5), energy_eV=900.0)
    frames = raw_frames(layout, 2)
    frames[:, 460:480, 300:400] |= 0x8000
    frames[:, 560:580, 300:400] |= 0xC000
    expected = np.empty((2, plan.frame_px, plan.frame_px), np.float32)
    clean_reference(frames, plan, expected)
    assert_close(cleaned(plan, frames, launch)[0], expected)


@pytest.mark.parametrize("center", [(100.0, 900.0), (900.0, 60.0), (-10.0, 480.0)])
@pytest.mark.parametrize("layout", ["cosmic", "csx", "cosmic_10_11"])
def test_windows_over_the_sensors_edge_agree(center, layout, launch):
    plan = plan_of({"crop_px": 832, "frame_px": 104}, center, layout)
    frames = raw_frames(plan.layout, 1)
    assert_close(cleaned(plan, frames, launch)[0], clean(frames, plan).frames)


def test_blocks_alternate_between_lanes_and_keep_their_places(launch):
    plan = plan_of({"crop_px": 48, "frame_px": 24})
    few = raw_frames(plan.layout, 3)
    frames = few[np.arange(2 * BLOCK_FRAMES + 5) % 3]
    expected, _ = cleaned(plan, few, launch)
    found, _ = cleaned(plan, frames, launch)
    np.testing.assert_array_equal(found, expected[np.arange(len(frames)) % 3])


def test_doubts_are_told_frame_by_frame(launch, rng):
    plan = plan_of({"gain_words": "csxtools"})
    frames = raw_frames(plan.layout, 6)
    frames[1][555, 605] = frames[1][556, 605] = 0xDFFF  # saturated
    frames[2][555, 605] = frames[2][556, 605] = 0x5000  # a gain that there is not
    frames[3, 300:312] = 0x2000  # packets that never came
    frames[4] = rng.integers(0, 2**16, frames.shape[1:])  # something else
    doubts = cleaned(plan, frames, launch)[1]
    assert doubts.doubtful[:4].tolist() == [False, True, True, True]
    assert not doubts.doubtful[5]
    assert doubts.lost.tolist() == [False, False, False, True, False, False]
    assert doubts.corrupt.tolist() == [False, False, False, False, True, False]


def test_the_kernels_agree_to_the_last_bit(source_launch, rng):
    """On their own and on random numbers, without anything between them."""
    n, rows, width, per_adc = 3, 24, 40, 10
    frames = rng.integers(0, 2**16, (n, 30, 60)).astype(np.uint16)
    raw_rows = rng.permutation(np.arange(-4, 30))[:rows].clip(-1).astype(np.int32)
    halves = rng.integers(0, 2, rows).astype(np.int32)
    columns = rng.integers(0, 60, (2, width)).astype(np.int32)
    dark = rng.normal(4096, 20, (3, rows, width)).astype(np.float32)
    offset = rng.normal(0, 5, (n, rows, width // per_adc)).astype(np.float32)
    good = (rng.random((rows, width)) < 0.9).astype(np.uint8)
    scale = rng.random((6, 6), np.float32)
    weights = rng.random((rows, width), np.float32)
    for middle, codes in ((0, (0xFFFF, 0, 0xFFFF, 0xFFF0)), (4, (0x1FFF, 4, 0xDFFF, 0xDFFF))):
        results = []
        for run in (twin_launch, source_launch):
            values, doubtful = np.full((n, rows, width), np.nan, np.float32), np.zeros(n, np.uint8)
            bins = np.full((n, 6, 6), np.nan, np.float32)
            run(
                "load_window", values.size, frames, raw_rows, halves, columns, dark, offset, good, values, doubtful,
                n, 30, 60, rows, width, per_adc, *codes,
            )  # fmt: skip
            run(
                "sum_bins", bins.size, values, weights, scale, bins, n, rows, width, 9, 1, 22, 6, 4,
                9000.0 if middle else 0.0,
            )  # fmt: skip
            results.append((values, doubtful, bins))
        for twin, source in zip(*results, strict=True):
            np.testing.assert_allclose(source, twin, rtol=1e-5)
        np.testing.assert_array_equal(results[0][0], results[1][0])


def test_clean_takes_this_way_where_the_plan_says_so(monkeypatch):
    """What a GPU would do, on the host: doubtful frames are cleaned again, flags are the same."""
    plan = plan_of({})
    frames = raw_frames(plan.layout, 5)
    frames[1, 555, 610] = 0xFFFF
    frames[2, 300:312] = 0x2000
    frames[3] = 0xFFFF - frames[3]
    expected = clean(frames, plan)
    monkeypatch.setattr(
        clean_module, "_clean_whole", lambda frames, plan, out, threads: DeviceCleaning(plan)(frames, out)
    )
    found = clean(frames, plan)
    np.testing.assert_array_equal(found.flags, expected.flags)
    assert (np.count_nonzero(expected.flags)) == 3
    np.testing.assert_array_equal(np.isnan(found.frames), np.isnan(expected.frames))
    assert_close(np.nan_to_num(found.frames), np.nan_to_num(expected.frames))


@pytest.mark.gpu
@pytest.mark.parametrize("on_device", [False, True], ids=["host frames", "device frames"])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_numpy_and_cupy_give_the_same(changes, on_device):
    try:
        backend = get_backend("cupy")
    except BackendError as error:
        pytest.skip(str(error))
    plan, on_gpu = plan_of(changes), plan_of(changes, xp=backend.xp)
    frames = raw_frames(plan.layout, 5)
    frames[1, 555, 610] = 0xFFFF
    frames[2, 300:312] = 0x2000
    expected = clean(frames, plan)
    found = clean(backend.from_numpy(frames) if on_device else frames, on_gpu)
    assert isinstance(found.frames, np.ndarray) != on_device
    np.testing.assert_array_equal(found.flags, expected.flags)
    assert_close(np.nan_to_num(backend.to_numpy(found.frames)), np.nan_to_num(expected.frames))
