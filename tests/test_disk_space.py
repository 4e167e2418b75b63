"""Space is asked for before it runs out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nsbluesky import disk_space
from nsbluesky.disk_space import MARGIN_BYTES, NoSpace, free_bytes, require_space


def test_the_free_space_of_a_folder_that_is_to_be_made(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


def test_a_margin_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: MARGIN_BYTES + 100)
    require_space(tmp_path, 100)
    with pytest.raises(NoSpace, match=r"64 MB are free in .*: make space"):
        require_space(tmp_path, 101)
