"""Accuracy of cleaning against the photons that really fell, and what each step of it buys."""

from __future__ import annotations

import dataclasses

import numpy as np

from benchmarks.cleaning_truth import (
    Accuracy,
    Trial,
    accuracy,
    against_light,
    center_error_px,
    detector,
    flagged,
    found_bad,
    off_center_rms,
    suppression_dB,
    trial,
    usual_settings,
    worst_of,
)
from benchmarks.figures import Figure
from nsbluesky.cleaning.photons import ADU_PER_EV
from nsbluesky.settings import CleaningSettings
from nsbluesky.simulation.frame_faults import FrameFaults
from nsbluesky.simulation.light import Light

SEEDS = (1, 2, 3)
ADU_PER_PHOTON = 30.0
FLUXES = (0.002, 0.02, 0.2, 2.0)
LINEARITY_FRAMES = 60
COLUMNS = "rms; false, lost; dim pixels"
DIM_FLUX = 0.01  # about a hundred thousand photons a frame: noise and thresholds count

STEPS_OFF: dict[str, dict[str, object]] = {
    "all steps": {},
    "without dark": {"subtract_dark": False},
    "without overscan": {"overscan": "none"},
    "overscan by running median": {"overscan": "median"},
    "overscan by running minimum": {"overscan": "minimum"},
    "without bad pixels and ADCs": {"bad_std_adu": 1e6},
    "without spike removal": {"spikes": "none"},
    "spikes by Fourier filter": {"spikes": "fourier"},
    "without threshold": {"photons": "none"},
    "photon counting": {"photons": "counting"},
    "downsampled by Fourier transform": {"downsample": "fourier"},
}


def measure() -> list[Figure]:
    """Simulate, clean and compare; worst of three seeds where nothing else is said."""
    figures = []
    for preset in ("none", "light"):
        trials = [trial(detector(preset), seed, energy_eV=ADU_PER_PHOTON / ADU_PER_EV) for seed in SEEDS]
        results = worst_of([accuracy(t, usual_settings(t)) for t in trials])
        figures += _figures(f"faults {preset}", results)
        if preset == "light":
            figures.append(_bad_pixels(trials))
            least = min(suppression_dB(t, usual_settings(t)) for t in trials)
            figures.append(Figure("interference suppressed", f"{least:.0f} dB", "least of three; wanted ≥ 20"))
            off_px = max(center_error_px(t, usual_settings(t)) for t in trials)
            figures.append(Figure("centre found", f"{off_px:.2f} px beside the zero order", "largest of three"))
    figures.append(_linearity())
    figures.append(_flags())
    figures += _steps_off()
    figures += _harder()
    return figures


def _figures(what: str, result: Accuracy) -> list[Figure]:
    return [
        Figure(f"{what}: clean frames, rms", f"{100 * result.rms:.4f} %", "wanted ≤ 0.1 %"),
        Figure(f"{what}: false photons", f"{result.false:.1e}", "of all; wanted ≤ 2e-4"),
        Figure(f"{what}: lost photons", f"{result.lost:.1e}", "of all; wanted ≤ 2e-4"),
        Figure(
            f"{what}: where < 0.01 photon is expected",
            f"{result.dim:+.1e} photons",
            "mean of three, noise of it 4e-5; wanted within 1e-4",
        ),
    ]


def _bad_pixels(trials: list[Trial]) -> Figure:
    found, false = np.array([found_bad(t, usual_settings(t)) for t in trials]).T
    value = f"{100 * found.min():.2f} % found, {100 * false.max():.3f} % false"
    return Figure("bad pixels and ADCs", value, "wanted ≥ 99 % and ≤ 0.1 %")


def _linearity() -> Figure:
    totals = []
    for flux in FLUXES:
        one = trial(
            detector("light"), 5, flux=flux, num_frames=LINEARITY_FRAMES, energy_eV=ADU_PER_PHOTON / ADU_PER_EV
        )
        totals.append(accuracy(one, usual_settings(one), detector_pixels=False).total)
    value = ", ".join(f"{100 * total:+.4f} %" for total in totals)
    note = f"at {', '.join(f'{flux:g}' for flux in FLUXES)} times the flux; wanted within 0.1 %"
    return Figure("total photons against truth", value, note)


def _flags() -> Figure:
    faults = FrameFaults(lost_packets=0.3, packet_run=4, corrupted=0.05)
    model = dataclasses.replace(detector("light"), frame_faults=faults)
    one = trial(model, 6, num_frames=120, energy_eV=ADU_PER_PHOTON / ADU_PER_EV)
    hurt, told, without_cause = flagged(one, usual_settings(one))
    return Figure("frames with lost packets or random words", f"{told} of {hurt} flagged", f"{without_cause} false")


def _steps_off() -> list[Figure]:
    one = trial(detector("light"), 4, flux=DIM_FLUX, energy_eV=ADU_PER_PHOTON / ADU_PER_EV)
    figures = _with_each(one, STEPS_OFF)
    off_center = off_center_rms(one, usual_settings(one))
    figures.append(Figure("dim frames, centred on the sensor's middle", f"{100 * off_center:.2f} %", "rms"))
    stop = Light(beamstop_radius_m=1.83e-3, beamstop_transmission=0.05)
    one = trial(dataclasses.replace(detector("light"), light=stop), 4, energy_eV=ADU_PER_PHOTON / ADU_PER_EV)
    settings = usual_settings(one)
    for name, changes in {"beamstop": {}, "beamstop, not divided": {"beamstop_radius_m": 0.0}}.items():
        rms = against_light(one, settings.replace(**changes))
        figures.append(
            Figure(f"{name}: rms against the light before it", f"{100 * rms:.2f} %", "photon noise included")
        )
    return figures


def _with_each(one: Trial, variants: dict[str, dict[str, object]]) -> list[Figure]:
    settings = usual_settings(one)
    return [
        Figure(f"dim frames, {name}", _in_short(accuracy(one, settings.replace(**changes))), COLUMNS)
        for name, changes in variants.items()
    ]


def _harder() -> list[Figure]:
    figures = []
    for noise_adu, adu in ((5.0, 30.0), (8.0, 30.0), (3.0, 10.0)):
        one = trial(detector("light", noise_adu=noise_adu), 7, flux=DIM_FLUX, energy_eV=adu / ADU_PER_EV)
        base = usual_settings(one)
        for name, settings in _thresholds(base).items():
            result = accuracy(one, settings)
            what = f"{noise_adu:g} ADU of noise, {adu:g} ADU a photon, {name}"
            figures.append(Figure(what, _in_short(result), COLUMNS))
    return figures


def _thresholds(base: CleaningSettings) -> dict[str, CleaningSettings]:
    named = {f"threshold {t:g}": base.replace(photon_threshold=t) for t in (0.5, 0.7, 1.0)}
    return named | {"counting": base.replace(photons="counting"), "no threshold": base.replace(photons="none")}


def _in_short(result: Accuracy) -> str:
    return f"{100 * result.rms:.2f} %; {result.false:.1e}, {result.lost:.1e}; {result.dim:+.1e}"
