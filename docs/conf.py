"""Sphinx: `make docs` builds these pages, with warnings as errors."""

import os
import sys
from importlib import metadata

os.environ.setdefault("QT_API", "pyside6")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.dont_write_bytecode = True

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
