"""Engines against formulas written down independently, in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.settings import SolverSettings
from nsbluesky.solver.engines import ENGINES, cg, make_engine
from nsbluesky.solver.engines.averages import PassAverage
from nsbluesky.solver.engines.batched import BatchedEngine
from nsbluesky.solver.engines.cg import ConjugateGradientEngine
from nsbluesky.solver.engines.lsqml import LeastSquaresEngine, best_steps
from nsbluesky.solver.engines.momentum import Momentum
from nsbluesky.solver.engines.pie import PieRule
from nsbluesky.solver.engines.projections import AP, DM, ProjectionEngine, raar
from nsbluesky.solver.engines.wasp import WaspRule
from nsbluesky.solver.forward import amplitude_correction
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.propagation import FarField
from nsbluesky.solver.state import SolverState

SIDE = 48


def store_of(scan, backend, count=None):
    corners = np.rint(scan.translations_m[:, ::-1] / 10e-9 - SIDE / 2).astype(int)
    corners -= corners.min(axis=0)
    store = FrameStore(SIDE, backend)
    frames = scan.frames[:count]
    store.put(range(len(frames)), frames, corners[:count])
    return store, corners[:count]


def start_of(scan):
    """The right probe and an object of half the contrast: its far field is nowhere 0, so that phases are defined."""
    return SolverState(np.sqrt(scan.object).astype(np.complex64), scan.probe.astype(np.complex64))


class Projectors:
    """Pa and Pq for all frames of a scan, one mode, a fixed probe, complex128."""

    def __init__(self, scan, corners):
        self.amplitude = np.sqrt(np.fft.ifftshift(scan.frames[: len(corners)], axes=(1, 2)).astype(float))
        self.probe = scan.probe[0].astype(complex)
        self.corners = corners
        self.shape = scan.object.shape
        self.start = self.waves_of(np.sqrt(scan.object))

    def waves_of(self, image):
        return self.probe * self.windows_of(image)

    def windows_of(self, image):
        return np.array([image[r : r + SIDE, c : c + SIDE] for r, c in self.corners])

    def amplitude_projection(self, z):
        field = np.fft.fft2(z, norm="ortho")
        return np.fft.ifft2(self.amplitude * field / (np.abs(field) + 1e-6), norm="ortho")

    def object_of(self, z, weights=1.0):
        numerator, denominator = np.zeros(self.shape, complex), np.zeros(self.shape)
        light = np.broadcast_to(weights * np.abs(self.probe) ** 2, z.shape)
        for term, power, (row, column) in zip(weights * self.probe.conj() * z, light, self.corners, strict=True):
            part = (slice(row, row + SIDE), slice(column, column + SIDE))
            numerator[part] += term
            denominator[part] += power
        floor = 1e-9 * denominator.max()
        return numerator / (denominator + floor)

    def difference(self, image, expected):
        """Relative difference of two objects where they are well lit."""
        lit = self.object_of(self.waves_of(np.ones(self.shape))).real > 0.99
        return np.linalg.norm((image - expected)[lit]) / np.linalg.norm(expected[lit])

    def overlap_projection(self, z):
        return self.waves_of(self.object_of(z))


@pytest.mark.parametrize("relaxation", [0.5, pytest.param(0.6, marks=pytest.mark.nightly), 0.75])
def test_raar_is_its_reflector_form_over_sixty_iterations(scan, backend, relaxation, monkeypatch):
    """z' = b/2·(R_q R_a + 1)z + (1 − b)·Pa z; a wrong sign of b·(z − Pq z) would diverge from this."""
    monkeypatch.setattr("nsbluesky.solver.engines.projections.REGULARISATION", np.float32(1e-9))
    store, corners = store_of(scan, backend, 40)
    project = Projectors(scan, corners)
    z = project.start.copy()
    state = start_of(scan)
    engine = ProjectionEngine(raar(relaxation), backend, probe_start=10**6, batch=16)
    engine.initialize(state, store)
    history = []
    for _ in range(60):
        fitted = project.amplitude_projection(z)
        reflected = 2 * fitted - z
        z = relaxation / 2 * (2 * project.overlap_projection(reflected) - reflected + z) + (1 - relaxation) * fitted
        expected = project.object_of(fitted)
        history.append(
            sum(float(engine.update(state, store, part).sum()) for part in np.array_split(np.arange(40), 3))
        )
        engine.end_pass(state, store)
        state.passes += 1
        assert project.difference(state.object, expected) < 0.03
    assert history[-1] < 0.6 * history[0]


