"""What the preface says about outputs that no test compares."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHAPTERS = [
    [
        c
        for c in json.loads(path.read_text("utf-8"))["cells"]
        if c["cell_type"] == "code"
    ]
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
]
# A printed table of an exercise's solution, which the text says nothing about.
UNASSERTED = {"FSQ 8, 5, 5"}


def exempt(cell) -> bool:
    return "nbval-ignore-output" in cell["metadata"].get("tags", [])


def prints(cell) -> bool:
    return any(output["output_type"] == "stream" for output in cell["outputs"])


def test_the_preface_counts_the_cells_whose_output_is_not_compared():
    cells = [cell for chapter in CHAPTERS for cell in chapter]
    loose = [cell for cell in cells if exempt(cell)]
    said = (ROOT / "book" / "preface.md").read_text("utf-8")
    number = int(re.search(r"(\d+) print figures", said)[1])
    assert "One cell in\n  seven is exempt" in said
    assert round(len(cells) / len(loose)) == 7
    assert sum(map(prints, loose)) == number


def test_what_is_printed_and_not_compared_is_asserted_close_by():
    for chapter in CHAPTERS:
        for i, cell in enumerate(chapter):
            if exempt(cell) and prints(cell):
                near = "".join("".join(c["source"]) for c in chapter[i : i + 3])
                assert "assert" in near or any(text in near for text in UNASSERTED)
