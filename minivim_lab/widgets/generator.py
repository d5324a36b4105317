"""The book's first page in a cell: the prior writes codes, the decoder paints them."""

import importlib.util
from html import escape
from pathlib import Path
from typing import Any

from minivim.config.checks import require

BOOK = Path(__file__).parents[2] / "book"
SCRIPTS = ("decoder", "token-editor", "prior", "generator")
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<style>body {{ background: #fff; color: #1d2430; font-family: sans-serif }}
{style}</style>
<title>minivim</title><div class="minivim-generator"></div>{scripts}</html>"""


def generator(height: int = 860) -> Any:
    """The generator of the book's first page, alive in a notebook.

    A page of its own (about 3 MB) in a frame: it asks for nothing, and the kernel has
    no part in it. Raises `UserError` where the sources of the book are missing.
    """
    from IPython.display import HTML

    told = "the book's scripts are not part of an installed wheel"
    there = (BOOK / "_static" / "generator.js").is_file()
    require(there, f"{told}; use a checkout of the repository")
    text = escape(page())
    frame = f'<iframe title="minivim" width="100%" height="{height}" srcdoc="{text}"'
    return HTML(f'<div>{frame} style="border:0"></iframe></div>')


def page() -> str:
    """The whole page as HTML, with scripts and weights inside."""
    spec: Any = importlib.util.spec_from_file_location("x", BOOK / "page_decoder.py")
    spec.loader.exec_module(weights := importlib.util.module_from_spec(spec))
    static = BOOK / "_static"
    scripts = [*weights.scripts().values()]
    scripts += [(static / f"{name}.js").read_text("utf-8") for name in SCRIPTS]
    style = (static / "generator.css").read_text("utf-8")
    tags = "\n".join(f"<script>{script}</script>" for script in scripts)
    return _PAGE.format(style=style, scripts=tags)