def test_dm_and_ap_are_their_published_forms(scan, backend, monkeypatch):
    monkeypatch.setattr("nsbluesky.solver.engines.projections.REGULARISATION", np.float32(1e-9))
    store, corners = store_of(scan, backend, 40)
    project = Projectors(scan, corners)

    def difference_map(z):
        fitted = project.amplitude_projection(z)
        return z + project.overlap_projection(2 * fitted - z) - fitted

    def alternating(z):
        return project.overlap_projection(project.amplitude_projection(z))

    unbounded = DM.__class__("dm", 2.0, -1.0, -1.0, 1.0)
    for coefficients, iterate in ((unbounded, difference_map), (AP, alternating)):
        z = project.start.copy()
        state = start_of(scan)
        engine = ProjectionEngine(coefficients, backend, probe_start=10**6, batch=40)
        engine.initialize(state, store)
        for _ in range(20):
            expected = project.object_of(project.amplitude_projection(z))
            z = iterate(z)
            engine.update(state, store, np.arange(40))
            engine.end_pass(state, store)
            state.passes += 1
            assert project.difference(state.object, expected) < 0.03


def test_alternating_projections_fit_object_and_probe_to_the_waves(scan, backend, monkeypatch):
    """Two passes of two batches, with a frame that counts half."""
    monkeypatch.setattr("nsbluesky.solver.engines.projections.REGULARISATION", np.float32(1e-9))
    store, corners = store_of(scan, backend, 12)
    store.weights[3] = 0.5
    weights = np.where(np.arange(12) == 3, 0.5, 1.0)[:, None, None]
    project = Projectors(scan, corners)
    probe = project.probe
    state = start_of(scan)
    engine = ProjectionEngine(AP, backend, probe_start=1, batch=8)
    engine.initialize(state, store)
    for passes in range(2):
        fitted = project.amplitude_projection(probe * project.windows_of(state.object))
        for batch in (np.array([0, 5, 3, 9, 7, 2]), np.array([1, 4, 6, 8, 10, 11])):
            engine.update(state, store, batch)
        seen = project.windows_of(state.object)
        if passes:
            probe = (weights * seen.conj() * fitted).sum(axis=0) / (weights * np.abs(seen) ** 2).sum(axis=0)
        engine.end_pass(state, store)
        state.passes += 1
        expected = project.object_of(fitted, weights)
        assert project.difference(state.object, expected) < 1e-3
        assert np.allclose(state.probe[0], probe, atol=1e-3 * np.abs(probe).max())


def test_a_frame_that_was_measured_again_begins_with_its_wave_of_now(scan, backend):
    """As where nothing was kept of it."""
    store, _ = store_of(scan, backend, 12)
    found = []
    for forgets in (True, False):
        state, engine = start_of(scan), ProjectionEngine(DM, backend, probe_start=1, batch=12)
        engine.forget(3)
        engine.initialize(state, store)
        engine.restore(engine.contents())
        assert engine.contents() == {"begun": []}
        engine.update(state, store, np.arange(12))
        engine.end_pass(state, store)
        kept = engine.contents()
        if forgets:
            engine.forget(3)
        else:
            engine.initialize(state, store)
            engine.restore(
                {"begun": [0, 1, 2, *range(4, 12)], "remainders": np.delete(kept["remainders"], 3, axis=0)}
            )
        engine.update(state, store, np.arange(12))
        found.append(engine.contents()["remainders"])
    assert np.array_equal(*found)


