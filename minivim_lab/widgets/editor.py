"""An editor of codes: choose a token, give it another code, see what is decoded.

With a kernel the controls are widgets and the tokenizer decodes. In the book's pages
there is none, and no room for weights in a saved notebook: the HTML of the output
carries two pictures and the codes, and the site's own scripts (`book/_static`) make an
editor of it, with the same decoder in the page. Everywhere else it is two pictures.
"""

import json
from base64 import b64encode
from functools import partial
from html import escape

import ipywidgets
import numpy as np
from einops import rearrange
from matplotlib.colors import to_hex

from minivim.show import plots
from minivim.show.picture import enlarge, to_png
from minivim.tokenizer import Tokenizer
from minivim.weights import identity
from minivim_lab.widgets.explorer import Page, figure_html

COLUMNS = 16  # patches in a row of the picture that holds the patch of every code

_PAGE = """\
<div class="minivim-editor" data-editor="{data}">
<div style="display:flex;flex-wrap:wrap;gap:1em">
{pictures}
</div>
<p>In the pages of the book and in a running notebook this is an editor: choose one of \
the {tokens} tokens, give it another code, and the picture is decoded anew.</p>
</div>"""


class TokenEditor(Page):
    """Codes that can be exchanged one by one, beside the picture decoded from them.

    codes: int [n, N], of n pictures that show `names`. patches: [K, p, p, C], the mean
    patch of each code, to choose it by; `counts` [K] sorts them, most used first. The
    picture `start` and the token at the raster index `token` are chosen at first. A
    page decodes by itself if it holds the tokenizer's weights. Raises ValueError for
    arguments that do not fit the tokenizer or each other.
    """

    def __init__(
        self, tokenizer, codes, *, names, patches, counts=None, start=0, token=0
    ):
        config = tokenizer.config
        self._grid, self._num_codes = config.grid, config.quantizer.num_codes
        self._tokenizer: Tokenizer = tokenizer
        self._names = list(map(str, names))
        self._originals = np.array(codes, np.int32)
        self._patches = np.asarray(patches)
        uses = np.zeros(self._num_codes) if counts is None else np.asarray(counts)
        self._order = np.argsort(-uses, kind="stable")
        self._picture, self._token = start, token
        count, shape, tokens = len(names), self._originals.shape, config.num_tokens
        if shape != (count, tokens) or not count:
            raise ValueError(f"codes {shape}, but {count} names and {tokens} tokens")
        if not 0 <= self._originals.min() <= self._originals.max() < self._num_codes:
            raise ValueError(f"codes must lie in 0 ... {self._num_codes - 1}")
        side = config.patch_size
        wanted = (self._num_codes, side, side, config.channels)
        if self._patches.shape != wanted:
            raise ValueError(f"patches {self._patches.shape}, not {wanted}")
        if not (0 <= start < count and 0 <= token < tokens):
            raise ValueError(f"no picture {start} or no token {token}")
        cell = ipywidgets.Layout(width="2.9em", height="2.1em", margin="0", padding="0")
        style = ipywidgets.ButtonStyle()  # one for all keeps the saved notebook small
        button = partial(ipywidgets.Button, layout=cell, style=style)
        self._buttons = [button() for _ in range(tokens)]
        pictures = [(name, i) for i, name in enumerate(self._names)]
        self._choice = ipywidgets.Dropdown(
            options=pictures, value=start, description="picture"
        )
        self._code = ipywidgets.SelectionSlider(
            options=[(str(code), int(code)) for code in self._order],
            description="its code",
            layout={"width": "min(100%, 40em)"},
        )
        reset = ipywidgets.Button(description="reset")
        self._shown = ipywidgets.HTML()
        self._start(start)
        for place, button in enumerate(self._buttons):
            button.on_click(lambda _, place=place: self._choose(place))
        self._choice.observe(lambda c: self._start(c["new"]), names="value")
        self._code.observe(lambda c: self._exchange(c["new"]), names="value")
        reset.on_click(lambda _: self._start(self._picture))
        columns = f"repeat({self._grid}, max-content)"
        grid = ipywidgets.GridBox(
            self._buttons, layout={"grid_template_columns": columns, "grid_gap": "1px"}
        )
        wrap = {"flex_flow": "row wrap", "align_items": "flex-start"}
        above = ipywidgets.HBox([self._choice, reset])
        shown = ipywidgets.HBox([grid, self._shown], layout=wrap)
        super().__init__((above, shown, self._code))

    def _start(self, picture: int) -> None:
        self._picture, self._codes = picture, self._originals[picture].copy()
        self._update()

    def _choose(self, token: int) -> None:
        self._token = token
        self._update()

    def _exchange(self, code: int) -> None:
        if code != self._codes[self._token]:
            self._codes[self._token] = code
            self._update()

    def _update(self) -> None:
        for place, button in enumerate(self._buttons):
            button.description = str(self._codes[place])
            button.tooltip = self._place(place)
            button.button_style = "primary" if place == self._token else ""
        self._code.value = int(self._codes[self._token])
        both = np.stack([self._originals[self._picture], self._codes])
        self._decoded = before, after = np.asarray(self._tokenizer.decode(both))
        change = np.clip(2 * np.abs(after - before), 0, 1)
        patch = enlarge(self._patches[self._codes[self._token]], self._grid)
        titles = ["decoded", "change, twice as bright", "mean patch of the code"]
        images = [after, change, patch]
        plot = plots.image_grid(images, columns=3, scale=6, titles=titles)
        was = self._originals[self._picture, self._token]
        line = f"{self._place(self._token)}: code {was}"
        if was != self._codes[self._token]:
            line += f" became {self._codes[self._token]}"
        alt = f"{self._names[self._picture]}, decoded, and what has changed"
        self._shown.value = figure_html(to_png(plot), alt, line)

    def _place(self, token: int) -> str:
        return f"row {token // self._grid + 1}, column {token % self._grid + 1}"

    def html(self) -> str:
        """Two pictures and a sentence, and what makes an editor of them."""
        colours = plots._code_colours(np.arange(self._num_codes))
        # The patches of all codes in one PNG.
        padding = ((0, -len(self._patches) % COLUMNS), *((0, 0),) * 3)
        tiles = np.pad(self._patches, padding, constant_values=1)
        whole = rearrange(tiles, "(r s) p q c -> (r p) (s q) c", s=COLUMNS)
        sprite = b64encode(to_png(whole, width=1)).decode("ascii")
        codes, order = self._originals.tolist(), self._order.tolist()
        data = {**identity(self._tokenizer), "codes": codes, "names": self._names}
        data |= {"picture": self._picture, "token": self._token, "order": order}
        data["colours"] = "".join(to_hex(colour)[1:] for colour in colours)
        data["patches"] = f"data:image/png;base64,{sprite}"
        name, codes = self._names[self._picture], self._originals[self._picture]
        grid, decoded = to_png(plots.code_map(codes, cell=32)), to_png(self._decoded[0])
        before = figure_html(grid, f"the codes of: {name}", "the codes")
        after = figure_html(decoded, f"{name}, decoded", "decoded from them")
        text = escape(json.dumps(data, separators=(",", ":")))
        return _PAGE.format(data=text, pictures=f"{before}\n{after}", tokens=len(codes))

    def __repr__(self) -> str:
        codes = self._originals[self._picture].reshape(self._grid, self._grid)
        rows = "\n".join("".join(f"{code:5}" for code in row) for row in codes)
        size = f"{codes.size} tokens, {self._num_codes} codes"
        title = f"TokenEditor of {', '.join(self._names)}: {size}"
        return f"{title}\n{self._names[self._picture]}:\n{rows}"
