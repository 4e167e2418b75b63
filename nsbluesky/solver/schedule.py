"""Which engine runs when, written as text: ``wasp``, or ``wasp:20,lsqml:50`` for a polish after it."""

from __future__ import annotations

from dataclasses import dataclass

from nsbluesky.settings import MOST_PASSES, PipelineSettings, SettingsError, SolverSettings
from nsbluesky.solver.engines import BATCHED, check_engine
from nsbluesky.solver.pace import LEAST_PASSES

__all__ = ["Stage", "check_engines", "parse_schedule", "stage_of", "stages_of", "tells_passes"]


@dataclass(frozen=True)
class Stage:
    """One engine and how many full passes it has."""

    algorithm: str
    passes: int


def parse_schedule(text: str, passes: int, object_modes: int = 1) -> tuple[Stage, ...]:
    """Return the stages of a schedule.

    Parameters
    ----------
    text : str
        Engines of `nsbluesky.solver.engines.ENGINES`, separated by commas, each with or without ``:passes``.
    passes : int
        Passes of a stage that names none.
    object_modes : int
        States of the object, which not all engines know.

    Raises
    ------
    SettingsError
        For an unknown engine, or a number of passes that is none.
    """
    return tuple(_parse_stage(part.strip(), passes, object_modes) for part in text.split(","))


def stages_of(settings: SolverSettings) -> tuple[Stage, ...]:
    """Return the stages that settings ask for.

    Raises
    ------
    SettingsError
        As `parse_schedule`, and for an engine that cannot follow a probe that varies where it should.
    """
    passes = LEAST_PASSES if settings.passes_final is None else settings.passes_final
    stages = parse_schedule(settings.algorithm, passes, settings.object_modes)
    if settings.probe_variation:
        for stage in stages:
            if stage.algorithm not in BATCHED:
                raise SettingsError(
                    f"solver.probe_variation = {settings.probe_variation} with algorithm {stage.algorithm!r}: "
                    f"expected one of {', '.join(BATCHED)}, or probe_variation = 0"
                )
    return stages


def most_variation(settings: SolverSettings) -> int:
    """Return how many modes of variation frames may ask for; none where an engine cannot follow them."""
    stages = parse_schedule(settings.algorithm, LEAST_PASSES, settings.object_modes)
    can = settings.object_modes == 1 and all(stage.algorithm in BATCHED for stage in stages)
    return settings.most_variation if can else 0


def tells_passes(settings: SolverSettings) -> bool:
    """Return whether settings tell how many full passes there are after the last frame, by number or schedule."""
    return settings.passes_final is not None or any(mark in settings.algorithm for mark in ":,")


def check_engines(settings: PipelineSettings) -> None:
    """Refuse engines that there are not, or that cannot do what the settings want, of the image and beside it.

    Raises
    ------
    SettingsError
        As `stages_of`.
    """
    stages_of(settings.solver)
    if settings.second_engine:
        try:
            stages_of(settings.solver.replace(algorithm=settings.second_engine))
        except SettingsError as error:
            raise SettingsError(str(error).replace("solver.algorithm", "second_engine")) from None


def _parse_stage(text: str, passes: int, object_modes: int) -> Stage:
    name, colon, number = (part.strip() for part in text.partition(":"))
    check_engine(name, object_modes)
    if colon and not (number.isascii() and number.isdigit() and 1 <= int(number[:20]) <= MOST_PASSES):
        raise SettingsError(
            f"solver.algorithm = {text!r}: expected 1 to {MOST_PASSES} passes after the colon, as in wasp:20,lsqml:50"
        )
    return Stage(name, int(number) if colon else passes)


def stage_of(stages: tuple[Stage, ...], passes_done: int) -> tuple[int, int]:
    """Return the number of the stage whose turn it is after so many passes, and the passes it has left."""
    left = passes_done
    for number, stage in enumerate(stages):
        if left < stage.passes:
            return number, stage.passes - left
        left -= stage.passes
    return len(stages) - 1, 0
