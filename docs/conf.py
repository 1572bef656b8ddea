"""Sphinx configuration."""

from __future__ import annotations

from trimtab import __version__

project = "trimtab"
author = "The trimtab authors"
copyright = "The trimtab authors, Apache-2.0"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"trimtab {version}"
html_static_path: list[str] = []

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_custom_sections = ["Shape", "Cost"]
nitpicky = False
napoleon_attr_annotations = False  # it reads `np.str_` as a reference
