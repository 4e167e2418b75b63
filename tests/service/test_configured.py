"""Settings that were changed while a service ran, for the process that takes over."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from nsbluesky.service.configured import NAME, ConfiguredSettings
from nsbluesky.settings import PipelineSettings

GIVEN = PipelineSettings()
CHANGED = GIVEN.replace(**{"solver.modes": 5, "cleaning.center_px": (7.5, 8.0)})


def test_changes_are_for_those_who_begin_as_before(tmp_path: Path) -> None:
    kept = ConfiguredSettings(tmp_path)
    assert kept.of(GIVEN) == GIVEN
    kept.keep(GIVEN, CHANGED)
    assert ConfiguredSettings(tmp_path).of(GIVEN) == CHANGED
    others = GIVEN.replace(**{"solver.passes_final": 3})
    assert kept.of(others) == others
    kept.forget()
    assert kept.of(GIVEN) == GIVEN
    kept.forget()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"given": 3}', '{"given": {}, "configured": {"solver": 1}}'])
def test_a_file_that_is_none_changes_nothing(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / NAME).write_text(content)
    with caplog.at_level(logging.WARNING):
        assert ConfiguredSettings(tmp_path).of(GIVEN) == GIVEN
    assert "settings are as given" in caplog.text
