"""The front page: short, its links lead somewhere, its script runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *(ROOT / "book").glob("[a-z]*.md")]
BUILT = ("paper.md", "bibliography.md", "api/")  # made when the book is built


def anchors(page: Path) -> set[str]:
    """Names of headings, as viewers of Markdown form them, and of `(name)=`."""
    text = page.read_text("utf-8")
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    named = re.findall(r"^\(([\w-]+)\)=$", text, re.M)
    names = {re.sub(r"[^\w -]", "", head.lower()) for head in heads}
    return {name.replace(" ", "-") for name in names} | set(named)


def dead(text: str, page: Path) -> list[str]:
    """Relative links of a text, which is that of a page, that lead nowhere."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        place, _, anchor = link.partition("#")
        if re.match(r"https?:", link) or place.startswith(BUILT):
            continue
        # A page of the book names chapters as they lie on the site.
        folder = ROOT if place.startswith("notebooks/") else page.parent
        path = folder / place if place else page
        if not path.exists() or anchor and anchor not in anchors(path):
            found.append(link)
    return found


def test_it_is_short():
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    if not page.name.startswith(BUILT):
        assert not dead(page.read_text("utf-8"), page)


def test_dead_links_are_found():
    text = "[a](book/index.md) [b](book/none.md) [c](book/own_code.md#names) "
    text += "[d](book/own_code.md#none) [e](notebooks/99_x.ipynb)"
    wanted = ["book/none.md", "book/own_code.md#none", "notebooks/99_x.ipynb"]
    assert dead(f"{text} [f](#licence) [g](#none)", PAGES[0]) == [*wanted, "#none"]


def test_its_script_runs():
    [script] = re.findall(r"```python\n(.*?)```", README, re.S)
    found: dict = {}
    exec(script, found)
    assert found["codes"].shape == (3, 64)
    assert found["images"].shape == (3, 32, 32, 3)
    assert 0 <= float(found["images"].min()) < float(found["images"].max()) <= 1
