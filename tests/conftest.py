"""What every test shares: an isolated data folder, a RunEngine that leaves nothing behind, and seeds."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import ophyd  # noqa: F401 - its dispatcher's threads start at the first import and are nobody's to end
import pytest
from bluesky import RunEngine
from own_run_engine import run_engine

from nsbluesky.heap import end_without_collection

if "PYTEST_XDIST_WORKER" in os.environ:  # which collects all tests, and imports tiled in any case
    import nsbluesky.catalog.embedded  # noqa: F401 - before Qt: PySide reads the source of every module that comes after it

if TYPE_CHECKING:
    from nsbluesky.catalog import Catalog

# Containers often forbid bytecode files: each of the hundred processes that tests start then compiles the package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Many modules, few cycles: by default a twelfth of the tests' time goes by in looking for garbage.
gc.set_threshold(20_000, 5, 2)
end_without_collection()  # pytest itself has looked by then

# No deadline: how long an example takes is the machine's business.  The same examples in every CI run.
for name, examples in (("nsbluesky", 50), ("nightly", 300)):
    in_ci = "CI" in os.environ
    hypothesis.settings.register_profile(name, max_examples=examples, deadline=None, derandomize=in_ci)
hypothesis.settings.load_profile("nsbluesky")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--nightly``."""
    parser.addoption("--nightly", action="store_true", help="also run what takes too long for every commit")


def pytest_configure(config: pytest.Config) -> None:
    """Let Hypothesis take more examples where there is time, and Ctrl-C come where a script had it ignored."""
    if config.getoption("--nightly"):
        hypothesis.settings.load_profile("nightly")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


LONG_FILES = (
    "test_profile.py",
    "test_end_to_end.py",
    "test_faults.py",
    "test_incremental_reconstructor.py",
    "test_docs.py",
    "test_queue.py",
    "test_catalog_process.py",
    "test_scenes.py",
    "test_commands.py",
    "test_live.py",
    "test_cxi_window.py",
    "test_recorded_runs.py",
    "test_reprocess_panel.py",
    "test_orientation.py",
    "test_replay_of_runs.py",
    "test_service.py",
    "test_service_commands.py",
    "test_resume.py",
)
"""Files that take a minute or so: begun last, one of them would let all workers but its own wait."""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let every other worker collect from the end: what one has compiled by the middle, the other finds on disk."""
    report = yield
    if isinstance(collector, pytest.Dir) and int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 2:
        report.result.reverse()
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes too long, unless it is asked for; begin with the files that take long."""
    items.sort(key=lambda item: (item.path.name not in LONG_FILES, item.path))  # whichever way they were collected
    if not config.getoption("--nightly"):
        long = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep catalogs, logs and frames of a test in its own folder, never in the user's."""
    folder = tmp_path / "nsbluesky-data"
    monkeypatch.setenv("NSBLUESKY_DATA", str(folder))
    monkeypatch.setenv("NSBLUESKY_CONFIG", str(tmp_path / "nsbluesky-config"))
    return folder


@pytest.fixture(scope="session")
def new_catalog(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Put an empty catalog into a folder, and return the folder: to make one takes seconds, to copy it does not."""
    from nsbluesky.catalog import open_catalog

    folder = tmp_path_factory.getbasetemp()
    template = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "empty-catalog"
    with (template.parent / "empty-catalog.lock").open("w") as lock:  # all workers have one
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            with open_catalog(template) as made:
                made.client  # noqa: B018 - the first look makes it

    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(template, folder, dirs_exist_ok=True))

    return copy


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory, new_catalog: Callable[[Path], Path]) -> Iterator[Catalog]:
    """The catalog of tests that look at no runs but their own: it takes seconds to open, and its process to start."""
    from nsbluesky.catalog import open_catalog

    with open_catalog(new_catalog(tmp_path_factory.mktemp("catalog"))) as catalog:
        yield catalog


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20170321)


@pytest.fixture
def RE() -> Iterator[RunEngine]:
    """A RunEngine that leaves nothing behind."""
    with run_engine(call_returns_result=True) as engine:
        yield engine
