"""The table from the paper to the code, its tests and the chapters.

A comment above a definition in `minivim/` states what it implements,

    # Paper, section 3.2: the loss L_VQ
    # Paper silent, section 3.3: R1 on real images

(a section, a Table or an appendix), and a test names the statement it checks,
`@pytest.mark.paper("the loss L_VQ")`. Everything is read as text: nothing is imported.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from book.paper_parts import EXPLAINED, PARTS, Part

MARKER = re.compile(
    r" *# Paper( silent)?, ((?:section|Table|appendix) [\dA-C.]+\d?): (\S.*)"
)
# Close to a marker, but none of the above: a mistake, and not to be passed over.
ALMOST = re.compile(r" *# Paper\b.*:")
# The code of a cell, behind its options in either form.
CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n(?:---\n.*?^---\n|(?::[^\n]*\n)*)(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
TITLES = {part.place: part.title for part in PARTS}
INTRODUCTION = """\
# From the paper to the code

What Yu et al. (2022) state, where it stands in `minivim`, the test that would fail if
it were otherwise, and the chapters that use it. A test's name is the sentence in the
third column, with underscores. A chapter in brackets speaks of the statement without
using the symbol. The page is made from comments in the code each time the book is
built; a statement without a test or a chapter stops the build, and so does a part of
the paper with neither statements nor a reason.

