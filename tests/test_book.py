"""What the book is made of: measured lines, reference, works, JavaScript."""

import ast
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

from book import bibliography, chapters, javascript, reference

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
# A place to look at, in the last section of a chapter.
PLACE = re.compile(r"^- `(\w+)`", re.MULTILINE)
RECORDS = chapters.records(ROOT / "book" / "results" / "chapters.json")


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_ends_with_its_module_and_its_length(name):
    end = (ROOT / "notebooks" / f"{name}.md").read_text("utf-8")[-2_000:]
    [line] = chapters.MODULES.findall(end)
    [now] = chapters.MODULES.findall(chapters.with_lengths(end))
    said, lines = (int(count.replace(",", "")) for _, count, _ in (line, now))
    unit = 10 if lines < 1000 else 100
    assert abs(said - lines) <= unit, f"run: python notebooks/run.py {name}"


def places_faults(text: str) -> list[str]:
    """What is wrong with the places that the last section of a chapter names."""
    _, _, section = text.partition("## In the code\n")
    names, defined = PLACE.findall(section), set()
    for file in chapters.modules(section):
        body = ast.parse(file.read_text("utf-8")).body
        kinds = (ast.ClassDef, ast.FunctionDef)
        defined |= {node.name for node in body if isinstance(node, kinds)}
    faults = [f"{name} is not there" for name in names if name not in defined]
    return faults + ["three places, please"] * (len(set(names)) != 3)


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_ends_with_three_places_in_its_code(name):
    assert not places_faults((ROOT / "notebooks" / f"{name}.md").read_text("utf-8"))
    notebook = (ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8")
    made = json.loads(chapters.with_links(notebook, reference.places(ROOT, name)))
    assert "](../api/minivim" in made["cells"][-1]["source"]
    assert made["cells"][:-1] == json.loads(notebook)["cells"][:-1]


def test_a_place_that_moved_is_found():
    start = "## In the code\n\nIt is `minivim/probe.py`, about 280 lines.\n\n"
    names = ("fit_probe", "linear_probe", "probe_features")
    text = start + "".join(f"- `{name}`: something.\n" for name in names)
    assert not places_faults(text)
    assert places_faults(text.replace("fit_probe", "fit")) == ["fit is not there"]
    assert places_faults(start) == ["three places, please"]


def test_places_are_linked_to_the_reference_of_their_chapter():
    pages = reference.places(ROOT, "02_quantizer")
    assert pages["Tokenizer"] == "minivim.tokenizer.md#tokenizer"
    top = reference.places(ROOT, "01_two_stages")
    assert top["Tokenizer"] == "minivim.md#tokenizer"
    text = (
        "`Tokenizer`\n## In the code\n`minivim/probe.py`, `minivim/tokenizer/vit.py`\n"
    )
    text += "- `fit_probe`: x.\n- `_private`: y, not `minivim`.\n"
    cells = [nbformat.v4.new_markdown_cell(text)]
    notebook = json.dumps(nbformat.v4.new_notebook(cells=cells))
    [cell] = json.loads(chapters.with_links(notebook, pages))["cells"]
    assert cell["source"] == (
        "`Tokenizer`\n## In the code\n[`minivim/probe.py`](../api/minivim.probe.md), "
        "[`minivim/tokenizer/vit.py`](../api/minivim.tokenizer.md)\n"
        "- [`fit_probe`](../api/minivim.probe.md#fit_probe): x.\n"
        "- `_private`: y, not `minivim`.\n"
    )


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_was_measured_within_its_budget(name):
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8"))
    record = RECORDS.get(name)
    assert record, f"run: python notebooks/run.py --record {name}"
    assert record["code"] == chapters.digest(notebook), (
        f"measured on other code: {name}"
    )
    assert 0 < record["seconds"] <= chapters.SECONDS


def test_no_record_without_a_chapter():
    assert set(RECORDS) <= set(CHAPTERS)


def _notebook() -> dict:
    cells = [
        nbformat.v4.new_markdown_cell("# A title\n\nA text."),
        nbformat.v4.new_code_cell("1 + 1"),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def test_the_measured_line_stands_below_the_title():
    notebook = _notebook()
    record = {"seconds": 41.7, "cores": 2, "busy": False}
    record["code"] = chapters.digest(notebook)
    text = json.dumps(notebook)
    made = json.loads(chapters.with_line(text, "x", {"x": record}))
    first = made["cells"][0]["source"]
    assert first.startswith('# A title\n\n<p class="measured">Ran in 42 s on a machine')
    assert "busy" not in first and first.endswith("</p>\n\nA text.")
    assert made["cells"][1] == notebook["cells"][1]
    busy = chapters.with_line(text, "x", {"x": {**record, "busy": True}})
    assert "cores, busy with other work as well; download" in busy


def test_a_time_of_other_code_is_not_shown():
    notebook = _notebook()
    record = {"seconds": 41.7, "cores": 2, "busy": False, "code": "of something else"}
    for records in ({"x": record}, {}):
        made = chapters.with_line(json.dumps(notebook), "x", records)
        assert "Ran in" not in made and "Download <a href" in made
    changed = _notebook()
    changed["cells"][0]["source"] += " More prose."
    assert chapters.digest(changed) == chapters.digest(notebook)
    changed["cells"][1]["source"] = "1 + 2"
    assert chapters.digest(changed) != chapters.digest(notebook)


def test_pages_of_modules_that_are_gone_leave_the_reference(tmp_path):
    (tmp_path / "minivim.gone.md").write_text("once public")
    reference.write(ROOT, tmp_path)
    names = {path.stem for path in tmp_path.iterdir()}
    assert names == {"index", *reference.MODULES}


def test_reference_shows_signatures_and_docstrings():
    page = reference.page(ROOT, "minivim.prior")
    assert "## sample\n" in page and "def sample(" in page
    assert "_repr" not in page and "# Paper" not in page
    assert "@property\ndef null_class() -> int" in page
    top = reference.page(ROOT, "minivim")
    assert all(f"\n## {name}\n" in top for name in ("train", "export", "UserError"))
    config = reference.page(ROOT, "minivim.config")
    assert "    beta: checks.NotNegative = 0.25" in config


def test_every_public_package_has_a_page():
    packages = {
        f"minivim.{path.parent.name}"
        for path in (ROOT / "minivim").glob("*/__init__.py")
        if path.parent.name != "cli"  # its users type `minivim --help`
    }
    assert packages <= set(reference.MODULES)
    for module, names in reference.MODULES.items():
        assert set(names) <= set(CHAPTERS)
        assert reference.public(ROOT, module)


def test_reference_refuses_what_has_no_docstring(tmp_path):
    folder = tmp_path / "minivim"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Top."""\nfrom minivim.a import f\n')
    (folder / "a.py").write_text("def f(): ...\n")
    with (folder / "__init__.py").open("a") as file:
        file.write('__all__ = ["f"]\n')
    with pytest.raises(reference.MissingName, match="f without a docstring"):
        reference.page(tmp_path, "minivim")
    (folder / "a.py").write_text("def g(): ...\n")
    with pytest.raises(reference.MissingName, match="minivim.a has no f"):
        reference.page(tmp_path, "minivim")


def test_a_package_without_all_offers_what_its_modules_give(tmp_path):
    folder = tmp_path / "minivim"
    folder.mkdir()
    imports = "from minivim.a import f\nfrom math import pi\n"
    (folder / "__init__.py").write_text(f'"""Top."""\n{imports}')
    (folder / "a.py").write_text('def f():\n    """F."""\n')
    assert [name.name for name in reference.public(tmp_path, "minivim")] == ["f"]


def test_arguments_of_a_docstring_become_a_list():
    text = reference.prose("What.\n\nArgs:\n    a: one\n        two\n    b: three\n")
    assert text == "What.\n\nArgs:\n\n- `a`: one\n  two\n- `b`: three"


def test_linked_works_are_described_and_described_works_linked(tmp_path):
    page = bibliography.page(ROOT)
    assert page.count("\n- ") > len(bibliography.WORKS)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book").mkdir()
    chapter = tmp_path / "notebooks" / "02_x.md"
    chapter.write_text("[A](https://arxiv.org/abs/1234.56789)")
    works = {"1234.56789": "A (2012)."}
    assert "A (2012). [arXiv:1234.56789]" in bibliography.page(tmp_path, works)
    with pytest.raises(
        bibliography.BibliographyError, match="not describe.*1234.56789"
    ):
        bibliography.page(tmp_path, {})
    chapter.write_text("nothing")
    with pytest.raises(bibliography.BibliographyError, match="no chapter links to"):
        bibliography.page(tmp_path, works)


def test_javascript_is_exact_and_names_no_registry():
    folder = ROOT / "book"
    wanted = json.loads((folder / "package.json").read_text("utf-8"))
    versions = {**wanted["dependencies"], **wanted["devDependencies"]}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions.values())
    text = (folder / "package-lock.json").read_text("utf-8")
    assert "http" not in text and "resolved" not in text
    for name, entry in json.loads(text)["packages"].items():
        if name:
            assert entry["integrity"].startswith("sha512-")
            assert versions[name.removeprefix("node_modules/")] == entry["version"]


def test_without_npm_the_remedy_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(javascript.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(javascript.shutil, "which", lambda name: None)
    (tmp_path / "package-lock.json").write_text('{"packages": {}}')
    with pytest.raises(javascript.JavaScriptError, match="install Node.js") as error:
        javascript.install(tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_installed_is_not_fetched_again(monkeypatch, tmp_path):
    lock = '{"packages": {"": {}, "node_modules/a": {"integrity": "sha512-x"}}}'
    (tmp_path / "package-lock.json").write_text(lock)
    assert not javascript.installed(tmp_path)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / ".package-lock.json").write_text(lock)
    monkeypatch.setattr(javascript, "npm", lambda: pytest.fail("npm was asked"))
    javascript.install(tmp_path)
    other = lock.replace("sha512-x", "sha512-y")
    (tmp_path / "package-lock.json").write_text(other)
    assert not javascript.installed(tmp_path)


def test_a_failing_npm_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "package-lock.json").write_text('{"packages": {}}')
    code = "import sys; sys.exit('npm error code E404\\nnpm error more')"
    monkeypatch.setattr(javascript, "npm", lambda: [sys.executable, "-c", code])
    with pytest.raises(javascript.JavaScriptError, match="E404") as error:
        javascript.install(tmp_path)
    assert "\n" not in str(error.value)
