"""The raw scan that a Bluesky run recorded, from its documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from nsbluesky.callbacks.frame_index import FrameIndex, FrameReference, Point
from nsbluesky.conversion.frames import MISSING, ConversionError, StoredFrames
from nsbluesky.conversion.scan import ONE_EXPOSURE, RawScan, check_exposures
from nsbluesky.geometry import Geometry
from nsbluesky.replay import NO_END, Document, how_it_ended
from nsbluesky.streams import PRIMARY, dark_stream

__all__ = ["scan_of_run"]


def scan_of_run(documents: Iterable[Document]) -> RawScan:
    """Return the raw scan of a recorded run.

    Parameters
    ----------
    documents : iterable of (str, dict)
        As `nsbluesky.replay.documents_of` gives them.

    Raises
    ------
    ConversionError
        For a run without frames, or one whose frames lie in its documents and in no file.
    SettingsError
        Where its start document does not tell the geometry.
    """
    documents = iter(documents)
    _, start = next(documents, ("start", None))
    if start is None:
        raise ConversionError("the record of the run is empty: expected its documents; its session died as it began")
    geometry = Geometry.from_start(start)
    given = start["ptycho"].get("exposures_s") or ONE_EXPOSURE
    times = check_exposures(given, len(given))
    lost: dict[tuple[str, int], str] = {}  # by stream and seq_num

    def lose(stream: str, seq_nums: Iterable[int], reason: str) -> None:
        lost.update(((stream, k), reason) for k in seq_nums)

    index = FrameIndex(start, lose)
    ended = f"abort: {NO_END}"
    try:
        for name, document in documents:
            index.process(name, document)
            if name == "stop":
                ended = how_it_ended(document)
        index.complete_points_taken_again()
        index.read_positions(patient=False)
    finally:
        index.close()

    numbers, translation_m, exposures, left_out = _points(index.points[PRIMARY], len(times), lost)
    if not numbers:
        raise ConversionError(f"run {start['uid']} has no frame with a position: expected a scan")
    warnings = [f"{name} frame {k} is lost: {why}" for (name, k), why in lost.items() if name != PRIMARY]
    if not ended.startswith("success"):
        warnings.append(f"not all of a scan may be here, the run ended with {ended}")
    return RawScan(
        source=f"run {start['uid']}",
        geometry=geometry,
        exposures_s=times,
        translation_m=np.array(translation_m),
        seq_nums=np.array(numbers, np.int64),
        frames=tuple(_stored([point[k] for point in exposures]) for k in range(len(times))),
        darks=tuple(_darks(index.points[dark_stream(k)]) for k in range(len(times))),
        left_out=left_out,
        warnings=tuple(warnings),
        start_time=start["time"],
    )


def _points(
    points: Mapping[int, Point], count: int, lost: Mapping[tuple[str, int], str]
) -> tuple[list[int], list[tuple[float, float]], list[list[FrameReference | None]], dict[int, str]]:
    """Return number, translation and exposures of points with a frame and a position; and why others have none."""
    grouped: dict[int, list[Point | None]] = {}
    for seq_num in sorted(points):
        number, exposure = divmod(seq_num - 1, count)
        grouped.setdefault(number + 1, [None] * count)[exposure] = points[seq_num]
    numbers, translation_m, exposures, left_out = [], [], [], {}
    for number, taken in grouped.items():
        whole = [point if point is not None and point.complete(PRIMARY) else None for point in taken]
        first = next((point for point in whole if point is not None), None)
        if first is None or first.x_m is None or first.y_m is None:
            reason = "no position" if any(point is not None and point.frame for point in taken) else "no frame"
            left_out[number] = lost.get((PRIMARY, (number - 1) * count + 1), reason)
            continue
        numbers.append(number)
        translation_m.append((first.x_m, first.y_m))
        exposures.append([None if point is None else point.frame for point in whole])
    return numbers, translation_m, exposures, left_out


def _darks(points: Mapping[int, Point]) -> StoredFrames:
    return _stored([points[k].frame for k in sorted(points) if points[k].frame is not None])


def _stored(references: Sequence[FrameReference | None]) -> StoredFrames:
    """Return frames by reference, each file and dataset counted once; None is a frame that is missing."""
    datasets: dict[tuple[Path, str], int] = {}
    of, rows = np.zeros(len(references), np.intp), np.full(len(references), MISSING, np.intp)
    for place, reference in enumerate(references):
        if reference is None:
            continue
        if reference.source is None:
            raise ConversionError(
                "the frames of this run lie in its documents: expected references to files; use nsbluesky replay"
            )
        if reference.count > 1:
            raise ConversionError(
                f"this run has {reference.count} frames at each point: expected one; use nsbluesky replay"
            )
        key = reference.source.path, reference.source.dataset
        of[place], rows[place] = datasets.setdefault(key, len(datasets)), reference.index
    return StoredFrames(tuple(datasets), of, rows)
