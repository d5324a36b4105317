"""Every explorer of every chapter is moved, by mouse and by keyboard, and changes."""

import pytest

from tests.browser.conftest import chapters

# What is on display: its position, picture, caption and the value beside the slider.
SHOWN = """box => {
  const frames = [...box.querySelectorAll('figure')];
  const seen = frames.filter(one => one.checkVisibility());
  if (seen.length != 1) throw new Error(`${seen.length} pictures are shown`);
  const [figure] = seen;
  const picture = figure.querySelector('img');
  const slider = box.querySelector('input');
  return {
    position: frames.indexOf(figure),
    slider: Number(slider.value),
    last: Number(slider.max),
    picture: picture.src,
    drawn: picture.complete && picture.naturalWidth > 0,
    caption: figure.innerText,
    value: box.querySelector('output').textContent,
    own: figure.dataset.value,
    spoken: slider.getAttribute('aria-valuetext'),
  };
}"""


def shown(box) -> dict:
    """The state of an explorer; all its parts must agree."""
    state = box.evaluate(SHOWN)
    assert state["position"] == state["slider"]
    assert state["value"] == state["own"] == state["spoken"]
    assert state["drawn"]
    return state


def changed(before: dict, after: dict) -> bool:
    """Another position with other words; whether it has another picture as well."""
    assert before["position"] != after["position"]
    assert (before["value"], before["caption"]) != (after["value"], after["caption"])
    return before["picture"] != after["picture"]


@pytest.mark.parametrize("name", chapters())
def test_every_explorer_moves(visit, name):
    with visit(name) as watch:
        page = watch.page
        page.evaluate(
            "document.querySelectorAll('details').forEach(one => { one.open = true; })"
        )
        boxes = page.locator(".minivim-explorer").all()
        assert boxes
        for box in boxes:
            slider = box.locator("input[type=range]")
            slider.scroll_into_view_if_needed()
            first = shown(box)
            at_end = first["slider"] == first["last"]
            size = slider.bounding_box()
            x, y = (2 if at_end else size["width"] - 2), size["height"] / 2
            slider.click(position={"x": x, "y": y})
            clicked = shown(box)
            other = changed(first, clicked)
            assert clicked["slider"] == (0 if at_end else clicked["last"])
            page.keyboard.press("ArrowRight" if at_end else "ArrowLeft")
            pressed = shown(box)
            # Neighbours may look the same, but not all three.
            assert changed(clicked, pressed) or other
            assert abs(pressed["slider"] - clicked["slider"]) == 1
        assert watch.faults == []


def test_a_slider_can_be_dragged(visit):
    with visit(chapters()[0]) as watch:
        page, box = watch.page, watch.page.locator(".minivim-explorer").first
        slider = box.locator("input[type=range]")
        slider.scroll_into_view_if_needed()
        before = shown(box)
        size = slider.bounding_box()
        middle = size["y"] + size["height"] / 2
        share = before["slider"] / before["last"]
        page.mouse.move(size["x"] + 8 + share * (size["width"] - 16), middle)
        page.mouse.down()
        goal = 8 if share > 0.5 else size["width"] - 8
        page.mouse.move(size["x"] + goal, middle, steps=8)
        page.mouse.up()
        assert changed(before, shown(box))
        assert watch.faults == []
