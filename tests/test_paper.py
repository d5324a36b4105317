"""The table from the paper to the code: no statement without a test, and so on."""

import doctest
import importlib
from functools import reduce
from pathlib import Path

import pytest

from book import paper_table
from book.paper_parts import EXPLAINED, PARTS, Part
from book.paper_table import TableError, page, rows, write

ROOT = Path(__file__).parents[1]


def test_every_statement_has_a_test():
    found = rows(ROOT)
    assert len(found) >= 35
    assert all(row.tests for row in found)
    assert {row.place for row in found} >= {
        "section 3.1", "section 3.2", "section 3.3", "section 4", "section 4.1",
        "section 4.2", "section 5.1", "section 5.2", "Table 2", "Table 4",
    }  # fmt: skip
    assert all(bool(row.chapters) != bool(row.explained) for row in found)
    # What a chapter has come to use needs no words any more.
    assert {row.statement for row in found if row.explained} == set(EXPLAINED)
    # Statements are the tests' marks, so none may stand twice.
    statements = [row.statement for row in found]
    assert sorted(statements) == sorted(set(statements))


def test_symbols_are_there():
    for row in rows(ROOT):
        parts = row.symbol.split(".")
        for count in range(len(parts) - 1, 0, -1):
            try:
                module = importlib.import_module(".".join(["minivim", *parts[:count]]))
            except ModuleNotFoundError:
                continue
            break
        *above, last = parts[count:]
        owner = reduce(getattr, above, module)
        fields = getattr(owner, "__dataclass_fields__", {})
        assert hasattr(owner, last) or last in fields, row.symbol


def test_the_page_names_everything():
    found = rows(ROOT)
    text = page(found)
    for row in found:
        assert f"| {row.statement[0].upper()}{row.statement[1:]} |" in text
    parts, text = text.split("(paper-section-1)=")
    heads = text.count("| What |")
    assert text.count("\n| ") == len(found) + 2 * heads
    assert parts.count("\n| ") == len(PARTS) + 2
    assert "|  |" not in parts + text
    main, silent = text.split("## Not in the paper")
    assert "R1" in silent and "R1" not in main
    assert "](notebooks/02_quantizer.ipynb)" in main


CODE = '''
from dataclasses import dataclass

# Paper, section 3.2: a constant
SIZE: int = 3

# Paper, section 3.2: a function
# with a second comment.
@cache
def look():
    """Look."""

@dataclass
class ThingConfig:
    """Holds."""

    # Something else.
    # Paper silent, Table 4: a setting
    field: float = 0.25

    # Paper, appendix A: a method
    def go(self):
        # Paper, section 3.3: something inside
        go(
            1)
'''
TEST = """
@pytest.mark.paper("a constant", "a function")
@pytest.mark.parametrize("x", [1])
def test_one(x): ...

@pytest.mark.paper("a setting")
@pytest.mark.paper("a method", "something inside")
def test_two(): ...
"""
CHAPTER = """
```{code-cell} ipython3
---
tags: [hide-input]
---
from minivim.deep.part import ThingConfig, other
```

look, SIZE and `field=2` in the prose count for nothing.

```{code-cell} ipython3
:tags: [x]

ThingConfig(field=1)
look = 2
```
"""


@pytest.fixture
def small(monkeypatch):
    """The parts of the small paper, and what its chapter says in words."""
    words = {
        statement: ("03_parts", "in the prose")
        for statement in ("a constant", "a function", "a method", "something inside")
    }
    places = ["section 3.2", "section 3.3", "Table 4", "appendix A"]
    parts = [
        Part(p, p.title(), by=("a function",) if p == "Table 4" else ()) for p in places
    ]
    parts.append(Part("section 6", "Six", without="nothing to run"))
    monkeypatch.setattr(paper_table, "EXPLAINED", words)
    monkeypatch.setattr(paper_table, "PARTS", parts)
    monkeypatch.setattr(paper_table, "TITLES", {p.place: p.title for p in parts})
    return words, parts


