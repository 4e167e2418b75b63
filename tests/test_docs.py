"""What the pages show runs: Python blocks are executed in order, tables of commands are those of the command line."""

from __future__ import annotations

import bz2
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_run_engine import run_engine
from twin_beamline import make_twin_beamline

from nsbluesky.cli import COMMANDS
from nsbluesky.document_log import DocumentLog
from nsbluesky.plans import ptycho_fly_scan

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _write_small_star(folder: Path) -> None:
    """Write a file of the form of tike's Siemens star."""
    rng = np.random.default_rng(0)
    arrays = io.BytesIO()
    frames = rng.poisson(5.0, (1, 4, 32, 32)).astype(np.float32)
    np.savez(arrays, data=frames, scan=rng.uniform(0, 20, (1, 4, 2)).astype(np.float32))
    (folder / "siemens-star-small.npz.bz2").write_bytes(bz2.compress(arrays.getvalue()))


def run_blocks(text: str, filename: str) -> None:
    """Execute the Python blocks of a page in one namespace, as a reader would; errors name the line of the page."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        lines_before = text.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_before + block.group(1), filename, "exec"), namespace)


def _record_a_run(folder: Path) -> None:
    """Scan with the beamline of the tutorial; it writes a log."""
    beamline = make_twin_beamline(folder / "frames")
    with run_engine() as RE:
        RE.subscribe(DocumentLog(folder / "logs"))
        RE(ptycho_fly_scan(*beamline.devices, **beamline.arguments((6, 6)), rate_hz=80.0))


# What a page finds in the working directory.
FILES: dict[str, Callable[[Path], None]] = {
    "how-to/reconstruct-a-cxi-file.md": _write_small_star,
    "how-to/replay-a-run.md": _record_a_run,
}


def _pages_with_code() -> list[Path]:
    pages = (page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
    return sorted(page for page in pages if BLOCK.search(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", _pages_with_code(), ids=lambda page: str(page.relative_to(DOCS)))
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FILES.get(str(page.relative_to(DOCS)), lambda folder: None)(tmp_path)
    run_blocks(page.read_text(encoding="utf-8"), str(page))


def test_an_error_on_a_page_names_its_line() -> None:
    page = "# Page\n\n```python\nx = 1\n```\n\ntext\n\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as caught:
        run_blocks(page, "page.md")
    assert caught.traceback[-1].lineno == 9  # counted from 0


@pytest.mark.parametrize("page", ["README.md", "docs/reference/command-line.md"])
def test_the_table_of_commands_is_that_of_the_command_line(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert re.findall(r"^\| `nsbluesky ([a-z0-9-]+)", text, re.MULTILINE) == list(COMMANDS)
