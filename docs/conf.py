"""Sphinx's configuration of the site: `make docs` builds it (build.py)."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "docs" / "_ext"), str(ROOT)]
# Modules are imported for their docstrings, and the first script runs: on mps, also beside another accelerator.
os.environ.setdefault("PORTABLE_MPS", "1")
os.environ.setdefault("PORTABLE_MPS_QUIET", "1")
import torch  # noqa: E402, F401  (once: autodoc drops modules whose import has failed, and torch cannot come twice)

project = "portable-mps"
author = "portable-mps contributors"
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "inserts", "docstrings", "repository_pages"]
exclude_patterns = ["_ext", "README.md"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4
# The tree of contents is drawn on each page: with all functions and methods in it, that is most of the time of a build.
toc_object_entries = False
smartquotes = False  # quotes in code and messages stay as they are

html_theme = "furo"
html_title = "portable-mps"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["offline.js"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "default"
pygments_dark_style = "github-dark"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
# automodule shows no imported members; where viewcode takes one for such, its links back have another name than it has.
viewcode_follow_imported_members = False
# Of Inductor's object that answers for every operator, when autodoc asks it for its own mark.
warnings.filterwarnings("ignore", message="undefined OpHandler")

# What is ours must resolve; torch's and Python's own documentation is not at hand without a network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!portable_mps\.).*"),
    (r"py:.*", r"portable_mps\.(_C\.|.*\._).*"),  # the extension's types, and private ones
    (r"py:.*", r"portable_mps\.dispatch\.registry\.Function"),  # a type variable
]

# A page of Perfetto's application, which answers nothing to a program.
linkcheck_ignore = [r"https://ui\.perfetto\.dev"]
linkcheck_timeout = 20
linkcheck_anchors = False

# The pages of the repository's files (repository_pages).
repository_root = ROOT
repository_layers = {
    "examples": "scripts of users",
    "portable_mps": "the package: activation, settings, command line",
    "portable_mps/compatibility": "mends of other libraries",
    "portable_mps/inductor": "the code generator of torch.compile",
    "portable_mps/ops": "ATen operators",
    "portable_mps/dispatch": "launchers: from an operator's arguments to a dispatch",
    "portable_mps/runtime": "the device",
    "portable_mps/kernels": "kernels in Slang",
    "portable_mps/kernels/lib": "the shader library that eager and compiled kernels share",
    "csrc": "what libtorch takes from C++ alone, and every operator's path",
    "tests": "tests",
    "benchmarks": "benchmarks",
    "scripts": "set-up and measurement",
    "docs": "documentation",
}
# Functions and decorators whose text arguments name the operators that they register.
repository_registrars = (
    *("implements", "register", "register_composite", "register_first", "register_composite_first", "register_for"),
    *("define", "define_replayed", "impl", "_register", "_register_float"),
)
repository_tests = ("tests",)
repository_benchmarks = ("benchmarks",)