@pytest.mark.parametrize("peak", [0.0, 0.2])
def test_one_wasp_pass_is_the_published_one(scan, backend, monkeypatch, peak):
    """Two batches and the end of the pass, written out frame by frame in double precision; `peak` is ours."""
    monkeypatch.setattr("nsbluesky.solver.engines.averages.FAINT", np.float32(0))
    store, corners = store_of(scan, backend, 12)
    state = start_of(scan)
    state.passes = 5  # the probe is updated
    engine = BatchedEngine(WaspRule(alpha=2.0, beta=1.0, peak=peak), backend, probe_start=1, batch=8)
    engine.initialize(state, store)
    store.weights[3] = 0.5
    order = [np.array([0, 5, 3, 9, 7, 2]), np.array([1, 4, 6, 8, 10, 11])]

    project = Projectors(scan, corners)
    obj, probe = np.sqrt(scan.object), scan.probe[0].astype(complex)
    before = state.object.copy()
    pass_n, pass_d = np.zeros(obj.shape, complex), np.zeros(obj.shape)
    probe_n, probe_d = np.zeros(probe.shape, complex), np.zeros(probe.shape)
    for batch in order:
        n, d = np.zeros(obj.shape, complex), np.zeros(obj.shape)
        pn, pd = np.zeros(probe.shape, complex), np.zeros(probe.shape)
        for slot in batch:
            weight = 0.5 if slot == 3 else 1.0
            part = tuple(slice(c, c + SIDE) for c in corners[slot])
            wave = probe * obj[part]
            field = np.fft.fft2(wave, norm="ortho")
            new = np.fft.ifft2(project.amplitude[slot] * field / (np.abs(field) + 1e-6), norm="ortho")
            n[part] += weight * probe.conj() * (new - wave)
            d[part] += weight * np.abs(probe) ** 2
            pn += weight * obj[part].conj() * (new - wave)
            pd += weight * np.abs(obj[part]) ** 2
            pass_n[part] += weight * probe.conj() * new
            pass_d[part] += weight * np.abs(probe) ** 2
            probe_n += weight * obj[part].conj() * new
            probe_d += weight * np.abs(obj[part]) ** 2
        light = np.abs(probe) ** 2
        obj, probe = (
            obj + n / (d + 2.0 * (light.mean() + peak * np.maximum(d, light.max()))),
            probe + pn / (pd + 1.0 * len(batch)),
        )
        engine.update(state, store, batch)
        assert np.allclose(state.object, obj, atol=2e-4)
        assert np.allclose(state.probe[0], probe, atol=2e-4 * np.abs(probe).max())
    engine.end_pass(state, store)
    covered = pass_d > 1e-3 * pass_d.max()
    obj[covered] = pass_n[covered] / pass_d[covered]
    assert np.allclose(state.object, obj, atol=1e-3)
    assert (
        not covered.all() and (state.object[pass_d == 0] == before[pass_d == 0]).all()
    )  # what no frame saw is untouched
    assert np.allclose(state.probe[0], probe_n / probe_d, atol=1e-3 * np.abs(probe).max())


def test_an_average_is_over_as_many_uses_of_frames_as_a_pass_has(backend, monkeypatch):
    """Of the pass that goes on and, for what that lacks, of the one before, with what changed in between."""
    monkeypatch.setattr("nsbluesky.solver.engines.averages.FAINT", np.float32(0))
    state = SolverState(np.ones((4, 5), np.complex64), np.ones((1, 2, 2), np.complex64))
    average = PassAverage(backend, state)

    def use(frames, light, image, probe):
        average.note(state, frames)
        sums = average.sums
        for numerator, denominator, value in (
            (sums.object.numerator, sums.object.denominator, image),
            (sums.probe_numerator, sums.probe_denominator, probe),
        ):
            numerator += light * value
            denominator += light

    def shown():
        there = average.shown(state)
        return there.object[1, 1], there.probe[0, 1, 1]

    assert average.shown(state) is state
    use(4, 1.0, 2, 3)
    assert shown() == (2, 3)
    assert (state.object == 1).all() and (state.probe == 1).all()
    resumed = PassAverage(backend, state)
    resumed.restore(average.contents())
    resumed.end_pass(state)
    assert (state.object == 2).all() and (state.probe == 3).all()
    average.end_pass(state)
    assert average.shown(state) is state
    state.object *= 3
    state.probe *= 2
    use(1, 0.25, 10, 2)
    assert shown() == (7, 5)  # a quarter of 10 and three of 6; of 2 and of 6
    state.object *= 5
    use(1, 0.25, 10, 2)
    assert shown() == (8, 4)
    average.pad((1, 0), (0, 2))
    state.object = np.ones((5, 7), np.complex64)
    assert shown() == (8, 4)
    assert average.shown(state).object[0, 0] == 1  # no frame saw it
    use(4, 0.5, 40, 40)
    assert shown() == (25, 21)  # more frames than the pass before had
    for value in (9, 4):
        average.end_pass(state)
        use(6, 1.0, value, value)
        assert shown() == (value, value)


