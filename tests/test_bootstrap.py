"""scripts/bootstrap.py: what it does on a machine that lacks something, and that a second call does nothing."""

from __future__ import annotations

import configparser
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module whose environment and files lie in the test's folder."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "scripts" / "bootstrap.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sources = tuple(tmp_path / name for name in ("setup.cfg", "pyproject.toml", "constraints.txt"))
    for source in sources:
        source.write_text(source.name)
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(module, "SOURCES", sources)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "test"])
    return module


@pytest.fixture
def installed(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put a note in a list instead of making an environment: one entry for each installation."""
    calls: list[str] = []
    monkeypatch.setattr(bootstrap, "install_qt_packages", lambda: None)
    monkeypatch.setattr(bootstrap, "install", calls.append)
    return calls


def test_a_second_call_installs_nothing(bootstrap: ModuleType, installed: list[str]) -> None:
    assert bootstrap.main() == 0
    assert bootstrap.main() == 0
    assert installed == ["test"]


def test_what_is_there_for_development_is_enough_for_tests(
    bootstrap: ModuleType, installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for extras in ("dev", "test"):
        monkeypatch.setattr(sys, "argv", ["bootstrap.py", extras])
        assert bootstrap.main() == 0
    assert installed == ["dev"]
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert "nsbluesky[test" in settings["options.extras_require"]["dev"]


def test_what_is_there_for_tests_is_not_enough_for_development(
    bootstrap: ModuleType, installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for extras in ("test", "dev"):
        monkeypatch.setattr(sys, "argv", ["bootstrap.py", extras])
        assert bootstrap.main() == 0
    assert installed == ["test", "dev"]


def _change_constraints(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap.SOURCES[2].write_text("numpy==1.0\n")


def _change_python(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_python_identity", lambda executable: "3.99 /elsewhere")


def _change_place(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "ROOT", Path("/elsewhere"))


@pytest.mark.parametrize("change", [_change_constraints, _change_python, _change_place])
def test_a_change_installs_again(
    bootstrap: ModuleType, installed: list[str], monkeypatch: pytest.MonkeyPatch, change: Callable[..., None]
) -> None:
    assert bootstrap.main() == 0
    change(bootstrap, monkeypatch)
    assert bootstrap.main() == 0
    assert installed == ["test", "test"]


def test_a_failed_installation_leaves_no_stamp(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: str) -> None:
        raise bootstrap.BootstrapError("pip could not install the wheels")

    monkeypatch.setattr(bootstrap, "install_qt_packages", lambda: None)
    monkeypatch.setattr(bootstrap, "install", fail)
    assert bootstrap.main() == 1
    assert capsys.readouterr().err == "bootstrap: pip could not install the wheels\n"
    assert not list(bootstrap.VENV.iterdir())


PIP_CONFIG = """global.find-links='/wheels /more'
:env:.index-url='https://here/simple'
install.index-url='https://there/simple'
global.timeout='180'
"""


@pytest.mark.parametrize(
    ("refuses", "installers"), [("", ["uv"]), ("constraints.txt uv", ["pip"]), ("/uv pip", ["uv", "pip"])]
)
def test_pip_installs_what_uv_cannot(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, refuses: str, installers: list[str]
) -> None:
    """Where uv has no wheel, and where it fails."""
    tried, told = [], {}

    def run(command: list[Any], env: Any = None, **_: Any) -> subprocess.CompletedProcess[str]:
        line = " ".join(map(str, command))
        if "--editable" in command:
            tried.append("uv" if "/uv pip" in line else "pip")
            told.update(env or {})
        failed = bool(refuses) and refuses in line
        return subprocess.CompletedProcess(command, int(failed), PIP_CONFIG if "config" in command else "")

    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    bootstrap.install("test")
    assert tried == installers
    if "uv" in installers:
        assert told["UV_DEFAULT_INDEX"] == "https://here/simple", "what the environment says counts most"
        assert told["UV_FIND_LINKS"] == "/wheels,/more"


def test_without_venv_the_package_to_install_is_named(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(bootstrap.BootstrapError, match="apt-get install python3-venv"):
        bootstrap.check_python()


def test_an_old_python_is_refused(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(bootstrap.BootstrapError, match=r"3\.11 or newer is needed.*make PYTHON="):
        bootstrap.check_python()


@pytest.fixture
def lacks_library(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "QT_LIBRARIES", {"libc.so.6": "libc6", "libnothing.so.9": "libnothing9"})


@pytest.mark.usefixtures("lacks_library")
def test_only_libraries_that_do_not_load_are_missing(bootstrap: ModuleType) -> None:
    packages = bootstrap.missing_qt_packages()
    assert "libnothing9" in packages
    assert "libc6" not in packages


def test_a_machine_without_fonts_gets_some(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "QT_LIBRARIES", {})
    monkeypatch.setattr(bootstrap, "FONT_FOLDERS", (str(tmp_path / "none"),))
    assert bootstrap.missing_qt_packages() == [bootstrap.FONT_PACKAGE]
    (tmp_path / "none" / "truetype").mkdir(parents=True)
    (tmp_path / "none" / "truetype" / "some.ttf").touch()
    assert bootstrap.missing_qt_packages() == []


@pytest.mark.usefixtures("lacks_library")
def test_without_permission_one_message_names_the_packages(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "_root_prefix", lambda: None)
    with pytest.raises(bootstrap.BootstrapError, match=r"this user cannot install: install libnothing9.*make again"):
        bootstrap.install_qt_packages()


@pytest.mark.usefixtures("lacks_library")
def test_only_missing_packages_are_installed(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def call(command: list[str], failure: str, environment: Any = None) -> None:
        commands.append(command)
        if "install" in command:
            monkeypatch.setattr(bootstrap, "QT_LIBRARIES", {})

    monkeypatch.setattr(bootstrap, "FONT_FOLDERS", ())
    monkeypatch.setattr(bootstrap, "FONT_PACKAGE", "some-fonts")
    monkeypatch.setattr(bootstrap, "_root_prefix", lambda: ["as-root"])
    monkeypatch.setattr(bootstrap, "_call", call)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: name)
    with pytest.raises(bootstrap.BootstrapError, match="some-fonts did not become usable"):
        bootstrap.install_qt_packages()
    assert [command[:3] for command in commands] == [
        ["as-root", "apt-get", "update"],
        ["as-root", "apt-get", "install"],
    ]
    assert commands[1][-2:] == ["libnothing9", "some-fonts"]
    assert "libc6" not in commands[1]
