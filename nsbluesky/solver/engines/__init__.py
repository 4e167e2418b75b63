"""Algorithms of ptychography by name."""

from __future__ import annotations

from collections.abc import Callable

from nsbluesky.backend import Backend
from nsbluesky.settings import SettingsError, SolverSettings
from nsbluesky.solver.engines.base import Engine
from nsbluesky.solver.engines.batched import BatchedEngine
from nsbluesky.solver.engines.cg import ConjugateGradientEngine
from nsbluesky.solver.engines.lsqml import LeastSquaresEngine
from nsbluesky.solver.engines.pie import PieRule
from nsbluesky.solver.engines.projections import AP, DM, Coefficients, ProjectionEngine, raar
from nsbluesky.solver.engines.step_rule import StepRule
from nsbluesky.solver.engines.wasp import PEAK, WaspRule

__all__ = ["BATCHED", "ENGINES", "Engine", "check_engine", "in_near_field", "make_engine"]


EngineMaker = Callable[[SolverSettings, Backend], Engine]


def _batch(settings: SolverSettings) -> int:
    return max(settings.batch, settings.batch_final)


def _batched(rule: Callable[[SolverSettings], StepRule]) -> EngineMaker:
    return lambda settings, backend: BatchedEngine(
        rule(settings),
        backend,
        probe_start=settings.probe_start,
        batch=_batch(settings),
        subpixel=settings.subpixel,
        poisson={"poisson": True, "amplitude": False, "auto": None}[settings.likelihood],
    )


def _least_squares(name: str, *, poisson: bool) -> EngineMaker:
    return lambda settings, backend: LeastSquaresEngine(
        name,
        backend,
        poisson=poisson,
        probe_start=settings.probe_start,
        batch=max(_batch(settings), LeastSquaresEngine.least_batch),
        damping=0.1,
        momentum=0.5,
        subpixel=settings.subpixel,
    )


def _conjugate_gradients(settings: SolverSettings, backend: Backend) -> Engine:
    return ConjugateGradientEngine(
        backend,
        probe_start=settings.probe_start,
        batch=_batch(settings),
        damping=0.05,
        subpixel=settings.subpixel,
    )


def _projections(coefficients: Coefficients) -> EngineMaker:
    return lambda settings, backend: ProjectionEngine(
        coefficients, backend, probe_start=settings.probe_start, batch=_batch(settings)
    )


ENGINES: dict[str, EngineMaker] = {
    "wasp": _batched(lambda settings: WaspRule(settings.alpha, settings.beta, settings.momentum, peak=PEAK)),
    "rpie": _batched(lambda settings: PieRule("rpie", alpha=0.1, beta=0.3)),
    "mpie": _batched(lambda settings: PieRule("mpie", alpha=0.05, beta=0.1, momentum=0.9, step=0.3)),
    "epie": _batched(lambda settings: PieRule("epie", alpha=1.0, beta=1.0)),
    "lsqml": _least_squares("lsqml", poisson=False),
    "lsqml_poisson": _least_squares("lsqml_poisson", poisson=True),
    "cg": _conjugate_gradients,
    "raar": _projections(raar(0.75)),
    "dm": _projections(DM),
    "ap": _projections(AP),
}
"""Engines by the name that `SolverSettings.algorithm` gives."""


BATCHED = ("wasp", "rpie", "mpie", "epie")
"""Those that keep nothing of a frame, `nsbluesky.solver.engines.batched`: they know objects of several states, and
follow a probe that varies from frame to frame (`nsbluesky.solver.variation`)."""


def make_engine(settings: SolverSettings, backend: Backend) -> Engine:
    """Return the engine that `settings.algorithm` names.

    Raises
    ------
    SettingsError
        For an unknown name, or an engine that does not know objects of several states where there are such.
    """
    check_engine(settings.algorithm, settings.object_modes)
    return ENGINES[settings.algorithm](settings, backend)


def in_near_field(settings: SolverSettings) -> SolverSettings:
    """Return settings for engines in the near field: amplitudes by default, and half the friction of momentum.

    Of 11 simulated scans behind a diffuser, 81 frames of 64² with 5 to 5000 photons a pixel and 144 of 128² with 6 to
    600, amplitudes left less error than the likelihood of photons in all, by up to 20 % where photons are fewest; so
    did η = 0.9 in the place of 0.8, by up to 20 % where they are most.  With 0.95 the brightest became worse.
    """
    likelihood = "amplitude" if settings.likelihood == "auto" else settings.likelihood
    momentum = 1 - (1 - settings.momentum) / 2 if settings.momentum > 0 else 0.0
    return settings.replace(likelihood=likelihood, momentum=momentum)


def check_engine(name: str, object_modes: int = 1) -> None:
    """Raise SettingsError for an unknown name, or an engine that does not know so many states of an object."""
    known = BATCHED if object_modes > 1 else tuple(ENGINES)
    if name not in known:
        why = f" with object_modes = {object_modes}" if name in ENGINES else ""
        raise SettingsError(f"solver.algorithm = {name!r}{why}: expected one of {', '.join(known)}")
