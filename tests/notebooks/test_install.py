"""The cell that installs minivim in Colab: there with an address, else nowhere."""

import json
from types import SimpleNamespace

import nbformat
import pytest

from book import chapters, colab
from tests.notebooks import conftest
from tests.notebooks.test_runner import MARKDOWN

ADDRESS = "https://github.com/someone/minivim"
NAMES = sorted(path.stem for path in conftest.NOTEBOOKS.glob("[0-9]*.ipynb"))


@pytest.mark.parametrize("name", NAMES)
def test_chapters_are_as_the_address_says(name, runner):
    for suffix in (".md", ".ipynb"):
        found = runner.read_chapter(conftest.NOTEBOOKS / f"{name}{suffix}")
        cells = runner.cells_of(found)
        wanted = runner.cells_of(colab.place(found, conftest.ADDRESS))
        assert cells == wanted, "run: python notebooks/run.py --install"


@pytest.fixture
def chapter(runner, tmp_path):
    """A chapter that was executed without an address."""
    (tmp_path / "01_x.md").write_text(MARKDOWN)
    runner.run(tmp_path / "01_x")
    return tmp_path / "01_x"


def contents(chapter):
    return [chapter.with_suffix(end).read_text() for end in (".md", ".ipynb")]


def test_it_comes_and_goes_with_the_address(runner, chapter, monkeypatch):
    before = contents(chapter)
    assert runner.install(chapter) == "01_x: without the cell"
    assert contents(chapter) == before
    monkeypatch.setattr(colab, "address", lambda: ADDRESS)
    assert runner.install(chapter) == "01_x: with the cell"
    markdown, notebook = contents(chapter)
    assert markdown.count(ADDRESS) == notebook.count(ADDRESS) == 1
    old, new = (json.loads(text) for text in (before[1], notebook))
    assert [new["cells"][0], *new["cells"][2:]] == old["cells"]
    assert new["cells"][1]["execution_count"] is None
    assert chapters.digest(new) == chapters.digest(old)
    # Executing the chapter leaves the cell alone.
    runner.run(chapter)
    assert contents(chapter) == [markdown, notebook]
    monkeypatch.setattr(colab, "address", lambda: "")
    runner.install(chapter)
    assert contents(chapter) == before


def test_other_cells_are_not_lost(runner, chapter):
    markdown, _ = contents(chapter)
    chapter.with_suffix(".md").write_text(markdown.replace("print(2)", "print(3)"))
    before = contents(chapter)
    with pytest.raises(runner.UserError, match="run it without --install"):
        runner.install(chapter)
    assert contents(chapter) == before


@pytest.mark.parametrize("there", [True, False])
def test_it_installs_only_what_is_missing(monkeypatch, there):
    [cell] = colab.place(nbformat.v4.new_notebook(), ADDRESS).cells
    ran = []
    shell = SimpleNamespace(run_line_magic=lambda *words: ran.append(words))
    spec = (lambda name: name) if there else (lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", spec)
    exec(cell.source, {"get_ipython": lambda: shell})
    wanted = [("pip", f"install --quiet git+{ADDRESS}")]
    assert ran == ([] if there else wanted)


def test_pages_in_colab_are_those_of_github():
    start = "https://colab.research.google.com/github/someone/minivim/blob/main"
    assert colab.page(ADDRESS, "01_x") == f"{start}/notebooks/01_x.ipynb"
    assert colab.page("", "01_x") == colab.page("https://example.org/a/b", "x") == ""


def test_the_measured_line_leads_there():
    cells = [nbformat.v4.new_markdown_cell("# A"), nbformat.v4.new_code_cell("1")]
    text = json.dumps(nbformat.v4.new_notebook(cells=cells))
    there = colab.page(ADDRESS, "x")
    made = json.loads(chapters.with_line(text, "x", {}, there))["cells"][0]["source"]
    assert f'<a href="{there}">Colab</a>' in made
    assert "Colab" not in chapters.with_line(text, "x", {})
