"""databroker's catalog as a session sees it: a look-up waits for the runs that are on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["CatalogBehind", "current_client"]


class CatalogBehind(TimeoutError):
    """The run that was asked for may not be in the catalog yet; another would have been found in its place."""


def current_client(context: Any, catch_up: Callable[[], bool]) -> Any:
    """Return the client of a catalog.

    Before it looks which runs there are it calls `catch_up`, which tells whether all are there.  Else ``db[-1]``
    right after a scan would be the scan before, or one without its end.
    """
    import tiled.client
    from bluesky_tiled_plugins import CatalogOfBlueskyRuns

    class CurrentRuns(CatalogOfBlueskyRuns):  # type: ignore[misc]
        """Look-ups by number, by the beginning of a uid and by query all come down to these."""

        def __getitem__(self, key: Any) -> Any:
            if not catch_up() and not isinstance(key, str):
                raise CatalogBehind(
                    f"[{key!r}] may be a run that is not in the catalog yet: try again, or catalog.flush() waits for "
                    f"it; by its uid a run is found that is there"
                )
            return super().__getitem__(key)

        def __len__(self) -> int:
            catch_up()
            return int(super().__len__())

        def __iter__(self) -> Iterator[str]:
            catch_up()
            yield from super().__iter__()

        @property
        def v2(self) -> Any:
            """The same runs, of that version; databroker's own would be all runs, whatever was searched."""
            return self.new_variation(structure_clients=super().v2.structure_clients)

        @property
        def v3(self) -> Any:
            return self.new_variation(structure_clients=super().v3.structure_clients)

        def _keys_slice(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
            catch_up()
            yield from super()._keys_slice(*args, **kwargs)

        def _items_slice(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
            catch_up()
            yield from super()._items_slice(*args, **kwargs)

    client = tiled.client.from_context(context)
    return CurrentRuns(context, item=client.item, structure_clients=client.structure_clients)
