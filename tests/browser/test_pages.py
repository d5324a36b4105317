"""Every page, light and dark, wide and narrow: whole, readable, without a network."""

from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from book import chapters as budget
from tests.browser.conftest import ROOT, SITE, chapters, pages

AXE = ROOT / "book" / "node_modules" / "axe-core" / "axe.min.js"
# Only colours differ between light and dark.
RULES = {"light": None, "dark": {"type": "rule", "values": ["color-contrast"]}}
NARROW = 390


def findings(page, mode: str) -> list[str]:
    """What axe-core finds serious or critical."""
    page.add_script_tag(path=str(AXE))
    options = {"preload": False, "resultTypes": ["violations"]}
    if RULES[mode]:
        options["runOnly"] = RULES[mode]
    found = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{one['id']}: {node['html'][:150]} {node['failureSummary'][:200]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("name", pages())
def test_page_is_whole_and_accessible(visit, name, mode):
    with visit(name, mode=mode) as watch:
        page = watch.page
        assert page.evaluate("document.documentElement.dataset.theme") == mode
        # Formulas are set, with MathJax's own fonts, and every picture is there.
        assert page.locator("mjx-merror").count() == 0
        formulas = page.locator(".math").count()
        assert page.locator(".math mjx-container").count() >= formulas
        pictures = page.evaluate(
            "[...document.querySelectorAll('.bd-content img')].map(one =>"
            " [one.complete && one.naturalWidth > 0, getComputedStyle(one).filter])"
        )
        assert all(there and style == "none" for there, style in pictures)
        assert watch.faults == []
        assert findings(page, mode) == []


@pytest.mark.parametrize("name", pages())
def test_page_fits_a_telephone(visit, name):
    with visit(name, width=NARROW) as watch:
        page = watch.page
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW
        page.evaluate(
            "document.querySelectorAll('details').forEach(one => { one.open = true; })"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW
        rights = page.evaluate(
            "[...document.querySelectorAll('.minivim-explorer *')].map(one =>"
            " one.getBoundingClientRect().right)"
        )
        assert all(right <= NARROW for right in rights)
        assert watch.faults == []


@pytest.mark.parametrize("over", ["file", "http"])
def test_search_finds_chapters(visit, served, over):
    base = served if over == "http" else ""
    with visit("search.html?q=codebook", base=base) as watch:
        result = watch.page.locator("#search-results ul.search li")
        result.first.wait_for()
        assert result.count() > 3
        watch.page.wait_for_timeout(500)  # summaries are fetched afterwards
        assert watch.faults == []


def test_a_chapter_works_from_a_server(visit, served):
    with visit(chapters()[0], base=served) as watch:
        assert watch.page.locator(".bd-article h1").count() == 1
        assert watch.faults == []


@pytest.mark.parametrize("name", chapters())
def test_chapter_is_within_its_budget(site, name):
    assert (site / name).stat().st_size <= budget.PAGE
    source = site / "_sources" / name.replace(".html", ".ipynb")
    assert source.stat().st_size <= budget.NOTEBOOK
    # What is offered is the chapter as it was committed.
    committed = ROOT / name.replace(".html", ".ipynb")
    assert source.read_bytes() == committed.read_bytes()
    assert f'href="../_sources/{name.replace(".html", ".ipynb")}" download' in (
        site / name
    ).read_text("utf-8")


class Links(HTMLParser):
    """What a page links to and what it can be linked at."""

    def __init__(self, text: str):
        super().__init__()
        self.targets, self.anchors = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key in ("href", "src") and value:
                self.targets.add(value)
            if key == "id" or (tag == "a" and key == "name"):
                self.anchors.add(value)


def test_no_link_of_the_site_leads_nowhere(site):
    found = {name: Links((site / name).read_text("utf-8")) for name in pages()}
    assert len(found) > 20
    broken = []
    for name, links in found.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = (site / name).parent / unquote(parts.path) if parts.path else None
            resolved = path.resolve() if path else site / name
            if resolved.is_dir():
                resolved /= "index.html"
            other = resolved.relative_to(SITE.resolve()).as_posix()
            known = found[other].anchors if other in found else None
            if not resolved.exists() or (
                parts.fragment and known is not None and parts.fragment not in known
            ):
                broken.append(f"{name}: {target}")
    assert broken == []
