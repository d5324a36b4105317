"""Draws the moving picture at the top of README.md from the shipped weights.

    python -m book.front

Left the codes as the prior writes them, in the middle what the decoder paints, right
the prior's probabilities of the next code.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import minivim
from minivim.prior import generate
from minivim.prior.model import class_number
from minivim.transformer import patchify

PICTURES = {"star": 8, "heart": 2, "ring": 1}  # classes and seeds
CELL, GAP, BARS, TOP = 34, 14, 6, 26
SIDE = 8 * CELL
SIZE = (3 * SIDE - 60 + 4 * GAP, SIDE + TOP + 2 * GAP)
INK, GREY, PALE, ACCENT = (29, 36, 48), (72, 86, 107), (238, 240, 243), (194, 65, 12)
STEP, LAST = 90, 2_500  # milliseconds: of a frame, and of a finished picture
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
font = partial(ImageFont.truetype, FONT)


def draw(prior, tokenizer, label: str, seed: int):
    """Codes, probabilities, and for each length so far the decoded picture.

    Beside them the most probable codes of each place, and the patch of each there.
    """
    tokens, options = prior.config.num_tokens, {"known": 0, "temperature": 1.0}
    labels = jnp.array([class_number(prior, label)])
    empty = jnp.zeros((1, tokens), jnp.int32)
    key = jax.random.key(seed)
    codes, logits = generate(
        prior, labels=labels, codes=empty, key=key, keep_logits=True, **options
    )
    codes, chances = np.asarray(codes)[0], np.asarray(jax.nn.softmax(logits[:, 0]))
    best = np.argsort(-chances, axis=1)[:, :BARS]
    for place in range(tokens):  # what is drawn must be seen
        if codes[place] not in best[place]:
            best[place, -1] = codes[place]
    # A plain background where nothing is written yet, as in the page.
    so_far = np.where(np.tri(tokens + 1, tokens, -1), codes, codes[0])
    pictures = np.asarray(tokenizer.decode(so_far))
    tried = np.repeat(so_far[:-1, None], BARS, axis=1)
    np.put_along_axis(tried, np.arange(tokens)[:, None, None], best[..., None], 2)
    rows = patchify(tokenizer.decode(tried.reshape(-1, tokens)), 4)
    rows = np.asarray(rows).reshape(tokens, BARS, tokens, 4, 4, 3)
    patches = rows[np.arange(tokens), :, np.arange(tokens)]
    return codes, chances, pictures, best, patches


def enlarged(pixels: np.ndarray, side: int) -> Image.Image:
    """Pixels in [0, 1] as an image, without smoothing."""
    image = Image.fromarray((255 * pixels).round().astype(np.uint8))
    return image.resize((side, side), Image.Resampling.NEAREST)


def frame(label: str, count: int, drawn: tuple) -> Image.Image:
    """`count` codes are written, and the next one is about to be drawn."""
    codes, chances, pictures, best, patches = drawn
    image = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(image)
    left, middle, right = GAP, SIDE + 2 * GAP, 2 * SIDE + 3 * GAP
    for x, words in (
        (left, f"the prior writes: {label}"),
        (middle, "the decoder paints"),
        (right, "the next code"),
    ):
        pen.text((x, GAP - 2), words, INK, font(14))
    top = GAP + TOP
    # Final patches give each code its colour: the mosaic is the picture.
    colours = patchify(jnp.asarray(pictures[-1:]), 4).reshape(1, -1, 16, 3)
    colours = (255 * np.asarray(colours)[0].mean(1)).astype(int)
    for i, code in enumerate(codes):
        x, y = left + i % 8 * CELL, top + i // 8 * CELL
        box = (x, y, x + CELL - 2, y + CELL - 2)
        if i >= count:
            pen.rounded_rectangle(box, 3, PALE, ACCENT if i == count else None, 2)
            continue
        pen.rounded_rectangle(box, 3, tuple(colours[i]))
        dark = colours[i] @ (0.299, 0.587, 0.114) < 140
        at = (x + CELL / 2 - 1, y + CELL / 2 - 1)
        pen.text(at, str(code), "white" if dark else INK, font(11), anchor="mm")
    written = np.arange(64).reshape(8, 8).repeat(4, 0).repeat(4, 1) < count
    shown = np.where(written[..., None], pictures[count], 0.2 * pictures[count] + 0.8)
    image.paste(enlarged(shown, SIDE), (middle, top))
    place = min(count, len(codes) - 1)
    width = SIDE - 60 - 44 - 36
    for row, code in enumerate(best[place]):
        y, chance = top + row * (SIDE // BARS), chances[place, code]
        image.paste(enlarged(patches[place, row], 36), (right, y))
        taken = ACCENT if code == codes[place] else GREY
        pen.rectangle((right + 44, y + 20, right + 44 + width, y + 34), PALE)
        pen.rectangle((right + 44, y + 20, right + 44 + width * chance, y + 34), taken)
        pen.text((right + 44, y + 1), f"{code}", taken, font(12))
        at = (right + 44 + width, y + 1)
        pen.text(at, f"{chance:.0%}", taken, font(12), anchor="ra")
    return image


def main() -> None:
    """Write `_static/front.png`, an animated PNG."""
    tokenizer = minivim.load("shapes/tokenizer")
    prior = minivim.load("shapes/prior")
    frames, times = [], []
    for label, seed in PICTURES.items():
        drawn = draw(prior, tokenizer, label, seed)
        frames += [frame(label, n, drawn) for n in range(len(drawn[0]) + 1)]
        times += [STEP] * len(drawn[0]) + [LAST]
    # One palette for all, with a white that is white: a third of the bytes.
    size = len(times) // len(PICTURES)
    whole = np.concatenate([np.asarray(one) for one in frames[size - 1 :: size]])
    palette = Image.fromarray(whole).quantize(200)
    colours = np.array(palette.getpalette()).reshape(-1, 3)
    colours[colours[:200].sum(1).argmax()] = 255
    palette.putpalette(colours.ravel().tolist())
    plain = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in frames]
    path = Path(__file__).with_name("_static") / "front.png"
    # A viewer that shows one frame only shows a finished picture first.
    plain[size - 1].save(
        path, save_all=True, append_images=plain, duration=[LAST, *times], loop=0,
        default_image=True, optimize=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
