"""Make the machine ready: a virtual environment in .venv, the package with its wheels, and the libraries Qt needs.

Runs on a bare ``python3`` (standard library only) before anything is installed; the Makefile calls it before every
target.  A stamp in the environment holds what it was made from, so that a second call returns at once.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
OLDEST_PYTHON = (3, 11)
CONSTRAINTS = ROOT / "constraints.txt"
SOURCES = (ROOT / "setup.cfg", ROOT / "pyproject.toml", CONSTRAINTS)

WIDER = {"test": ("dev",)}
"""Which other extras of setup.cfg bring all of these."""

NOT_IMPORTED = r"/(tests?|pip|mypyc?|debugpy|sphinx|docutils|Crypto)/"
"""Folders of what neither the package nor its tests import: a sixth of what is installed; who does compiles it."""

UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}
"""What pip may be configured with, and the variable that tells uv the same."""

# Shared libraries that the wheels of Qt load from the system, each with the Debian package that brings it.
QT_LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libglib-2.0.so.0": "libglib2.0-0",
}
FONT_PACKAGE = "fonts-dejavu-core"
FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")


class BootstrapError(Exception):
    """The machine cannot be made ready; the message says what is missing and what to do."""


def check_python() -> None:
    """Raise a BootstrapError where this Python is too old or cannot make environments."""
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        raise BootstrapError(
            f"{sys.executable} is Python {sys.version.split()[0]}, {wanted} or newer is needed: "
            f"install it and run make PYTHON=/path/to/python{wanted}"
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        raise BootstrapError(
            f"{sys.executable} cannot make virtual environments (no module {error.name}): "
            "on Debian or Ubuntu run 'apt-get install python3-venv', then make again"
        ) from None


def missing_qt_packages() -> list[str]:
    """Return the Debian packages that Qt needs and this machine lacks."""
    packages = [package for library, package in QT_LIBRARIES.items() if not _loads(library)]
    folders = [Path(folder).expanduser() for folder in FONT_FOLDERS]
    if not any(next(folder.rglob(f"*.{kind}"), None) for folder in folders for kind in ("ttf", "otf")):
        packages.append(FONT_PACKAGE)
    return packages


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def install_qt_packages() -> None:
    """Install what `missing_qt_packages` lists through apt-get, where this user may.

    Raises
    ------
    BootstrapError
        Where packages are missing and there is no apt-get, no permission, or apt-get fails.
    """
    packages = missing_qt_packages()
    if not packages:
        return
    names = " ".join(packages)
    advice = f"install {names} (on Debian or Ubuntu: apt-get install {names}), then run make again"
    prefix = _root_prefix()
    if shutil.which("apt-get") is None or prefix is None:
        raise BootstrapError(f"Qt needs system packages that this user cannot install: {advice}")
    _say(f"installing Qt's system packages: {names}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *packages]):
        _call([*prefix, "apt-get", *arguments], f"apt-get {arguments[0]} failed: {advice}", environment)
    if still_missing := missing_qt_packages():
        raise BootstrapError(f"{' '.join(still_missing)} did not become usable after apt-get: {advice}")


def _root_prefix() -> list[str] | None:
    """Return what to put before a command to run it as root without a password, or None."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    allowed = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    return ["sudo", "-n", "--preserve-env=DEBIAN_FRONTEND"] if allowed else None


def stamp_text(extras: str) -> str:
    """Return what an environment with these extras is made from: Python, place, extras and the projects' files."""
    digest = hashlib.sha256()
    for source in SOURCES:
        digest.update(source.read_bytes())
    return "\n".join([_python_identity(sys.executable), str(ROOT), extras, digest.hexdigest()])


def stamp_of(extras: str) -> Path:
    """Return the file that says what the environment with these extras was made from."""
    return VENV / f".installed-{extras}"


def is_installed(extras: str) -> bool:
    """Return whether the environment has these extras, as everything is now."""
    stamp = stamp_of(extras)
    return stamp.is_file() and stamp.read_text() == stamp_text(extras)


def _python_identity(executable: str | Path) -> str:
    """Return version and installation of a Python; empty where it does not run."""
    code = "import sys; print(sys.version, sys.base_prefix)"
    try:
        return subprocess.run([executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def install(extras: str) -> None:
    """Install the package with `extras`; the environment is made where it is missing or of another Python."""
    python = VENV / "bin" / "python"
    if _python_identity(python) != _python_identity(sys.executable):
        _say(f"making {VENV.name} with Python {sys.version.split()[0]}")
        _call([sys.executable, "-m", "venv", "--clear", VENV], f"{sys.executable} -m venv failed: see above")
    _say(f"installing nsbluesky[{extras}]")
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check"]
    install: list[str | Path] = ["install", "--quiet", "--constraint", CONSTRAINTS]
    package = ["--editable", f"{ROOT}[{extras}]"]
    if not _install_by_uv(pip, install, package):
        _call(
            [*pip, *install, "--no-compile", *package],
            "pip could not install the wheels, see above; a proxy or an index is set in pip's own configuration",
        )
    # on all processors, which pip does not; what does not compile is a template
    compile_all: list[str | Path] = [python, "-m", "compileall", "-qq", "-j", "0", "-x", NOT_IMPORTED, VENV / "lib"]
    subprocess.run(compile_all, stdin=subprocess.DEVNULL, check=False)


def _install_by_uv(pip: Sequence[str | Path], install: Sequence[str | Path], package: Sequence[str | Path]) -> bool:
    """Install by uv, which needs an eighth of pip's time; return whether it did: where not, pip has to."""
    if subprocess.run([*pip, *install, "uv"], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
        return False
    # of several indices it shall look at all, as pip does
    uv = [VENV / "bin" / "uv", "pip", *install, "--python", VENV, "--index-strategy", "unsafe-best-match", *package]
    environment = {**_uv_environment(pip), **os.environ}
    return subprocess.run(uv, stdin=subprocess.DEVNULL, env=environment, check=False).returncode == 0


def _uv_environment(pip: Sequence[str | Path]) -> dict[str, str]:
    """Return pip's configuration as variables of uv."""
    listed = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False).stdout
    told = {}
    for wanted in ("global", "install", ":env:"):  # the last one counts
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            section, _, key = name.rpartition(".")
            if section == wanted and key in UV_NAMES:
                separator = "," if key == "find-links" else " "
                told[UV_NAMES[key]] = separator.join(str(ast.literal_eval(value)).split())
    return told


def _call(command: Sequence[str | Path], failure: str, environment: dict[str, str] | None = None) -> None:
    result = subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, check=False)
    if result.returncode:
        raise BootstrapError(failure)


def _say(text: str) -> None:
    print(f"bootstrap: {text}", flush=True)


def main() -> int:
    """Make the machine ready for the extras named on the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("extras", help="extras of setup.cfg to install, such as 'test' or 'dev'")
    extras: str = parser.parse_args().extras
    try:
        check_python()
        if any(is_installed(enough) for enough in (extras, *WIDER.get(extras, ()))):
            return 0
        install_qt_packages()
        install(extras)
        stamp_of(extras).write_text(stamp_text(extras))
    except BootstrapError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
