"""Ophyd devices: the fast CCD, the scan stage and the shutter, with pure-Python twins."""
