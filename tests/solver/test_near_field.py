"""Scans in the near field, behind a diffuser, from the simulator to the image."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from nsbluesky.backend import get_backend
from nsbluesky.geometry import orientation_back, oriented
from nsbluesky.settings import SettingsError, SolverSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import near_field_sample
from nsbluesky.solver.engines import ENGINES, in_near_field
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.orientation import Orientation
from nsbluesky.solver.quality import align, nrmse
from nsbluesky.solver.reconstruct import reconstruct
from nsbluesky.solver.sharded import reconstruct_sharded
from nsbluesky.solver.shards import work_on_shard
from nsbluesky.trajectories import make_trajectory

SIDE = 64


class Scan:
    """9 × 9 frames between pixels, with photon noise, of a smooth picture."""

    def __init__(self, photons=2e6):
        rng = np.random.default_rng(11)
        f = np.fft.fftfreq(70)
        low = np.exp(-((np.hypot(f[:, None], f) / 0.12) ** 2))
        picture = np.fft.ifft2(np.fft.fft2(rng.normal(size=(70, 70))) * low).real
        self.sample = near_field_sample(picture, field_px=70, frame_px=SIDE, photons=photons, detector_pixel_m=8.8e-6)
        simulator = FrameSimulator(self.sample, layout="none", seed=3)
        self.geometry = simulator.geometry
        step_um = 5 * self.sample.pixel_m * 1e6
        self.translations_m = make_trajectory("jittered_raster", (9, 9), step_um, 4) * 1e-6
        self.frames = np.array(
            [
                simulator.raw_frame(x, y, shutter_open=True, index=k).astype(np.float32)
                for k, (x, y) in enumerate(self.translations_m)
            ]
        )

    def errors(self, picture):
        """NRMSE of the object by the whole of it and by its contrast, where it was well lit."""
        aligned = align(picture.object, self.sample.object, margin_px=12)
        known = np.isfinite(aligned.image)
        truth = aligned.truth[known]
        whole = nrmse(aligned.image, aligned.truth)
        return whole, whole * np.linalg.norm(truth) / np.linalg.norm(truth - truth.mean())


@pytest.fixture(scope="module")
def near():
    return Scan()


@pytest.fixture(scope="module")
def backend():
    return get_backend("numpy", threads=2)


def settings(**changes):
    return SolverSettings(**{"modes": 1, "passes_final": 30} | changes)


def test_frames_are_shadows_that_end_before_the_rim(near):
    """Light that left the frame would come in on the other side, in the simulation as in the solver."""
    mean = near.frames.mean(axis=0)
    rim = np.ones((SIDE, SIDE), bool)
    rim[2:-2, 2:-2] = False
    assert mean[rim].mean() < 2e-2 * mean.mean()
    assert near.geometry.spread_px(SIDE, near.sample.pixel_m) == pytest.approx(29.9, abs=0.1)


def test_a_scan_behind_a_diffuser_is_reconstructed(near, backend):
    """Without any knowledge of the light, which begins as the mean frame."""
    result = reconstruct(near.frames, near.translations_m, None, near.geometry, settings(passes_final=40), backend)
    assert result.sweep is None and result.orientation == Orientation(0, pytest.approx(0.49, abs=0.1), certain=True)
    assert result.picture.pixel_m == near.sample.pixel_m
    whole, contrast = near.errors(result.picture)
    assert whole < 0.0115 and contrast < 0.074  # 0.0121 and 0.077 with the momentum of the far field


def incremental(near, backend, **changes):
    return IncrementalSolver(
        settings(**changes), frame_px=SIDE, pixel_m=near.sample.pixel_m, geometry=near.geometry, backend=backend
    )


@pytest.mark.parametrize("turned", [2, 5])
def test_frames_that_lie_another_way_are_turned(near, backend, turned, tmp_path):
    """While they come; those that come later, too, and after a checkpoint."""
    frames = np.asarray(oriented(near.frames, turned))
    solver = incremental(near, backend, passes_final=40)
    solver.add_frames(np.arange(50), frames[:50], near.translations_m[:50])
    while solver.has_work and not (solver.motion and solver.motion.certain):
        solver.step(0.0)
    assert solver.motion is None, "the look waits for 80 frames, or for the last one"
    solver.add_frames(np.arange(50, 80), frames[50:80], near.translations_m[50:80])
    while solver.has_work and not solver.frame_orientation:
        solver.step(0.0)
    assert solver.frame_orientation == solver.motion.turn == orientation_back(turned)
    solver.step(0.1)
    solver.save(tmp_path / "checkpoint")
    again = incremental(near, backend, passes_final=40)
    again.load(tmp_path / "checkpoint")
    assert (again.motion, again.orientation) == (solver.motion, solver.orientation)
    again.add_frames(np.arange(81), frames, near.translations_m)
    again.finish()
    while not again.finished:
        again.step(1.0)
    assert again.frame_orientation == orientation_back(turned)
    whole, contrast = near.errors(again.picture())
    assert whole < 0.0115 and contrast < 0.074


def test_frames_lie_as_declared_where_nobody_should_look(near, backend):
    solver = incremental(near, backend, find_orientation=False, passes_final=1)
    solver.add_frames(np.arange(81), np.asarray(oriented(near.frames, 2)), near.translations_m)
    solver.finish()
    while not solver.finished:
        solver.step(1.0)
    assert solver.motion is None and solver.orientation is None and solver.frame_orientation == 0


def test_a_distance_that_does_not_fit_is_told(near, backend):
    """Shadows of a source that is nearer than declared move farther."""
    wrong = near.geometry.replace(source_distance_m=1.3 * near.geometry.source_distance_m)
    with pytest.warns(
        UserWarning, match=r"move 1\.\d+ times as far .* a source distance of about 0.00\d+ m would fit"
    ) as told:
        reconstruct(near.frames, near.translations_m, None, wrong, settings(passes_final=1), backend)
    (warning,) = told
    found_m = float(str(warning.message).partition("a source distance of about ")[2].partition(" ")[0])
    assert found_m == pytest.approx(near.geometry.source_distance_m, rel=0.05)


def test_amplitudes_are_followed_where_photons_are_few(backend):
    """Five a pixel: the far field's likelihood of photons would leave more noise."""
    few = Scan(photons=2e4)
    default, of_photons = (
        few.errors(reconstruct(few.frames, few.translations_m, None, few.geometry, chosen, backend).picture)[1]
        for chosen in (settings(), settings(likelihood="poisson"))
    )
    assert default < 0.93 * of_photons


