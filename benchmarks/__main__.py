"""Run benchmarks and keep their figures: ``python -m benchmarks [NAME ...]``.

The figures of the benchmarks that were not run stay as they are on the page.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from datetime import date
from pathlib import Path

from benchmarks.figures import machine, section

FOLDER = Path(__file__).parent
PAGE = FOLDER / "RESULTS.md"
HEAD = """# Results

Every figure here comes from the command above its table, on the machine and day in brackets; see
[the benchmarks](__init__.py). Machines that run other things at the same time give lower bounds of speed.

"""


def main() -> int:
    """Run the named benchmarks, all by default, and update the page."""
    names = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (all by default)")
    wanted = parser.parse_args().names or names
    unknown = set(wanted) - set(names)
    if unknown:
        parser.error(f"{sorted(unknown)[0]!r}: expected one of {', '.join(names)}")
    for name in wanted:
        module = importlib.import_module(f"benchmarks.bench_{name}")
        print(f"{name}: {module.__doc__.splitlines()[0]}", file=sys.stderr)
        title = f"{name.capitalize()} [{machine()}; {date.today().isoformat()}]"
        measured = section(title, f"python -m benchmarks {name}", module.measure())
        print(measured)
        sections = _sections() | {name: measured}  # as it is now: others may have measured meanwhile
        PAGE.write_text(HEAD + "\n".join(sections[key] for key in sorted(sections)))
    return 0


def _sections() -> dict[str, str]:
    """Return the sections of the page as it is, by name."""
    if not PAGE.exists():
        return {}
    parts = re.split(r"^(?=## )", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return {part[3:].split()[0].lower(): part.rstrip("\n") + "\n" for part in parts}


if __name__ == "__main__":
    sys.exit(main())
