"""Steps that follow the dose."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.solver.dose import caution, photons_on_lit_pixels
from nsbluesky.solver.engines.pie import PieRule
from nsbluesky.solver.engines.wasp import WaspRule


def test_the_dose_is_that_of_lit_pixels():
    pattern = np.zeros((64, 64))
    pattern[:10, :10] = 7.0
    assert photons_on_lit_pixels(pattern) == 7
    assert photons_on_lit_pixels(np.zeros((4, 4))) == 0


def test_few_photons_make_cautious_rules():
    assert caution(1e6) == pytest.approx(1, abs=1e-5)
    assert caution(2.0) == 2 and caution(0.0) < 1000
    rule = WaspRule(6.0, 0.2, momentum=0.8).damped(2.0)
    assert (rule.alpha, rule.beta, rule.momentum) == (12.0, 0.4, 0.4)
    pie = PieRule("mpie", 0.6, 0.3, momentum=0.5).damped(2.0)
    assert (pie.alpha, pie.beta, pie.momentum) == (1.0, 0.6, 0.25)
