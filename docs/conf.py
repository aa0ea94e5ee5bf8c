"""Sphinx's configuration: ``make docs`` builds the site into ``build/docs``, without network."""

from __future__ import annotations

import os
from importlib.metadata import version as installed_version
from pathlib import Path

# Autodoc imports Airflow, which else makes a configuration in the user's home.
os.environ["AIRFLOW_HOME"] = str(Path(__file__).parents[1] / "build" / "airflow")

#: The address of the repository, once it is known: the footer and the "edit" links lead there.
REPOSITORY = ""

project = "AtScale provider for Apache Airflow"
author = "the contributors"
copyright = "the contributors; Apache License 2.0. AtScale is a trademark of AtScale, Inc.; this project is not affiliated with it"  # noqa: E501
release = version = installed_version("airflow-provider-atscale")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinxcontrib.svgbob"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns: list[str] = []
#: Pages that no toctree names, and patterns of toctrees that match no page yet, are no errors.
suppress_warnings = ["toc.not_included", "toc.empty_glob"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

#: Bases that are no subject of the reference.
nitpick_ignore = [("py:class", "airflow_provider_atscale.testing.core.EngineState")]

autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "AtScale provider"
html_logo = "integration-logos/airflow-provider-atscale.svg"
html_favicon = "integration-logos/airflow-provider-atscale.svg"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = (
    {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "docs/"}
    if REPOSITORY
    else {}
)
