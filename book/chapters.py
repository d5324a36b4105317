"""What a chapter says of itself: run time, size and download; its module's length.

`notebooks/run.py --record` measures and writes `results/chapters.json`, and every run
writes the lengths of the modules that the last section names; nothing is typed by hand.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The last section of a chapter: modules or whole packages, their length, and places.
MODULES = re.compile(r"(## In the code\n[^#]*?about\s+)([\d,]+)(\s+lines)")

# The tag of a cell that is no part of a chapter's work: it installs minivim in Colab.
INSTALL = "install"
# Budgets of a chapter: seconds to run, bytes of the notebook, bytes of the built page.
SECONDS, NOTEBOOK, PAGE = 120, 2_000_000, 5_000_000


def digest(notebook: dict) -> str:
    """Of the code cells: a record is of these, whatever the prose says."""
    code = [
        "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        and INSTALL not in cell["metadata"].get("tags", ())
    ]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def with_lengths(text: str) -> str:
    """A cell whose line on the chapter's modules says how long they are by now."""

    def measured(match: re.Match) -> str:
        texts = (file.read_text("utf-8") for file in modules(match[1]))
        count = sum(len(text.splitlines()) for text in texts)
        return f"{match[1]}{round(count, -1 if count < 1000 else -2):,}{match[3]}"

    return MODULES.sub(measured, text)


def modules(text: str) -> list[Path]:
    """The files that a text names, and those of the packages that it names."""
    names = re.findall(r"`(minivim[\w/]*(?:\.py)?)`", text)
    paths = [ROOT / name for name in names]
    return [f for p in paths for f in ([p] if p.suffix else sorted(p.rglob("*.py")))]


def with_links(source: str, pages: Mapping[str, str]) -> str:
    """A chapter's notebook as text, modules and places of its last section as links."""
    notebook = json.loads(source)
    last = notebook["cells"][-1]
    before, title, section = "".join(last["source"]).partition("## In the code\n")

    def linked(code: re.Match) -> str:
        name = code[1].removesuffix(".py").replace("/", ".")
        page = pages.get(name) or pages.get(name.rpartition(".")[0])
        return f"[{code[0]}](../api/{page})" if page else code[0]

    last["source"] = before + title + re.sub(r"`([\w/.]+)`", linked, section)
    return json.dumps(notebook)


def records(path: Path) -> dict[str, dict]:
    """What was measured, by the name of the chapter."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def line(
    name: str, *, size: int, record: dict | None, code: str, colab: str = ""
) -> str:
    """One line of HTML; a time that was measured on other code is left out."""
    said = []
    if record and record["code"] == code:
        busy = ", busy with other work as well" if record["busy"] else ""
        said.append(
            f"Ran in {record['seconds']:.0f} s on a machine of {record['cores']} "
            f"processor cores{busy}"
        )
    link = f'<a href="../_sources/notebooks/{name}.ipynb" download>the notebook</a>'
    said.append(f"download {link} ({size / 1e6:.1f} MB) to run it yourself")
    if colab:
        said.append(f'or open it in <a href="{colab}">Colab</a>')
    text = "; ".join(said)
    return f'<p class="measured">{text[0].upper()}{text[1:]}.</p>'


def with_line(
    source: str, name: str, recorded: dict[str, dict], colab: str = ""
) -> str:
    """A chapter's notebook as text, with its line below the title."""
    notebook = json.loads(source)
    first = notebook["cells"][0]
    title, _, rest = "".join(first["source"]).partition("\n")
    below = line(
        name,
        size=len(source.encode()),
        record=recorded.get(name),
        code=digest(notebook),
        colab=colab,
    )
    first["source"] = f"{title}\n\n{below}\n{rest}"
    return json.dumps(notebook)
