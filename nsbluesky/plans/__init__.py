"""Ptychography as Bluesky plans: one run with a dark stream, the scan, and the geometry in its start document.

All plans check every argument and the soft limits before anything moves or a run opens.  Pause and resume, stop and
abort leave a valid run, the camera idle, the shutter closed.  Where an IOC goes away and comes back, they go on with
the frames that are not taken (`nsbluesky.lost_ioc`).
"""

from nsbluesky.plans.darks import ptycho_darks, take_darks
from nsbluesky.plans.scans import ptycho_fly_scan, ptycho_points, ptycho_scan

__all__ = ["ptycho_darks", "ptycho_fly_scan", "ptycho_points", "ptycho_scan", "take_darks"]
