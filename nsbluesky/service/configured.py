"""Settings that ``configure`` has changed: they outlive the process, and whoever watches over it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from nsbluesky.settings import PipelineSettings, SettingsError
from nsbluesky.whole_file import write_whole

__all__ = ["ConfiguredSettings"]

log = logging.getLogger(__name__)

NAME = "configured.json"


class ConfiguredSettings:
    """What the settings of a service have become, in a file beside its results.

    It holds for a service that is started again with the same settings as the one that wrote it; who gives others
    wants others.

    Parameters
    ----------
    directory : path
        Of the results.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME

    def keep(self, given: PipelineSettings, configured: PipelineSettings) -> None:
        """Write down what the settings that were given at the start have become."""
        write_whole(self._path, json.dumps({"given": given.to_dict(), "configured": configured.to_dict()}))

    def of(self, given: PipelineSettings) -> PipelineSettings:
        """Return what settings that are given at a start had become; themselves where nothing is known of that."""
        try:
            told = json.loads(self._path.read_text())
            if PipelineSettings.from_dict(told["given"]) == given:
                return PipelineSettings.from_dict(told["configured"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, SettingsError) as error:
            log.warning("%s cannot be used, settings are as given: %s", self._path, error)
        return given

    def forget(self) -> None:
        """Remove the file: the service has ended as it was asked to."""
        self._path.unlink(missing_ok=True)