Where the paper leaves something open, we had to choose; those choices, and what we
added, stand apart [at the end](#not-in-the-paper). [Every setting](settings.md) is a
table of all values.

## All parts

"""
SILENT = """\
## Not in the paper

Choices where the paper says nothing, and additions. The first column names the section
that would have been the place.
"""


class TableError(Exception):
    """A marker that names no test, no statement or no section."""


@dataclass(frozen=True)
class Row:
    """One statement: where it is printed, and where we keep, check and use it."""

    place: str
    statement: str
    silent: bool
    symbol: str
    tests: list[tuple[str, str]] = field(default_factory=list)
    chapters: list[str] = field(default_factory=list)
    explained: str = ""


def rows(root: Path) -> list[Row]:
    """All statements, in the paper's order; raises `TableError` for loose ends."""
    tests = dict[str, list[tuple[str, str]]]()
    for path in sorted(root.glob("tests/**/test_*.py")):
        for statement, name in checked(path.read_text("utf-8")):
            tests.setdefault(statement, []).append((path.stem, name))
    texts = {
        path.stem: path.with_suffix(".md").read_text("utf-8")
        for path in sorted(root.glob("notebooks/[0-9]*.ipynb"))
    }
    chapters = {name: Vocabulary.of(cells(text)) for name, text in texts.items()}
    found = []
    for path in sorted(root.glob("minivim/**/*.py")):
        module = ".".join(path.relative_to(root / "minivim").with_suffix("").parts)
        module = module.removesuffix("__init__").removesuffix(".")
        for place, statement, silent, name in stated(path.read_text("utf-8")):
            symbol = f"{module}.{name}"
            uses = [c for c, v in chapters.items() if v.has(symbol)]
            elsewhere = "" if uses else explained(statement, texts)
            tested = tests.get(statement, [])
            found.append(Row(place, statement, silent, symbol, tested, uses, elsewhere))
    _check(found, tests)
    return sorted(found, key=lambda row: (row.silent, order(row.place)))


def explained(statement: str, texts: dict[str, str]) -> str:
    """The chapter that explains a statement in words, '' if none is named."""
    chapter, words = EXPLAINED.get(statement, ("", ""))
    if chapter and words not in texts.get(chapter, ""):
        raise TableError(
            f"EXPLAINED: {chapter} no longer says {words!r} of {statement!r}"
        )
    return chapter


def stated(source: str) -> Iterator[tuple[str, str, bool, str]]:
    """Place, statement, whether the paper is silent, and symbol of each marker."""
    lines = source.splitlines()
    tree = ast.parse(source)
    for number, line in enumerate(lines, start=1):
        match = MARKER.fullmatch(line)
        if match is None:
            if ALMOST.match(line):
                raise TableError(f"cannot read the marker {line.strip()!r}")
            continue
        silent, place, statement = match.groups()
        following = number + 1
        while lines[following - 1].lstrip().startswith("#"):
            following += 1
        yield place, statement, bool(silent), symbol(tree, following)


def symbol(tree: ast.Module, line: int) -> str:
    """The definition or assignment that starts at a line, else what encloses it."""
    path, body = [], tree.body
    while True:
        for node in body:
            starts = [node.lineno, *(d.lineno for d in _decorators(node))]
            if min(starts) <= line <= (node.end_lineno or 0):
                break
        else:
            return ".".join(path)
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            path += [node.name] if node.name != "__init__" else []
            body = [] if min(starts) == line else node.body
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        target = node.target if isinstance(node, ast.AnnAssign) else target
        if isinstance(target, ast.Name) and node.lineno == line:
            path.append(target.id)
        return ".".join(path)


def checked(source: str) -> Iterator[tuple[str, str]]:
    """Statement and test for each `pytest.mark.paper`."""
    for node in ast.walk(ast.parse(source)):
        for mark in _decorators(node):
            if isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith(
                "mark.paper"
            ):
                for argument in mark.args:
                    yield ast.literal_eval(argument), node.name  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Vocabulary:
    """What the code of a chapter takes from minivim, and all its members and keywords.

    >>> words = Vocabulary.of("from minivim.config import AConfig; AConfig(x=b.c)")
    >>> words.has("config.AConfig"), words.has("config.AConfig.x"), words.has("d.B.c")
    (True, True, True)
    """

    taken: set[str]
    members: set[str]
    keywords: set[str]

    @classmethod
    def of(cls, code: str) -> "Vocabulary":
        """From Python source."""
        taken, members, keywords = set[str](), set[str](), set[str]()
        nodes = list(ast.walk(ast.parse(code)))
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "minivim"
            ):
                taken |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute):
                members.add(node.attr)
            elif isinstance(node, ast.keyword) and node.arg:
                keywords.add(node.arg)
        modules = taken | {"minivim"}
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                taken |= {node.attr} if node.value.id in modules else set()
        return cls(taken, members, keywords)

    def has(self, symbol: str) -> bool:
        """Whether a function or class is taken, a method called, a setting set."""
        *_, above, last = symbol.split(".")
        if above.endswith(("Config", "Recipe")):
            return above in self.taken and last in self.keywords
        return last in (self.members if above[:1].isupper() else self.taken)


def cells(chapter: str) -> str:
    """The Python of a chapter, without magics."""
    return re.sub(r"^%.*$", "", "\n".join(CELL.findall(chapter)), flags=re.MULTILINE)


def order(place: str) -> tuple:
    """Sections, then Tables, then appendices, by number."""
    kind, number = place.split()
    return ("section", "Table", "appendix").index(kind), number


def page(found: Iterable[Row]) -> str:
    """The table as Markdown, a heading for each section."""
    found = list(found)
    parts = [f"{INTRODUCTION}{_parts(found)}"]
    for place in dict.fromkeys(row.place for row in found if not row.silent):
        parts.append(
            f"({anchor(place)})=\n## {_heading(place)}\n\n{_table(found, place)}"
        )
    parts.append(f"{SILENT}\n{_table(found, None)}")
    return "\n".join(parts)


def anchor(place: str) -> str:
    """The name by which a heading is linked."""
    return f"paper-{place.lower().replace(' ', '-').replace('.', '-')}"


def write(root: Path, target: Path) -> None:
    """Make the page; written only when it changes, so that Sphinx need not rebuild."""
    text = page(rows(root))
    if not target.exists() or target.read_text("utf-8") != text:
        target.write_text(text, "utf-8")


def _decorators(node: ast.AST) -> list[ast.expr]:
    return getattr(node, "decorator_list", [])


