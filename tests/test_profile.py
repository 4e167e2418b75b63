"""The startup files: importable without screen or hardware, and a whole beamline with NSBLUESKY_SIM=1."""

from __future__ import annotations

import errno
import functools
import inspect
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import bluesky.plans as bp
import event_model
import pytest
from ophyd import Signal
from own_run_engine import run_engine
from twin_beamline import QUICK_SOLVER, make_twin_beamline

from nsbluesky import plans, session, session_runs
from nsbluesky.callbacks import derived_run_writer
from nsbluesky.catalog import open_catalog
from nsbluesky.cli import main
from nsbluesky.geometry import Geometry, Optic
from nsbluesky.service.finished import FinishedRun, FinishedRuns
from nsbluesky.settings import SettingsError

ROOT = Path(__file__).parents[1]
STARTUP = sorted((ROOT / "profile_collection" / "startup").glob("*.py"))
NAMES = ("RE", "db", "processed", "fccd", "stage", "shutter", "ptycho_scan", "ptycho_fly_scan", "pipeline", "window")


@pytest.fixture
def session_data(tmp_path: Path, new_catalog: Callable[[Path], Path]) -> Path:
    return new_catalog(tmp_path / "catalog").parent


QUICK = {f"solver.{name}": value for name, value in QUICK_SOLVER.items()}
"""By default so few frames are used hundreds of times."""

NO_CATALOG = "import sys, unittest.mock as mock; sys.modules['nsbluesky.catalog'] = mock.MagicMock()\n"
"""Goes before the startup files of a session that writes no run: it takes seconds to import tiled."""

TELL_FROZEN = "import atexit, gc; atexit.register(lambda: print('kept to the end', gc.get_freeze_count() > 1000))\n"


