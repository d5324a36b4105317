"""The line at the top of each chapter: measured run time, size, download.

`notebooks/run.py --record` measures and writes `results/chapters.json`; nothing here is
typed by hand.
"""

import hashlib
import json
from pathlib import Path

# Budgets of a chapter: seconds to run, bytes of the notebook, bytes of the built page.
SECONDS, NOTEBOOK, PAGE = 120, 2_000_000, 5_000_000


def digest(notebook: dict) -> str:
    """Of the code cells: a record is of these, whatever the prose says."""
    code = [
        "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def records(path: Path) -> dict[str, dict]:
    """What was measured, by the name of the chapter."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def line(name: str, *, size: int, record: dict | None, code: str) -> str:
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
    text = "; ".join(said)
    return f'<p class="measured">{text[0].upper()}{text[1:]}.</p>'


def with_line(source: str, name: str, recorded: dict[str, dict]) -> str:
    """A chapter's notebook as text, with its line below the title."""
    notebook = json.loads(source)
    first = notebook["cells"][0]
    title, _, rest = "".join(first["source"]).partition("\n")
    below = line(
        name,
        size=len(source.encode()),
        record=recorded.get(name),
        code=digest(notebook),
    )
    first["source"] = f"{title}\n\n{below}\n{rest}"
    return json.dumps(notebook)