def _check(found: list[Row], tests: dict[str, list]) -> None:
    untested = [row for row in found if not row.tests]
    if untested:
        raise TableError(
            "no test is marked with "
            + "; ".join(f"{row.statement!r} ({row.symbol})" for row in untested)
        )
    loose = sorted(set(tests) - {row.statement for row in found})
    if loose:
        raise TableError(f"tests are marked with what no code states: {loose}")
    untaught = [row for row in found if not row.chapters and not row.explained]
    if untaught:
        raise TableError(
            "no chapter uses, and EXPLAINED does not name, "
            + "; ".join(f"{row.statement!r} ({row.symbol})" for row in untaught)
        )
    unknown = sorted({row.place for row in found} - set(TITLES))
    if unknown:
        raise TableError(f"TITLES has no {', '.join(unknown)}")


def _heading(place: str) -> str:
    return f"{place[0].upper()}{place[1:]}: {TITLES[place]}"


def _covered(part: Part, found: list[Row]) -> list[Row]:
    """The statements of a part; raises `TableError` for a part that is neither."""
    rows = [row for row in found if row.place == part.place and not row.silent]
    known = {row.statement: row for row in found}
    missing = [statement for statement in part.by if statement not in known]
    if missing:
        raise TableError(f"{part.place} is said to be covered by {missing}")
    rows += [known[statement] for statement in part.by]
    if bool(rows) == bool(part.without):
        wrong = "and yet a reason why not" if rows else "and no reason why not"
        raise TableError(f"{part.place} has {len(rows)} statements {wrong}")
    return rows


def _links(rows: Iterable[Row]) -> str:
    """Chapters by number: those that use a symbol, else those that explain it."""
    rows = list(rows)
    used = {chapter for row in rows for chapter in row.chapters}
    spoken = {row.explained for row in rows if row.explained} - used
    links = [
        (c, f"[{int(c.split('_')[0])}](notebooks/{c}.ipynb)") for c in used | spoken
    ]
    return ", ".join(f"({t})" if c in spoken else t for c, t in sorted(links))


def _parts(found: list[Row]) -> str:
    """One line for each part of the paper: its statements, or why it has none."""
    lines = ["{.parts}", "| Part | What | Statements | Chapter |", "|" + " --- |" * 4]
    for part in PARTS:
        rows = _covered(part, found)
        name = f"{part.place[0].upper()}{part.place[1:]}"
        if any(row.place == part.place for row in rows):
            name = f"[{name}](#{anchor(part.place)})"
        what = "<br>".join(
            f"{row.statement} ([{row.place}](#{anchor(row.place)}))"
            for row in rows
            if row.place != part.place
        )
        own = sum(row.place == part.place for row in rows)
        count = f"{own} below" if own else ""
        said = "<br>".join(filter(None, [count, what]))
        said = said or f"not covered: {part.without}"
        cells = [name, part.title, said, _links(rows) or "none"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _table(found: list[Row], place: str | None) -> str:
    """Rows of a place, or of all places where the paper is silent."""
    heads = ["What", "Code", "Test", "Chapter"]
    heads = heads if place else ["Section", *heads]
    # Classes that the style sheet gives columns of equal widths on the whole page.
    kind = "paper" if place else "silent"
    lines = [f"{{.{kind}}}", f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for row in found:
        if row.silent != (place is None) or (place and row.place != place):
            continue
        tests = "<br>".join(
            f"{name.removeprefix('test_').replace('_', ' ')} (`{file}`)"
            for file, name in row.tests
        )
        owner, name = row.symbol.rsplit(".", 1)
        owner = owner.replace(".", ".<wbr>")  # where a long name may break
        code = f"`{name}`<br><small>{owner}</small>"
        what = f"{row.statement[0].upper()}{row.statement[1:]}"
        cells = [what, code, tests, _links([row])]
        cells = cells if place else [row.place.removeprefix("section "), *cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
