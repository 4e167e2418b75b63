"""Which program has written a file that is no CXI file, as far as the names in it tell."""

from __future__ import annotations

import h5py

__all__ = ["program_of"]

LAYOUTS = {
    "PtyPy's frames (.ptyd)": ("chunks", "meta"),
    "an image of PtyPy (.ptyr)": ("content/obj", "content/probe"),
    "an image of ptychodus": ("object", "probe", "probe_position_x_m"),
    "positions of ptychodus": ("probe_position_x_m", "probe_position_y_m"),
    "frames of PtychoShelves": ("dp",),
    "an image of PtychoShelves": ("reconstruction/object",),
}
"""What is in a file, by what its names are; the first that fits counts."""


def program_of(file: h5py.File) -> str:
    """Return what a file holds, as "PtyPy's frames (.ptyd)"; "" where its names are of nobody that is known."""
    for what, names in LAYOUTS.items():
        if all(name in file for name in names):
            return what
    is_nexus = any(isinstance(group, h5py.Group) and "NX_class" in group.attrs for group in map(file.get, file))
    return "a NeXus file" if is_nexus else ""
