"""What cleaning makes of simulated frames, against the photons that really fell."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.clean import clean, trace
from nsbluesky.cleaning.darks import DarkAccumulator, DarkStatistics
from nsbluesky.cleaning.plan import CleaningPlan, plan_for
from nsbluesky.cleaning.resample import rebin, resample
from nsbluesky.settings import CleaningSettings
from nsbluesky.simulation.fccd_detector import SimulatedExposure
from nsbluesky.simulation.fccd_frames import NOMINAL_EXPOSURE_S, FrameSimulator
from nsbluesky.simulation.presets import DetectorModel, get_preset
from nsbluesky.simulation.samples import gold_balls

NUM_DARKS = 25
NUM_FRAMES = 12
DIM_PHOTONS = 0.01  # of a pixel, expected
FIRST_FRAME = 1000


@dataclass(frozen=True)
class Accuracy:
    """How clean frames differ from the truth.

    Attributes
    ----------
    rms : float
        Of the difference of clean frames, relative to the rms of the truth.
    false, lost : float
        Photons where too many and too few were found after rounding to whole ones, of each detector pixel, relative
        to all photons.
    dim : float
        Mean excess in detector pixels where less than `DIM_PHOTONS` is expected, in photons.
    total : float
        Relative error of all photons.
    """

    rms: float
    false: float
    lost: float
    dim: float
    total: float


@dataclass(frozen=True, eq=False)
class Trial:
    """Darks and exposures of one detector.

    Attributes
    ----------
    simulator : FrameSimulator
    exposures : list of SimulatedExposure
    expected : (n, rows, columns) float32
        Mean photons of each.
    darks : DarkAccumulator
    """

    simulator: FrameSimulator
    exposures: list[SimulatedExposure]
    expected: npt.NDArray[np.float32]
    darks: DarkAccumulator

    @property
    def words(self) -> npt.NDArray[np.uint16]:
        """Raw frames (n, rows, columns)."""
        return np.stack([exposure.words for exposure in self.exposures])

    def dark(self, settings: CleaningSettings) -> DarkStatistics:
        """Return what the darks tell."""
        return self.darks.result(settings)


def detector(name: str, *, noise_adu: float = 3.0) -> DetectorModel:
    """Return a preset with another read noise; noise of frames as such is left to other benchmarks."""
    model = get_preset(name)
    return dataclasses.replace(model, electronics=dataclasses.replace(model.electronics, read_noise=noise_adu))


def trial(
    model: DetectorModel,
    seed: int,
    *,
    flux: float = 1.0,
    num_frames: int = NUM_FRAMES,
    energy_eV: float | None = None,
) -> Trial:
    """Take darks and frames at random places of the sample."""
    sample = gold_balls()
    if energy_eV is not None:  # and the detector so far away that pixels see the same angles
        distance_m = sample.detector_distance_m * energy_eV / sample.energy_eV
        sample = dataclasses.replace(sample, energy_eV=energy_eV, detector_distance_m=distance_m)
    simulator = FrameSimulator(sample, seed=seed, detector=model)
    assert simulator.layout is not None
    darks = DarkAccumulator(simulator.layout, model.electronics.gain.words)
    for k in range(NUM_DARKS):
        darks.add(simulator.raw_frame(0, 0, shutter_open=False, index=k)[None])
    places = np.random.default_rng(seed).uniform(-5e-7, 5e-7, (num_frames, 2))
    exposure_s = flux * NOMINAL_EXPOSURE_S
    exposures = [
        simulator.exposure(x, y, shutter_open=True, exposure_s=exposure_s, index=FIRST_FRAME + k)
        for k, (x, y) in enumerate(places.tolist())
    ]
    expected = np.stack([simulator.expected_photons(x, y) for x, y in places.tolist()]) * np.float32(flux)
    return Trial(simulator, exposures, expected, darks)


def usual_settings(trial: Trial) -> CleaningSettings:
    """Return the settings that bring frames to the sample's own pixels."""
    return trial.simulator.cleaning_settings


