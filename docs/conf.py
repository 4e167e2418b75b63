"""Sphinx: `make docs` builds these pages, with warnings as errors."""

import os
import re
import warnings
from collections.abc import Mapping
from importlib import metadata

from sphinx.application import Sphinx

os.environ.setdefault("QT_API", "pyside6")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

project = "nsbluesky"
author = "the nsbluesky developers"
copyright = f"2026, {author}"
release = version = metadata.version("nsbluesky")

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates"]
html_theme = "furo"
html_title = f"nsbluesky {release}"
html_static_path: list[str] = []

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

default_role = "literal"  # names in `single quotes` are code, whether or not a page documents them
autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False

# Docstrings of ophyd, from which devices inherit, have sections that numpydoc does not know.
warnings.filterwarnings("ignore", message="Unknown section", category=UserWarning, module="numpydoc")
# Names for tuple types: their signature cannot be formatted.
autodoc_default_options = {"exclude-members": "Asset, Document"}


STARRED = re.compile(r"(?<![\\*\w])\*(?=[A-Za-z_][\w.]*(?:[\s,)\]]|$))")
"""A star as in (n, *frame.shape), which begins no emphasis."""


def _escape_signs(
    app: Sphinx, what: str, name: str, target: object, options: Mapping[str, object], lines: list[str]
) -> None:
    """Let docstrings write |ψ|² and (n, *shape), where reStructuredText would read substitutions and emphasis."""
    for n, line in enumerate(lines):
        parts = line.split("`")  # every other one is literal
        parts[::2] = [STARRED.sub(r"\*", part.replace("|", r"\|")) for part in parts[::2]]
        lines[n] = "`".join(parts)


def setup(app: Sphinx) -> None:
    """Register what these pages add to Sphinx; after numpydoc, whose priority is 500."""
    app.connect("autodoc-process-docstring", _escape_signs, priority=900)
