"""The editor of codes in the built chapter 1: by mouse, by keyboard, from a file."""

import pytest

from tests.browser.conftest import chapters


@pytest.fixture
def editor(chromium, site):
    """The editor, alive; fails at the end on errors of the page and on requests."""
    page = chromium.new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    # What the whole page asks for when it is opened is another test's matter.
    page.route("http*://**", lambda route: route.abort())
    page.goto(f"{site.as_uri()}/{chapters()[0]}")
    found = page.locator(".minivim-editor.alive")
    found.wait_for(timeout=60_000)
    page.on("request", lambda request: faults.append(request.url))
    yield Editor(found)
    page.close()
    assert not faults


class Editor:
    """What a reader sees of it."""

    def __init__(self, locator):
        self.page, self.locator = locator.page, locator
        self.tokens = locator.locator(".tokens [role=radio]")
        self.codes = locator.locator(".palette [role=radio]")

    def pixels(self, number: int) -> list[int]:
        """Of the decoded picture (0) or of the change (1)."""
        canvas = self.locator.locator("canvas[role=img]").nth(number)
        return canvas.evaluate(
            "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        )

    def status(self) -> str:
        return self.locator.locator("[role=status]").inner_text()

    def chosen(self, buttons) -> list[int]:
        return buttons.evaluate_all(
            "all => all.flatMap((b, i) => b.ariaChecked === 'true' ? [i] : [])"
        )


def test_a_click_changes_the_picture_and_reset_brings_it_back(editor):
    before = editor.pixels(0)
    assert len(set(before)) > 50 and set(editor.pixels(1)) == {0, 255}
    editor.tokens.nth(10).click()
    assert editor.pixels(0) == before
    old = editor.tokens.nth(10).inner_text()
    editor.codes.nth(7).click()
    new = editor.tokens.nth(10).inner_text()
    assert new != old
    assert editor.pixels(0) != before and len(set(editor.pixels(1))) > 10
    assert f"Row 2, column 3: code {old} became {new}. One code" in editor.status()
    assert editor.chosen(editor.tokens) == [10] and editor.chosen(editor.codes) == [7]
    editor.locator.get_by_role("button", name="reset").click()
    assert editor.pixels(0) == before
    assert editor.tokens.nth(10).inner_text() == old


def test_the_keyboard_does_the_same(editor):
    before = editor.pixels(0)
    (start,) = editor.chosen(editor.tokens)
    press = editor.page.keyboard.press
    editor.locator.get_by_role("button", name="reset").focus()
    press("Tab")  # to the chosen token, and only to it
    press("ArrowUp")
    press("ArrowLeft")
    press("Enter")
    assert editor.chosen(editor.tokens) == [start - 9]
    press("Tab")
    (code,) = editor.chosen(editor.codes)
    press("ArrowRight")
    assert editor.chosen(editor.codes) == [code + 1]
    assert editor.pixels(0) != before
    press("ArrowDown")
    assert editor.chosen(editor.codes)[0] > code + 8
    outline = editor.page.evaluate(
        "getComputedStyle(document.activeElement).outlineStyle"
    )
    assert outline == "solid"


def test_a_click_into_the_picture_chooses_its_token(editor):
    canvas = editor.locator.locator("canvas[role=img]").first
    side = canvas.bounding_box()["width"]
    canvas.click(position={"x": side * 7.5 / 8, "y": side * 2.5 / 8})
    assert editor.chosen(editor.tokens) == [2 * 8 + 7]


def test_other_pictures(editor):
    before, words = editor.pixels(0), editor.tokens.all_inner_texts()
    editor.locator.get_by_role("radio", name="heart").click()
    assert editor.pixels(0) != before and editor.tokens.all_inner_texts() != words
    editor.locator.get_by_role("radio", name="star").click()
    assert editor.pixels(0) == before and editor.tokens.all_inner_texts() == words


def test_everything_has_a_name(editor):
    assert editor.tokens.count() == 64 and editor.codes.count() == 256
    for role in ("radio", "button", "radiogroup", "img"):
        found = editor.locator.get_by_role(role).all()
        names = [e.get_attribute("aria-label") or e.inner_text() for e in found]
        assert names and all(names)


def test_without_weights_the_pictures_stay_and_a_line_says_why(chromium, site):
    page = chromium.new_page()
    page.route("http*://**", lambda route: route.abort())
    page.route("**/shapes-decoder.js*", lambda route: route.abort())
    page.goto(f"{site.as_uri()}/{chapters()[0]}")
    words = page.locator(".minivim-editor [role=alert]").inner_text(timeout=60_000)
    assert words.startswith("No editor here: shapes-decoder.js is missing")
    assert page.locator(".minivim-editor img").count() == 2
    page.close()
