"""Executes chapters: `python notebooks/run.py [--check | --record] [NAME ...]`.

A chapter is a pair: `NN_name.md` (MyST Markdown, which authors write) and
`NN_name.ipynb` (the same cells with their outputs). This runs the cells in a fresh
kernel and writes both files so that running again changes no byte: cell and widget ids
follow from the content, and times and versions stay out. `--record` writes how long
the cells took to a file of the book, which shows it at the chapter's top. `--install`
runs nothing: it writes the cell that installs minivim in Colab, or takes it away, as
the repository's address in pyproject.toml says.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from jupytext.config import load_jupytext_configuration_file
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
from book import chapters as budget  # noqa: E402
from book import colab  # noqa: E402

RECORD = FOLDER.parent / "book" / "results" / "chapters.json"
LIMIT = budget.NOTEBOOK  # bytes of a chapter, outputs included
STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
MODEL = "IPY_MODEL_"
FORMAT = "md:myst"

# On a busy machine XLA would print its alarm for slow compilation into a chapter.
QUIET = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}


class UserError(ValueError):
    """One line: what is wrong and what to do."""


def configuration():
    """The settings of jupytext.toml, which hold for every chapter wherever it lies."""
    return load_jupytext_configuration_file(str(FOLDER / "jupytext.toml"))


def read_chapter(path: Path) -> NotebookNode:
    """One of the twins as a notebook."""
    fmt = FORMAT if path.suffix == ".md" else "ipynb"
    return jupytext.read(path, as_version=4, fmt=fmt, config=configuration())


def cells_of(notebook: NotebookNode) -> list[tuple]:
    """What both twins must agree on: type, source and tags of every cell."""
    return [
        (cell.cell_type, cell.source.strip(), tuple(cell.metadata.get("tags", ())))
        for cell in notebook.cells
    ]


def choose_source(chapter: Path, wanted: str | None) -> Path:
    """The twin to start from: as asked, else the .md unless that would lose work."""
    markdown, notebook = chapter.with_suffix(".md"), chapter.with_suffix(".ipynb")
    if wanted:
        source = chapter.with_suffix(f".{wanted}")
        if not source.exists():
            raise UserError(f"{source} does not exist")
        return source
    if not markdown.exists() and not notebook.exists():
        raise UserError(f"there is neither {markdown} nor {notebook.name}")
    if not notebook.exists():
        return markdown
    if not markdown.exists():
        return notebook
    newer = notebook.stat().st_mtime > markdown.stat().st_mtime
    if newer and cells_of(read_chapter(markdown)) != cells_of(read_chapter(notebook)):
        raise UserError(
            f"{notebook.name} is newer than {markdown.name} and has other cells: "
            "choose with --from md or --from ipynb"
        )
    return markdown


def prepare(notebook: NotebookNode) -> NotebookNode:
    """An unexecuted notebook with the metadata that we keep and lasting cell ids."""
    for cell in identified(notebook).cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(kernel))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def identified(notebook: NotebookNode) -> NotebookNode:
    """The cells that a chapter should have by now, with ids from their sources."""
    seen: dict[str, int] = {}
    for cell in colab.place(notebook, colab.address()).cells:
        if cell.cell_type == "markdown":
            cell.source = budget.with_lengths(cell.source)
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()
        repeat = seen[digest] = seen.get(digest, -1) + 1
        cell["id"] = digest[:8] if not repeat else f"{digest[:8]}-{repeat}"
    return notebook


def kernel_environment() -> dict[str, str]:
    """What the kernel starts with: this environment and minivim's own settings."""
    try:
        from minivim.runtime import environment
    except ImportError:
        return {**os.environ, **QUIET}
    return {**os.environ, **environment(), **QUIET}


