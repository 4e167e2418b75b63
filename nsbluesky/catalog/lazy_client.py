"""A tiled client that is made when somebody looks at it: tiled takes seconds to import, a prompt needs none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["LazyClient"]

OF_DEVICES = frozenset(("name", "read", "describe", "kickoff", "complete", "children", "_is_plan_"))
"""What devices and plans have, and no client: bluesky-queueserver asks every name of a session for it."""


class LazyClient:
    """Does what a client does: is shown, indexed, searched, iterated and completed as that one is.

    Parameters
    ----------
    client : callable
        Returns it; is asked at every look, so that an error of one look is none of the next.
    """

    def __init__(self, client: Callable[[], Any]) -> None:
        self._look = client

    def __getattr__(self, name: str) -> Any:
        """Return what the client has, but for what is looked for in vain, by Python itself (`copy`) and many more."""
        if name.startswith("__") or name in OF_DEVICES:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._look(), name)

    def __dir__(self) -> list[str]:
        """Return the client's names, for the Tab key."""
        return dir(self._look())

    def __repr__(self) -> str:
        """Show the client."""
        return repr(self._look())

    def __getitem__(self, key: Any) -> Any:
        """Look a run up."""
        return self._look()[key]

    def __contains__(self, key: object) -> bool:
        """Return whether there is such a run."""
        return key in self._look()

    def __iter__(self) -> Iterator[str]:
        """Return the uids."""
        return iter(self._look())

    def __len__(self) -> int:
        """Return how many runs there are."""
        return len(self._look())


Mapping.register(LazyClient)
