"""Settings of the whole chain: frozen dataclasses, validated where they are made, JSON in and out.

One definition serves the Python API, the command line (``--set solver.modes=3``), the documents of a derived run
and the windows.  Units stand in the names where they are not SI.
"""

from nsbluesky.settings.base import Settings, SettingsError
from nsbluesky.settings.cleaning import CleaningSettings, DetectorMode
from nsbluesky.settings.pipeline import PipelineSettings
from nsbluesky.settings.solver import MOST_PASSES, SolverSettings

__all__ = [
    "MOST_PASSES",
    "CleaningSettings",
    "DetectorMode",
    "PipelineSettings",
    "Settings",
    "SettingsError",
    "SolverSettings",
]
