"""The report: one valid file that asks for nothing and takes text literally."""

import re
from html.parser import HTMLParser

import pytest

from minivim.show import usage_histogram
from minivim_lab import report

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


@pytest.fixture
def page():
    rows = [{"figure": "PSNR", "this run": 23.456789, "shipped": 8}]
    figures = [("Codes", "", usage_histogram([3, 1]))]
    return report.page("two <stages>", "a & b", rows, "y < z", figures)


def test_page_is_whole_and_asks_for_nothing(page):
    balance = _Balance()
    balance.feed(page)
    assert not balance.open
    assert not re.search(r"https?:|<script|@import|url\(", page)


def test_text_is_taken_literally(page):
    assert "<title>two &lt;stages&gt;</title>" in page
    assert "<p>a &amp; b</p>" in page and "y &lt; z" in page


def test_numbers_are_short(page):
    assert "<td>23.46</td><td>8</td>" in page


def test_both_colour_schemes_and_narrow_screens(page):
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page


def test_pictures_are_described_and_sized(page):
    assert 'alt="Codebook: 2 of 2 codes used (100.0%), perplexity 1.8"' in page
    assert 'width="640" height="260"' in page
