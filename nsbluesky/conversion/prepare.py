"""What the cleaning of a whole scan starts from: dark statistics, the centre, and what follows for each exposure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import get_backend
from nsbluesky.callbacks.remote_cleaning import Recipe
from nsbluesky.cleaning.darks import DarkAccumulator, DarkStatistics
from nsbluesky.cleaning.layout import FCCDLayout, get_layout
from nsbluesky.cleaning.plan import center_and_mean
from nsbluesky.conversion.frames import ConversionError, StoredFrames
from nsbluesky.conversion.recipe import ScanRecipe
from nsbluesky.conversion.scan import RawScan
from nsbluesky.settings import PipelineSettings

__all__ = ["Preparation", "prepare"]

DARKS_WANTED = (
    "no dark frames: expected some, as pedestals and bad pixels are known from them; take darks, or have the "
    "overscan alone stand in with --set cleaning.subtract_dark=false"
)
NO_DARKS = "no dark frames: the overscan alone gives the pedestal, and bad pixels stay in (take darks)"


@dataclass(frozen=True, eq=False)
class Preparation:
    """What is known before the first block.

    Attributes
    ----------
    recipe : ScanRecipe
    mask : (frame_px, frame_px) uint32
        CXI codes; what no exposure measures, oriented as the clean frames are.
    num_darks : int
    bad_adcs : tuple of int
        Of any exposure.
    warnings : tuple of str
    """

    recipe: ScanRecipe
    mask: npt.NDArray[np.uint32]
    num_darks: int
    bad_adcs: tuple[int, ...]
    warnings: tuple[str, ...]


def prepare(scan: RawScan, settings: PipelineSettings, stages: tuple[str, ...]) -> Preparation:
    """Average the darks, and find the centre on the first frames.

    Raises
    ------
    ConversionError
        For a Fast CCD's frames without darks, unless the settings do not subtract them.
    ValueError
        Where the darks or the first frames cannot be what they are said to be.
    """
    longest_first = sorted(range(len(scan.exposures_s)), key=lambda k: -scan.exposures_s[k])
    cleaning = settings.cleaning
    recipes: dict[int, Recipe] = {}
    energy_eV, pixel_size_m = scan.geometry.energy_eV, scan.geometry.pixel_size_m
    darks: list[DarkStatistics] = []
    warnings: list[str] = []
    for exposure in longest_first:
        stored = scan.frames[exposure]
        recorded = np.flatnonzero(stored.recorded)[: cleaning.center_frames]
        if not len(recorded):
            raise ConversionError(f"exposure {exposure + 1} of {len(longest_first)} has no frames: expected some")
        first = stored[recorded].read()
        layout = get_layout(cleaning, first.shape[1:])
        dark = _average(scan.darks[exposure], layout, settings)
        which = f"exposure {exposure + 1}: " if len(longest_first) > 1 else ""
        if dark is None and cleaning.subtract_dark and layout.adcs_per_half > 1:
            raise ConversionError(which + DARKS_WANTED)
        if dark is None and (cleaning.subtract_dark or layout.adcs_per_half > 1):
            warnings.append(which + NO_DARKS)
        if dark is not None:
            darks.append(dark)
            if dark.num_left_out:
                warnings.append(
                    f"{which}{dark.num_left_out} dark frames are nothing like the others: left out of the average"
                )
        center, mean = center_and_mean(first, cleaning, layout, dark, energy_eV=energy_eV)
        cleaning = cleaning.replace(center_px=center)  # the same for all
        recipes[exposure] = Recipe(cleaning, first.shape[1:], dark, mean, energy_eV, pixel_size_m)
    exposures = tuple(recipes[k] for k in sorted(recipes))
    recipe = ScanRecipe(exposures, scan.exposures_s, scan.geometry, settings.backend, stages)
    to_numpy = get_backend(settings.backend, threads=1).to_numpy
    mask = np.bitwise_or.reduce([to_numpy(plan.mask) for plan in recipe.plans])
    return Preparation(
        recipe=recipe,
        mask=np.ascontiguousarray(scan.geometry.orient(mask)),
        num_darks=sum(dark.num_frames for dark in darks),
        bad_adcs=tuple(sorted({int(adc) for dark in darks for adc in dark.bad_adcs})),
        warnings=tuple(warnings),
    )


def _average(darks: StoredFrames, layout: FCCDLayout, settings: PipelineSettings) -> DarkStatistics | None:
    if not len(darks):
        return None
    accumulator = DarkAccumulator(layout, settings.cleaning.gain_words)
    for start in range(0, len(darks), settings.block_frames):
        accumulator.add(darks[start : start + settings.block_frames].read())
    return accumulator.result(settings.cleaning)
