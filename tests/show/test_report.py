"""The report: one valid file that asks for nothing and takes text literally."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from minivim.show import Report, usage_histogram
from minivim.show.report import LIMIT

VOID = {"meta", "link", "img"}


class _Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _report():
    return (
        Report("two <stages>")
        .paragraph("a & b")
        .heading("Codes")
        .table(
            [{"figure": "PSNR", "this run": 23.456789, "shipped": None}], caption="x"
        )
        .figure(usage_histogram([3, 1]), caption="y < z")
    )


def test_page_is_whole_and_asks_for_nothing(tmp_path):
    path = _report().write(tmp_path / "deep" / "report.html")
    page = path.read_text()
    balance = _Balance()
    balance.feed(page)
    assert not balance.open
    assert not re.search(r"https?:|<script|@import|url\(", page)
    assert page == _report().html()


def test_text_is_taken_literally():
    page = _report().html()
    assert "<title>two &lt;stages&gt;</title>" in page
    assert "<p>a &amp; b</p>" in page and "y &lt; z" in page


def test_numbers_are_short_and_none_is_a_dash():
    assert "<td>23.46</td><td>&ndash;</td>" in _report().html()


def test_both_colour_schemes_and_narrow_screens():
    page = _report().html()
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page


def test_pictures_are_described_and_sized():
    page = _report().html()
    assert 'alt="Codebook: 2 of 2 codes used (100.0%), perplexity 1.8"' in page
    assert 'width="640" height="260"' in page
    with pytest.raises(ValueError, match="needs alt="):
        Report("x").figure(np.zeros((4, 4)))


def test_refuses_ragged_tables_and_pages_too_large(tmp_path):
    with pytest.raises(ValueError, match="differ from"):
        Report("x").table([{"a": 1}, {"b": 2}])
    with pytest.raises(ValueError, match="at least one row"):
        Report("x").table([])
    with pytest.raises(ValueError, match="fewer or smaller"):
        Report("x").paragraph("a" * LIMIT).write(tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