def test_what_was_chosen_for_the_near_field_stays():
    chosen = in_near_field(settings(likelihood="poisson", momentum=0.0))
    assert (chosen.likelihood, chosen.momentum) == ("poisson", 0.0)


@pytest.mark.parametrize("algorithm", sorted(ENGINES))
def test_every_engine_propagates_as_the_geometry_says(near, backend, algorithm):
    chosen = settings(algorithm=algorithm, passes_final=8)
    probe = near.sample.probe[0]
    given = near.frames, near.translations_m, None
    right = reconstruct(*given, near.geometry, chosen, backend, probe=probe)
    wrong = reconstruct(*given, near.geometry.replace(energy_eV=30000.0), chosen, backend, probe=probe)
    assert right.r_factors[-1] < 0.6 * wrong.r_factors[-1]


def test_frames_are_used_as_they_come(near, backend):
    """Nothing to wait for, and no coarse frames: the centre of a shadow is a part of the sample."""
    solver = incremental(near, backend)
    solver.add_frames(np.arange(20), near.frames[:20], near.translations_m[:20])
    solver.step(0.0)
    assert solver.state is not None and not solver.is_coarse and not solver.is_searching
    solver.add_frames(np.arange(20, 81), near.frames[20:], near.translations_m[20:])
    solver.finish()
    while not solver.finished:
        solver.step(1.0)
    assert solver.sweep is None
    fit = solver.fit(40)
    assert fit.r_factor < 0.1 and fit.data.shape == (SIDE, SIDE)
    assert np.corrcoef(fit.data.ravel(), fit.model.ravel())[0, 1] > 0.97


def test_frames_that_alias_are_refused(near, backend):
    far_away = near.geometry.replace(source_distance_m=1.0)
    with pytest.raises(SettingsError, match="expected at most the 64 of a frame"):
        reconstruct(near.frames, near.translations_m, None, far_away.replace(pixel_size_m=5e-7), settings(), backend)


def test_positions_are_put_right(near, backend):
    rng = np.random.default_rng(2)
    wrong_m = near.translations_m + rng.normal(size=near.translations_m.shape) * 0.7 * near.sample.pixel_m
    chosen = settings(refine_positions="frames", passes_final=40)
    result = reconstruct(near.frames, wrong_m, None, near.geometry, chosen, backend)

    def scatter_px(places_m):
        off = (places_m - near.translations_m) / near.sample.pixel_m
        return float(np.sqrt(np.mean((off - off.mean(axis=0)) ** 2)))

    assert scatter_px(wrong_m) > 0.6
    assert scatter_px(result.translations_m) < 0.35


def test_shards_propagate_alike(near, backend):
    class Some:
        def __init__(self, which):
            self.which = which

        def read(self):
            return near.frames[self.which]

    def submit(order, task):
        done = Future()
        done.set_result(work_on_shard(order, task))
        return done

    given = near.translations_m, None, near.geometry, settings(), backend
    result = reconstruct_sharded(near.frames, Some, *given, submit=submit, shards=2, probe=near.sample.probe[0])
    assert near.errors(result.picture)[0] < 0.03


def test_raw_frames_of_a_detector_are_refused(near):
    with pytest.raises(SettingsError, match="layout = 'cosmic': expected 'none'"):
        FrameSimulator(near.sample)
