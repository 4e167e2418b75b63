"""Some frames of a CXI file by reference, for a process that reads them itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.cxi.read import FrameStack, read_cxi

__all__ = ["StoredFrames"]


@dataclass(frozen=True)
class StoredFrames:
    """Frames of a file; a small thing that can be sent.

    Attributes
    ----------
    path : Path
    which : tuple of int
        As `CxiData.frames` is indexed.
    """

    path: Path
    which: tuple[int, ...]

    @classmethod
    def of(cls, frames: FrameStack, which: npt.NDArray[np.intp]) -> StoredFrames:
        """Refer to some frames of an open file."""
        return cls(frames.path.resolve(), tuple(which.tolist()))

    def read(self) -> npt.NDArray[Any]:
        """Return the frames (n, N, N).

        Raises
        ------
        CxiError
            If they are not there any more.
        """
        with read_cxi(self.path) as data:
            return data.clean_frames[np.array(self.which, np.intp)]
