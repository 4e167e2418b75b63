"""The command line as such: its streams, its exit codes, and that it is quiet."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nsbluesky._version import __version__
from nsbluesky.catalog import open_catalog
from nsbluesky.cli import COMMANDS, _set_log_levels, main
from nsbluesky.commands import CommandFailed

TIMEOUT_S = 120
quality = import_module("nsbluesky.commands.quality")


@pytest.fixture(autouse=True)
def log_levels() -> Iterator[None]:
    """Leave the levels of the loggers as they were: in a process of its own a command may choose them."""
    loggers = [logging.getLogger(), logging.getLogger("bluesky")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def run_quality_with(monkeypatch: pytest.MonkeyPatch, result: Any) -> None:
    """Let the command `quality` return or raise something."""

    def run(options: Any) -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(quality, "run", run)


def shell(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as users do: no filters of warnings but Python's."""
    return subprocess.run(
        [sys.executable, "-m", "nsbluesky", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    assert out.startswith(f"usage: nsbluesky {name}")
    assert "--json" in out and "--debug" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_same_form(name: str) -> None:
    module: ModuleType = import_module(f"nsbluesky.commands.{name.replace('-', '_')}")
    assert module.__all__ == ["add_arguments", "run"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["--json"], "COMMAND"),
        (["reconstrct"], "invalid choice: 'reconstrct'"),
        (["quality"], "required: a"),
        (["simulate", "x.cxi", "--shape", "3y4"], "'3y4': expected ROWSxCOLUMNS"),
        (["simulate", "x.cxi", "--shape", "0x4"], "'0x4': expected ROWSxCOLUMNS"),
        (["simulate", "x.cxi", "--darks", "-1"], "'-1': expected a whole number"),
        (["simulate", "x.cxi", "--pattern", "hexagons"], "jittered_raster"),
        (["reconstruct", "a.cxi", "b.cxi", "--algorithm", "magic"], "wasp"),
        (
            ["raw2cxi", "a.cxi", "b.cxi", "--bin", "3"],
            "nsbluesky raw2cxi: unrecognized arguments: --bin 3; see nsbluesky raw2cxi --help",
        ),
        (["status", "--address", "localhost"], "'localhost': expected tcp://HOST:PORT"),
        (["view", "--live", "tcp://127.0.0.1:x"], "'tcp://127.0.0.1:x': expected tcp://HOST:PORT"),
    ],
)
def test_wrong_arguments_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("nsbluesky") and message in err and "--help" in err


def test_a_summary_for_people(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    summary = {"r_factor": 0.123456789, "frames_used": 12, "cxi": "a.cxi", "defocus_um": None}
    settings = {"solver": {"final_s": 3.0}, "live": True}
    run_quality_with(
        monkeypatch, {**summary, "left_out": {}, "bad_adcs": [], "bad_points": {7: "dark"}, "settings": settings}
    )
    assert main(["quality", "a.cxi"]) == 0
    lines = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["r factor", "0.1235"],
        ["frames used", "12"],
        ["cxi", "a.cxi"],
        ["defocus um", "-"],
        ["left out", "none"],
        ["bad adcs", "none"],
        ["bad points 7", "dark"],
        ["solver.final_s", "3"],
        ["live", "True"],
    ]


def test_a_summary_for_machines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    nan = float("nan")
    summary = {"r_factor": 0.123456789, "resolution": float("inf"), "defocus": nan, "bad": [1, {"age_s": (nan,)}]}
    run_quality_with(monkeypatch, summary)
    assert main(["quality", "a.cxi", "--json"]) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    values = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert values == {"r_factor": 0.123456789, "resolution": None, "defocus": None, "bad": [1, {"age_s": [None]}]}


