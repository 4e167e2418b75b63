"""Streaming ptychography for Bluesky.

The modules follow the way of the light: raw frame → dark → clean frame → low-resolution image → object.
Nothing is imported here but the version, so that ``import nsbluesky`` needs neither a screen nor a beamline.
"""

from nsbluesky._version import __version__

__all__ = ["__version__"]
