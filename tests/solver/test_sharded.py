"""Frames in several processes: the same image as in one, whatever happens to the processes."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_scan import Scan, simulate

from nsbluesky.backend import Backend
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SettingsError, SolverSettings
from nsbluesky.solver import shards
from nsbluesky.solver.checkpoint import CheckpointError
from nsbluesky.solver.checkpoint_writer import Checkpoints
from nsbluesky.solver.engines import make_engine
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.light import residuals_of
from nsbluesky.solver.ordering import spread
from nsbluesky.solver.quality import contrast_correlation
from nsbluesky.solver.reconstruct import Reconstruction, reconstruct
from nsbluesky.solver.sharded import _beginning, reconstruct_sharded
from nsbluesky.solver.shards import ShardOrder, ShardSums, ShardTask, work_on_shard
from nsbluesky.solver.state import SolverState

SETTINGS = SolverSettings(modes=1, sweep_frames=0)
PASSES = 20


@dataclass(frozen=True)
class SavedFrames:
    """Frames in a file of NumPy's."""

    path: Path
    which: tuple[int, ...]

    def read(self) -> Any:
        return np.load(self.path)[list(self.which)]


@pytest.fixture
def refer(scan: Scan, tmp_path: Path) -> Callable[[Any], SavedFrames]:
    path = tmp_path / "frames.npy"
    np.save(path, scan.frames)
    return lambda which: SavedFrames(path, tuple(which.tolist()))


@pytest.fixture(autouse=True)
def forget_shards() -> None:
    shards._held.clear()


def here(order: ShardOrder, task: ShardTask) -> Future[ShardSums]:
    future: Future[ShardSums] = Future()
    future.set_result(work_on_shard(order, task))
    return future


def sharded(scan: Scan, refer: Any, backend: Backend, number: int, submit: Any = here, **more: Any) -> Reconstruction:
    settings = replace(SETTINGS, **more.pop("settings", {}))
    arguments = (scan.frames, refer, scan.translations_m, None, geometry_of(scan), settings, backend)
    return reconstruct_sharded(*arguments, submit=submit, shards=number, passes=PASSES, **more)


def geometry_of(scan: Scan) -> Geometry:
    """The scan's geometry with the detector distance that gives its object pixel of 10 nm."""
    given = scan.geometry.replace(optic__defocus_m=scan.defocus_m)
    return given.replace(detector_distance_m=48 * given.pixel_size_m * 10e-9 / given.wavelength_m)


def correlation(scan: Scan, result: Reconstruction) -> float:
    return contrast_correlation(result.picture.object, scan.object, margin_px=8)


@pytest.fixture(scope="module")
def alone(scan: Scan, backend: Backend) -> Reconstruction:
    """The image of one process."""
    settings = SETTINGS.replace(coarse_uses=SolverSettings().coarse_uses)
    arguments = (scan.frames, scan.translations_m, None, geometry_of(scan), settings, backend)
    return reconstruct(*arguments, passes=PASSES)


class Photons:
    """Frames of a store, by reference."""

    def __init__(self, store: FrameStore) -> None:
        self.photons = np.stack([np.fft.fftshift(np.square(store.amplitude(k))) for k in range(len(store))])
        self.photons[np.stack([np.fft.fftshift(store.amplitude(k) < 0) for k in range(len(store))])] = np.nan

    def read(self) -> Any:
        return self.photons


def order_of(store: FrameStore, state: SolverState, settings: SolverSettings, shards: int = 1) -> ShardOrder:
    count, (rows, columns) = len(store), state.object.shape
    return ShardOrder(
        "job",
        0,
        Photons(store),
        store.corners_px[:count],
        store.shifts_px[:count],
        store.weights[:count],
        np.fft.fftshift(store.good) > 0,
        (0, 0, rows, columns),
        settings,
        "numpy",
        shards,
    )


