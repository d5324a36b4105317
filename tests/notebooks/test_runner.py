"""The runner: stable ids and bytes, links kept, the right twin wins, short errors."""

import json
import os
import re

import nbformat
import pytest

MARKDOWN = """\
---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Sample

```{code-cell} ipython3
from ipywidgets import IntSlider, VBox, jslink

unused = IntSlider()
box = VBox([IntSlider(description="a"), IntSlider(description="b")])
link = jslink((box.children[0], "value"), (box.children[1], "value"))
box
```

```{code-cell} ipython3
:tags: [nbval-ignore-output]

print(1)
print(2)
```
"""


def _model(name, **state):
    return {"model_name": name, "state": state}


def _notebook(runner, ids):
    box, left, right, link, stray = (f"{i:032d}" for i in ids)
    models = {
        stray: _model("IntSliderModel"),
        link: _model(
            "LinkModel",
            source=[f"IPY_MODEL_{left}", "value"],
            target=[f"IPY_MODEL_{right}", "value"],
        ),
        right: _model("LayoutModel", width=None, height="1em"),
        left: _model("IntSliderModel"),
        box: _model("VBoxModel", children=[f"IPY_MODEL_{left}", f"IPY_MODEL_{right}"]),
    }
    data = {runner.VIEW: {"model_id": box}}
    cell = nbformat.v4.new_code_cell("box", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("display_data", data=data)]
    cell.metadata = nbformat.from_dict({"execution": {"t": "now"}, "tags": ["a"]})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["widgets"] = {runner.STATE: {"state": models}}
    return runner.canonicalise(notebook)


def test_widget_ids_follow_from_the_walk_alone(runner):
    first = _notebook(runner, [9, 3, 5, 1, 2])
    second = _notebook(runner, [4, 8, 1, 7, 6])
    assert json.dumps(first.metadata) == json.dumps(second.metadata)
    state = first.metadata["widgets"][runner.STATE]["state"]
    names = {int(key, 16): model["model_name"] for key, model in state.items()}
    assert names == {
        1: "VBoxModel",
        2: "IntSliderModel",
        3: "LayoutModel",
        4: "LinkModel",  # nothing refers to it, yet without it the slider is dead
    }
    assert state[f"{3:032x}"]["state"] == {"height": "1em"}
    assert first.cells[0].outputs[0].data[runner.VIEW]["model_id"] == f"{1:032x}"
    assert first.cells[0].metadata == {"tags": ["a"]}


def test_canonicalising_twice_changes_nothing(runner):
    once = _notebook(runner, [9, 3, 5, 1, 2])
    text = json.dumps(once)
    assert json.dumps(runner.canonicalise(once)) == text


def test_cell_ids_follow_from_the_source(runner):
    sources = ["a", "b", "a"]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    ids = [c.id for c in runner.prepare(nbformat.v4.new_notebook(cells=cells)).cells]
    assert len(set(ids)) == 3 and ids[2] == f"{ids[0]}-1"
    cells = [nbformat.v4.new_code_cell(source) for source in sources[1:]]
    again = [c.id for c in runner.prepare(nbformat.v4.new_notebook(cells=cells)).cells]
    assert again == [ids[1], ids[0]]


def test_paths_of_the_kernel_are_removed_from_warnings(runner):
    cell = nbformat.v4.new_code_cell("x")
    text = "/tmp/ipykernel_812/32.py:1: UserWarning: x"
    cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text=text)]
    runner.canonicalise(nbformat.v4.new_notebook(cells=[cell]))
    assert cell.outputs[0].text == "<cell>:1: UserWarning: x"


def _pair(folder, *, other: str, newer: str):
    for suffix, source in ((".md", "1"), (".ipynb", other)):
        path = folder / f"01_x{suffix}"
        if suffix == ".md":
            path.write_text(MARKDOWN.replace("print(1)", source))
        else:
            cell = nbformat.v4.new_code_cell(source)
            nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
        os.utime(path, (0, 1000 if suffix == newer else 500))
    return folder / "01_x"


def test_markdown_is_the_source_unless_that_loses_work(runner, tmp_path):
    chapter = _pair(tmp_path, other="2", newer=".md")
    assert runner.choose_source(chapter, None).suffix == ".md"
    assert runner.choose_source(chapter, "ipynb").suffix == ".ipynb"
    chapter = _pair(tmp_path, other="2", newer=".ipynb")
    with pytest.raises(runner.UserError, match="--from md or --from ipynb"):
        runner.choose_source(chapter, None)
    assert runner.choose_source(chapter, "md").suffix == ".md"
    chapter.with_suffix(".ipynb").unlink()
    assert runner.choose_source(chapter, None).suffix == ".md"
    with pytest.raises(runner.UserError, match="does not exist"):
        runner.choose_source(chapter, "ipynb")
    with pytest.raises(runner.UserError, match="neither"):
        runner.choose_source(tmp_path / "02_y", None)


def test_running_twice_gives_the_same_bytes(runner, tmp_path):
    chapter = tmp_path / "01_x"
    files = [chapter.with_suffix(suffix) for suffix in (".md", ".ipynb")]
    files[0].write_text(MARKDOWN)
    runner.run(chapter)
    first = [path.read_bytes() for path in files]
    runner.run(chapter)
    assert [path.read_bytes() for path in files] == first
    notebook = nbformat.reads(first[1].decode(), as_version=4)
    assert notebook.cells[2].outputs[0].text == "1\n2\n"
    state = notebook["metadata"]["widgets"][runner.STATE]["state"].values()
    assert sum(model["model_name"] == "IntSliderModel" for model in state) == 2
    assert sum(model["model_name"] == "LinkModel" for model in state) == 1
    files[1].write_text(first[1].decode().replace('"2\\n"', '"3\\n"'))
    with pytest.raises(runner.UserError, match="differs from a fresh run"):
        runner.run(chapter, check=True)


def test_a_failing_cell_is_reported_and_nothing_written(runner, tmp_path):
    chapter = tmp_path / "01_x"
    broken = MARKDOWN.replace("print(1)", "1 / 0")
    chapter.with_suffix(".md").write_text(broken)
    with pytest.raises(runner.UserError, match="ZeroDivisionError"):
        runner.run(chapter)
    assert [path.name for path in tmp_path.iterdir()] == ["01_x.md"]
    assert chapter.with_suffix(".md").read_text() == broken


def test_a_measured_run_is_kept_beside_the_others(runner, tmp_path):
    chapter, target = tmp_path / "02_x", tmp_path / "chapters.json"
    chapter.with_suffix(".md").write_text(MARKDOWN)
    target.write_text('{"01_y": {"seconds": 1.0}}')
    ran = runner.run(chapter)
    assert re.fullmatch(r"02_x: \d+ s, \d+ kB", str(ran))
    runner.record(ran, target, busy=True)
    found = runner.budget.records(target)
    assert list(found) == ["01_y", "02_x"]
    assert found["02_x"]["busy"] and 0 < found["02_x"]["seconds"] < 120
    # The written notebook is the one that was measured.
    notebook = json.loads(chapter.with_suffix(".ipynb").read_text("utf-8"))
    assert found["02_x"]["code"] == runner.budget.digest(notebook)
