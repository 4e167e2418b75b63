import pytest

from nsbluesky.settings import SettingsError
from nsbluesky.simulation.presets import PRESETS, get_preset


def test_a_preset_has_a_name():
    assert set(PRESETS) == {"none", "sensor", "light", "heavy"}
    assert get_preset("light") is PRESETS["light"]
    with pytest.raises(SettingsError, match="detector = 'foul': expected one of none"):
        get_preset("foul")


def test_none_has_electronics_but_no_faults():
    model = get_preset("none")
    assert model.electronics.read_noise == 3 and model.electronics.drift > 0 and model.electronics.decay > 0
    assert not model.electronics.interference.cycles_per_clock
    faults = model.detector_faults
    assert (faults.bad_adcs, faults.hot_pixels, faults.stuck_pixels) == (0, 0, 0)
    assert model.frame_faults.lost_packets == 0


def test_light_is_the_condition_of_the_accuracy_targets():
    model = get_preset("light")
    assert model.electronics.read_noise == 3
    assert model.electronics.interference.amplitude_adu == (1, 6)
    assert len(model.electronics.interference.cycles_per_clock) == 2
    assert model.detector_faults.bad_adcs == 3
    assert model.detector_faults.hot_pixels > 0
    assert model.charge.cloud_px == 0


def test_heavy_has_every_fault():
    model = get_preset("heavy")
    faults = model.frame_faults
    chances = (
        faults.lost_packets,
        faults.corrupted,
        faults.lost_frames,
        faults.doubled_frames,
        faults.late_frames,
        faults.renumbered_frames,
    )
    assert min(chances) > 0
    electronics = model.electronics
    assert electronics.junk_rows and electronics.blank_rows and electronics.shadow_adu
    assert model.charge.cloud_px and model.charge.full_well_photons and model.light.jumps
