"""Panels and stages of other packages are found by their entry points; broken ones disturb nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nsbluesky.plugins import load_plugins

PACKAGE = """
class Base: ...
class Good(int): ...
class Other: ...
"""
ENTRY_POINTS = """
[test_nsbluesky.things]
b_good = other_package:Good
a_also_good = other_package:Good
missing = other_package:Missing
no_module = not_there:Good
no_subclass = other_package:Other
no_class = other_package:__name__
"""


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package as pip would, as far as entry points go."""
    (tmp_path / "other_package.py").write_text(PACKAGE)
    info = tmp_path / "other_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)


def test_what_can_be_loaded_is_loaded(other_package: None, caplog: pytest.LogCaptureFixture) -> None:
    found = load_plugins("test_nsbluesky.things", int)
    assert [kind.__name__ for kind in found] == ["Good", "Good"]
    for name in ("missing", "no_module", "no_subclass", "no_class"):
        assert f"{name!r}" in caplog.text
    sys.modules.pop("other_package")


def test_nothing_installed() -> None:
    assert load_plugins("test_nsbluesky.nothing", object) == []
