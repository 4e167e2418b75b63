import numpy as np
import pytest

from nsbluesky.cleaning.layout import LAYOUTS
from nsbluesky.simulation.interference import Interference, interference_columns, interference_rows


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("layout", ["cosmic", "csx"])
def test_waves_are_sinusoids_in_the_clock(layout, half):
    layout = LAYOUTS[layout]
    lines, phases = Interference((0.0527, 0.1713)), np.array([0.4, 5.0])
    amplitudes = np.random.default_rng(0).uniform(1, 6, (96, 2)).astype(np.float32)
    rows = interference_rows(lines, layout, half, phases)
    columns = interference_columns(lines, layout, half, amplitudes)
    waves = (rows @ columns).real.reshape(-1, 96, layout.columns_per_adc)
    clocks = layout.clocks(half)[:, None]
    expected = sum(
        amplitude[:, None] * np.cos(2 * np.pi * frequency * clocks + phase)
        for amplitude, frequency, phase in zip(amplitudes.T, lines.cycles_per_clock, phases, strict=True)
    )
    np.testing.assert_allclose(waves, expected, atol=1e-9)


def test_no_lines_are_no_waves():
    layout = LAYOUTS["cosmic"]
    assert interference_rows(Interference(), layout, 0, np.zeros(0)).shape == (520, 0)
    assert interference_columns(Interference(), layout, 0, np.zeros((96, 0), np.float32)).shape == (0, 1152)


@pytest.mark.parametrize("frequency", [0.0, 0.5, -0.1])
def test_an_impossible_frequency_is_refused(frequency):
    with pytest.raises(ValueError, match="cycles_per_clock has"):
        Interference((0.1, frequency))
