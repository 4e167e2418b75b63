"""Raw scans of small frames, images already: the engine does not care what it cleans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nsbluesky.conversion import Conversion, Workers, convert, scan_of_cxi
from nsbluesky.cxi import read_cxi, write_raw_cxi
from nsbluesky.settings import PipelineSettings

EXPERIMENT = {"energy_eV": 930.0, "detector_distance_m": 0.1, "pixel_size_m": 30e-6}
SHAPE = (40, 44)
SETTINGS = PipelineSettings().set_from_text(
    [
        "backend=numpy",
        "block_frames=3",
        "cleaning.layout=none",
        "cleaning.adu_per_photon=10",
        "cleaning.crop_px=32",
        "cleaning.frame_px=16",
        "cleaning.center_frames=4",
    ]
)
NUM_POINTS = 11
"""Three blocks, and one of two points."""


def raw_frames(num: int, exposure_s: float = 1.0, seed: int = 0) -> npt.NDArray[np.uint16]:
    """Return light around the middle, 10 ADU a photon, on a pedestal of 100 ADU with noise of 2."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(SHAPE)
    light = 20 * np.exp(-((rows - SHAPE[0] / 2) ** 2 + (columns - SHAPE[1] / 2) ** 2) / 40)
    photons = rng.poisson(exposure_s * light, (num, *SHAPE))
    return (100 + 10 * photons + rng.normal(0, 2, photons.shape)).round().astype(np.uint16)


def dark_frames(num: int, seed: int = 1) -> npt.NDArray[np.uint16]:
    return raw_frames(num, 0.0, seed)


def places(num: int) -> npt.NDArray[np.float64]:
    return np.stack([np.arange(num) * 1e-7, np.arange(num) * -2e-7], axis=1)


def write_scan(
    path: Path, exposures_s: Sequence[float] = (1.0,), num: int = NUM_POINTS, num_darks: int = 6, seed: int = 0
) -> Path:
    """Write a raw CXI file of `num` points."""
    count = len(exposures_s)
    frames = np.stack([raw_frames(num, one, seed + k) for k, one in enumerate(exposures_s)], axis=1)
    write_raw_cxi(
        path,
        [frames.reshape(num * count, *SHAPE)],
        [dark_frames(num_darks * count)] if num_darks else [],
        np.repeat(places(num), count, axis=0),
        **EXPERIMENT,
        number_exposures=count,
        exposure_order=",".join(map(str, exposures_s)),
    )
    return path


def convert_file(raw: Path, out: Path, **options: object) -> Conversion:
    """Convert a file as the command does, on one thread unless told otherwise."""
    settings = options.pop("settings", SETTINGS)
    workers = options.pop("workers", Workers.threads(1))
    assert isinstance(settings, PipelineSettings) and isinstance(workers, Workers)
    return convert(scan_of_cxi(raw), out, settings, workers=workers, **options)  # type: ignore[arg-type]


def content(path: Path) -> dict[str, object]:
    """Return all that a clean file says, bit by bit."""
    with read_cxi(path) as data:
        assert data.frames is not None
        return {
            "frames": data.frames[:].tobytes(),
            "translation_m": data.translation_m.tobytes(),
            "seq_nums": data.seq_nums.tolist(),
            "flags": data.frame_flags.tolist(),
            "weights": data.frame_weights.tolist(),
            "mask": data.mask.tobytes(),
            "mean": None if data.illumination_intensities is None else data.illumination_intensities.tobytes(),
            "result": data.parameters.get("result"),
        }
