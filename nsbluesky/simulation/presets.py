"""All of a simulated detector's settings together, and the named sets of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from nsbluesky.settings import SettingsError
from nsbluesky.simulation.charge import Charge
from nsbluesky.simulation.faults import DetectorFaults
from nsbluesky.simulation.fccd_electronics import Electronics
from nsbluesky.simulation.frame_faults import FrameFaults
from nsbluesky.simulation.interference import Interference
from nsbluesky.simulation.light import Light

__all__ = ["PRESETS", "DetectorModel", "get_preset"]

NO_DETECTOR_FAULTS = DetectorFaults(bad_adcs=0, hot_pixels=0, stuck_pixels=0)


@dataclass(frozen=True)
class DetectorModel:
    """What stands between photons and files.

    Attributes
    ----------
    light : Light
    charge : Charge
    electronics : Electronics
    detector_faults : DetectorFaults
        Bad ADCs and pixels; the same in every frame.
    frame_faults : FrameFaults
        Lost packets and frames.
    """

    light: Light = field(default_factory=Light)
    charge: Charge = field(default_factory=Charge)
    electronics: Electronics = field(default_factory=Electronics)
    detector_faults: DetectorFaults = field(default_factory=DetectorFaults)
    frame_faults: FrameFaults = field(default_factory=FrameFaults)


PRESETS: dict[str, DetectorModel] = {
    # pedestals, readout baseline, drift and read noise only
    "none": DetectorModel(detector_faults=NO_DETECTOR_FAULTS),
    # and bad ADCs and pixels: the default
    "sensor": DetectorModel(),
    # and interference: a detector on a good day
    "light": DetectorModel(
        electronics=Electronics(interference=Interference((0.0527, 0.1713), (1.0, 6.0))),
        detector_faults=DetectorFaults(bad_adcs=3, bad_adc_noise=(20.0, 60.0)),
    ),
    # and on a bad one: everything at once
    "heavy": DetectorModel(
        light=Light(flux_sigma=0.05, jumps=0.01),
        charge=Charge(cloud_px=0.3, full_well_photons=950.0),
        electronics=Electronics(
            drift=8.0,
            read_noise=4.5,
            dark_current_hz=50.0,
            largest_word=0x87FF,
            junk_rows=1,
            blank_rows=8,
            shadow_adu=3.0,
            interference=Interference((0.0527, 0.1713, 0.3391), (1.0, 10.0)),
        ),
        detector_faults=DetectorFaults(bad_adcs=7, bad_adc_noise=(13.0, 60.0), hot_pixels=600, stuck_pixels=200),
        frame_faults=FrameFaults(
            lost_packets=0.2,
            packet_run=40,
            corrupted=0.005,
            lost_frames=0.02,
            doubled_frames=0.01,
            late_frames=0.01,
            renumbered_frames=0.01,
        ),
    ),
}


def get_preset(name: str) -> DetectorModel:
    """Return the settings of that name.

    Raises
    ------
    SettingsError
        For an unknown name.
    """
    if name not in PRESETS:
        raise SettingsError(f"detector = {name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