def run_session(commands: str, data: Path, first: str = "", **environment: str) -> str:
    """Run the startup files, as bluesky-queueserver does, and then some commands."""
    loader = (
        f"{first}import sys\n"
        "namespace = {'__name__': '__main__'}\n"
        "for path in sys.argv[2:]:\n"
        "    exec(compile(open(path).read(), path, 'exec'), namespace)\n"
        "exec(sys.argv[1], namespace)\n"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")}
    done = subprocess.run(
        [sys.executable, "-c", loader, commands, *map(str, STARTUP)],
        env={**kept, "NSBLUESKY_DATA": str(data), "NSBLUESKY_STATE": str(data / "state"), **environment},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_files_are_short_and_numbered() -> None:
    assert [path.name[:2] for path in STARTUP] == ["00", "10", "20", "30", "50", "90"]
    for path in STARTUP:
        assert len(path.read_text().splitlines()) < 30, f"{path.name}: code belongs into the package"


def test_loads_without_screen_and_hardware_and_processes_itself_where_asked(tmp_path: Path) -> None:
    out = run_session(
        f"print([name in globals() for name in {NAMES}], window, processing, type(pipeline).__name__, RE.suspenders)",
        tmp_path,
        NO_CATALOG + TELL_FROZEN,
        NSBLUESKY_SERVICE="none",
    )
    assert "kept to the end True" in out, "a look for garbage in all that was imported takes seconds"
    assert f"{[True] * len(NAMES)} None None PtychoPipeline (SuspendWhileAway(fccd, stage, shutter),)" in out


@pytest.mark.epics
def test_simulated_session_scans(session_data: Path) -> None:
    commands = (
        "from nsbluesky.service.control import ask\n"
        f"ask(processing.address, 'configure', processing.credentials, settings={QUICK!r})\n"
        "uid, = RE(ptycho_fly_scan(shape=(4, 4), rate_hz=20.0, num_dark=2))\n"
        "import os, signal\n"
        "os.kill(processing.pid, signal.SIGKILL)  # the next life of the processing begins the run anew\n"
        "assert pipeline.wait(timeout=60)\n"
        "print('restarts', processing.restarts)\n"
        "assert catalog.flush(timeout=60)\n"
        "import sys\n"
        "print('imported', 'tiled' in sys.modules)\n"
        "print('frames', db[uid]['primary']['fccd_image'].shape[0])\n"
        "print('latest', db[-1].start['uid'] == uid, len(db))\n"
        "derived = processed(db[-1])\n"
        "print('found', catalog.find_finished(uid).derived_uid == derived.start['uid'])\n"
        "print('derived', derived.start['raw_uid'] == uid, derived.stop['exit_status'])\n"
        "print('picture', derived['reconstruction']['object'][-1].dtype)\n"
        "import gc, dask.array\n"
        "dask.array.arange(20, chunks=5)[3:12]\n"
        "print('garbage', gc.isenabled())\n"
        "uid, = RE(ptycho_fly_scan(shape=(4, 4), rate_hz=20.0, num_dark=2))\n"
        "print('and leaves after', uid)\n"
    )
    out = run_session(commands, session_data, NSBLUESKY_SIM="1", NSBLUESKY_SIM_LAYOUT="none")
    assert "frames 16" in out
    assert "imported False" in out, "a prompt, and a scan, need nothing of what takes the seconds to import"
    assert "restarts ['killed by signal 9']" in out
    assert "latest True 1" in out, "its processing, which was written after it, is no scan"
    assert "derived True success" in out and "found True" in out
    assert list((session_data / "documents").iterdir()), "the document log has the run"
    assert "picture complex64" in out
    assert "garbage True" in out, "dask, imported while nothing collects garbage, leaves it so after its first slice"
    last = out.partition("and leaves after ")[2][:36]
    assert f"still being processed: run {last[:8]}; the session ends with that" in out and "not finished" not in out
    with open_catalog(session_data / "catalog") as catalog:
        assert catalog.scans[-1].start["uid"] == last
        assert catalog.processed().stop["exit_status"] == "success"


def test_the_newest_record_of_a_processing_is_found(tmp_path: Path) -> None:
    failed, first, second = (FinishedRun("raw", derived) for derived in ("failed", "first", "second"))
    assert session_runs._find_finished(tmp_path, {}, "raw") is None
    finished = {"raw": failed}
    assert session_runs._find_finished(tmp_path, finished, "raw") == failed, "one that failed is not recorded"
    FinishedRuns(tmp_path).add(first, second, FinishedRun("another"))
    assert session_runs._find_finished(tmp_path, finished, "raw") == second, "'nsbluesky resume' has made it since"


@pytest.mark.parametrize(
    ("md", "told"),
    [
        ({"ptycho": 5}, "ptycho = 5 in the metadata cannot be processed: "),
        ({"ptycho": {"energy_eV": 930.0}}, "ptycho = .*detector_distance_m"),
        ({"raw_uid": "another run"}, "'raw_uid', by which"),
        ({"uid": "my own"}, "'uid', which each run gets by itself"),
        ({"a.b": 1}, r"the key 'a\.b': expected a text without"),
        ({"numbers": {"first": {1: 2}}}, "the key 1: expected a text"),
        ({"cells": [{(0, 1): "gold"}]}, r"the key \(0, 1\): expected a text"),
        ({"owner": 5}, "owner of the metadata cannot be: 5 is not of type 'string'$"),
    ],
)
def test_metadata_that_would_lose_a_run_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, md: dict[str, Any], told: str
) -> None:
    monkeypatch.setenv("NSBLUESKY_DATA", str(tmp_path))
    RE = session.run_engine()
    documents: list[str] = []
    numbers: list[int] = []
    RE.subscribe(lambda name, document: documents.append(name))
    RE.subscribe(lambda _, start: numbers.append(start["scan_id"]), "start")
    plan = functools.partial(bp.count, [Signal(name="x", value=1.0)])
    with pytest.raises(ValueError, match=told) as refused:
        RE(plan(), **md)
    assert len(str(refused.value).splitlines()) == 1
    assert not documents
    with pytest.raises(ValueError, match="sample"):
        RE(plan(), sample=5)  # which bluesky itself refuses
    RE(plan(), ptycho=Geometry(930.0, 0.25).to_dict())
    assert documents[-1] == "stop"
    assert numbers == [1], "what was refused is no scan"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"step_um": -1.0}, "ValueError: step_um = -1.0: expected a positive length in µm"),
        ({"step": 0.1}, "TypeError: ptycho_scan has no argument 'step': expected one of geometry, shape, "),
        ({"md": 5}, "ValueError: md = 5: expected a mapping"),
        ({"center_um": (1e9, 0.0)}, "LimitError: stage_x: the scan reaches 1e+09 um"),
        ({"darks_from": "nowhere"}, "DarksError: darks_from = 'nowhere': "),
        ({"baseline": 5}, "ValueError: baseline = 5: expected devices"),
        ({"geometry": {"energy": 1}}, "SettingsError: unknown setting 'energy'"),
        ({"md": {"raw_uid": "another run"}}, "ValueError: the metadata have 'raw_uid'"),
    ],
)
def test_a_refused_scan_is_one_line_at_the_prompt(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    arguments: dict[str, Any],
    told: str,
) -> None:
    """IPython asks an exception for lines of its own; bluesky would log the traceback beside that."""
    caplog.set_level(logging.ERROR, "bluesky")  # commands in other tests may have set another
    monkeypatch.setenv("NSBLUESKY_DATA", str(tmp_path))
    beamline = make_twin_beamline(tmp_path)
    plan = session.bind(plans.ptycho_scan, *beamline.devices, **beamline.arguments((2, 2)))
    RE = session.run_engine()
    with pytest.raises((ValueError, TypeError)) as refused:
        RE(plan(**arguments))
    (line,) = refused.value._render_traceback_()
    assert line.startswith(told)
    assert not [record for record in caplog.records if record.name == "bluesky"]


