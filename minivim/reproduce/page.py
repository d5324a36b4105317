"""The grid as a page of the book."""

from __future__ import annotations


def table(found):
    return "\n".join(str(f) for f in found)
