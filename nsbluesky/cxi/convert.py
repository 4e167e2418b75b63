"""Make a CXI file of the measured Siemens star that the ``tike`` project tests with."""

from __future__ import annotations

import bz2
import io
from pathlib import Path

import numpy as np

from nsbluesky.cxi.layout import CxiError
from nsbluesky.cxi.write import CxiFile
from nsbluesky.geometry import Geometry

__all__ = ["siemens_star_to_cxi"]

SIEMENS_STAR_GEOMETRY = Geometry(energy_eV=8800.0, detector_distance_m=2.0, pixel_size_m=75e-6)
"""Self-consistent, not measured: the data come without energy, distance and pixel size."""


def siemens_star_to_cxi(path: str | Path, out: str | Path, geometry: Geometry = SIEMENS_STAR_GEOMETRY) -> int:
    """Convert ``siemens-star-small.npz.bz2`` into a CXI file.

    Its frames have the zero frequency at [0, 0] and go to the centre; its positions are pixels of the object
    (row, column) and become metres by `geometry`, which decides nothing but the scale: any choice gives the same
    picture.  The probe that comes with the data is left out.

    Parameters
    ----------
    path : path
        The bz2 file.
    out : path
        The CXI file.
    geometry : Geometry, optional
        8.8 keV, 2 m, 75 µm by default: object pixels of 29.4 nm.

    Returns
    -------
    int
        Frames written.

    Raises
    ------
    CxiError
        If `path` is something else.
    """
    try:
        with bz2.open(path) as stream, np.load(io.BytesIO(stream.read()), allow_pickle=False) as arrays:
            frames, positions_px = arrays["data"][0], arrays["scan"][0]
    except (OSError, EOFError, KeyError, ValueError) as error:
        raise CxiError(f"{path}: expected tike's siemens-star-small.npz.bz2, found {error}") from error
    pixel_m = geometry.object_pixel_m(frames.shape[-1])
    with CxiFile.create(
        out,
        energy_eV=geometry.energy_eV,
        detector_distance_m=geometry.detector_distance_m,
        pixel_size_m=geometry.pixel_size_m,
        frame_shape=frames.shape[1:],
        instrument_name="APS Velociprobe",
        whole=True,
    ) as cxi:
        cxi.append(np.fft.fftshift(frames, axes=(1, 2)), positions_px[:, ::-1].astype(np.float64) * pixel_m)
    return len(frames)
