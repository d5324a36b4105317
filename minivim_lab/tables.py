"""Tables in Markdown, for pages of results and the terminal."""

from collections.abc import Iterable, Sequence


def markdown_table(titles: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table: a line of titles, then a line for each row."""
    head, *lines = (f"| {' | '.join(map(str, row))} |" for row in (titles, *rows))
    return "\n".join([head, "|---" * len(titles) + "|", *lines])
