"""CDTools (https://github.com/cdtools-developers/cdtools): FancyPtycho and Adam, as in its examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cdtools
import numpy as np
import torch

from benchmarks.peers.runs import Clock, Data, run

STAGES = ((50, 0.02, 10), (None, 0.005, 50))
"""Epochs, learning rate and batch of the two loops of the package's example; the second goes on until the end."""


def reconstruct(data: Data, engine: str, clock_from_now: Callable[[], Clock]) -> None:
    """Run epoch by epoch until the time is over."""
    clock = clock_from_now()
    pixel = data.detector_pixel_m
    dataset = cdtools.datasets.Ptycho2DDataset(
        _translations_m(data),
        data.frames,
        wavelength=data.wavelength_m,
        # rows go along y, columns along x
        detector_geometry={
            "distance": data.distance_m,
            "basis": np.array([[0, pixel], [pixel, 0], [0, 0]], np.float32),
        },
    )
    model = cdtools.models.FancyPtycho.from_dataset(dataset, n_modes=1)
    model.probe.data = torch.as_tensor(data.probe)[None] / model.probe_norm
    # positions and flux are right
    model.translation_offsets.requires_grad = False
    model.weights.requires_grad = False
    recon = cdtools.reconstructors.AdamReconstructor(model, dataset)

    def image() -> tuple[Any, Any]:
        places = cdtools.tools.interactions.translations_to_pixel(model.obj_basis, dataset.translations.float())
        row, column = (places.min(dim=0).values - model.min_translation).round().int().tolist()
        rows, columns = data.object_shape
        canvas = model.obj.detach().numpy()[row : row + rows, column : column + columns]
        return canvas, (model.probe * model.probe_norm).detach().numpy()

    for epochs, rate, batch in STAGES:
        while epochs is None or len(clock.passes) < epochs:
            for _ in recon.optimize(1, lr=rate, batch_size=batch):
                pass
            if not clock.passed(image):
                clock.close()
                return


def _translations_m(data: Data) -> Any:
    """Return x, y, z of the probe for each frame."""
    pixel_m = data.wavelength_m * data.distance_m / (data.side * data.detector_pixel_m)
    places = data.corners_px[:, ::-1] * pixel_m
    return np.concatenate([places, np.zeros((len(places), 1))], axis=1).astype(np.float32)


if __name__ == "__main__":
    run(reconstruct)