@pytest.mark.parametrize("debug", [False, True])
def test_a_result_that_is_not_good_enough_is_shown_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    run_quality_with(monkeypatch, CommandFailed("correlation 0.3 < 0.95", {"correlation": 0.3}))
    assert main(["quality", "a.cxi", "--json", *["--debug"] * debug]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"correlation": 0.3}
    assert err == "nsbluesky quality: correlation 0.3 < 0.95\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (FileNotFoundError(2, "No such file or directory", "/a/b"), "/a/b: No such file or directory"),
        (OSError("the disk is full"), "the disk is full"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_an_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    run_quality_with(monkeypatch, error)
    assert main(["quality", "a.cxi", "--json"]) == 1
    assert capsys.readouterr() == ("", f"nsbluesky quality: {line}\n")
    with pytest.raises(type(error)):
        main(["quality", "a.cxi", "--debug"])


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_quality_with(monkeypatch, KeyboardInterrupt())
    assert main(["quality", "a.cxi"]) == 130
    assert capsys.readouterr() == ("", "nsbluesky quality: interrupted\n")


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, quality.__name__, None)
    assert main(["quality", "a.cxi"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"nsbluesky quality: import of {quality.__name__}") and err.count("\n") == 1


def test_interrupted_while_it_loads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(parser: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quality, "add_arguments", interrupt)
    assert main(["quality", "a.cxi"]) == 130
    assert capsys.readouterr() == ("", "nsbluesky quality: interrupted\n")


def test_traceback_only_under_debug(tmp_path: Path) -> None:
    plain, debug = (shell("quality", tmp_path / "none.cxi", *option) for option in ([], ["--debug"]))
    assert plain.returncode == debug.returncode == 1
    assert plain.stdout == ""
    assert plain.stderr == f"nsbluesky quality: {tmp_path / 'none.cxi'}: no such file; check its name\n"
    assert "Traceback" in debug.stderr and "CxiError" in debug.stderr


def test_what_is_logged_brings_no_traceback_either() -> None:
    code = (
        "import logging\nfrom nsbluesky.cli import _set_log_levels\n_set_log_levels({})\n"
        "try:\n    {{}}['frame']\nexcept KeyError:\n    logging.getLogger('nsbluesky').exception('darks failed')\n"
    )

    def told(debug: bool) -> list[str]:
        done = subprocess.run([sys.executable, "-c", code.format(debug)], capture_output=True, text=True, check=True)
        return done.stderr.splitlines()

    first, last = told(debug=False)
    assert first.endswith("ERROR darks failed") and last == "KeyError: 'frame'"
    assert "Traceback (most recent call last):" in told(debug=True)


def test_commands_are_quiet(tmp_path: Path) -> None:
    """Nothing of what libraries have to say, neither in a pipe nor where Qt has no screen."""
    scan, clean, result = (tmp_path / name for name in ("raw.cxi", "clean.cxi", "result.cxi"))
    quick = ["--passes", "1", "--set", "sweep_frames=0"]
    for arguments in (
        ["simulate", scan, "--raw", "--shape", "1x3", "--darks", "2", "--step-um", "0.05"],
        ["raw2cxi", scan, clean],
        ["reconstruct", clean, result, *quick, "--png", tmp_path / "object.png"],
        ["quality", result],
        ["view", result, "--screenshot", tmp_path / "window.png"],
    ):
        done = shell(*arguments, "--json", DISPLAY="", WAYLAND_DISPLAY="")
        assert (done.returncode, done.stderr) == (0, ""), arguments[0]
        assert done.stdout.count("\n") == 1
        json.loads(done.stdout)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["logs", "--json"], ["logs"], ["logs", "server"]], ids=" ".join)
def test_who_reads_may_go(tmp_path: Path, arguments: list[str], unbuffered: str) -> None:
    (tmp_path / "server.log").write_text(100000 * "a line\n")
    where = ["--directory", str(tmp_path)] if "logs" in arguments else []
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "nsbluesky.cli", *arguments, *where],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    finally:
        os.close(writer)
    assert done.stderr == "" and done.returncode in (0, 141)  # argparse itself swallows it where it can


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_summary_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "nsbluesky.cli", "logs", "--directory", str(tmp_path)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )
    assert done.returncode == 1
    assert done.stderr.startswith("nsbluesky logs: ") and done.stderr.count("\n") == 1


