"""The editor of codes: alive with a kernel, plain pictures and data without one."""

import json
import re
from html import unescape

import numpy as np
import pytest

from minivim.weights import identity
from minivim_lab.widgets import TokenEditor
from tests import tiny

CODES = np.arange(8).reshape(2, 4)
PATCHES = np.linspace(0, 1, 24 * 48).reshape(24, 4, 4, 3)


def _editor(**changes):
    settings = {"codes": CODES, "names": ["a <b>", "c"], "patches": PATCHES}
    return TokenEditor(tiny.tokenizer(), **settings | changes)


@pytest.fixture(scope="module")
def editor():
    return _editor(start=1, token=2, counts=np.arange(24))


def _data(html):
    return json.loads(unescape(re.search(r'data-editor="([^"]*)"', html)[1]))


def test_output_is_the_same_for_two_editors_and_two_calls(editor):
    other = _editor(start=1, token=2, counts=np.arange(24))
    assert editor.html() == editor.html() == other.html()
    assert repr(editor) == repr(other)


def test_bundle_has_widget_html_and_text(editor):
    bundle = editor._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"].splitlines() == [
        "TokenEditor of a <b>, c: 4 tokens, 24 codes",
        "c:",
        "    4    5",
        "    6    7",
    ]
    assert "minivim-editor" in bundle["text/html"]


def test_html_asks_for_nothing_and_describes_its_pictures(editor):
    html = _editor().html()
    assert not re.search(r"https?:|<script|<link|src=\"(?!data:)", html)
    alts = re.findall(r'alt="([^"]*)"', html)
    assert alts == ["the codes of: a &lt;b&gt;", "a &lt;b&gt;, decoded"]


def test_data_says_all_that_the_page_needs(editor):
    data = _data(editor.html())
    assert data["hash"] == identity(tiny.tokenizer())["hash"]
    assert data["codes"] == CODES.tolist() and data["names"] == ["a <b>", "c"]
    assert (data["picture"], data["token"]) == (1, 2)
    assert data["order"] == list(range(23, -1, -1))
    assert len(data["colours"]) == 24 * 6
    assert data["patches"].startswith("data:image/png;base64,")
    assert _data(_editor().html())["order"] == list(range(24))


def test_a_click_chooses_and_a_code_changes_the_picture():
    editor = _editor()
    before = editor._shown.value
    editor._buttons[3].click()
    assert editor._code.value == 3 and editor._buttons[3].button_style == "primary"
    assert not editor._buttons[0].button_style
    editor._code.value = 20
    assert editor._shown.value != before
    assert "row 2, column 2: code 3 became 20" in editor._shown.value
    assert [button.description for button in editor._buttons] == ["0", "1", "2", "20"]
    want = tiny.tokenizer().decode(np.array([[0, 1, 2, 20]]))
    np.testing.assert_allclose(editor._decoded[1], want[0], atol=1e-6)
    reset = editor.children[0].children[1]
    reset.click()
    assert [button.description for button in editor._buttons] == list("0123")
    assert (editor._originals == CODES).all()


def test_another_picture_brings_its_own_codes():
    editor = _editor()
    editor._code.value = 9
    editor._choice.value = 1
    assert [button.description for button in editor._buttons] == list("4567")
    assert editor._code.value == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["a"]}, "1 names and 4 tokens"),
        ({"codes": CODES[:, :3]}, "4 tokens"),
        ({"codes": CODES + 20}, "0 ... 23"),
        ({"patches": PATCHES[:-1]}, "patches"),
        ({"start": 2}, "no picture 2"),
        ({"token": 4}, "no token 4"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        _editor(**changes)