def test_one_shard_is_the_engine_itself(difficult_scan: Any, backend: Backend) -> None:
    store, state = difficult_scan(backend, 2)
    settings = replace(SETTINGS, modes=2, momentum=0.8, likelihood="amplitude")
    order = order_of(store, state, settings)
    state.background = 0.0
    known = np.zeros(len(store), bool), store.flux[: len(store)]
    task = ShardTask(state.object.copy(), state.probe.copy(), 3, 0, 1, False, 1e4, *known)
    sums = work_on_shard(order, task)

    engine = make_engine(settings, backend)
    engine.adapt(1e4)
    state.passes = 3
    engine.initialize(state, store)
    rng = np.random.default_rng([settings.seed, 0, 3])
    dealt = spread(store.active, store.corners_px[store.active], settings.batch_final, rng)
    residuals = engine.update(state, store, dealt)
    np.testing.assert_allclose(residuals_of(sums.light_sums), residuals, rtol=1e-4)
    np.testing.assert_array_equal(sums.used, dealt)
    alone = engine.contents()
    np.testing.assert_allclose(sums.object, alone["sum_object"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(sums.probe_light, alone["sum_probe_light"], rtol=1e-3)


def test_momentum_is_of_a_shards_own_steps(difficult_scan: Any, backend: Backend) -> None:
    """What changed by an exchange is none of them: here another phase of everything."""
    store, state = difficult_scan(backend, 1)
    state.background = 0.0
    order = order_of(store, state, replace(SETTINGS, momentum=0.8, likelihood="amplitude"), shards=8)

    norms = []
    for passes, phase in ((3, 1), (4, -1)):  # 96 frames over 8 shards are fewer than a pass has here
        canvas, known = np.complex64(phase) * state.object, (np.zeros(len(store), bool), np.ones(len(store)))
        work_on_shard(order, ShardTask(canvas, state.probe, passes, 0, 1, False, 1e4, *known))
        norms.append(float(np.linalg.norm(shards._held["job", 0].engine.contents()["velocity_object"])))
    assert norms[1] < norms[0]


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.nightly), 5])
def test_the_image_is_that_of_one_process(
    scan: Scan, refer: Any, backend: Backend, alone: Reconstruction, number: int
) -> None:
    many = sharded(scan, refer, backend, number)
    assert many.picture.num_frames == len(scan.frames)
    assert abs(correlation(scan, many) - correlation(scan, alone)) < 1e-3
    assert many.r_factors[-1] < 1.05 * alone.r_factors[-1]


def test_frames_are_read_once_and_again_by_who_takes_over(scan: Scan, refer: Any, backend: Backend) -> None:
    """The process of one shard is lost in the middle: its frames are read elsewhere, and the image is as good."""
    reads: list[int] = []
    tasks = itertools.count()

    def submit(order: ShardOrder, task: ShardTask) -> Future[ShardSums]:
        if next(tasks) == 30:
            del shards._held[order.job, order.number]
        if (order.job, order.number) not in shards._held:
            reads.append(order.number)
        return here(order, task)

    result = sharded(scan, refer, backend, 3, submit)
    assert sorted(reads[:3]) == [0, 1, 2]
    assert len(reads) == 4
    assert correlation(scan, result) > 0.99


def test_the_flux_of_frames_is_corrected(scan: Scan, tmp_path: Path, backend: Backend, rng: Any) -> None:
    """As in one process, and their mean is over all shards."""
    flux = np.exp(0.2 * rng.normal(size=len(scan.frames)))
    flickering = replace(scan, frames=rng.poisson(scan.frames * flux[:, None, None]).astype(np.float32))
    np.save(tmp_path / "frames.npy", flickering.frames)
    refer = lambda which: SavedFrames(tmp_path / "frames.npy", tuple(which.tolist()))  # noqa: E731
    told: dict[int, float] = {}

    def submit(order: ShardOrder, task: ShardTask) -> Future[ShardSums]:
        told.update(zip(order.frames.which, task.flux, strict=True))
        return here(order, task)

    corrected = sharded(flickering, refer, backend, 3, submit)
    found = np.array([told[k] for k in range(len(flux))])
    assert found.mean() == pytest.approx(1)
    assert np.std(np.log(found / flux)) < 0.05
    not_corrected = sharded(flickering, refer, backend, 3, settings={"refine_flux": False})
    settings = SETTINGS.replace(coarse_uses=SolverSettings().coarse_uses)
    given = flickering.frames, scan.translations_m, None, geometry_of(scan), settings, backend
    assert corrected.r_factors[-1] < 1.05 * reconstruct(*given, passes=PASSES).r_factors[-1]
    assert corrected.r_factors[-1] < 0.7 * not_corrected.r_factors[-1]
    assert correlation(scan, corrected) > correlation(scan, not_corrected)