def pie_denominator(power, largest, regularisation):
    return (1 - regularisation) * power + regularisation * np.maximum(power, largest)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.1, 0.3)])
def test_epie_and_rpie_are_their_published_forms(scan, backend, alpha, beta):
    """Two passes of two batches, written out frame by frame in double precision; 1 and 1 are ePIE."""
    store, corners = store_of(scan, backend, 12)
    store.weights[3] = 0.5
    state = start_of(scan)
    engine = BatchedEngine(PieRule("pie", alpha, beta), backend, probe_start=1, batch=8)
    engine.initialize(state, store)
    project = Projectors(scan, corners)
    obj, probe = np.sqrt(scan.object), scan.probe[0].astype(complex)
    for passes in range(2):
        for batch in (np.array([0, 5, 3, 9, 7, 2]), np.array([1, 4, 6, 8, 10, 11])):
            n, d = np.zeros(obj.shape, complex), np.zeros(obj.shape)
            pn, pd = np.zeros(probe.shape, complex), np.zeros(probe.shape)
            for slot in batch:
                weight = 0.5 if slot == 3 else 1.0
                part = tuple(slice(c, c + SIDE) for c in corners[slot])
                wave = probe * obj[part]
                field = np.fft.fft2(wave, norm="ortho")
                change = np.fft.ifft2(project.amplitude[slot] * field / (np.abs(field) + 1e-6), norm="ortho") - wave
                n[part] += weight * probe.conj() * change
                d[part] += weight * np.abs(probe) ** 2
                pn += weight * obj[part].conj() * change
                pd += weight * np.abs(obj[part]) ** 2
            obj = obj + n / np.maximum(pie_denominator(d, (np.abs(probe) ** 2).max(), alpha), 1e-30)
            if passes >= 1:
                probe = probe + pn / pie_denominator(pd, pd.max(), beta)
            engine.update(state, store, batch)
            assert np.allclose(state.object, obj, atol=2e-4)
            assert np.allclose(state.probe[0], probe, atol=2e-4 * np.abs(probe).max())
        engine.end_pass(state, store)
        state.passes += 1


def test_conjugate_gradients_are_their_textbook_form(scan, backend):
    """Polak and Ribière's directions and Newton's step along them, over all frames in double precision."""
    store, corners = store_of(scan, backend, 12)
    state = start_of(scan)
    engine = ConjugateGradientEngine(backend, probe_start=1, batch=8, damping=0.05)
    engine.initialize(state, store)
    measured = Projectors(scan, corners).amplitude
    windows = [tuple(slice(c, c + SIDE) for c in corner) for corner in corners]
    x = [np.sqrt(scan.object), scan.probe[0].astype(complex)]
    before = direction = None
    for passes in range(6):
        gradient, power = [np.zeros_like(part) for part in x], [np.zeros(part.shape) for part in x]
        for amplitude, window in zip(measured, windows, strict=True):
            field = np.fft.fft2(x[1] * x[0][window], norm="ortho")
            change = np.fft.ifft2((amplitude / (np.abs(field) + 1e-6) - 1) * field, norm="ortho")
            gradient[0][window] += x[1].conj() * change
            gradient[1] += x[0][window].conj() * change
            power[0][window] += np.abs(x[1]) ** 2
            power[1] += np.abs(x[0][window]) ** 2
        scaled = [g / (p + 0.05 * p.max()) for g, p in zip(gradient, power, strict=True)]
        if passes < 1:
            scaled[1][...] = 0
        square = sum(np.vdot(s, g).real for s, g in zip(scaled, gradient, strict=True))
        turn = 0.0
        if before is not None:
            overlap = sum(np.vdot(s, g).real for s, g in zip(scaled, before[0], strict=True))
            turn = max(0.0, (square - overlap) / before[1])
        direction = [s + turn * (0 if direction is None else direction[k]) for k, s in enumerate(scaled)]
        before = (gradient, square)
        slope = curvature = 0.0
        for amplitude, window in zip(measured, windows, strict=True):
            field = np.fft.fft2(x[1] * x[0][window], norm="ortho")
            along = np.fft.fft2(x[1] * direction[0][window] + direction[1] * x[0][window], norm="ortho")
            model = np.abs(field) + 1e-6
            first = (field.conj() * along).real / model
            second = np.abs(along) ** 2 - first**2
            slope += ((amplitude - model) * first).sum()
            curvature += (first**2 + second * np.maximum(1 - amplitude / model, 0)).sum()
        x = [part + slope / curvature * d for part, d in zip(x, direction, strict=True)]
        for part in np.array_split(np.arange(12), 2):
            engine.update(state, store, part)
        engine.end_pass(state, store)
        state.passes += 1
        assert turn > 0 or passes < 1
        assert np.allclose(state.object, x[0], atol=1e-3)
        assert np.allclose(state.probe[0], x[1], atol=1e-3 * np.abs(x[1]).max())


