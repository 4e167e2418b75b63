"""The project itself: what a wheel holds, what the folders are called, and what tracked files must not name."""

from __future__ import annotations

import configparser
import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nsbluesky

ROOT = Path(__file__).resolve().parent.parent

FOLDERS = {"nsbluesky", "devices", "callbacks", "profile_collection", "tests", "benchmarks", "docs", "scripts", ".ci"}
FILES = {
    "setup.cfg",
    "pyproject.toml",
    "Makefile",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "constraints.txt",
    ".gitignore",
    ".importlinter",
    ".pre-commit-config.yaml",
}


def _tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def _read_config() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_top_level_names_are_those_of_the_design() -> None:
    tops = {path.relative_to(ROOT).parts[0] for path in _tracked_files()}
    assert tops <= FOLDERS | FILES
    assert {"nsbluesky", "devices", "callbacks", "tests", "docs", "setup.cfg", "LICENSE", "README.md"} <= tops


def test_the_installed_version_is_that_of_the_source() -> None:
    assert importlib.metadata.version("nsbluesky") == nsbluesky.__version__


def test_every_package_folder_is_listed_in_setup_cfg() -> None:
    """A folder that is not listed works from a checkout and is missing from the wheel."""
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "nsbluesky").rglob("__init__.py")}
    for top in ("devices", "callbacks"):
        for path in (ROOT / top).rglob("__init__.py"):
            found.add(".".join(("nsbluesky", *path.parent.relative_to(ROOT).parts)))
    found.add("nsbluesky.profile_collection")  # which holds no modules
    assert set(_read_config()["options"]["packages"].split()) == found


ELSEWHERE = {"ptychi", "cdtools-py"}
"""What benchmarks install into an environment of its own, not beside the package."""


def test_every_benchmark_can_be_imported() -> None:
    """Nothing else of the tests would see that a name is gone which one of them needs."""
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        if path.stem == "__main__":
            continue
        try:
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
        except ModuleNotFoundError as error:
            assert error.name in {"cdtools", "ptychi"}, path  # which few have


def test_extras_of_the_design_exist() -> None:
    assert {"qt", "gpu", "gpu13", "dask", "test", "docs", "dev"} <= set(_read_config()["options.extras_require"])


def test_constraints_pin_within_the_bounds_of_setup_cfg() -> None:
    """What `make` installs is what the metadata allows, for every requirement of the package and its extras."""
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    config = _read_config()
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    wanted = [Requirement(t) for text in texts for t in text.splitlines() if t and not t.startswith("#")]
    unpinned = {"nsbluesky", "cupy-cuda12x", "cupy-cuda13x", *ELSEWHERE}
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        if name not in unpinned:
            assert requirement.specifier.contains(pinned[name]), requirement


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from the tracked files with the setuptools that is installed."""
    source = tmp_path_factory.mktemp("source")
    for path in _tracked_files():
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    out = source / "dist"
    command = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", command, str(out)], cwd=source, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[str]:
    """Return the names in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_devices_and_callbacks_inside_the_package(wheel_names: set[str]) -> None:
    assert {"nsbluesky/devices/__init__.py", "nsbluesky/callbacks/__init__.py", "nsbluesky/py.typed"} <= wheel_names
    assert "nsbluesky/callbacks/frame_source.py" in wheel_names
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"nsbluesky"}


def test_the_wheel_holds_every_module(wheel_names: set[str]) -> None:
    modules = {
        str(path.relative_to(ROOT))
        if path.is_relative_to(ROOT / "nsbluesky")
        else f"nsbluesky/{path.relative_to(ROOT)}"
        for path in _tracked_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in ("nsbluesky", "devices", "callbacks")
    }
    assert modules <= wheel_names


def test_the_wheel_brings_the_startup_files_of_a_session(wheel: Path, tmp_path: Path) -> None:
    """A beamline has no clone."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    subprocess.run(
        [sys.executable, "-m", "nsbluesky.cli", "profile", "beamline"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    source, copy = ROOT / "profile_collection", tmp_path / "beamline"
    wanted = [path.relative_to(source) for path in _tracked_files() if path.is_relative_to(source)]
    assert {path.relative_to(copy) for path in copy.rglob("*.*")} == set(wanted)
    assert all((copy / name).read_bytes() == (source / name).read_bytes() for name in wanted)


MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(?:work|home/\w+|root|Users/\w+|opt/(?:wheels|pypi))\b|/tmp/[A-Za-z]")
INDEX_HOSTS = re.compile(r"pypi\.org|pythonhosted\.org|--(?:extra-)?index-url|--find-links")


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, INDEX_HOSTS], ids=["paths of one machine", "package indexes"])
def test_tracked_files_name_no(pattern: re.Pattern[str]) -> None:
    hits = []
    for path in _tracked_files():
        if path == Path(__file__).resolve():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        hits += [
            f"{path.relative_to(ROOT)}:{n}: {line.strip()[:100]}"
            for n, line in enumerate(text.splitlines(), 1)
            if pattern.search(line)
        ]
    assert not hits
