import numpy as np
import pytest

from nsbluesky.simulation.light import Light, beamstop_transmission


def test_a_beamstop_covers_a_disk_around_the_zero_order():
    light = Light(beamstop_radius_m=1.83e-3, beamstop_transmission=0.015)
    stop = beamstop_transmission(light, (300, 400), (140.3, 210.8), 30e-6)
    radius = np.hypot(np.arange(300)[:, None] - 140.3, np.arange(400) - 210.8)
    np.testing.assert_allclose(stop[radius < 59], 0.015, rtol=1e-6)
    np.testing.assert_array_equal(stop[radius > 63], 1)
    edge = stop[(radius > 60) & (radius < 62)]
    assert 0.3 < edge.mean() < 0.7
    assert stop.dtype == np.float32


def test_no_beamstop_has_no_pixels():
    assert beamstop_transmission(Light(), (10, 10), (5, 5), 30e-6).size == 0


def test_flux_varies_and_jumps():
    rng = np.random.default_rng(2)
    assert [Light().flux(rng) for _ in range(3)] == [1.0] * 3
    steady = np.array([Light(flux_sigma=0.05).flux(rng) for _ in range(4000)])
    assert steady.mean() == pytest.approx(1, abs=0.004)
    assert steady.std() == pytest.approx(0.05, rel=0.06)
    jumping = np.array([Light(jumps=0.3, jump_flux=(2.0, 3.0)).flux(rng) for _ in range(4000)])
    assert (jumping != 1).mean() == pytest.approx(0.3, abs=0.03)
    assert jumping[jumping != 1].min() >= 2 and jumping.max() <= 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flux_sigma", -0.1),
        ("beamstop_radius_m", float("nan")),
        ("beamstop_transmission", 1.5),
        ("jumps", 2.0),
        ("jump_flux", (0.5, 0.1)),
    ],
)
def test_impossible_light_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        Light(**{name: value})