def tree(folder: Path, *, code: str = CODE, test: str = TEST) -> Path:
    """A repository of one module, one test file and one chapter."""
    for name, text in {
        "minivim/deep/part.py": code,
        "tests/deep/test_part.py": test,
        "notebooks/03_parts.md": CHAPTER,
        "notebooks/03_parts.ipynb": "",
        "notebooks/04_not_executed.md": CHAPTER,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_symbols_tests_and_chapters_of_a_small_tree(tmp_path, small):
    found = {row.statement: row for row in rows(tree(tmp_path))}
    assert {statement: row.symbol for statement, row in found.items()} == {
        "a constant": "deep.part.SIZE",
        "a function": "deep.part.look",
        "a setting": "deep.part.ThingConfig.field",
        "a method": "deep.part.ThingConfig.go",
        "something inside": "deep.part.ThingConfig.go",
    }
    assert found["a function"].tests == [("test_part", "test_one")]
    assert found["a method"].tests == [("test_part", "test_two")]
    assert [s for s, row in found.items() if row.silent] == ["a setting"]
    assert [s for s, row in found.items() if row.chapters] == ["a setting"]
    assert found["a setting"].chapters == ["03_parts"]
    assert found["a setting"].explained == ""
    assert found["a method"].explained == "03_parts"
    assert list(found)[-1] == "a setting"
    assert list(found)[:2] == ["a constant", "a function"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"a constant", ', "", r"no test .*'a constant' \(deep.part.SIZE\)"),
        ('"a setting"', '"a settin"', "no test .*'a setting'"),
        ('("a setting")', '("a setting", "a dream")', "no code states: .*'a dream'"),
        ("# Paper, section 3.2: a const", "# Paper 3.2: a const", "cannot read"),
        ("section 3.2: a constant", "section 9.9: a constant", "no section 9.9"),
        ("# Paper silent, Table 4: a setting", "", "no code states: .*'a setting'"),
    ],
)  # fmt: skip
def test_loose_ends_stop_the_build(old, new, message, tmp_path, small):
    assert (CODE + TEST).count(old) == 1
    code, test = CODE.replace(old, new), TEST.replace(old, new)
    with pytest.raises(TableError, match=message):
        write(tree(tmp_path, code=code, test=test), tmp_path / "paper.md")
    assert not (tmp_path / "paper.md").exists()


def test_a_statement_without_a_chapter_stops_the_build(tmp_path, small):
    words, _ = small
    words["a function"] = ("03_parts", "what no chapter says")
    with pytest.raises(TableError, match="no longer says 'what no chapter says'"):
        rows(tree(tmp_path))
    del words["a function"]
    with pytest.raises(TableError, match="no chapter uses.*'a function'"):
        rows(tree(tmp_path))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part("Table 5", "Five"), "Table 5 has 0 statements and no reason"),
        (Part("section 3.3", "Three", without="x"), "1 statements and yet a reason"),
        (Part("Table 5", "Five", by=("a dream",)), "covered by .'a dream'"),
    ],
)
def test_a_part_is_covered_or_has_a_reason(part, message, tmp_path, small):
    _, parts = small
    page(rows(tree(tmp_path)))
    parts.append(part)
    with pytest.raises(TableError, match=message):
        page(rows(tree(tmp_path)))


def test_a_member_is_used_where_its_class_is(tmp_path):
    assert not doctest.testmod(paper_table).failed
    words = paper_table.Vocabulary.of("SomeConfig = 1; f(beta=2); x.start(); probe = 3")
    assert not words.has("config.SomeConfig.beta")
    assert not words.has("train.probe")
    assert words.has("prior.Prior.start")


def test_the_page_is_written_once(tmp_path, small):
    target = tmp_path / "paper.md"
    write(tree(tmp_path), target)
    first = target.stat().st_mtime_ns
    write(tmp_path, target)
    assert target.stat().st_mtime_ns == first
