"""The front page: short, its links lead somewhere, its script runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *(ROOT / "book").glob("[a-z]*.md")]
BUILT = ("paper.md", "bibliography.md", "api/")  # made when the book is built


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as viewers of Markdown form them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def dead(text: str, folder: Path) -> list[str]:
    """Relative links of a text that lead nowhere."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        place, _, anchor = link.partition("#")
        if re.match(r"https?:", link) or place.startswith(BUILT):
            continue
        # A page of the book names chapters as they lie on the site.
        path = ROOT / place if place.startswith("notebooks/") else folder / place
        if not path.exists() or anchor and anchor not in anchors(path):
            found.append(link)
    return found


def test_it_is_short():
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    if not page.name.startswith(BUILT):
        assert not dead(page.read_text("utf-8"), page.parent)


def test_dead_links_are_found():
    text = "[a](book/index.md) [b](book/none.md) [c](book/own_code.md#names) "
    text += "[d](book/own_code.md#none) [e](notebooks/99_x.ipynb)"
    wanted = ["book/none.md", "book/own_code.md#none", "notebooks/99_x.ipynb"]
    assert dead(text, ROOT) == wanted


def test_its_script_runs():
    [script] = re.findall(r"```python\n(.*?)```", README, re.S)
    found: dict = {}
    exec(script, found)
    assert found["codes"].shape == (3, 64)
    assert found["images"].shape == (3, 32, 32, 3)
    assert 0 <= float(found["images"].min()) < float(found["images"].max()) <= 1