def accuracy(trial: Trial, settings: CleaningSettings, detector_pixels: bool = True) -> Accuracy:
    """Clean a trial and compare."""
    dark = trial.dark(settings)
    energy_eV = trial.simulator.geometry.energy_eV
    assert trial.simulator.layout is not None
    settings = settings.replace(center_px=trial.simulator.center_px)
    words = trial.words
    plan = plan_for(words, settings, trial.simulator.layout, dark, energy_eV=energy_eV)
    frames = clean(words, plan).frames
    truth = np.stack([true_frame(e.photons, plan) for e in trial.exposures])
    good = plan.mask == 0
    error = (frames - truth)[:, good].astype(np.float64)
    rms = float(np.sqrt((error**2).mean() / (truth[:, good].astype(np.float64) ** 2).mean()))
    total = float(error.sum() / truth[:, good].sum(dtype=np.float64))
    if not detector_pixels:
        return Accuracy(rms, np.nan, np.nan, np.nan, total)
    fine = settings.replace(frame_px=settings.crop_px, downsample="rebin")
    plan = plan_for(words, fine, trial.simulator.layout, dark, energy_eV=energy_eV)
    good = plan.mask == 0
    frames = clean(words, plan).frames
    false = lost = photons = 0.0
    dim: list[tuple[float, int]] = []
    for frame, exposure, expected in zip(frames, trial.exposures, trial.expected, strict=True):
        fell = on_window(exposure.photons, plan)
        excess = np.rint(np.maximum(frame, 0)) - fell
        false += float(np.maximum(excess, 0)[good].sum(dtype=np.float64))
        lost += float(np.maximum(-excess, 0)[good].sum(dtype=np.float64))
        photons += float(fell[good].sum(dtype=np.float64))
        few = good & (on_window(expected, plan) < DIM_PHOTONS)
        dim.append((float((frame - fell)[few].sum(dtype=np.float64)), int(few.sum())))
    sums, counts = np.array(dim).T
    return Accuracy(rms, false / photons, lost / photons, float(sums.sum() / max(counts.sum(), 1)), total)


def center_error_px(trial: Trial, settings: CleaningSettings) -> float:
    """Return how far from the zero order the centre lies that the frames tell, in detector pixels."""
    assert trial.simulator.layout is not None
    energy_eV = trial.simulator.geometry.energy_eV
    plan = plan_for(
        trial.words,
        settings.replace(center_px=None),
        trial.simulator.layout,
        trial.dark(settings),
        energy_eV=energy_eV,
    )
    return float(np.hypot(*np.subtract(plan.center, trial.simulator.center_px)))


def off_center_rms(trial: Trial, settings: CleaningSettings) -> float:
    """Return the rms of frames cleaned about the sensor's middle against the truth about the zero order, relative."""
    layout = trial.simulator.layout
    assert layout is not None
    middle = tuple((side - 1) / 2 for side in layout.image_shape)
    dark, energy_eV = trial.dark(settings), trial.simulator.geometry.energy_eV
    right, wrong = (
        plan_for(trial.words, settings.replace(center_px=center), layout, dark, energy_eV=energy_eV)
        for center in (trial.simulator.center_px, middle)
    )
    good = (right.mask == 0) & (wrong.mask == 0)
    truth = np.stack([true_frame(exposure.photons, right) for exposure in trial.exposures])[:, good].astype(
        np.float64
    )
    error = clean(trial.words, wrong).frames[:, good] - truth
    return float(np.sqrt((error**2).mean() / (truth**2).mean()))


def against_light(trial: Trial, settings: CleaningSettings) -> float:
    """Return the rms of mean clean frames against the light that is expected before any beamstop, relative."""
    assert trial.simulator.layout is not None
    settings = settings.replace(center_px=trial.simulator.center_px)
    energy_eV = trial.simulator.geometry.energy_eV
    plan = plan_for(trial.words, settings, trial.simulator.layout, trial.dark(settings), energy_eV=energy_eV)
    frames = clean(trial.words, plan).frames.mean(axis=0)
    light = np.mean([true_frame(expected, plan) for expected in trial.expected], axis=0)
    good = plan.mask == 0
    return float(np.sqrt(((frames - light)[good] ** 2).mean() / (light[good] ** 2).mean()))


def on_window(image: npt.NDArray[np.generic], plan: CleaningPlan) -> npt.NDArray[np.float32]:
    """Return the part of an image under the plan's window, (crop_px, crop_px) float32."""
    window = np.zeros((plan.crop_px, plan.crop_px), np.float32)
    row, column = plan.start
    top, left = max(-row, 0), max(-column, 0)
    part = image[max(row, 0) : row + plan.crop_px, max(column, 0) : column + plan.crop_px]
    window[top : top + part.shape[0], left : left + part.shape[1]] = part
    return window


