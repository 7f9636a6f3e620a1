"""Sphinx configuration: warnings are errors (nox -s docs)."""

from __future__ import annotations

import doctest
import os
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

project = "thoraxlib"
author = "The thoraxlib developers"
copyright = f"2026, {author}"
release = metadata.version("thoraxlib")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "registry",
    "components",
    "cards",
    "flow",
    "mathml",
    "weights",
]
templates_path: list[str] = []
exclude_patterns = ["_build", "_benchmarks", "_components", "gallery/*.ipynb", "gallery/*.py", "gallery/*.md5"]
nitpicky = False
suppress_warnings = ["ref.python"]  # attributes with the same name in several classes

html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"thoraxlib {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the numpydoc sections describe the types, with shapes and units
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
# only the examples of the pages; the test suite runs those of the docstrings
doctest_test_doctest_blocks = ""
doctest_default_flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

sphinx_gallery_conf = {
    "examples_dirs": [str(HERE.parent / "examples" / "gallery")],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"/plot_",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "image_scrapers": ("matplotlib",),
    "plot_gallery": "True",
}
