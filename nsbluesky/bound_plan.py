"""Plans with a beamline's devices filled in, for the prompt, the scan panel and bluesky-queueserver."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Generator, Mapping
from typing import Any

from nsbluesky.refusals import refusing
from nsbluesky.settings import Settings

__all__ = ["bind"]


def bind(plan: Callable[..., Generator[Any, Any, Any]], *devices: Any, **defaults: Any) -> Callable[..., Any]:
    """Return a plan with its devices filled in and with other defaults, so that ``RE(plan())`` works.

    It is a generator function whose signature shows what is left to choose.  bluesky-queueserver shows it to people
    and calls it with what JSON can carry.  So where a default is a `Settings`, as a geometry is, the signature has a
    dictionary, and a dictionary that is given changes single values of it: ``geometry={"energy_eV": 707.0}``.
    """

    @functools.wraps(plan)
    def bound(**arguments: Any) -> Generator[Any, Any, Any]:
        with refusing(TypeError):
            if unknown := [name for name in arguments if name not in signature.parameters]:
                expected = ", ".join(parameter.name for parameter in parameters)
                raise TypeError(f"{plan.__name__} has no argument {unknown[0]!r}: expected one of {expected}")
            chosen = {name: _merged(defaults.get(name), value) for name, value in arguments.items()}
        return (yield from plan(*devices, **{**defaults, **chosen}))

    hints = typing.get_type_hints(plan)
    signature = inspect.signature(plan)
    parameters = [
        _shown(parameter, hints.get(parameter.name, Any), defaults.get(parameter.name, parameter.default))
        for parameter in signature.parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    bound.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return bound


def _shown(parameter: inspect.Parameter, hint: Any, default: Any) -> inspect.Parameter:
    if isinstance(default, Settings):
        return parameter.replace(default=default.to_dict(), annotation=dict[str, Any])
    return parameter.replace(default=default, annotation=hint)


def _merged(default: Any, value: Any) -> Any:
    """Return what is given, or the default settings with the values of a dictionary."""
    if isinstance(default, Settings) and isinstance(value, Mapping):
        return default.replace(**dict(_dotted(value)))
    return value


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Generator[tuple[str, Any], None, None]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
