"""Compile what runs will need before there is one: a small scan that nobody took goes through the stages.

The loops of cleaning and solver are compiled when they are first called, which takes ten seconds in a fresh
installation; numba keeps what it compiled on disk, from where each process loads it in a fraction of a second.  That
the documents of a scan do it, and no list of loops, means that nothing can be forgotten.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import event_model
import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.callbacks.derived_run import DerivedRun, Document
from nsbluesky.callbacks.stage import RunContext, Stage
from nsbluesky.cleaning.layout import LAYOUTS, FCCDLayout, by_adc, layout_of
from nsbluesky.geometry import Geometry, Optic
from nsbluesky.settings import PipelineSettings
from nsbluesky.streams import PRIMARY, dark_stream

__all__ = ["invented_run", "warm_up"]

log = logging.getLogger(__name__)

NUM_DARK = 3
SIDE = 5
"""Points along a side of the scan."""
STEP_PX = 3
"""From point to point, in pixels of the object."""
PROBE_PX = 3
"""Outermost zone of the optic, in pixels of the object: a third of the detector is lit then."""

ENERGY_EV = 1000.0
DETECTOR_PIXEL_M = 30e-6
DISTANCE_M = 0.1

PEDESTAL_ADU = 1000.0
NOISE_ADU = 3.0
LINE_ADU = 30.0
LINE_PER_CLOCK = 0.0313
LIGHT_ADU = 500.0

LIMIT_S = 30.0
"""A solver that still works after that is left alone."""
WORK_S = 0.1


def warm_up(stages: Sequence[type[Stage]], settings: PipelineSettings, backend: Backend) -> Iterator[None]:
    """Let a small scan go through stages; yields after each piece of work, so that others get a turn.

    What cannot be done, as where the settings fit no frame, is left to the first run, which tells why.
    """
    began = time.monotonic()
    try:
        for _ in _through(stages, _quick(settings), backend):
            if time.monotonic() - began > LIMIT_S:
                break
            yield
    except Exception as error:
        log.info("not all of the processing could be made ready: %s", error)
    else:
        log.info("the processing is ready: that took %.1f s", time.monotonic() - began)


def _quick(settings: PipelineSettings) -> PipelineSettings:
    """Return the settings with less of everything that only takes time."""
    solver = settings.solver
    layout = _layout(settings)
    return settings.replace(
        cleaning__center_px=tuple((side - 1) / 2 for side in layout.image_shape),
        solver__sweep_frames=min(solver.sweep_frames, SIDE**2 // 2),
        solver__sweep_candidates=min(solver.sweep_candidates, 2),
        solver__sweep_passes=1,
        solver__passes_final=10 if solver.passes_final is None else min(solver.passes_final, 10),
    )


def _through(stages: Sequence[type[Stage]], settings: PipelineSettings, backend: Backend) -> Iterator[None]:
    documents = invented_run(settings)
    _, start = next(documents)
    derived = DerivedRun(start, settings)
    run = RunContext(start, settings, None, backend, derived)
    made = [stage(run) for stage in stages]
    with contextlib.ExitStack() as stack:
        for stage in made:
            stack.callback(stage.close)
        _pass_on(made, "start", derived.start_document)
        _pass_on(made, "start", start)
        for name, document in documents:
            _pass_on(made, name, document)
            yield
        while working := [k for k, stage in enumerate(made) if stage.has_work]:
            for k in working:
                for name, document in made[k].work(WORK_S):
                    _pass_on(made[k + 1 :], name, document)
                yield


def _pass_on(stages: Sequence[Stage], name: str, document: dict[str, Any]) -> None:
    """Give a document to stages, and what each makes of it to those after it, as `RunChain` does."""
    if stages:
        _pass_on(stages[1:], name, document)
        for more in stages[0].process(name, document):
            _pass_on(stages[1:], *more)


def invented_run(settings: PipelineSettings) -> Iterator[Document]:
    """Yield the documents of a small scan, with its frames in them, as the settings expect them."""
    layout = _layout(settings)
    object_pixel_m = _object_pixel_m(settings)
    geometry = Geometry(
        energy_eV=ENERGY_EV,
        detector_distance_m=DISTANCE_M,
        pixel_size_m=DETECTOR_PIXEL_M,
        optic=Optic(diameter_m=240e-6, outer_zone_m=PROBE_PX * object_pixel_m),
    )
    keys = {"image": "image", "x": "x", "y": "y"}
    about = {**geometry.to_dict(), "keys": keys, "exposures_s": [0.01], "scan": {"num_points": SIDE**2}}
    run = event_model.compose_run(metadata={"ptycho": about})
    yield "start", dict(run.start_doc)
    image = {"source": "invented", "dtype": "array", "shape": list(layout.shape)}
    place = {"source": "invented", "dtype": "number", "shape": [], "units": "m"}
    rng = np.random.default_rng(0)
    is_image = layout.adcs_per_half == 1
    dark = np.zeros(layout.shape) if is_image else _pedestal(layout)
    noise = np.zeros(layout.shape) if is_image else rng.normal(0, NOISE_ADU, layout.shape)
    light = _light(layout, settings.cleaning.crop_px / (2 * PROBE_PX))
    for stream, count, lit in ((dark_stream(0), NUM_DARK, 0.0), (PRIMARY, SIDE**2, 1.0)):
        described = {"image": image} | ({"x": place, "y": place} if lit else {})
        bundle = run.compose_descriptor(name=stream, data_keys=described)
        yield "descriptor", dict(bundle.descriptor_doc)
        for k in range(count):
            values = dark + np.roll(noise, rng.integers(layout.rows), axis=0) + lit * rng.uniform(0.5, 1) * light
            data: dict[str, Any] = {"image": values.astype(np.uint16)}
            if lit:
                y, x = divmod(k, SIDE)
                data |= {"x": x * STEP_PX * object_pixel_m, "y": y * STEP_PX * object_pixel_m}
            event = bundle.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0), validate=False)
            yield "event", dict(event)
    yield "stop", dict(run.compose_stop())


def _layout(settings: PipelineSettings) -> FCCDLayout:
    cleaning = settings.cleaning
    if cleaning.detector_mode is not None:
        return layout_of(cleaning.detector_mode)
    if cleaning.layout in LAYOUTS:
        return LAYOUTS[cleaning.layout]
    side = cleaning.crop_px
    return FCCDLayout(side, side, side, (), ((0, side),), ((0, side),))


def _object_pixel_m(settings: PipelineSettings) -> float:
    plain = Geometry(energy_eV=ENERGY_EV, detector_distance_m=DISTANCE_M, pixel_size_m=DETECTOR_PIXEL_M)
    return float(plain.object_pixel_m(settings.cleaning.crop_px))


def _pedestal(layout: FCCDLayout) -> npt.NDArray[np.float64]:
    """Return what a raw frame of a Fast CCD holds without light and noise: pedestal and interference."""
    values = np.full(layout.shape, PEDESTAL_ADU)
    for half, (start, stop) in enumerate(layout.halves):
        line = LINE_ADU * np.sin(2 * np.pi * LINE_PER_CLOCK * layout.clocks(half))
        by_adc(values, layout)[start:stop] += line[:, None]
    return values


def _light(layout: FCCDLayout, radius_px: float) -> npt.NDArray[np.float64]:
    """Return what a disk in the middle of the image adds to a raw frame."""
    rows, columns = (np.arange(side) - (side - 1) / 2 for side in layout.image_shape)
    values = np.zeros(layout.shape)
    _add_image(values, LIGHT_ADU * (np.hypot(rows[:, None], columns) < radius_px), layout)
    return values


def _add_image(values: npt.NDArray[np.float64], image: npt.NDArray[np.float64], layout: FCCDLayout) -> None:
    """Add an image to the pixels of a raw frame that see it, as `assemble` takes it out."""
    blocks, row = by_adc(values, layout), 0
    for half, (start, stop) in enumerate(layout.good_rows):
        part = image[row : row + stop - start].reshape(stop - start, layout.adcs_per_half, -1)
        blocks[start:stop, :, layout.for_half(half).data_columns] += part
        row += stop - start