def test_least_squares_steps_are_their_published_form(scan, backend):
    """Two passes of two batches, written out frame by frame in double precision."""
    store, corners = store_of(scan, backend, 12)
    store.weights[3] = 0.5
    state = start_of(scan)
    engine = LeastSquaresEngine("lsqml", backend, poisson=False, probe_start=1, batch=8, damping=0.1, momentum=0.0)
    engine.initialize(state, store)
    measured = Projectors(scan, corners).amplitude
    obj, probe = np.sqrt(scan.object), scan.probe[0].astype(complex)
    for passes in range(2):
        for batch in (np.array([0, 5, 3, 9, 7, 2]), np.array([1, 4, 6, 8, 10, 11])):
            windows = [tuple(slice(c, c + SIDE) for c in corners[slot]) for slot in batch]
            weights = np.where(batch == 3, 0.5, 1.0)[:, None, None]
            waves = np.array([probe * obj[window] for window in windows])
            field = np.fft.fft2(waves, norm="ortho")
            change = np.fft.ifft2((measured[batch] / np.abs(field) - 1) * field, norm="ortho")
            n, d = np.zeros(obj.shape, complex), np.zeros(obj.shape)
            for window, weight, part in zip(windows, weights, change, strict=True):
                n[window] += weight * probe.conj() * part
                d[window] += weight * np.abs(probe) ** 2
            turn = n / (d + 0.1 * d.max())
            seen = np.array([obj[window] for window in windows])
            d = (weights * np.abs(seen) ** 2).sum(axis=0)
            bend = (weights * seen.conj() * change).sum(axis=0) / (d + 0.1 * d.max()) * (passes >= 1)
            u, v = np.array([probe * turn[window] for window in windows]), seen * bend
            pairs = ((u, change), (v, change), (u, u), (v, v), (u, v))
            alpha, beta = best_steps(np.array([(weights * (a.conj() * b).real).sum() for a, b in pairs]))
            obj, probe = obj + alpha * turn, probe + beta * bend
            engine.update(state, store, batch)
            assert np.allclose(state.object, obj, atol=5e-4)
            assert np.allclose(state.probe[0], probe, atol=5e-4 * np.abs(probe).max())
        engine.end_pass(state, store)
        state.passes += 1


def test_least_squares_have_a_step_of_momentum_after_every_batch(backend, difficult_scan):
    """As the engine without it and `Momentum` beside it, passes at rest among them."""
    found = []
    for friction in (0.6, 0.0):
        store, state = difficult_scan(backend, 1)
        engine = LeastSquaresEngine(
            "lsqml", backend, poisson=False, probe_start=1, batch=7, damping=0.1, momentum=friction
        )
        engine.initialize(state, store)
        beside = Momentum(backend, 0.6 - friction, 1, compiled=True)
        beside.begin(state)
        for resting in (False, False, True, False):
            engine.rest(resting)
            beside.rest(resting)
            for slots in np.array_split(np.arange(14), 2):
                beside.before(state)
                engine.update(state, store, slots)
                beside.after(state, 1)
            engine.end_pass(state, store)
            beside.end_pass()
            state.passes += 1
        found.append(state)
    assert np.array_equal(found[0].object, found[1].object)
    assert np.array_equal(found[0].probe, found[1].probe)


