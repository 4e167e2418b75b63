"""How shadows move tells which way round frames lie and how large a pixel is; else nothing is claimed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import gaussian_filter, shift

from nsbluesky.backend import get_backend
from nsbluesky.geometry import Geometry, orientation_back, oriented
from nsbluesky.settings import SolverSettings
from nsbluesky.solver import probe_search
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.shadow_motion import MOST_PX, ShadowMotion, ShadowMotionSearch, complaint_about_motion

SIDE = 48
Photons = npt.NDArray[np.float32]
Places = npt.NDArray[np.float64]


def raster(shape: tuple[int, int], step: float = 5.0) -> Places:
    """Return places in lines, a little beside a grid."""
    places = np.stack(np.meshgrid(*(np.arange(count) * step for count in shape), indexing="ij"), axis=-1)
    return np.asarray(places.reshape(-1, 2) + np.random.default_rng(5).normal(size=(places[..., 0].size, 2)) * 0.4)


def shadows(places: Places, photons: float = 2000.0, side: int = SIDE, fine: float = 1.5) -> Photons:
    """Return photons of a random sample that moves through light which stands still, with noise."""
    rng = np.random.default_rng(2)
    size = side + int(np.ceil(np.ptp(places, axis=0).max())) + 2
    sample = gaussian_filter(rng.normal(size=(size, size)), fine)
    sample = 1 + 0.2 * sample / sample.std()
    light = gaussian_filter(rng.normal(size=(side, side)), 2.0)
    light = np.exp(light / light.std() / 2)
    frames = [shift(sample, -place, order=1)[:side, :side] * light for place in places - places.min(0)]
    return rng.poisson(photons * np.array(frames)).astype(np.float32)


def found(photons: Photons, places: Places) -> ShadowMotion | None:
    search = ShadowMotionSearch(photons, places)
    for _ in search.run():
        pass
    return search.found


@pytest.fixture(scope="module")
def places() -> Places:
    return raster((5, 6))


@pytest.fixture(scope="module")
def photons(places: Places) -> Photons:
    return shadows(places)


@pytest.mark.parametrize("turned", range(8))
def test_every_orientation_is_found(photons: Photons, places: Places, turned: int) -> None:
    motion = found(np.asarray(oriented(photons, turned)), places)
    assert motion is not None and motion.certain
    assert motion.orientation.turn == motion.turn == orientation_back(turned)
    assert motion.confidence > 0.5 and motion.correlation > 0.5
    assert motion.scale == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("declared", [0.3, 0.9, 1.5])
def test_the_scale_is_found(photons: Photons, places: Places, declared: float) -> None:
    """Where pixels are said to be larger, shadows move farther than they should."""
    motion = found(photons, places * declared)
    assert motion is not None and motion.certain and motion.turn == 0
    assert motion.scale == pytest.approx(1 / declared, rel=0.02)


def test_pixels_that_tell_nothing_do_no_harm(photons: Photons, places: Places) -> None:
    """Dead ones, hot ones that the mask has, a frame that was not measured, and one without photons."""
    spoilt = photons.copy()
    spoilt[:, 10, 10:20] = 0
    spoilt[:, 20:23, 30] = np.nan
    spoilt[3], spoilt[7] = np.nan, 0
    motion = found(spoilt, places)
    assert motion is not None and motion.certain and motion.turn == 0
    assert motion.scale == pytest.approx(1, abs=0.02)


def test_along_one_line_rows_could_run_either_way() -> None:
    """What is declared stays then, and nothing is claimed."""
    line = raster((1, 24), step=4.0) * [0, 1]
    flipped = np.asarray(oriented(shadows(line), 1))
    motion = found(flipped, line)
    assert motion is not None and not motion.certain
    assert motion.orientation.turn == 0 and not motion.orientation.certain


@pytest.mark.parametrize("seed", range(10))
def test_noise_tells_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    motion = found(rng.poisson(5, (30, SIDE, SIDE)).astype(np.float32), rng.uniform(0, 40, (30, 2)))
    assert motion is None or motion.confidence == 0


def test_shadows_that_stand_still_tell_nothing(photons: Photons, places: Places) -> None:
    still = np.repeat(photons[:1], len(places), axis=0)
    motion = found(still, places)
    assert motion is None or not motion.certain


@pytest.mark.parametrize(
    "places",
    [raster((3, 5)), np.zeros((30, 2)), raster((5, 6)) * 0.001, raster((5, 6)) * 1e4],
    ids=["too few", "one place", "hardly any steps", "steps beyond the frame"],
)
def test_nothing_to_compare(places: Places) -> None:
    rng = np.random.default_rng(0)
    assert found(rng.poisson(5, (len(places), SIDE, SIDE)).astype(np.float32), places) is None


def test_large_frames_are_binned() -> None:
    """They come from the store with zero frequency first, some pixels of no use, at places as told."""
    side = 2 * MOST_PX
    told = raster((4, 4), step=40.0)
    frames = shadows(told, side=side, fine=4.0)
    masked, missing = np.s_[100:400, 200:220], np.s_[::2, 50:60, 300:400]
    frames[:, *masked] = np.random.default_rng(1).exponential(1e7, frames[:, *masked].shape)
    frames[missing] = np.nan
    good = np.ones((side, side), bool)
    good[masked] = False
    store = FrameStore(side, get_backend("numpy", threads=1))
    store.set_good(good)
    slots = store.put(np.arange(16), frames, told + side / 2, np.ones(16))
    store.correct(slots, np.full((16, 2), 7.0) * np.arange(16)[:, None])
    search = ShadowMotionSearch.of(store, slots)
    for _ in search.run():
        pass
    assert search.found is not None and search.found.certain and search.found.turn == 0
    assert search.found.scale == pytest.approx(1, abs=0.02)


GEOMETRY = Geometry(
    energy_eV=12658.0, detector_distance_m=1.12, pixel_size_m=55e-6, propagation="near", source_distance_m=3.65e-3
)


def motion_of(scale: float, confidence: float = 0.9) -> ShadowMotion:
    return ShadowMotion(0, confidence, scale, 0.5)


def test_a_distance_that_would_fit_is_told() -> None:
    wrong = GEOMETRY.replace(source_distance_m=2 * 3.65e-3)
    complaint = complaint_about_motion(motion_of(GEOMETRY.magnification / wrong.magnification), wrong)
    assert complaint is not None and "a source distance of about 0.0037 m would fit" in complaint
    parallel = complaint_about_motion(motion_of(GEOMETRY.magnification), GEOMETRY.replace(source_distance_m=0.0))
    assert parallel is not None and "307.8" not in parallel and "308 times" in parallel
    assert "a source distance of about 0.0037 m would fit" in parallel
    shrunk = complaint_about_motion(motion_of(0.5), GEOMETRY.replace(source_distance_m=0.0))
    assert shrunk is not None and "would fit" in shrunk and "a source distance of" not in shrunk.partition(": ")[2]


def test_another_orientation_has_to_be_surer_than_what_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    declared, another, sure = (
        ShadowMotion(turn, confidence, 1.0, 0.5) for turn, confidence in ((0, 0.2), (2, 0.2), (2, 0.4))
    )
    assert [motion.certain for motion in (declared, another, sure)] == [True, False, True]
    assert [motion.orientation.turn for motion in (declared, another, sure)] == [0, 0, 2]
    for motion in (another, sure):
        found = SimpleNamespace(found=motion, run=lambda: iter(()))
        monkeypatch.setattr(probe_search, "ShadowMotionSearch", SimpleNamespace(of=lambda *_, found=found: found))
        search = probe_search.ProbeSearch(SolverSettings(), GEOMETRY, get_backend("numpy", threads=1), 1e-6)
        assert not list(search.find_motion(FrameStore(8, get_backend("numpy", threads=1)), np.arange(0)))
        assert search.turn == motion.orientation.turn and search.motion is motion


@pytest.mark.parametrize("motion", [None, motion_of(1.09), motion_of(0.92), motion_of(2.0, confidence=0.1)])
def test_what_fits_or_is_not_certain_is_no_complaint(motion: ShadowMotion | None) -> None:
    assert complaint_about_motion(motion, GEOMETRY) is None
