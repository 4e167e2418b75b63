import numpy as np
import pytest

from nsbluesky.cleaning.layout import LAYOUTS
from nsbluesky.simulation.interference import Interference, interference_waves


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("layout", ["cosmic", "csx"])
def test_waves_are_sinusoids_in_the_clock(layout, half):
    layout = LAYOUTS[layout]
    lines, phases = Interference((0.0527, 0.1713)), np.array([0.4, 5.0])
    waves = interference_waves(lines, layout, half, phases)
    clocks = layout.clocks(half)
    for wave, frequency, phase in zip(waves, lines.cycles_per_clock, phases, strict=True):
        np.testing.assert_allclose(wave, np.cos(2 * np.pi * frequency * clocks + phase), atol=1e-5)


def test_no_lines_are_no_waves():
    assert interference_waves(Interference(), LAYOUTS["cosmic"], 0, np.zeros(0)).shape == (0, 520, 12)


@pytest.mark.parametrize("frequency", [0.0, 0.5, -0.1])
def test_an_impossible_frequency_is_refused(frequency):
    with pytest.raises(ValueError, match="cycles_per_clock has"):
        Interference((0.1, frequency))