@pytest.mark.parametrize("compiled", [False, True])
def test_momentum_is_its_published_form_and_begins_anew_after_a_rest(backend, compiled):
    state = SolverState(np.ones((3, 4), np.complex64), np.ones((1, 2, 2), np.complex64))
    momentum = Momentum(backend, 0.5, 2, compiled=compiled)
    momentum.begin(state)

    def after_two_steps():
        for _ in range(2):
            momentum.before(state)
            state.object += 1
            momentum.after(state, 1)
        assert (state.object == state.object[0, 0]).all() and (state.probe == 1).all()
        return state.object[0, 0]

    assert after_two_steps() == 4  # 3, and half of a velocity of 2
    assert after_two_steps() == 7.5
    momentum.rest(True)
    assert after_two_steps() == 9.5
    momentum.rest(False)
    assert after_two_steps() == 12.5
    momentum.end_pass()
    state.object *= 2
    assert after_two_steps() == 28.5  # the scale is no step


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_a_canvas_that_grows_in_a_pass_changes_nothing_else(scan, backend, name):
    """As on one that was as large from the start."""
    before, after = (3, 5), (2, 1)
    found = []
    for grows_after in (0, 3):
        store, _ = store_of(scan, backend, 40)
        state = start_of(scan)
        engine = make_engine(SolverSettings(algorithm=name, modes=1, probe_start=1), backend)
        engine.initialize(state, store)
        for number, slots in enumerate(np.array_split(np.arange(100) % 40, 5)):
            if number == grows_after:
                state.object = np.pad(state.object, list(zip(before, after, strict=True)), constant_values=1)
                state.origin_px = (-before[0], -before[1])
                engine.pad(before, after)
            engine.update(state, store, slots)
            if number % 2:
                engine.end_pass(state, store)
                state.passes += 1
        found.append((engine.shown(state).object, state.object, state.probe))
    for grown, large in zip(*found, strict=True):
        assert np.allclose(grown, large, atol=1e-4 * np.abs(large).max())


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_every_engine_lowers_the_residual_of_two_modes(two_mode_scan, backend, name):
    store, _ = store_of(two_mode_scan, backend)
    state = start_of(two_mode_scan)
    state.probe += np.roll(state.probe, 1, axis=-1) * np.float32(0.2)
    engine = make_engine(SolverSettings(algorithm=name, modes=2), backend)
    assert engine.name == name
    engine.initialize(state, store)
    history = []
    for _ in range(20):
        misfit = [engine.update(state, store, s).sum() for s in np.array_split(np.arange(len(store)), 10)]
        history.append(sum(misfit) / store.amplitude_sums[: len(store)].sum())
        engine.end_pass(state, store)
        state.passes += 1
    assert np.isfinite(state.object).all()
    assert history[-1] < 0.75 * history[0]


def test_a_perfect_guess_stays(scan, backend):
    """With noise-free frames of the model itself nothing moves."""
    store, corners = store_of(scan, backend, 20)
    waves = np.array([scan.probe[0] * scan.object[r : r + SIDE, c : c + SIDE] for r, c in corners])
    exact = np.fft.fftshift(np.abs(np.fft.fft2(waves, norm="ortho")) ** 2, axes=(1, 2))
    store.put(range(20), exact, corners)
    for name in ENGINES:
        state = SolverState(scan.object.astype(np.complex64), scan.probe.astype(np.complex64))
        engine = make_engine(SolverSettings(algorithm=name, modes=1, probe_start=0), backend)
        engine.initialize(state, store)
        residual = engine.update(state, store, np.arange(16)) / store.amplitude_sums[:16]
        assert residual.max() < 1e-3
        engine.end_pass(state, store)
        seen = tuple(slice(r + 20, r + 28) for r in corners[0])
        assert np.allclose(state.object[seen], scan.object[seen], atol=5e-3), name


def test_the_power_bound_leaves_photon_noise_alone(backend):
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(3, 1, 16, 16)) + 1j * rng.normal(size=(3, 1, 16, 16))
    waves = (20 * waves).astype(np.complex64)
    model = np.abs(np.fft.fft2(waves[:, 0], norm="ortho"))
    offset = np.array([0.4, 0.6, 2.0])[:, None, None]  # misfits 0.16, 0.36 and 4 a pixel
    amplitude = (model + offset).astype(np.float32)
    good = np.ones((16, 16), np.float32)
    change, _ = amplitude_correction(
        backend,
        FarField(backend),
        waves.copy(),
        amplitude,
        good,
        0.0,
        np.empty((3, 16, 16), np.float32),
        has_gaps=False,
        power_bound=0.25,
    )
    after = np.abs(np.fft.fft2((waves + change)[:, 0], norm="ortho"))
    left = ((after - model - offset) ** 2).mean(axis=(1, 2))
    assert left == pytest.approx([0.16, 0.25, 0.25], rel=0.01)


