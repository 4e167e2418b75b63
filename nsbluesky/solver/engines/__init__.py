"""Algorithms of ptychography by name."""

from __future__ import annotations

from collections.abc import Callable

from nsbluesky.backend import Backend
from nsbluesky.settings import SettingsError, SolverSettings
from nsbluesky.solver.engines.base import Engine
from nsbluesky.solver.engines.batched import BatchedEngine
from nsbluesky.solver.engines.pie import PieRule
from nsbluesky.solver.engines.wasp import WaspRule

__all__ = ["ENGINES", "Engine", "make_engine"]


def _batch(settings: SolverSettings) -> int:
    return max(settings.batch, settings.batch_final)


def _wasp(settings: SolverSettings, backend: Backend) -> Engine:
    rule = WaspRule(settings.alpha, settings.beta)
    return BatchedEngine(rule, backend, probe_start=settings.probe_start, batch=_batch(settings))


def _rpie(settings: SolverSettings, backend: Backend) -> Engine:
    rule = PieRule("rpie", alpha=0.1, beta=0.3)
    return BatchedEngine(rule, backend, probe_start=settings.probe_start, batch=_batch(settings))


def _epie(settings: SolverSettings, backend: Backend) -> Engine:
    rule = PieRule("epie", alpha=1.0, beta=1.0)
    return BatchedEngine(rule, backend, probe_start=settings.probe_start, batch=_batch(settings))


ENGINES: dict[str, Callable[[SolverSettings, Backend], Engine]] = {"wasp": _wasp, "rpie": _rpie, "epie": _epie}


def make_engine(settings: SolverSettings, backend: Backend) -> Engine:
    """Return the engine that `settings.algorithm` names.

    Raises
    ------
    SettingsError
        For an unknown name.
    """
    try:
        return ENGINES[settings.algorithm](settings, backend)
    except KeyError:
        known = ", ".join(ENGINES)
        raise SettingsError(f"solver.algorithm = {settings.algorithm!r}: expected one of {known}") from None
