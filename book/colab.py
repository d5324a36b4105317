"""What a chapter needs in Colab: its page there, and a cell that installs minivim.

Both stand in a chapter only where pyproject.toml names the repository's address.
"""

import tomllib

import nbformat
from nbformat import NotebookNode

from book.chapters import INSTALL, ROOT

# The cell runs for readers alone: its output would say what a registry has today. It is
# plain Python, which what reads chapters can parse.
TAGS = [INSTALL, "skip-execution", "nbval-skip"]
CELL = """\
# Installs minivim where it is missing. If Colab asks for a restart, say yes, and then
# run the chapter from its top.
from importlib.util import find_spec

if find_spec("minivim") is None:
    sources = "git+{}"
    get_ipython().run_line_magic("pip", f"install --quiet {{sources}}")\
"""


def address() -> str:
    """The repository's, without a slash at its end; empty as long as there is none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return project["tool"]["minivim"]["repository"].rstrip("/").removesuffix(".git")


def page(repository: str, name: str) -> str:
    """Where Colab opens a chapter; empty unless the repository is on GitHub."""
    _, host, path = repository.rpartition("https://github.com/")
    start = "https://colab.research.google.com/github"
    return f"{start}/{path}/blob/main/notebooks/{name}.ipynb" if host else ""


def place(notebook: NotebookNode, repository: str) -> NotebookNode:
    """The notebook with its installing cell before all code, or without any."""
    cells = [c for c in notebook.cells if INSTALL not in c.metadata.get("tags", ())]
    if repository:
        first = next((i for i, c in enumerate(cells) if c.cell_type == "code"), 0)
        code = CELL.format(repository)
        cells.insert(first, nbformat.v4.new_code_cell(code, metadata={"tags": TAGS}))
    notebook.cells = cells
    return notebook
