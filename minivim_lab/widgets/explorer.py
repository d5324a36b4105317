"""Sliders that change a picture: with a kernel, and in a page that has none.

`Explorer` holds pictures computed beforehand. Its slider and its stack of pictures are
linked inside the browser, so the cell is alive in Jupyter and in the static book alike,
and where no widgets exist the same output carries a small HTML page of its own.
`live` recomputes its picture at every move and therefore needs a kernel.
"""

from base64 import b64encode
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets

from minivim.show.picture import Picture, to_png

# Bytes of PNG allowed per explorer: a chapter stays small enough to load at once.
LIMIT = 150_000

# Handlers sit in attributes: no element needs an id, so the output never changes.
# JupyterLab takes the arrow keys for itself unless the slider keeps them.
_PAGE = """\
<div class="minivim-explorer" style="max-width:100%">
<label style="display:flex;gap:.6em;align-items:center;flex-wrap:wrap">{label}
<input type="range" min="0" max="{last}" value="{start}" step="1" \
aria-label="{label}" aria-valuetext="{value}" onkeydown="event.stopPropagation()" \
oninput="
const box = this.closest('.minivim-explorer');
const frames = [...box.querySelectorAll('figure')];
frames.forEach((frame, i) => {{ frame.hidden = i != this.value; }});
const value = frames[this.value].dataset.value;
this.setAttribute('aria-valuetext', value);
box.querySelector('output').textContent = value;
"><output>{value}</output></label>
{frames}
</div>"""


def figure_html(png: bytes, alt: str, caption: str = "", attributes: str = "") -> str:
    """A picture with its words, without a file of its own."""
    data = b64encode(png).decode("ascii")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure style="margin:.4em 0"{attributes}><img alt="{escape(alt)}" '
        f'style="max-width:100%" src="data:image/png;base64,{data}">{below}</figure>'
    )


class Page(ipywidgets.VBox):
    """Widgets that an output carries as HTML too, for where there are none."""

    html: Callable[[], str]

    def _repr_mimebundle_(self, **kwargs) -> dict:
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return bundle | {"text/plain": repr(self), "text/html": self.html()}


class Explorer(Page):
    """A slider over pictures that were computed beforehand; it needs no kernel.

    frames: one for each position: matplotlib figures, or pixels ([H, W] or [H, W, C] of
    uint8 or floats in [0, 1]). `label` is what the slider changes,
    `values` its value at each (0, 1, 2, ... by default), `start` the first one shown.
    `captions` stand below: the numbers behind a picture, which the strict notebook test
    compares. `text` says what the pictures show to those who cannot see them. Raises
    ValueError for no frames, unequal lengths, `start` out of range, too many bytes.
    """

    def __init__(
        self, frames, *, label: str, values=None, captions=None, text="", start: int = 0
    ):
        pngs = [to_png(frame) for frame in frames]
        count = len(pngs)
        names = [str(value) for value in (range(count) if values is None else values)]
        lines = [""] * count if captions is None else list(captions)
        if not count:
            raise ValueError("an explorer needs at least one frame")
        if not len(names) == len(lines) == count:
            have = f"{len(names)} and {len(lines)}"
            raise ValueError(f"{count} frames need as many values and captions: {have}")
        if not 0 <= start < count:
            raise ValueError(f"start={start} is not one of the {count} positions")
        if (size := sum(map(len, pngs))) > LIMIT:
            problem = f"{count} frames take {size / 1000:.0f} kB, more than"
            raise ValueError(f"{problem} {LIMIT / 1000:.0f}: use fewer or smaller ones")
        self._pngs, self._start = pngs, start
        self._label, self._names, self._lines = label, names, lines
        self._text = text or label
        # HTML widgets rather than Image widgets: only they can carry an alt text.
        pictures = [ipywidgets.HTML(self._figure(i)) for i in range(count)]
        slider = ipywidgets.SelectionSlider(
            # Equal values would be taken for one option, so each carries its position.
            options=[(name, i) for i, name in enumerate(names)],
            index=start,
            description=label,
            tooltip=label,
            style={"description_width": "initial"},
            layout={"width": "min(100%, 30em)"},
        )
        stack = ipywidgets.Stack(pictures, selected_index=start)
        self._link = ipywidgets.jslink((slider, "index"), (stack, "selected_index"))
        super().__init__((slider, stack))

    def _figure(self, position: int, attributes: str = "") -> str:
        alt = f"{self._text} ({self._label} = {self._names[position]})"
        return figure_html(self._pngs[position], alt, self._lines[position], attributes)

    def html(self) -> str:
        """The explorer as a piece of HTML that needs no library, widget or network."""
        names, frames = [escape(name) for name in self._names], []
        for i, name in enumerate(names):
            hidden = "" if i == self._start else " hidden"
            frames.append(self._figure(i, f' data-value="{name}"{hidden}'))
        return _PAGE.format(
            label=escape(self._label), last=len(frames) - 1, start=self._start,
            value=names[self._start], frames="\n".join(frames),
        )  # fmt: skip

    def __repr__(self) -> str:
        pairs = zip(self._names, self._lines, strict=True)
        rows = [f"  {name}: {line}" if line else f"  {name}" for name, line in pairs]
        return "\n".join([f"Explorer of {self._label}: {self._text}", *rows])


class Live(ipywidgets.VBox):
    """A picture that is computed anew whenever a control moves; it needs a kernel.

    Tag its cell `nbval-ignore-output` and `remove-output`: a static page would show
    controls that do nothing. `function` gets a keyword for each control and returns a
    picture (figure, pixels or PNG bytes) or a string; later errors of it are shown in
    place of the picture. Controls are widgets or ipywidgets' short forms such as
    `(low, high)`, a list or dict of choices, a bool; ValueError for anything else.
    """

    def __init__(self, function: Callable[..., Picture | str], **controls):
        self._function, self._picture = function, ipywidgets.HTML()
        self._controls = {name: _control(name, c) for name, c in controls.items()}
        self._update()
        super().__init__((*self._controls.values(), self._picture))
        for widget in self._controls.values():
            widget.observe(self._on_change, names="value")

    def _update(self) -> None:
        arguments = {name: widget.value for name, widget in self._controls.items()}
        result = self._function(**arguments)
        if isinstance(result, str):
            self._picture.value = f"<pre>{escape(result)}</pre>"
        else:
            alt = ", ".join(f"{name} = {value}" for name, value in arguments.items())
            self._picture.value = figure_html(to_png(result), alt)

    def _on_change(self, _change) -> None:
        try:
            self._update()
        except Exception as error:  # a callback has no cell to show its traceback in
            message = f"{type(error).__name__}: {error}"
            self._picture.value = f'<pre role="alert">{escape(message)}</pre>'

    def __repr__(self) -> str:
        return f"Live({', '.join(self._controls)}): needs a kernel"


live = Live


def _control(name: str, short) -> Any:
    widget = ipywidgets.interactive.widget_from_abbrev(short)
    if not isinstance(widget, ipywidgets.DOMWidget) or not widget.has_trait("value"):
        raise ValueError(f"{name}={short!r} is neither a widget nor its short form")
    if not widget.trait_values().get("description"):
        widget.set_trait("description", name.replace("_", " "))
    if widget.has_trait("continuous_update"):  # one computation per move, not fifty
        widget.set_trait("continuous_update", False)
    widget.set_trait("style", {"description_width": "initial"})
    return widget
