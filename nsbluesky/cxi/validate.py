"""Check a CXI file against the rules that SHARP, cdtools, PtyPy, PyNX and others rely on."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import h5py
import numpy as np

from nsbluesky.cxi.layout import (
    CXI_VERSION,
    DATA,
    DETECTOR,
    FRAME_FLAGS,
    FRAME_WEIGHTS,
    IMAGE,
    SEQ_NUM,
    SOURCE,
    TRANSLATION,
    CxiError,
    basis_vectors,
)
from nsbluesky.cxi.read import CxiData, read_cxi
from nsbluesky.cxi.recover import open_file
from nsbluesky.geometry import wavelength_m

__all__ = ["validate"]

WAVELENGTH_TOLERANCE = 1e-6
REQUIRED = (
    "cxi_version",
    "number_of_entries",
    "entry_1/start_time",
    "entry_1/instrument_1/name",
    f"{SOURCE}/energy",
    f"{SOURCE}/wavelength",
    f"{DETECTOR}/corner_position",
    f"{DETECTOR}/basis_vectors",
)
IMAGE_REQUIRED = ("data", "data_type", "data_space", "is_fft_shifted", "image_size", "dimensionality", "mask")


def validate(path: str | Path) -> list[str]:
    """Return what is wrong with a CXI file, one line each; nothing where it keeps all the rules.

    Being readable is not enough: links, attributes and types that only other programs need are checked as well.
    """
    try:
        with read_cxi(path) as data, open_file(path) as file:
            return [*_missing(file), *_values(file), *_geometry(file, data), *_frames(file, data), *_image(file)]
    except CxiError as error:
        return [str(error)]
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        return [f"the file is damaged, HDF5 says {error}: expected readable data; try nsbluesky.cxi.recover"]


def _missing(file: h5py.File) -> list[str]:
    problems = [f"{name} is missing" for name in REQUIRED if name not in file]
    for group, item in (("entry_1", "image"), ("entry_1", "data"), ("entry_1/instrument_1", "detector")):
        names = file.get(group, ())
        numbers = sorted(int(n.rpartition("_")[2]) for n in names if n.startswith(f"{item}_") and n[-1].isdigit())
        if numbers != list(range(1, len(numbers) + 1)):
            problems.append(f"{group}/{item}_N is numbered {numbers}: expected 1, 2, … without gaps")
    return problems


def _values(file: h5py.File) -> list[str]:
    problems = []
    if "cxi_version" in file and file["cxi_version"][()] != CXI_VERSION:
        problems.append(f"cxi_version = {file['cxi_version'][()]}: expected {CXI_VERSION}")
    entries = len([name for name in file if name.startswith("entry_")])
    if "number_of_entries" in file and file["number_of_entries"][()] != entries:
        problems.append(f"number_of_entries = {file['number_of_entries'][()]}: expected {entries}")
    for name in ("entry_1/start_time", "entry_1/end_time"):
        if name in file:
            text = np.asarray(file[name].asstr()[()]).item()
            if text or name.endswith("start_time"):
                try:
                    datetime.fromisoformat(text)
                except ValueError:
                    problems.append(f"{name} = {text!r}: expected ISO-8601")
    return problems


def _geometry(file: h5py.File, data: CxiData) -> list[str]:
    problems = []
    stack = data.frames if data.frames is not None else data.raw_data
    assert stack is not None
    py, px = data.pixel_size_m
    if f"{SOURCE}/wavelength" in file:
        expected = wavelength_m(data.energy_eV)
        if abs(file[f"{SOURCE}/wavelength"][()] - expected) > WAVELENGTH_TOLERANCE * expected:
            problems.append(f"{SOURCE}/wavelength does not fit the energy: expected {expected:g} m")
    corner = np.array([stack.shape[2] / 2 * px, stack.shape[1] / 2 * py, data.detector_distance_m])
    name = f"{DETECTOR}/corner_position"
    if name in file and (file[name].shape != (3,) or not np.allclose(file[name][()], corner, rtol=1e-6, atol=0)):
        problems.append(f"{name} = {file[name][()].tolist()}: expected {corner.tolist()}")
    name = f"{DETECTOR}/basis_vectors"
    if name in file and not (
        file[name].shape == (2, 3) and np.allclose(np.abs(file[name][()]), np.abs(basis_vectors((py, px))), atol=0)
    ):
        problems.append(f"{name} has shape {file[name].shape}: expected {basis_vectors((py, px)).tolist()}")
    return problems


def _frames(file: h5py.File, data: CxiData) -> list[str]:
    problems = []
    raw = data.frames is None
    name = f"{DETECTOR}/raw_data" if raw else DATA
    if name not in file:
        return [f"{name} is missing: expected the frames there, data_1 only links to them"]
    frames = file[name]
    kind = np.dtype(np.uint16 if raw else np.float32)
    if frames.dtype != kind:
        problems.append(f"{name} is {frames.dtype}: expected {kind}")
    axes = frames.attrs.get("axes")
    if not (isinstance(axes, str) and axes == "translation:y:x"):
        problems.append(f"{name} has axes = {axes!r}: expected the text 'translation:y:x'")
    if TRANSLATION not in file or file[TRANSLATION].shape != (len(frames), 3):
        shape = file[TRANSLATION].shape if TRANSLATION in file else "no translations"
        problems.append(f"{TRANSLATION}: expected ({len(frames)}, 3), found {shape}")
    elif file[TRANSLATION].dtype != np.float64:
        problems.append(f"{TRANSLATION} is {file[TRANSLATION].dtype}: expected float64")
    elif len(data.translation_m) != len(frames):
        problems.append(
            f"{len(frames) - len(data.translation_m)} of {len(frames)} frames have no translation: "
            "use nsbluesky.cxi.recover"
        )
    for per_frame in (SEQ_NUM, FRAME_FLAGS, FRAME_WEIGHTS):
        if per_frame in file and file[per_frame].shape != (len(frames),):
            problems.append(f"{per_frame} has shape {file[per_frame].shape}: expected ({len(frames)},)")
    for link, target in (
        (f"entry_1/data_1/{Path(name).name}", name),
        ("entry_1/data_1/translation", TRANSLATION),
        (f"{DETECTOR}/translation", TRANSLATION),
    ):
        if link not in file or target not in file or file[link] != file[target]:
            problems.append(f"{link}: expected a link to {target}")
    mask = f"{DETECTOR}/mask"
    if not raw and (mask not in file or file[mask].dtype != np.uint32):
        problems.append(f"{mask}: expected uint32 of the frames' shape")
    return problems


def _image(file: h5py.File) -> list[str]:
    if IMAGE not in file or (f"{IMAGE}/data" in file and file[f"{IMAGE}/data"].size == 0):
        return []
    problems = [f"{IMAGE}/{name} is missing" for name in IMAGE_REQUIRED if name not in file[IMAGE]]
    if not isinstance(file["entry_1"].get("image_latest", getlink=True), h5py.SoftLink):
        problems.append("entry_1/image_latest: expected a link to the newest image")
    if f"{IMAGE}/data" in file and file[f"{IMAGE}/data"].dtype.kind != "c":
        problems.append(f"{IMAGE}/data is {file[f'{IMAGE}/data'].dtype}: expected complex64")
    return problems