def test_what_is_no_refusal_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "bluesky")
    monkeypatch.setenv("NSBLUESKY_DATA", str(tmp_path))

    def plan() -> Generator[Any, Any, None]:
        yield from bp.count([Signal(name="x", value=1.0)])
        raise ValueError("a mistake in a plan")

    with pytest.raises(ValueError, match="a mistake in a plan") as failed:
        session.run_engine()(plan())
    assert not hasattr(failed.value, "_render_traceback_")
    assert [record.message for record in caplog.records if record.name == "bluesky"] == ["Run aborted"]


def test_bound_plan_is_a_generator_function_with_new_defaults() -> None:
    geometry = Geometry(930.0, 0.25)
    bound = session.bind(plans.ptycho_scan, "fccd", "stage", "shutter", geometry=geometry, step_um=0.3)
    assert inspect.isgeneratorfunction(bound)
    parameters: dict[str, Any] = dict(inspect.signature(bound).parameters)
    assert "fccd" not in parameters
    assert parameters["step_um"].default == 0.3
    assert parameters["geometry"].default == geometry.to_dict()
    assert parameters["shape"].annotation == tuple[int, int]
    assert parameters["num_dark"].default == 25


def test_bound_plan_takes_settings_as_a_dictionary_of_changes() -> None:
    def plan(device: str, *, geometry: Geometry) -> Generator[Any, Any, tuple[str, Geometry]]:
        yield
        return device, geometry

    def result(**arguments: Any) -> tuple[str, Geometry]:
        running = bound(**arguments)
        next(running)
        with pytest.raises(StopIteration) as end:
            next(running)
        returned: tuple[str, Geometry] = end.value.value
        return returned

    site = Geometry(930.0, 0.25, optic=Optic(diameter_m=1e-4))
    bound = session.bind(plan, "fccd", geometry=site)
    assert result() == ("fccd", site)
    changed = site.replace(energy_eV=707.0, optic__defocus_m=5e-6)
    assert result(geometry={"energy_eV": 707.0, "optic": {"defocus_m": 5e-6}}) == ("fccd", changed)
    assert result(geometry=changed) == ("fccd", changed)
    with pytest.raises(SettingsError, match="unknown setting 'energy'"):
        result(geometry={"energy": 707.0})
    with pytest.raises(TypeError, match="plan has no argument 'energy_eV': expected one of geometry"):
        result(energy_eV=707.0)


def test_with_a_window_the_prompt_still_tells_warnings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = logging.getLogger("nsbluesky")
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(package, "handlers", [])
    monkeypatch.setattr(package, "level", package.level)
    lines = session._logged_lines()
    session.logger.warning("the catalog is behind")
    session.logger.info("run 1 has begun")
    assert capsys.readouterr().err == "the catalog is behind\n"
    assert [line.rpartition(" ")[2] for line in lines()] == ["behind", "begun"]


def test_no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    assert not session.has_screen()
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    assert session.has_screen()


