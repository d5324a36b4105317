"""A report in one static HTML file: text, tables and pictures, nothing to load."""

from base64 import b64encode
from html import escape

from minivim.show.picture import to_png

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
p {{ max-width: 44rem; overflow-wrap: anywhere; }}
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


def page(
    title: str, words: str, rows: list[dict], caption: str, figures: list[tuple]
) -> str:
    """Words, a table of rows of the same keys, then headings, words and plots.

    All text is taken literally; what a plot says in words is for those who cannot see.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in rows[0])
    body = "".join(f"<tr>{''.join(map(_cell, r.values()))}</tr>\n" for r in rows)
    pieces = [
        f"<p>{escape(words)}</p>",
        f'<div class="table" tabindex="0"><table>\n<caption>{escape(caption)}'
        f"</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>"
        "</table></div>",
    ]
    for heading, said, plot in figures:
        png = to_png(plot)
        width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
        data = b64encode(png).decode("ascii")
        pieces += [
            f"<h2>{escape(heading)}</h2>",
            *([f"<p>{escape(said)}</p>"] if said else []),
            f'<figure><img alt="{escape(plot.alt)}" width="{width}" height="{height}" '
            f'style="--width: {width}px" src="data:image/png;base64,{data}"></figure>',
        ]
    return _PAGE.format(title=escape(title), body="\n".join(pieces))


def _cell(value: object) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<td>{escape(shown)}</td>"
