"""ShownFile: an open CXI file as a window shows it, as a whole and frame by frame."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.live_parts import Fit, Frame, LowResolution
from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.cxi import CxiError, read_cxi
from nsbluesky.viewer.file_state import (
    MAX_MEAN_FRAMES,
    RawFrames,
    dark_statistics,
    exposures_of,
    fit_of_frame,
    frames_of,
    mean_frame,
    state_of,
)

__all__ = ["ShownFile", "ShownFrame"]


@dataclass(frozen=True, eq=False)
class ShownFrame:
    """A frame in all the stages that are known of it.

    Attributes
    ----------
    state : LiveState
        What is shown of the file, with this frame as `clean`, the raw one that it was made of, and its fit.
    why_no_raw, why_no_fit : str
        For people, where there is none; "" where there is one, or nobody asked for it.
    """

    state: LiveState
    why_no_raw: str = ""
    why_no_fit: str = ""


class ShownFile:
    """What a window shows of a file, read once: while the file grows, all of it is of one moment.

    Parameters
    ----------
    path : path
    raw : RawFrames, optional
        The raw frames that the clean ones of the file were made of.

    Attributes
    ----------
    data : CxiData
        The open file.
    frames : FrameStack
        Clean frames, or raw ones where there are no others.
    images : list of CxiImage
        The pictures, oldest first.
    second_image : CxiImage or None
        The picture by a second engine.
    mean : (rows, columns) float32
    mean_title : str
        What frames it is the mean of.
    state : LiveState
        All but the frame.

    Raises
    ------
    CxiError
        If the file cannot be read; the message is for people.
    """

    def __init__(self, path: str | Path, raw: RawFrames | None = None) -> None:
        self.data = read_cxi(path)
        self._raw = raw
        try:
            self.frames = frames_of(self.data)
            self.images, self.second_image = self.data.images, self.data.second_image
            self.state = state_of(self.data, self.images)
            self.mean, self.mean_title = mean_frame(self.data, self.frames)
            self._exposures = exposures_of(self.data)
            if raw is not None and self.state.dark is None:
                with contextlib.suppress(OSError, ValueError):  # where they are gone; each frame tells why
                    found = dark_statistics(raw.darks(MAX_MEAN_FRAMES))
                    self.state = replace(self.state, darks={} if found is None else {0: found})
        except BaseException:
            self.data.close()
            raise

    @property
    def is_clean(self) -> bool:
        """Whether it has clean frames, and not only raw ones."""
        return self.data.frames is not None

    @property
    def corrected_m(self) -> npt.NDArray[np.float64] | None:
        """Where the newest picture has the frames, (n, 2 or more) x and y; None where it corrected nothing."""
        return self.images[-1].translation_m if self.images else None

    def frame(self, index: int, *, with_fit: bool) -> ShownFrame:
        """Return one frame, counted from 0; its fit, which takes a moment, where it is asked for.

        Raises
        ------
        CxiError
            If it cannot be read.
        """
        image = self.frames[index]
        frame = Frame(image, int(self.data.seq_nums[index]), int(self._exposures[index]))
        raw, why_no_raw = (frame, "") if self._raw is None else self._raw_frame(self._raw, frame.seq_num)
        fit, why_no_fit = self._fit(index, image) if with_fit else (None, "")
        if self.state.reconstruction is None:
            why_no_fit = "no reconstruction in this file"
        own_last = sorted(self.state.darks.items(), key=lambda item: item[0] == frame.exposure)
        state = replace(self.state, darks=dict(own_last), raw=raw, clean=frame, fit=fit)
        return ShownFrame(state, why_no_raw, why_no_fit)

    @staticmethod
    def _raw_frame(raw: RawFrames, seq_num: int) -> tuple[Frame | None, str]:
        """Return the raw frame of a point, or None and why."""
        try:
            recorded = raw.frame(seq_num)
        except (OSError, ValueError) as error:  # as where raw files are removed, and the clean one is kept
            return None, str(error)
        if recorded is None:
            return None, f"frame {seq_num} was not recorded"
        return Frame(recorded, seq_num), ""

    def _fit(self, index: int, image: npt.NDArray[np.generic]) -> tuple[Fit | None, str]:
        """Return a clean frame beside what the newest picture expects it to be, or None and why."""
        picture = self.state.reconstruction
        if picture is None or not self.is_clean:
            return None, ""
        try:
            fit = fit_of_frame(self.data, picture, index, image.astype(np.float32), self.corrected_m)
        except CxiError as error:  # as where pixels are not square
            return None, str(error)
        return fit, "" if fit is not None else "the probe is not of the frames' size"

    def with_low_resolution(self, images: LowResolution) -> LiveState:
        """Return the state with the low-resolution images of all frames in use, and where those lie."""
        used = self.data.frame_weights > 0
        return replace(
            self.state,
            low_resolution=images,
            positions_m=self.data.translation_m[used, :2],
            seq_nums=self.data.seq_nums[used],
        )

    def where(self, index: int) -> str:
        """Return a line that tells which frame that is, and where it was taken."""
        x, y = self.data.translation_m[index, :2] * 1e6
        return f"frame {index + 1} of {len(self.frames)} at x {x:.3f} µm, y {y:.3f} µm"

    def about(self) -> str:
        """Return a line about the experiment and the kind of the file."""
        data = self.data
        rows, columns = data.mask.shape
        height_um, width_um = (f"{1e6 * side_m:.4g}" for side_m in data.pixel_size_m)
        pixel = f"{width_um} µm" if width_um == height_um else f"{width_um} × {height_um} µm"
        return "   ·   ".join(
            [
                f"{data.energy_eV:.5g} eV",
                f"detector at {data.detector_distance_m * 1e3:.4g} mm",
                f"{columns} × {rows} pixels of {pixel}",
                f"{int((~data.good).sum())} masked",
                self._kind(),
            ]
        )

    def _kind(self) -> str:
        if not self.is_clean:
            return "raw file"
        stage = self.data.parameters.get("stage")
        return "clean file" if stage is None else f"stage {stage} of the cleaning"

    def close(self) -> None:
        """Close the file; frames cannot be read any more."""
        self.data.close()
