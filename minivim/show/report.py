"""A report in one static HTML file: text, tables and pictures, nothing to load."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from minivim.show.picture import Picture, to_png

LIMIT = 5_000_000  # bytes, so that it can be mailed and opened at once
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; --card: #fff; --line: #dfe3ea; }}
@media (prefers-color-scheme: dark) {{ :root {{ --card: #1d2229; --line: #333a45; }} }}
body {{ max-width: 62rem; margin: 0 auto; padding: .8rem;
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }}
h1 {{ border-bottom: 3px solid #0072b2; padding-bottom: .6rem; line-height: 1.2; }}
p, figcaption {{ max-width: 44rem; overflow-wrap: anywhere; }}
figure, .table {{ margin: 1rem 0; border: 1px solid var(--line); border-radius: .5rem;
  overflow-x: auto; width: fit-content; max-width: 100%; background: var(--card); }}
figure {{ padding: .6rem; background: #fff; color: #1d2430; }}
figure img {{ display: block; max-width: 100%; height: auto;
  min-width: min(var(--width), 30rem); }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .45rem .7rem; text-align: end; border-top: 1px solid var(--line); }}
td:not(:first-child) {{ white-space: nowrap; }}
th:first-child, td:first-child, caption {{ text-align: left; }}
caption {{ caption-side: bottom; padding: .5rem .7rem; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


class Report:
    """A page from top to bottom: each method adds a piece, its text taken literally."""

    def __init__(self, title: str):
        self._title = title
        self._pieces: list[str] = []

    def _add(self, piece: str) -> Report:
        self._pieces.append(piece)
        return self

    def heading(self, text: str) -> Report:
        return self._add(f"<h2>{escape(text)}</h2>")

    def paragraph(self, text: str) -> Report:
        return self._add(f"<p>{escape(text)}</p>")

    def table(self, rows: Sequence[Mapping], *, caption: str = "") -> Report:
        """Adds rows of the same keys, floats with four digits and None as a dash.

        Raises ValueError without rows and for other keys.
        """
        if not rows:
            raise ValueError("a table needs at least one row")
        names, body = list(rows[0]), ""
        for row in rows:
            if list(row) != names:
                raise ValueError(f"columns {list(row)} differ from {names}")
            body += f"<tr>{''.join(map(_cell, row.values()))}</tr>\n"
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
        below = f"<caption>{escape(caption)}</caption>" if caption else ""
        return self._add(
            f'<div class="table" tabindex="0"><table>{below}'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
        )

    def figure(self, picture: Picture, *, alt: str = "", caption: str = "") -> Report:
        """Adds what `to_png` takes; `alt` says it in words, as plots do by themselves.

        Raises ValueError if there is no description.
        """
        alt = alt or getattr(picture, "alt", "")
        if not alt:
            raise ValueError("a figure needs alt=: say in words what it shows")
        png = to_png(picture)
        width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
        data = b64encode(png).decode("ascii")
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        return self._add(
            f'<figure><img alt="{escape(alt)}" width="{width}" height="{height}" '
            f'style="--width: {width}px" src="data:image/png;base64,{data}">'
            f"{below}</figure>"
        )

    def html(self) -> str:
        """The whole page."""
        return _PAGE.format(title=escape(self._title), body="\n".join(self._pieces))

    def write(self, path: str | Path) -> Path:
        """Writes one file; ValueError for more than `LIMIT` bytes, or OSError."""
        page, path = self.html().encode(), Path(path)
        if len(page) > LIMIT:
            size = f"{len(page) / 1e6:.1f} MB, more than {LIMIT / 1e6:.0f}"
            raise ValueError(f"the report takes {size}: use fewer or smaller pictures")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(page)
        return path


def _cell(value: object) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<td>{'&ndash;' if value is None else escape(shown)}</td>"