def test_the_list_of_logs_has_the_names_that_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "frame_source.log").write_text("one\n")
    (tmp_path / "server.log").write_text("two\n")
    assert main(["logs", "--directory", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split(maxsplit=1) == ["modules", "frame_source; server"]


def test_a_log_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "server.log").write_text("one\ntwo\n")
    assert main(["logs", "server", "--json", "--directory", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"lines": ["one", "two"]}
    assert main(["logs", "server", "--json", "--follow", "--directory", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "without --json" in err


@pytest.mark.parametrize(
    ("warning", "said"),
    [
        ("steps are wide", "nsbluesky logs: steps are wide\n"),
        ("The 'alias' attribute with value 'keys' was provided to the `Field()` function, which has no effect", ""),
    ],
)
def test_a_warning_is_one_line_and_none_where_it_is_no_users(warning: str, said: str) -> None:
    script = "import sys, warnings; from nsbluesky.cli import main; from nsbluesky.commands import logs\n"
    script += f"logs.run = lambda options: warnings.warn({warning!r}) or {{}}\nsys.exit(main(['logs']))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", said)


@pytest.mark.nightly
def test_a_catalog_is_opened_quietly(tmp_path: Path) -> None:
    missing = shell("replay", "nowhere", "--catalog", tmp_path / "catalog", "--out", tmp_path / "out")
    assert "catalog: no such folder" in missing.stderr and not (tmp_path / "catalog").exists()
    (tmp_path / "catalog").mkdir()
    empty = shell("replay", "nowhere", "--catalog", tmp_path / "catalog", "--out", tmp_path / "out")
    assert "holds no catalog" in empty.stderr and not any((tmp_path / "catalog").iterdir())
    with open_catalog(tmp_path / "catalog") as made:
        made.client  # noqa: B018 - the first look makes it
    done = shell("replay", "nowhere", "--catalog", tmp_path / "catalog", "--from-catalog", "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "'nowhere' is neither in the document log nor in the catalog" in done.stderr


def test_a_command_does_not_load_what_it_does_not_need() -> None:
    """Help, and commands without windows, come at once and work where Qt is missing."""
    script = "import sys; from nsbluesky.cli import main\ntry: main(['raw2cxi', '--help'])\nexcept SystemExit: pass\n"
    script += "sys.exit(any(name in sys.modules for name in ('qtpy', 'tiled', 'ophyd', 'caproto')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=TIMEOUT_S, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_without_extras_commands_explain_themselves_and_say_what_to_install(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from nsbluesky.cli import COMMANDS, main\n"
        "for extra in ('caproto', 'qtpy', 'pyqtgraph', 'IPython', 'distributed', 'pyfftw', 'cupy'):\n"
        "    sys.modules[extra] = None\n"
        "for name in COMMANDS:\n"
        "    try:\n"
        "        sys.exit(f'{name}: {main([name, \"--help\"])}')\n"
        "    except SystemExit as ended:\n"
        "        assert ended.code == 0, (name, ended.code)\n"
        "assert not {'tiled', 'ophyd'} & set(sys.modules), 'help has to come at once'\n"
        "for arguments in (['ioc', '--directory'], ['demo', '--out'], ['view']):\n"
        "    assert main([*arguments, sys.argv[1]]) == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    wanted = {"ioc": "sim", "demo": "sim", "view": "qt"}
    lines = done.stderr.splitlines()
    assert len(lines) == len(wanted)
    for line, (name, extra) in zip(lines, wanted.items(), strict=True):
        assert line.startswith(f"nsbluesky {name}: ") and f"pip install 'nsbluesky[{extra}]'" in line


def test_libraries_are_no_louder_than_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dask gives its loggers a level of their own, at which each process that begins or ends has some lines."""
    monkeypatch.setattr(logging.root, "handlers", [])
    _set_log_levels(debug=False)
    talkative = logging.getLogger("talkative")
    talkative.setLevel(logging.INFO)
    talkative.info("a worker begins")
    talkative.error("a worker is lost")
    talkative.error("a worker is lost")
    told = capsys.readouterr().err
    assert "a worker begins" not in told and told.count("a worker is lost") == 1