def test_processes(scan: Scan, refer: Any, backend: Backend) -> None:
    """Any executor does: what is sent can be pickled, and the image is that of all shards in this process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        apart = sharded(scan, refer, backend, 2, functools.partial(executor.submit, work_on_shard))
    together = sharded(scan, refer, backend, 2)
    assert abs(correlation(scan, apart) - correlation(scan, together)) < 1e-4


def test_frames_are_taken_as_declared_by_the_start_and_by_the_shards(
    scan: Scan, refer: Any, backend: Backend
) -> None:
    """Were the orientation looked for, the start would turn these frames, and no shard would know of it."""
    flipped = scan.frames[:, ::-1]
    settings = replace(SETTINGS, sweep_frames=60, sweep_candidates=5)
    geometry = geometry_of(scan)
    places, good = scan.translations_m, np.ones(flipped.shape[1:], bool)
    looked = IncrementalSolver(
        settings,
        frame_px=flipped.shape[-1],
        pixel_m=geometry.object_pixel_m(flipped.shape[-1]),
        geometry=geometry,
        backend=backend,
    )
    looked.add_frames(scan.seq_nums, flipped, places)
    looked.finish()
    while looked.orientation is None:
        looked.step(0.1)
    assert looked.orientation.turn != 0
    start = _beginning(flipped, places[:, ::-1], good, geometry, settings, backend, None)
    assert start.frame_orientation == geometry.orientation
    np.testing.assert_allclose(
        backend.to_numpy(start.frames.amplitude(0)), np.sqrt(np.fft.ifftshift(flipped[0])), atol=1e-3
    )


def test_frames_that_cannot_be_used_are_listed(scan: Scan, tmp_path: Path, backend: Backend) -> None:
    frames, translations = scan.frames.copy(), scan.translations_m.copy()
    frames[100] = 0
    frames[60] = 3 * frames[5]
    translations[7, 1] = np.nan
    translations[0] = 1.0
    np.save(tmp_path / "frames.npy", frames)
    damaged = replace(scan, frames=frames, translations_m=translations)
    refer = lambda which: SavedFrames(tmp_path / "frames.npy", tuple(which.tolist()))  # noqa: E731
    result = sharded(damaged, refer, backend, 3)
    assert "does not fit the others" in result.rejected.pop(60)
    assert result.rejected == {0: "no usable position", 7: "no usable position", 100: "no photons"}
    assert result.picture.num_frames == len(frames) - 4
    assert np.isnan(result.translations_m[[0, 7, 60, 100]]).all()
    np.testing.assert_allclose(result.translations_m[50], translations[50])


def test_the_start_is_from_the_first_frames_with_photons(tmp_path: Path, backend: Backend) -> None:
    """Also where there are none on good pixels of as many as the start takes; most frames must have some."""
    scan = simulate(lines=12)
    frames, mask = scan.frames.copy(), np.zeros(scan.frames.shape[1:], np.uint32)
    mask[:4] = 1
    frames[:70, 4:] = 0
    frames[:70, :4] = 100
    refer = lambda which: SavedFrames(tmp_path / "frames.npy", tuple(which.tolist()))  # noqa: E731
    given = frames, refer, scan.translations_m, mask, geometry_of(scan), SETTINGS, backend
    np.save(tmp_path / "frames.npy", frames)
    result = reconstruct_sharded(*given, submit=here, shards=2, passes=2)
    assert result.rejected == dict.fromkeys(range(70), "no photons")
    assert result.picture.num_frames == len(frames) - 70
    for dark, message in (
        (80, "only 64 of the 144 frames can be used: 80 of them have no photons"),
        (144, "none of"),
    ):
        frames[:dark] = 0
        np.save(tmp_path / "frames.npy", frames)
        with pytest.raises(ValueError, match=message):
            reconstruct_sharded(*given, submit=here, shards=2, passes=2)


def test_a_checkpoint_is_gone_on_from(scan: Scan, refer: Any, backend: Backend, tmp_path: Path) -> None:
    """Also on another number of processes; the image is as good as without the break."""
    path = tmp_path / "image.checkpoint"
    tasks = itertools.count()

    def until_killed(order: ShardOrder, task: ShardTask) -> Future[ShardSums]:
        if next(tasks) == 80:
            raise KeyboardInterrupt
        return here(order, task)

    with pytest.raises(KeyboardInterrupt):
        sharded(scan, refer, backend, 3, until_killed, checkpoints=Checkpoints(path, 0.0))
    result = sharded(scan, refer, backend, 2, checkpoints=Checkpoints(path, 0.0, resume=True))
    assert result.passes_before == 11
    assert len(result.r_factors) == PASSES
    assert correlation(scan, result) > 0.99
    for other in ({"settings": {"alpha": 7.0}}, {"weights": np.arange(len(scan.frames)) != 3}):
        with pytest.raises(CheckpointError, match=r"alpha is .* there|of other frames"):
            sharded(scan, refer, backend, 2, checkpoints=Checkpoints(path, 0.0, resume=True), **other)


def test_checkpoints_that_cannot_be_written_end_nothing(
    scan: Scan, refer: Any, backend: Backend, tmp_path: Path
) -> None:
    path = tmp_path / "file" / "image.checkpoint"
    path.parent.touch()
    with pytest.warns(UserWarning) as told:
        result = sharded(scan, refer, backend, 1, checkpoints=Checkpoints(path, 0.0))
    first, last = (str(warning.message) for warning in told)
    assert first.startswith(f"{path} cannot be written (Not a directory): ")
    assert last == f"{PASSES} checkpoints could not be written to {path}; none could"
    assert result.checkpoints_missed == len(result.r_factors) == PASSES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.ones((4, 48, 40))}, r"frames of shape \(4, 48, 40\): expected \(n, N, N\)"),
        ({"translations_m": np.zeros((3, 2))}, r"translations of shape \(3, 2\): expected \(4, 2\)"),
        ({"weights": np.ones(5)}, r"weights of shape \(5,\) for 4 frames: expected one for each"),
        ({"mask": np.zeros((40, 48))}, r"mask of shape \(40, 48\): expected \(48, 48\)"),
        ({"mask": np.ones((48, 48))}, "the mask marks every pixel as bad"),
    ],
)
def test_what_does_not_fit_is_named_as_in_one_process(
    scan: Scan, refer: Any, backend: Backend, change: dict[str, Any], message: str
) -> None:
    given = {"frames": scan.frames[:4], "translations_m": scan.translations_m[:4], "mask": None, "weights": None}
    more = {"geometry": geometry_of(scan), "settings": SETTINGS, "backend": backend}
    with pytest.raises(ValueError, match=message):
        reconstruct(**{**given, **change, **more})
    with pytest.raises(ValueError, match=message):
        reconstruct_sharded(refer=refer, submit=here, shards=2, **{**given, **change, **more})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "raar"}, "expected 'wasp' where frames lie in several processes"),
        ({"algorithm": "wasp:5,cg:5"}, "expected 'wasp'"),
        ({"refine_positions": "frames"}, "solver.refine_positions needs all frames in one process"),
        ({"probe_variation": 2}, "solver.probe_variation needs all frames in one process"),
        ({"object_most": 1.0}, "solver.object_most needs all frames in one process"),
        ({"held_out": 0.02}, "solver.held_out needs all frames in one process"),
        ({"quality_share": 0.5}, "solver.quality_share needs all frames in one process"),
    ],
)
def test_what_needs_all_frames_is_refused(
    scan: Scan, refer: Any, backend: Backend, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        sharded(scan, refer, backend, 2, settings=change)


def test_an_image_that_its_frames_do_not_determine_is_told(scan: Scan, refer: Any, backend: Backend) -> None:
    far_apart = replace(scan, translations_m=8 * scan.translations_m)
    with pytest.warns(UserWarning, match="the image is not determined by its data"):
        sharded(far_apart, refer, backend, 2)