def true_frame(photons: npt.NDArray[np.generic], plan: CleaningPlan) -> npt.NDArray[np.float32]:
    """Return what a perfect detector with the same bad pixels would have given."""
    window = on_window(photons, plan)
    good = np.zeros_like(window)
    good[:, plan.target] = plan.good[:, plan.source]
    bins = rebin((window * good)[None], plan.num_bins) * (plan.scale * plan.adu_per_photon)
    if plan.resampling is not None and plan.filling is not None:
        plan.filling.fill(bins)
        bins = resample(bins, plan.resampling) * (plan.mask == 0)
    return np.asarray(bins[0], np.float32)


def suppression_dB(trial: Trial, settings: CleaningSettings) -> float:
    """Return how much weaker the interference is after its removal, in frames with light, in decibels.

    The amplitude at the true frequencies, over the background pixels of each ADC, before and after.
    """
    assert trial.simulator.layout is not None
    dark = trial.dark(settings)
    energy_eV = trial.simulator.geometry.energy_eV
    settings = settings.replace(center_px=trial.simulator.center_px, photons="none")
    plan = plan_for(trial.words, settings, trial.simulator.layout, dark, energy_eV=energy_eV)
    frequencies = trial.simulator.truth()["interference_cycles_per_clock"]
    powers = np.zeros(2)
    for exposure in trial.exposures:
        stages = trace(exposure.words, plan)
        fell = on_window(exposure.photons, plan)
        for half in plan.background:
            number = next(k for k, (a, b) in enumerate(plan.layout.halves) if a <= half.raw_rows.start < b)
            start = plan.layout.halves[number][0]
            clocks = plan.layout.clocks(number)[:, plan.layout.for_half(number).data_columns]
            clocks = clocks[half.raw_rows.start - start : half.raw_rows.stop - start]
            per_adc = clocks.shape[1]
            first = -plan.source.start % per_adc
            for left in range(first, plan.crop_px - per_adc + 1, per_adc):
                part = half.image_rows, slice(left, left + per_adc)
                empty = (fell[part] == 0) & (stages["bad_pixels"][part] != 0)
                if empty.mean() < 0.5:
                    continue
                wave = np.exp(-2j * np.pi * clocks[..., None] * frequencies)[empty]
                for k, name in enumerate(("bad_pixels", "spikes")):
                    powers[k] += (np.abs(stages[name][part][empty] @ wave / empty.sum()) ** 2).sum()
    return float(10 * np.log10(powers[0] / powers[1]))


def found_bad(trial: Trial, settings: CleaningSettings) -> tuple[float, float]:
    """Return which share of the truly bad image pixels was found, and which share of the good ones was called bad."""
    found = trial.dark(settings).bad
    truth = trial.simulator.truth()["bad"]
    return float(found[truth].mean()), float(found[~truth].mean())


def flagged(trial: Trial, settings: CleaningSettings) -> tuple[int, int, int]:
    """Return the frames with lost packets or random words, how many of them were flagged, and flags without cause."""
    assert trial.simulator.layout is not None
    plan = plan_for(
        trial.words[:NUM_FRAMES],
        settings.replace(center_px=trial.simulator.center_px),
        trial.simulator.layout,
        trial.dark(settings),
        energy_eV=trial.simulator.geometry.energy_eV,
    )
    flags = clean(trial.words, plan).flags
    hurt = np.array([bool(len(e.lost_packets)) or e.corrupted for e in trial.exposures])
    return int(hurt.sum()), int((flags[hurt] != 0).sum()), int((flags[~hurt] != 0).sum())


def worst_of(accuracies: Sequence[Accuracy]) -> Accuracy:
    """Return the worst of several trials, quantity by quantity; of dim pixels the mean, as noise decides each."""
    table = np.array([dataclasses.astuple(a) for a in accuracies])
    worst = Accuracy(*(float(column[np.abs(column).argmax()]) for column in table.T))
    return dataclasses.replace(worst, dim=float(np.mean([a.dim for a in accuracies])))
