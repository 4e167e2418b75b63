"""A small simulated scan, told in the documents that the processing stages emit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from nsbluesky.callbacks.derived_run import DerivedRun
from nsbluesky.settings import PipelineSettings

RAW_SHAPE = (40, 48)
FRAME_PX = 16
STEP_M = 0.1e-6
GRID = 6
LOW_RESOLUTION = ("transmission", "dpc_x", "dpc_y", "dark_field")
OBJECT_PIXEL_M = 20e-9
ORIGIN_M = (50e-6, -20e-6)


class DerivedScan:
    """Feeds a callback as PtychoPipeline does.

    Parameters
    ----------
    callback : callable
        Takes ``(name, document)``.
    points : int
        Frames of the whole scan.
    settings : PipelineSettings, optional
        As the start document tells them.
    """

    def __init__(
        self,
        callback: Callable[[str, dict[str, Any]], Any],
        points: int = GRID * GRID,
        settings: PipelineSettings | None = None,
    ) -> None:
        self.callback = callback
        self.points = points
        self.rng = np.random.default_rng(7)
        raw_start = {
            "uid": "0123456789abcdef",
            "ptycho": {
                "energy_eV": 930.0,
                "exposures_s": [0.02],
                "scan": {
                    "pattern": "raster",
                    "step_um": 0.1,
                    "shape": [GRID, GRID],
                    "num_points": points,
                    "rate_hz": 10.0,
                },
            },
        }
        self.run = DerivedRun(raw_start, settings or PipelineSettings())

    def feed(self, documents: list[tuple[str, dict[str, Any]]] | tuple[str, dict[str, Any]]) -> None:
        for name, document in documents if isinstance(documents, list) else [documents]:
            self.callback(name, document)

    def event(self, stream: str, **data: Any) -> None:
        self.feed(self.run.event(stream, **data))

    def start(self) -> None:
        self.feed(("start", self.run.start_document))

    def stop(self, exit_status: str = "success", reason: str = "") -> None:
        self.feed(self.run.stop(exit_status, reason))

    def position_m(self, seq_num: int) -> tuple[float, float]:
        row, column = divmod(seq_num - 1, GRID)
        column = GRID - 1 - column if row % 2 else column
        return ORIGIN_M[0] + column * STEP_M, ORIGIN_M[1] + row * STEP_M

    def dark_statistics(self) -> np.ndarray:
        mean = self.rng.normal(1000, 3, RAW_SHAPE).astype(np.float32)
        bad = np.zeros(RAW_SHAPE, np.uint8)
        self.event(
            "dark_statistics", mean=mean, std=np.ones_like(mean), bad=bad, bad_adcs=np.array([2]), num_frames=10
        )
        return mean

    def detector(self, mask: np.ndarray | None = None) -> None:
        mask = np.zeros((FRAME_PX, FRAME_PX), np.uint32) if mask is None else mask
        self.event("detector", center_row_px=19.5, center_column_px=23.25, mask=mask, pixel_size_m=240e-6)

    def raw(self, *seq_nums: int) -> np.ndarray:
        frames = self.rng.integers(900, 5000, (len(seq_nums), *RAW_SHAPE), dtype=np.uint16)
        self._page("primary", seq_nums, frame=frames)
        return frames

    def clean(self, *seq_nums: int) -> np.ndarray:
        frames = self.rng.poisson(20, (len(seq_nums), FRAME_PX, FRAME_PX)).astype(np.float32)
        self._page(
            "clean",
            seq_nums,
            frame=frames,
            photons=frames.sum(axis=(1, 2)),
            weight=np.ones(len(frames)),
            flags=np.zeros(len(frames), int),
        )
        return frames

    def low_resolution(self, measured: int) -> dict[str, np.ndarray]:
        images = {name: self.rng.random((GRID, GRID), np.float32) for name in LOW_RESOLUTION}
        for image in images.values():
            image.flat[measured:] = np.nan
        half = STEP_M / 2
        x1, y1 = (at + (GRID - 1) * STEP_M for at in ORIGIN_M)
        extent = np.array([ORIGIN_M[0] - half, x1 + half, ORIGIN_M[1] - half, y1 + half])
        mean_frame = np.ones((FRAME_PX, FRAME_PX), np.float32)
        self.event("low_resolution", **images, extent_m=extent, illumination=mean_frame, num_frames=measured)
        return images

    def sweep(self, accepted: bool = True, **warm: Any) -> tuple[np.ndarray, np.ndarray]:
        defocus = np.linspace(-20e-6, 20e-6, 21)
        residual = 0.3 - 0.1 * np.exp(-(((defocus - 6e-6) / 5e-6) ** 2))
        self.event(
            "geometry",
            defocus_m=6e-6,
            sweep_defocus_m=defocus,
            sweep_residual=residual,
            confidence=0.33,
            accepted=accepted,
            **warm,
        )
        return defocus, residual

    def positions(self, *seq_nums: int, moved_m: tuple[float, float] = (5e-9, -2e-9)) -> np.ndarray:
        """Every frame lies `moved_m` from where the stage says."""
        places = np.array([self.position_m(k) for k in seq_nums]) + moved_m
        self.event(
            "positions",
            raw_seq_num=np.array(seq_nums),
            x_m=places[:, 0].copy(),
            y_m=places[:, 1].copy(),
            scatter_m=5e-9,
            scale_x=1.001,
            scale_y=0.999,
            rotation_rad=0.002,
            shear_rad=0.0,
        )
        return places

    def fit(self, seq_num: int, r_frame: float = 0.08) -> tuple[np.ndarray, np.ndarray]:
        model = 100 * self.rng.random((FRAME_PX, FRAME_PX), np.float32)
        data = self.rng.poisson(model).astype(np.float32)
        data[0] = np.nan
        self.event("diffraction_fit", raw_seq_num=seq_num, data=data, model=model, r_frame=r_frame)
        return data, model

    def frc(self) -> tuple[np.ndarray, np.ndarray]:
        frequency = np.linspace(0, 25e6, 26)[1:]
        correlation = np.exp(-((frequency / 12e6) ** 4))
        self.event("frc", frequency_1_m=frequency, correlation=correlation, half_bit=np.full(25, 0.3))
        return frequency, correlation

    def reconstruction(
        self, frames: int, r_factor: float, final: bool = False, coarse: bool = False, **quality: float
    ) -> dict[str, np.ndarray]:
        """The measured part starts one row and two columns into the canvas."""
        images, told = self._picture(frames, r_factor)
        self.event(
            "reconstruction",
            **images,
            **{name: value for name, value in told.items() if name != "num_passes"},
            newest_age_s=0.5,
            coarse=coarse,
            final=final,
            num_passes=quality.get("num_passes", told["num_passes"]),
            r_held_out=quality.get("r_held_out", float("nan")),
            resolution_half_bit_m=quality.get("half_bit_m", float("nan")),
            resolution_one_seventh_m=quality.get("one_seventh_m", float("nan")),
        )
        return images

    def second_engine(self, engine: str, frames: int, r_factor: float, coarse: bool = False) -> dict[str, np.ndarray]:
        images, told = self._picture(frames, r_factor)
        self.event("second_engine", engine=engine, **images, **told, coarse=coarse, final=False)
        return images

    def _picture(self, frames: int, r_factor: float) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        rows, columns = 30, 40
        object = (1 + 0.1 * self.rng.random((rows, columns))) * np.exp(0.4j * self.rng.random((rows, columns)))
        object = object.astype(np.complex64)
        object[:1], object[:, :2] = np.nan, np.nan
        probe = np.zeros((2, FRAME_PX, FRAME_PX), np.complex64)
        probe[0, 6:10, 6:10], probe[1, 4:8, 4:8] = 3, 1j
        extent = np.array([0, columns * OBJECT_PIXEL_M, 0, rows * OBJECT_PIXEL_M]) + np.repeat(ORIGIN_M, 2)
        told = {
            "pixel_size_m": OBJECT_PIXEL_M,
            "extent_m": extent,
            "r_factor": r_factor,
            "num_frames": frames,
            "num_passes": 2.5,
            "coverage": 0.8,
        }
        return {"object": object, "probe": probe}, told

    def health(
        self,
        stage: str = "pipeline",
        state: str = "ok",
        message: str = "",
        *,
        num_frames: int = 0,
        lost: tuple[int, ...] = (),
        bad: tuple[int, ...] = (),
        flagged: tuple[int, ...] = (),
    ) -> None:
        self.event(
            "health",
            stage=stage,
            state=state,
            message=message,
            rate_hz=12.5,
            queue=3,
            latency_s=0.25,
            num_frames=num_frames,
            lost=list(lost),
            bad=list(bad),
            flagged=list(flagged),
        )

    def _page(self, stream: str, seq_nums: tuple[int, ...], **columns: np.ndarray) -> None:
        x, y = np.array([self.position_m(k) for k in seq_nums]).T
        times = [time.time()] * len(seq_nums)
        self.feed(self.run.page(stream, seq_nums, times, **columns, x_m=x, y_m=y))
