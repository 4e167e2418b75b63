"""What all settings can do: be checked where they are made, become JSON and come from it, change by dotted names."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["Settings", "SettingsError", "require"]


_IN_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
"""What a value must be, for people who do not program."""


class SettingsError(ValueError):
    """A setting that cannot be used; the message says which, what was expected and what to do."""


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise a SettingsError about a setting and its value where the condition does not hold."""
    if not condition:
        raise SettingsError(f"{name} = {value!r}: expected {expected}")


@dataclass(frozen=True)
class Settings:
    """What all settings can do: become JSON, come from JSON, and be changed by dotted names."""

    AT_ONCE: typing.ClassVar[frozenset[str]] = frozenset()
    """Fields that a run which goes on can change as well; the others are for the runs that start later."""

    LIMITS: typing.ClassVar[Mapping[str, tuple[int, int]]] = {}
    """The least and the most of numbers with which a typo would fill the memory, or begin what never ends."""

    def __post_init__(self) -> None:
        """Check what has limits."""
        for name, (least, most) in self.LIMITS.items():
            value = getattr(self, name)
            require(value is None or least <= value <= most, name, value, f"{least} to {most}")

    def applies_at_once(self, name: str) -> bool:
        """Return whether a run that goes on can change a field, named with dots."""
        head, _, rest = name.partition(".")
        inner = getattr(self, head, None)
        return inner.applies_at_once(rest) if rest and isinstance(inner, Settings) else head in self.AT_ONCE

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types (nested dicts, lists, numbers, strings)."""
        return typing.cast(dict[str, Any], json.loads(self.to_json()))

    def to_json(self) -> str:
        """Return the settings as a JSON object."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make settings from a mapping; keys that are left out keep their defaults.

        Raises
        ------
        SettingsError
            For an unknown key, one that is missing, a wrong type or a value out of range.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        hints = _hints(cls)  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise SettingsError(f"unknown setting {unknown[0]!r}: expected one of {', '.join(fields)}")
        missing = [name for name, f in fields.items() if name not in values and _has_no_default(f)]
        if missing:
            raise SettingsError(f"{cls.__name__} without {', '.join(missing)}: expected all of them")
        return cls(**{name: _convert(name, value, hints[name]) for name, value in values.items()})

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; ``solver__modes`` or dotted names reach into nested settings."""
        nested: dict[str, dict[str, Any]] = {}
        own: dict[str, Any] = {}
        for name, value in changes.items():
            head, _, rest = name.replace("__", ".").partition(".")
            if rest:
                nested.setdefault(head, {})[rest] = value
            else:
                own[head] = value
        for head, inner in nested.items():
            part = own.get(head, getattr(self, head, None))
            if not isinstance(part, Settings):
                groups = _groups(self)
                expected = f"expected one of {groups}" if groups else f"there are none here, write {rest!r} alone"
                raise SettingsError(f"unknown group of settings {head!r}: {expected}")
            own[head] = part.replace(**inner)
        unknown = set(own) - {f.name for f in dataclasses.fields(self)}
        if unknown:
            names = ", ".join(f.name for f in dataclasses.fields(self))
            raise SettingsError(f"unknown setting {sorted(unknown)[0]!r}: expected one of {names}")
        hints = _hints(type(self))  # type: ignore[arg-type]
        checked = {k: v if isinstance(v, Settings) else _convert(k, v, hints[k]) for k, v in own.items()}
        return dataclasses.replace(self, **checked)

    def set_from_text(self, assignments: list[str]) -> Self:
        """Apply ``KEY=VALUE`` texts as the command line gives them; VALUE is JSON or a bare word."""
        changes: dict[str, Any] = {}
        for text in assignments:
            key, equals, value = text.partition("=")
            if not equals or not key:
                raise SettingsError(f"cannot read {text!r}: expected KEY=VALUE, as in solver.modes=3")
            try:
                changes[key.strip()] = json.loads(value)
            except json.JSONDecodeError:
                changes[key.strip()] = value
        return self.replace(**changes)


@functools.cache
def _hints(kind: type[Settings]) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _groups(settings: Settings) -> str:
    names = [f.name for f in dataclasses.fields(settings) if isinstance(getattr(settings, f.name), Settings)]
    return ", ".join(names)


def _convert(name: str, value: Any, hint: Any) -> Any:
    """Convert one JSON value to the annotated type, or raise a SettingsError."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _convert(name, value, next(o for o in options if o is not type(None)))
    if isinstance(hint, type) and issubclass(hint, Settings):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise SettingsError(f"{name} = {value!r}: expected an object with the fields of {hint.__name__}")
        return hint.from_dict(value)
    if origin is tuple:
        args = typing.get_args(hint)
        if not isinstance(value, (list, tuple)):
            raise SettingsError(f"{name} = {value!r}: expected a list")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(name, v, args[0]) for v in value)
        if len(value) != len(args):
            raise SettingsError(f"{name} = {value!r}: expected {len(args)} values")
        return tuple(_convert(name, v, a) for v, a in zip(value, args, strict=True))
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise SettingsError(f"{name} = {value!r}: expected one of {', '.join(map(str, typing.get_args(hint)))}")
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise SettingsError(f"{name} = {value!r}: expected a finite number")
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise SettingsError(f"{name} = {value!r}: expected {_IN_WORDS.get(hint, hint.__name__)}")
    return value
