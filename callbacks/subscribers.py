"""Those who want documents: each gets all of them, whatever another one makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["DocumentCallback", "Subscribers"]

DocumentCallback = Callable[[str, dict[str, Any]], Any]


class Subscribers:
    """Callbacks by token; one may come or go on any thread while another thread tells of a document."""

    def __init__(self) -> None:
        self._callbacks: dict[int, DocumentCallback] = {}
        self._newest = 0

    def add(self, callback: DocumentCallback) -> int:
        """Call `callback` with each document from now on; returns a token."""
        self._newest += 1
        self._callbacks = {**self._callbacks, self._newest: callback}
        return self._newest

    def remove(self, token: int) -> None:
        """Stop calling the callback of that token."""
        self._callbacks = {k: v for k, v in self._callbacks.items() if k != token}

    def tell(self, name: str, document: dict[str, Any]) -> list[tuple[DocumentCallback, Exception]]:
        """Call all with a document, and return those that failed, with their errors."""
        failures: list[tuple[DocumentCallback, Exception]] = []
        for callback in self._callbacks.values():
            try:
                callback(name, document)
            except Exception as error:  # a viewer or a writer must disturb nobody else
                failures.append((callback, error))
        return failures
