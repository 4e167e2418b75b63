"""Panels and stages of other packages, found by their entry points; one that cannot be loaded disturbs nothing."""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import Any

__all__ = ["PANELS", "STAGES", "load_plugins"]

log = logging.getLogger(__name__)

PANELS = "nsbluesky.panels"
"""Entry points that name subclasses of `nsbluesky.viewer.panels.LivePanel`."""
STAGES = "nsbluesky.stages"
"""Entry points that name subclasses of `nsbluesky.callbacks.stage.Stage`; `PtychoPipeline` runs them last."""


def load_plugins(group: str, kind: type) -> list[Any]:
    """Return the subclasses of `kind` that the entry points of a group name, in the order of their names.

    What cannot be loaded, or is no such class, is logged and left out.
    """
    found = []
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        try:
            loaded = entry.load()
        except Exception as error:  # somebody else's code: it must not take the window or the scan with it
            log.error("%s %r (%s) cannot be loaded: %s", group, entry.name, entry.value, error)
            continue
        if isinstance(loaded, type) and issubclass(loaded, kind):
            found.append(loaded)
        else:
            log.error("%s %r is %r: expected a subclass of %s", group, entry.name, loaded, kind.__name__)
    return found
