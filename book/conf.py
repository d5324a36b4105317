"""The site: the chapters of notebooks/ as they were executed and committed."""

import shutil
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from sphinx.errors import ConfigError  # noqa: E402

from book import (  # noqa: E402
    bibliography,
    chapters,
    colab,
    javascript,
    page_decoder,
    paper_table,
    reference,
    theme,
)

PYPROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))
REPOSITORY = colab.address()

# A copy and not a link: Sphinx resolves links between chapters through the real path.
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
shutil.copytree(
    HERE.parent / "notebooks",
    HERE / "notebooks",
    ignore=shutil.ignore_patterns("*.md", "*.py", "*.toml", ".*", "__pycache__"),
)

try:
    paper_table.write(HERE.parent, HERE / "paper.md")
    bibliography.write(HERE.parent, HERE / "bibliography.md")
    reference.write(HERE.parent, HERE / "api")
    page_decoder.write(HERE / "_static")
    javascript.install(HERE)
except (
    paper_table.TableError,
    bibliography.BibliographyError,
    reference.MissingName,
    javascript.JavaScriptError,
) as error:
    raise ConfigError(str(error)) from None

project = "minivim"
author = "The minivim authors"
copyright = "The minivim authors, CC BY 4.0 (prose), Apache-2.0 (code)"  # noqa: A001
version = release = PYPROJECT["project"]["version"]

extensions = ["myst_nb"]
exclude_patterns = ["_build", "node_modules", "results/*", "**/.ipynb_checkpoints"]
myst_enable_extensions = [
    "alert",
    "amsmath",
    "attrs_block",
    "attrs_inline",
    "colon_fence",
    "deflist",
    "dollarmath",
]
myst_heading_anchors = 3

nb_execution_mode = "off"
# No script is loaded for widgets: an explorer carries a plain HTML version of itself,
# which comes first. Without one, a widget's text stands in its place.
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "text/html", 0)]

html_theme = "sphinx_book_theme"
html_title = "minivim"
html_static_path = ["_static", "node_modules/mathjax/es5/tex-svg.js"]
html_extra_path = ["../LICENSE", "../LICENSE-prose"]
html_css_files = ["minivim.css", "token-editor.css", "generator.css"]
html_js_files = [
    "minivim.js",
    "decoder.js",
    "token-editor.js",
    "prior.js",
    "generator.js",
]
# One file with its fonts in it, so formulas show without a network. The menu would
# fetch more.
mathjax_path = "tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}
html_show_sourcelink = False
html_theme_options = theme.options(REPOSITORY)


def setup(app):
    """Add the measured line and links to the reference as a chapter is read."""
    recorded = chapters.records(HERE / "results" / "chapters.json")

    def measured(app, docname, source):
        folder, _, name = docname.rpartition("/")
        if folder == "notebooks":
            there = colab.page(REPOSITORY, name)
            text = chapters.with_line(source[0], name, recorded, there)
            links = reference.places(HERE.parent, name)
            source[0] = chapters.with_links(text, links)

    app.connect("source-read", measured)
