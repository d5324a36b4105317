"""Explorers: same bytes every time, nothing external, words beside every picture."""

import re

import ipywidgets
import numpy as np
import pytest
from matplotlib.figure import Figure

from minivim.show import to_png
from minivim_lab.widgets import Explorer, live
from minivim_lab.widgets.explorer import LIMIT


def _frames(count=3):
    return [np.full((4, 4, 3), i / 10) for i in range(count)]


def _explorer(**changes):
    settings = {
        "label": "codes <K>",
        "values": [8, 16, 32],
        "captions": ["a", "b", "c"],
    }
    return Explorer(_frames(), **settings | changes)


def test_output_is_the_same_for_two_explorers_and_two_calls():
    first, second = _explorer(), _explorer()
    assert first.html() == first.html() == second.html()
    assert repr(first) == repr(second)


def test_bundle_has_widget_html_and_text():
    bundle = _explorer(text="squares")._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"].splitlines() == [
        "Explorer of codes <K>: squares",
        "  8: a",
        "  16: b",
        "  32: c",
    ]
    assert "minivim-explorer" in bundle["text/html"]


def test_html_asks_for_nothing_and_names_everything():
    html = _explorer(text='grey "squares"').html()
    assert not re.search(r"https?:|<script|<link|src=\"(?!data:)", html)
    assert 'aria-label="codes &lt;K&gt;"' in html
    assert "stopPropagation" in html
    assert re.findall(r'alt="([^"]*)"', html) == [
        f"grey &quot;squares&quot; (codes &lt;K&gt; = {k})" for k in (8, 16, 32)
    ]


def test_only_the_first_position_is_visible():
    hidden = re.findall(r'data-value="(\w+)"( hidden)?', _explorer(start=1).html())
    assert hidden == [("8", " hidden"), ("16", ""), ("32", " hidden")]


def test_slider_is_linked_to_stack_in_the_browser():
    explorer = _explorer(start=2)
    slider, stack = explorer.children
    assert isinstance(stack, ipywidgets.Stack)
    assert len(stack.children) == len(slider.options) == 3
    assert slider.index == stack.selected_index == 2
    assert explorer._link.source == (slider, "index")
    assert explorer._link.target == (stack, "selected_index")


def test_equal_values_keep_their_own_frames():
    slider, stack = _explorer(values=["a", "a", "b"]).children
    slider.index = 1
    assert len(stack.children) == 3 and slider.value == 1


def test_takes_figures_and_arrays():
    figure = Figure(figsize=(1, 1))
    frames = [figure, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1))]
    assert Explorer(frames, label="kind").html().count("data:image/png") == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": [1]}, "as many values"),
        ({"captions": ["a"]}, "as many values"),
        ({"start": 3}, "not one of the 3"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        _explorer(**changes)


def test_refuses_nothing_and_too_much():
    with pytest.raises(ValueError, match="at least one"):
        Explorer([], label="none")
    noise = np.random.default_rng(0).integers(0, 256, (240, 240, 3), dtype=np.uint8)
    assert len(to_png(noise)) > LIMIT
    with pytest.raises(ValueError, match="fewer or smaller"):
        Explorer([noise], label="noise")


def test_live_recomputes_and_shows_later_errors():
    calls = []

    def draw(level, kind):
        calls.append((level, kind))
        if level == 3:
            raise ValueError("level <3>")
        return np.full((2, 2), level / 4)

    widget = live(draw, level=(0, 4), kind=["x", "y"])
    slider, choice, picture = widget.children
    before = picture.value
    slider.value = 1
    assert picture.value != before and 'alt="level = 1, kind = x"' in picture.value
    choice.value = "y"
    assert calls == [(2, "x"), (1, "x"), (1, "y")]
    slider.value = 3
    assert "ValueError: level &lt;3&gt;" in picture.value
    assert widget._repr_mimebundle_()["text/plain"] == repr(widget)
    assert not slider.continuous_update


def test_live_takes_text_and_refuses_unknown_controls():
    shown = live(lambda n: f"<{n}>", n=(1, 3)).children[-1]
    assert shown.value == "<pre>&lt;2&gt;</pre>"
    with pytest.raises(ValueError, match="neither a widget"):
        live(lambda n: "", n=object())