def test_a_session_without_qt_has_all_but_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its display, as of ssh -X, is no reason to have no RunEngine; what to install is told once."""
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    monkeypatch.setenv("NSBLUESKY_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "qtpy", None)
    monkeypatch.delitem(sys.modules, "nsbluesky.viewer.qt", raising=False)
    monkeypatch.setattr("bluesky.RunEngine", lambda md, **options: SimpleNamespace(md_validator=print, **options))
    session._has_qt.cache_clear()
    try:
        RE: Any = session.run_engine()
        assert not hasattr(RE, "during_task")
        assert session.live_window(cast(Any, None)) is None
    finally:
        session._has_qt.cache_clear()
    (record,) = caplog.records
    assert "pip install 'nsbluesky[qt]'" in record.getMessage()


def startup_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "startup").iterdir() if path.is_file()}


def test_the_startup_files_go_into_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["profile", "a beamline"]) == 0
    assert "ipython --profile-dir='a beamline'\n" in capsys.readouterr().out
    written = startup_files(tmp_path / "a beamline")
    assert set(written) == {path.name for path in STARTUP} | {"user_group_permissions.yaml"}
    assert written.items() <= startup_files(ROOT / "profile_collection").items()

    (tmp_path / "a beamline" / "startup" / "10-motors.py").unlink()
    assert main(["profile", "a beamline", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == ["10-motors.py"]


def test_startup_files_of_a_beamline_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "startup" / "00-base.py"
    own.parent.mkdir()
    own.write_text("site = 'of the beamline'\n")
    assert main(["profile", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert f"{own.parent} has files that differ from those to write: 00-base.py; nothing was written" in err
    assert startup_files(tmp_path) == {"00-base.py": b"site = 'of the beamline'\n"}


def test_without_ipython_a_profile_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", str(tmp_path)]) == 0
    assert "pip install" not in capsys.readouterr().out
    monkeypatch.setattr("nsbluesky.commands.profile.find_spec", lambda name: None)
    assert main(["profile", str(tmp_path)]) == 0
    assert "pip install 'nsbluesky[ipython]'" in capsys.readouterr().out


class NoCatalog:
    """Notes the logs of derived runs that it is given."""

    def __init__(self) -> None:
        self.logs: list[str] = []
        self.find_finished: Callable[[str], Any] = lambda uid: None

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        pass

    def writer(self) -> NoCatalog:
        return self

    def write_log(self, path: str) -> None:
        self.logs.append(path)


@pytest.fixture
def catalog() -> NoCatalog:
    return NoCatalog()


@pytest.fixture
def in_session(tmp_path: Path, catalog: NoCatalog) -> Iterator[tuple[Any, Path, Callable[[], str]]]:
    """What processes the runs of a RunEngine in the session, and what scans once."""
    beamline = make_twin_beamline(tmp_path / "frames")
    site = session.Site("", "", "", "", str(tmp_path), beamline.simulator.geometry, beamline.settings(**QUICK_SOLVER))
    with run_engine() as RE:
        pipeline = session.subscribe(RE, catalog, site, tmp_path)  # type: ignore[arg-type]
        plan = functools.partial(plans.ptycho_scan, *beamline.devices, **beamline.arguments((4, 4)))
        yield pipeline, tmp_path, lambda: str(cast(tuple[str, ...], RE(plan()))[0])
        pipeline.close(timeout=0)


def test_a_run_that_the_session_has_processed_is_not_unfinished(
    in_session: tuple[Any, Path, Callable[[], str]], capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline, folder, scan = in_session

    def unfinished() -> Any:
        assert main(["resume", "--log", str(folder / "documents"), "--out", str(folder / "results"), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    pipeline.pause()
    uid = scan()
    assert unfinished() == {uid: "ptycho_scan"}
    assert pipeline.unfinished == [uid]
    pipeline.resume()
    assert pipeline.wait(60)
    assert unfinished() == {"unfinished": "no run"}
    run = event_model.compose_run()
    pipeline("start", dict(run.start_doc))
    pipeline("stop", dict(run.compose_stop()))
    assert pipeline.wait(60) and pipeline.unfinished == [], "a run that is left alone"
    (done,) = FinishedRuns(folder / "results").read()
    assert (done.raw_uid, done.exit_status, Path(done.cxi).is_file()) == (uid, "success", True)


def test_a_run_whose_files_could_not_be_written_is_not_half_in_the_catalog(
    in_session: tuple[Any, Path, Callable[[], str]], catalog: NoCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, folder, scan = in_session
    with monkeypatch.context() as full:
        full.setattr(derived_run_writer, "ArrayFile", no_space)
        uid = scan()
        assert pipeline.wait(60)
    assert catalog.logs == []
    failed = catalog.find_finished(uid)
    assert (failed.exit_status, failed.documents) == ("fail", "") and "No space left" in failed.reason
    assert FinishedRuns(folder / "results").read() == [], "it may be processed again"
    opened = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    assert not [path for path in opened if folder / "results" in path.parents], "a full disk lasts many scans"
    scan()
    assert pipeline.wait(60)
    (done,) = FinishedRuns(folder / "results").read()
    assert catalog.logs == [done.documents] and Path(done.documents).is_file()


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_session_ends_when_its_last_run_is_processed(
    in_session: tuple[Any, Path, Callable[[], str]], capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline, folder, scan = in_session
    pipeline.pause()
    uid = scan()
    threading.Timer(0.1, pipeline.resume).start()
    session_runs._end_processing(pipeline, None)
    assert f"still being processed: run {uid[:8]}; the session ends with that" in capsys.readouterr().out
    assert [run.raw_uid for run in FinishedRuns(folder / "results").read()] == [uid]
    session_runs._end_processing(pipeline, None)
    assert capsys.readouterr().out == "", "it is closed"


def interrupted(*_: object) -> None:
    """Do what Python does on Ctrl-C; a process that was started in the background has no such handler."""
    raise KeyboardInterrupt


def test_ctrl_c_ends_the_session_at_once_and_names_the_command(
    in_session: tuple[Any, Path, Callable[[], str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline, folder, scan = in_session
    pipeline.pause()
    uid = scan()
    monkeypatch.setattr(session_runs, "_wait_for", interrupted)
    session_runs._end_processing(pipeline, None)
    *_, told = capsys.readouterr().out.splitlines()
    assert told == f"not finished, Ctrl-C: 'nsbluesky resume {uid[:8]}' finishes it later"
    assert not pipeline.alive and FinishedRuns(folder / "results").read() == []