def test_modes_background_and_mask_in_the_forward_model(backend):
    """The corrected waves have the measured amplitude where the mask is good, and their own elsewhere."""
    rng = np.random.default_rng(1)
    waves = (rng.normal(size=(2, 3, 16, 16)) + 1j * rng.normal(size=(2, 3, 16, 16))).astype(np.complex64)
    amplitude = rng.uniform(1, 2, (2, 16, 16)).astype(np.float32)
    measured = amplitude.copy()
    amplitude[0, 2, 2] = -1  # not measured in this frame
    good = np.ones((16, 16), np.float32)
    good[5] = 0
    field = np.fft.fft2(waves, norm="ortho")
    model = np.sqrt((np.abs(field) ** 2).sum(axis=1) + 0.5)
    change, residual = amplitude_correction(
        backend,
        FarField(backend),
        waves.copy(),
        amplitude,
        good,
        0.5,
        np.empty((2, 16, 16), np.float32),
        has_gaps=True,
    )
    ratio = np.fft.fft2(waves + change, norm="ortho") / field
    expected = np.broadcast_to((measured / model)[:, None], ratio.shape).copy()
    expected[:, :, 5] = 1
    expected[0, :, 2, 2] = 1
    assert np.allclose(ratio, expected, atol=1e-3)
    used = np.broadcast_to(good, model.shape).copy()
    used[0, 2, 2] = 0
    assert residual == pytest.approx((np.abs(model - measured) * used).sum(axis=(1, 2)), rel=1e-4)


@pytest.mark.gpu
def test_numpy_and_cupy_give_the_same(scan):
    backend_module = pytest.importorskip("nsbluesky.backend")
    found = []
    for name in ("numpy", "cupy"):
        try:
            backend = backend_module.get_backend(name)
        except backend_module.BackendError as error:
            pytest.skip(str(error))
        store, _ = store_of(scan, backend)
        state = start_of(scan)
        state.object, state.probe = backend.from_numpy(state.object), backend.from_numpy(state.probe)
        engine = make_engine(SolverSettings(modes=1), backend)
        engine.initialize(state, store)
        for _ in range(3):
            for slots in np.array_split(np.arange(len(store)), 10):
                engine.update(state, store, slots)
            engine.end_pass(state, store)
            state.passes += 1
        found.append(backend.to_numpy(state.object))
    assert np.allclose(found[0], found[1], atol=2e-3)


def one_bright_pixel(scan, backend, name):
    """Positions between pixels, and an object with one pixel far brighter where the probe is faint."""
    store, corners = store_of(scan, backend, 24)
    for slot in range(24):
        store.shifts_px[slot] = (0.5, -0.5)
    state = start_of(scan)
    row, column = corners[12] + 3
    state.object[row, column] = 1000
    engine = make_engine(SolverSettings(algorithm=name, modes=1, momentum=0.0, likelihood="amplitude"), backend)
    engine.initialize(state, store)
    state.passes = 5
    power = [float(np.sum(np.abs(state.probe).astype(float) ** 2))]
    for _ in range(4):
        for slots in np.array_split(np.arange(24), 3):
            engine.update(state, store, slots)
            power.append(float(np.sum(np.abs(state.probe).astype(float) ** 2)))
        engine.end_pass(state, store)
    return np.array(power)


@pytest.mark.parametrize("name", ["wasp", "rpie", "mpie", "epie"])
def test_a_bright_pixel_does_not_let_a_moved_probe_grow(scan, backend, name):
    power = one_bright_pixel(scan, backend, name)
    assert power.max() < 3 * power[0]


def test_frames_of_one_shift_share_a_probe_where_a_line_is_searched(backend, difficult_scan, monkeypatch):
    store, state = difficult_scan(backend, 1)
    store.shifts_px[:14] = np.array([[0.25, 0], [-0.25, 0.5]])[np.arange(14) % 2]
    made = []

    class Counted(cg.MovedProbe):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(len(self.probes))

    monkeypatch.setattr(cg, "MovedProbe", Counted)
    engine = make_engine(SolverSettings(algorithm="cg", modes=1, probe_start=0, batch_final=16), backend)
    engine.initialize(state, store)
    engine.update(state, store, np.arange(14))
    engine.end_pass(state, store)
    assert made
    assert max(made) <= 2