def execute(notebook: NotebookNode, folder: Path, *, timeout: int = 600) -> None:
    """Runs all cells in a fresh kernel, in place.

    Raises:
        UserError: if a cell fails, takes over `timeout` seconds or ends the kernel.
    """
    client = NotebookClient(
        notebook,
        timeout=timeout,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=40"],
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        client.execute(env=kernel_environment())
    except CellExecutionError as error:
        raise UserError(f"a cell failed\n{error}") from error
    except (CellTimeoutError, DeadKernelError) as error:
        raise UserError(f"a cell took too long or ended the kernel: {error}") from error


def _references(value) -> list[str]:
    """Ids of all models that a piece of widget state mentions, in order."""
    return re.findall(rf'"{MODEL}(\w+)"', json.dumps(value, sort_keys=True))


def _views(notebook: NotebookNode) -> list[str]:
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    views = [output.get("data", {}).get(VIEW) for output in outputs]
    return [view["model_id"] for view in views if view]


def _reach(models: dict, roots: list[str]) -> list[str]:
    """The models on display, in the order of a walk that starts at the views."""
    order: dict[str, None] = {}

    def walk(identity: str) -> None:
        if identity in models and identity not in order:
            order[identity] = None
            for other in _references(models[identity]["state"]):
                walk(other)

    for root in roots:
        walk(root)
    # Nothing refers to a link; it refers to both widgets that it joins.
    links = {
        identity: [list(order).index(end) for end in ends]
        for identity, model in models.items()
        if "Link" in model["model_name"]
        if (ends := _references([model["state"]["source"], model["state"]["target"]]))
        if all(end in order for end in ends)
    }
    return [*order, *sorted(links, key=lambda identity: links[identity])]


def _canonical_widgets(notebook: NotebookNode) -> None:
    widgets = notebook.metadata.get("widgets", {}).get(STATE)
    if not widgets:
        notebook.metadata.pop("widgets", None)
        return
    models = widgets["state"]
    kept = _reach(models, _views(notebook))
    names = {old: f"{number:032x}" for number, old in enumerate(kept, start=1)}
    text = json.dumps({names[old]: models[old] for old in kept}, sort_keys=True)
    for old, new in names.items():
        text = text.replace(f'"{MODEL}{old}"', f'"{MODEL}{new}"')
    state = json.loads(text)
    for model in state.values():
        if model["model_name"] == "LayoutModel":  # dozens of properties, all unset
            model["state"] = {k: v for k, v in model["state"].items() if v is not None}
    widgets["state"] = state
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if view := output.get("data", {}).get(VIEW):
                view["model_id"] = names.get(view["model_id"], view["model_id"])


def canonicalise(notebook: NotebookNode) -> NotebookNode:
    """Removes what differs from run to run; doing it again changes nothing."""
    _canonical_widgets(notebook)
    notebook.metadata["language_info"] = {
        "name": "python",
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "pygments_lexer": "ipython3",
    }
    for cell in notebook.cells:
        cell.metadata = NotebookNode(
            {k: v for k, v in cell.metadata.items() if k in ("tags", "mystnb")}
        )
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = re.sub(
                    r"/\S*/ipykernel_\d+/\d+\.py", "<cell>", output.text
                )
    return notebook


def render(notebook: NotebookNode) -> dict[str, str]:
    """The text of both twins, by suffix."""
    markdown = jupytext.writes(notebook, fmt=FORMAT, config=configuration())
    executed = NotebookNode(notebook)
    executed.metadata = NotebookNode(
        {k: v for k, v in notebook.metadata.items() if k != "jupytext"}
    )
    nbformat.validate(executed)
    return {".md": markdown, ".ipynb": nbformat.writes(executed) + "\n"}


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@dataclass(frozen=True)
class Ran:
    """What executing a chapter took: seconds with the start of its kernel, bytes."""

    name: str
    seconds: float
    size: int
    code: str

    def __str__(self) -> str:
        return f"{self.name}: {self.seconds:.0f} s, {self.size / 1000:.0f} kB"


def run(chapter: Path, *, source: str | None = None, check: bool = False) -> Ran:
    """Executes one chapter and writes, or with `check` compares, both its files.

    Raises:
        UserError: a cell failed, the chapter is too large, or a compared file differs.
    """
    notebook = prepare(read_chapter(choose_source(chapter, source)))
    start = time.perf_counter()
    execute(notebook, chapter.parent)
    seconds = time.perf_counter() - start
    texts = render(canonicalise(notebook))
    size = len(texts[".ipynb"].encode())
    if size > LIMIT:
        raise UserError(
            f"{chapter.name}.ipynb would take {size / 1e6:.1f} MB, more than "
            f"{LIMIT / 1e6:.0f}: show fewer or smaller pictures"
        )
    for suffix, text in texts.items():
        path = chapter.with_suffix(suffix)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            raise UserError(
                f"{path.name} differs from a fresh run: run it without --check"
            )
        _write(path, text)
    return Ran(chapter.name, seconds, size, budget.digest(notebook))


def install(chapter: Path) -> str:
    """Write both files with the cell that installs minivim, or without; say which.

    Raises:
        UserError: their other cells differ.
    """
    markdown, notebook = (
        read_chapter(chapter.with_suffix(suffix)) for suffix in (".md", ".ipynb")
    )
    if cells_of(identified(markdown)) != cells_of(identified(notebook)):
        raise UserError("its two files have other cells: run it without --install")
    for suffix, text in render(notebook).items():
        _write(chapter.with_suffix(suffix), text)
    return f"{chapter.name}: {'with' if colab.address() else 'without'} the cell"


def record(ran: Ran, path: Path, *, busy: bool) -> None:
    """Writes a measured run into the book's file, beside those of other chapters."""
    found = budget.records(path)
    found[ran.name] = {
        "seconds": round(ran.seconds, 1),
        "cores": os.cpu_count(),
        "busy": busy,
        "code": ran.code,
    }
    ordered = {name: found[name] for name in sorted(found)}
    _write(path, json.dumps(ordered, indent=1) + "\n")


def chapters(names: list[str]) -> list[Path]:
    """Chapters without suffix: paths, names of files here, or all of these if none."""
    if not names:
        return sorted(path.with_suffix("") for path in FOLDER.glob("[0-9]*.md"))
    found = []
    for name in names:
        path = Path(name)
        path = path.with_suffix("") if path.suffix in (".md", ".ipynb") else path
        twins = (path.with_suffix(".md"), path.with_suffix(".ipynb"))
        here = any(twin.exists() for twin in twins)
        found.append(path if here else FOLDER / path.name)
    return found


def main() -> int:
    """Runs the chapters named on the command line, one after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="chapters; all of them if left out")
    parser.add_argument(
        "--from", dest="source", choices=("md", "ipynb"),
        help="the twin to start from (md, unless that would lose newer cells)",
    )  # fmt: skip
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--check", action="store_true", help="compare, write nothing")
    only.add_argument(
        "--record", action="store_true", help=f"write the times to {RECORD.name}"
    )
    only.add_argument(
        "--install", action="store_true", help="write the cell for Colab, run nothing"
    )
    arguments = parser.parse_args()
    # Other work at the start: later the load is also that of the chapters.
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5
    for chapter in chapters(arguments.names):
        try:
            if arguments.install:
                print(install(chapter))
                continue
            ran = run(chapter, source=arguments.source, check=arguments.check)
            print(ran)
            if arguments.record:
                record(ran, RECORD, busy=busy)
        except UserError as error:
            print(f"{chapter.name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
