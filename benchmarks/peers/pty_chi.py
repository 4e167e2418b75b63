"""Pty-Chi (https://github.com/AdvancedPhotonSource/pty-chi), set up as its documentation does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import ptychi.api as api
import torch
from ptychi.api.task import PtychographyTask

from benchmarks.peers.runs import Clock, Data, run

MARGIN_PX = 50
"""Of the object around what windows reach; the documentation adds 100 to its size."""

BATCH = 44
"""As in the documentation's example, which is of LSQML."""

ENGINES = {"lsqml": api.LSQMLOptions, "rpie": api.RPIEOptions, "epie": api.EPIEOptions}

EPIE_STEP, EPIE_ALPHA, EPIE_BATCH = 0.1, 1.0, 100
"""As in the package's own test of ePIE."""


def options_for(engine: str) -> Any:
    """Return the options of one of `ENGINES`, with what the documentation leaves at its default."""
    options = ENGINES[engine]()
    options.reconstructor_options.default_device = api.Devices.CPU
    options.reconstructor_options.batch_size = EPIE_BATCH if engine == "epie" else BATCH
    if engine == "epie":
        for part in (options.object_options, options.probe_options):
            part.step_size, part.alpha = EPIE_STEP, EPIE_ALPHA
    options.object_options.determine_position_origin_coords_by = api.ObjectPosOriginCoordsMethods.SPECIFIED
    options.probe_position_options.optimizable = False
    return options


def reconstruct(data: Data, engine: str, clock_from_now: Callable[[], Clock]) -> None:
    """Run epoch by epoch until the time is over."""
    clock = clock_from_now()
    options = options_for(engine)
    origin = MARGIN_PX + (data.side - 1) / 2
    options.object_options.position_origin_coords = [origin, origin]
    rows, columns = data.object_shape
    task = PtychographyTask(
        options,
        diffraction_data=data.frames,
        object_data=torch.ones([1, rows + 2 * MARGIN_PX, columns + 2 * MARGIN_PX], dtype=torch.complex64),
        probe_data=(data.probe / data.side)[None, None],  # its transform is not the unitary one
        probe_position_x_px=data.corners_px[:, 1],
        probe_position_y_px=data.corners_px[:, 0],
    )

    def image() -> tuple[Any, Any]:
        canvas = task.get_data_to_cpu("object", as_numpy=True)[0]
        canvas = canvas[MARGIN_PX : MARGIN_PX + rows, MARGIN_PX : MARGIN_PX + columns]
        return np.array(canvas), task.get_data_to_cpu("probe", as_numpy=True)[0]

    task.run(1)
    while clock.passed(image):
        task.run(1)
    clock.close()


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    run(reconstruct)
