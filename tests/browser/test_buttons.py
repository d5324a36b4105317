"""The buttons for Colab, Binder and the source, on a page built for the purpose."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat

from book import theme


def _built(folder: Path, repository: str) -> str:
    """One page of a tiny book with the theme's settings."""
    (folder / "notebooks").mkdir(parents=True)
    cells = [nbformat.v4.new_markdown_cell("# A title"), nbformat.v4.new_code_cell("1")]
    language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=language)
    nbformat.write(notebook, folder / "notebooks" / "x.ipynb")
    (folder / "index.md").write_text("# Index\n\n```{toctree}\nnotebooks/x\n```\n")
    (folder / "conf.py").write_text(
        "extensions = ['myst_nb']\nnb_execution_mode = 'off'\n"
        "html_theme = 'sphinx_book_theme'\n"
        f"html_theme_options = {theme.options(repository)!r}\n"
    )
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html"]
    subprocess.run([*command, str(folder), str(folder / "out")], check=True)
    return (folder / "out" / "notebooks" / "x.html").read_text("utf-8")


def test_buttons_need_an_address(tmp_path):
    page = _built(tmp_path / "a", "https://github.com/someone/minivim")
    for address in (
        "https://colab.research.google.com/github/someone/minivim/blob/main/notebooks/x.ipynb",
        "https://mybinder.org/v2/gh/someone/minivim/main?urlpath=lab/tree/notebooks/x.ipynb",
        "https://github.com/someone/minivim",
    ):
        assert address in page
    page = _built(tmp_path / "b", "")
    assert not re.search("colab|mybinder|github", page)
