"""Every chapter: its twins agree, it was executed in order, its widgets have state.

Strict nbval compares outputs, but it passes a notebook that was never executed and does
not look at widgets; these checks close both gaps.
"""

import copy
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
CHAPTERS = sorted({p.stem for p in NOTEBOOKS.glob("[0-9]*.*")})


def difference(markdown: list[tuple], notebook: list[tuple]) -> str:
    """The first cell in which two lists of cells differ, in words; '' if none."""
    for number, (left, right) in enumerate(zip(markdown, notebook, strict=False), 1):
        if left != right:
            return f"cell {number}: .md has {left}, .ipynb has {right}"
    if len(markdown) != len(notebook):
        return f".md has {len(markdown)} cells, .ipynb has {len(notebook)}"
    return ""


def execution_faults(cells: list[dict]) -> list[str]:
    """What shows that cells were not executed from top to bottom without an error."""
    faults, expected = [], 1
    for number, cell in enumerate(cells, 1):
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] != "code" or "skip-execution" in tags:
            continue
        if cell["execution_count"] != expected:
            faults.append(f"cell {number}: count {cell['execution_count']}")
        expected += 1
        kinds = [output["output_type"] for output in cell["outputs"]]
        if "error" in kinds and "raises-exception" not in tags:
            faults.append(f"cell {number}: error")
    return faults


def widget_faults(notebook: dict, runner) -> list[str]:
    """Displayed or mentioned widgets whose state is missing."""
    state = notebook["metadata"].get("widgets", {}).get(runner.STATE, {})
    models = state.get("state", {})
    needed = [*runner._views(nbformat.from_dict(notebook)), *runner._references(models)]
    return [f"no state of widget {one}" for one in needed if one not in models]


def _load(name: str) -> dict:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def test_there_are_chapters():
    assert CHAPTERS


@pytest.mark.parametrize("name", CHAPTERS)
def test_twins_agree(name, runner):
    twins = [NOTEBOOKS / f"{name}{suffix}" for suffix in (".md", ".ipynb")]
    assert all(twin.exists() for twin in twins)
    assert not difference(*(runner.cells_of(runner.read_chapter(t)) for t in twins))


@pytest.mark.parametrize("name", CHAPTERS)
def test_executed_in_order_without_error(name):
    cells = _load(name)["cells"]
    assert any(cell["cell_type"] == "code" for cell in cells)
    assert not execution_faults(cells)


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_widget_has_its_state(name, runner):
    assert not widget_faults(_load(name), runner)


@pytest.mark.parametrize("name", CHAPTERS)
def test_has_an_explorer_and_a_live_widget(name):
    outputs = [o for cell in _load(name)["cells"] for o in cell.get("outputs", ())]
    texts = ["".join(o.get("data", {}).get("text/plain", "")) for o in outputs]
    assert any(text.startswith("Explorer of") for text in texts)
    assert any(text.startswith("Live(") for text in texts)


@pytest.mark.parametrize("name", CHAPTERS)
def test_is_canonical_and_small(name, runner):
    text = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    assert len(text.encode()) <= runner.LIMIT
    assert runner.render(runner.canonicalise(_load(name)))[".ipynb"] == text


# The checks themselves must be able to fail.
CELLS = [
    {"cell_type": "markdown", "source": "# x", "metadata": {}},
    {"cell_type": "code", "source": "1", "metadata": {}, "execution_count": 1},
    {"cell_type": "code", "source": "2", "metadata": {}, "execution_count": 2},
]


def _cells(**changes):
    cells = copy.deepcopy(CELLS)
    for cell in cells[1:]:
        cell["outputs"] = []
    cells[2].update(changes)
    return cells


@pytest.mark.parametrize("count", [None, 1, 3])
def test_execution_check_fails_for(count):
    assert execution_faults(_cells()) == []
    assert execution_faults(_cells(execution_count=count)) == [f"cell 3: count {count}"]


def test_execution_check_fails_for_an_error():
    error = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
    assert execution_faults(_cells(outputs=[error])) == ["cell 3: error"]
    wanted = _cells(outputs=[error], metadata={"tags": ["raises-exception"]})
    assert execution_faults(wanted) == []


def test_pair_check_fails_for_type_source_tags_and_length():
    cell = ("code", "1", ())
    assert not difference([cell], [cell])
    for other in (("markdown", "1", ()), ("code", "2", ()), ("code", "1", ("a",))):
        assert difference([cell], [other]).startswith("cell 1")
    assert difference([cell], [cell, cell]) == ".md has 1 cells, .ipynb has 2"


def test_widget_check_fails_without_state(runner):
    view = {"output_type": "display_data", "metadata": {}, "data": {}}
    view["data"][runner.VIEW] = {"model_id": "abc"}
    notebook = {"cells": _cells(outputs=[view]), "metadata": {}}
    assert widget_faults(notebook, runner) == ["no state of widget abc"]
    child = {"model_name": "VBoxModel", "state": {"children": ["IPY_MODEL_def"]}}
    notebook["metadata"]["widgets"] = {runner.STATE: {"state": {"abc": child}}}
    assert widget_faults(notebook, runner) == ["no state of widget def"]
