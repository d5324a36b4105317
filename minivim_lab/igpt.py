"""iGPT's tokens: an image shrunk to few pixels, each rounded to a palette's colour.

Chen et al. 2020 shrink an image until its pixels are few enough for a Transformer and
cluster their colours by k-means. Nothing else is learnt, so whatever the prior knows
after training it has learnt itself: the baseline of the paper's Table 7.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import reduce, repeat
from flax import nnx
from jaxtyping import Array, Float

from minivim import data, weights
from minivim.config import PaletteConfig, PaletteRecipe, as_dict
from minivim.encode import round_trip
from minivim.errors import UserError
from minivim.files import claim
from minivim.tokenizer.model import Tokenizer
from minivim.tokenizer.quantizer import Quantizer
from minivim.trainer import machine

CHUNK = 8192  # points whose distances are in memory at once
EVAL_SIZE = 512  # held-out images that the figures are measured on
Points = Float[np.ndarray, "_ d"]


class Palette(Tokenizer):
    """Stage 1 without a network: `encode` shrinks and rounds, `decode` paints.

    `c_i = argmin_k |mean(patch_i) - e_k|^2`; images come back in plain patches.
    """

    def __init__(self, config: PaletteConfig, *, rngs: nnx.Rngs):
        self.config = config
        widths = {"in_width": config.channels, "out_width": config.channels}
        self.quantizer = Quantizer(config.quantizer, **widths, rngs=rngs)

    def encoder(self, images: Float[Array, "B H W C"]) -> Float[Array, "B N C"]:
        """The mean of each patch's pixels: the image shrunk by a box filter."""
        rule, size = "b (h p) (w q) c -> b (h w) c", self.config.patch_size
        return reduce(images, rule, "mean", p=size, q=size)

    def decoder(
        self, colours: Float[Array, "B N C"]
    ) -> tuple[Float[Array, "B H W C"], dict]:
        """Each patch in one colour: the small image at the size of the large one."""
        rule, size = "b (h w) c -> b (h p) (w q) c", self.config.patch_size
        return repeat(colours, rule, h=self.config.grid, p=size, q=size), {}


def train_palette(
    recipe: PaletteRecipe, spec: Any, workdir: str | Path
) -> tuple[Palette, dict[str, float]]:
    """Fit the colours by k-means, for `load`; the palette and its held-out figures."""
    folder, shape = Path(workdir), recipe.model.image_shape
    if (folder / "run.json").exists():
        raise UserError(f"{folder} holds a run; give --workdir another folder")
    with claim(folder):
        source, held_out = (
            data.open_source(spec, split=split, **shape) for split in ("train", "test")
        )
        drawn = np.random.default_rng(recipe.seed).permutation(len(source))
        images = source.take(np.sort(drawn[: recipe.images]))["image"]
        how = {"seed": recipe.seed, "steps": recipe.steps}
        palette, objective = fit_palette(recipe.model, images, **how)
        test = data.stack(held_out, EVAL_SIZE)["image"]
        figures = {"distortion": objective[-1], **round_trip(palette, test)}
        card = {"recipe": as_dict(recipe), "seed": recipe.seed}
        card |= {"steps": len(objective) - 1, "data": source.description}
        card |= {"figures": figures, "machine": machine(), "licence": "Apache-2.0"}
        weights.save(folder, palette, card=card)
    return palette, figures


def fit_palette(
    config: PaletteConfig, images: Any, *, seed: int = 0, steps: int = 100
) -> tuple[Palette, list[float]]:
    """A palette of the colours of images, and the objective after every step.

    Raises `UserError` where the shrunk images have fewer colours than the palette.
    """
    palette = Palette(config, rngs=nnx.Rngs(0))
    means = palette.encoder(jnp.asarray(data.unit_images(images)))
    pixels = np.asarray(means).reshape(-1, config.channels)
    first = kmeans_plus_plus(pixels, config.num_codes, seed=seed)
    colours, objective = lloyd(pixels, first, steps=steps)
    palette.quantizer.codebook[...] = jnp.asarray(colours, jnp.float32)
    return palette, objective


def kmeans_plus_plus(points: Points, k: int, *, seed: int = 0) -> Points:
    """Initial centres: points drawn one by one, those far from the others more likely.

    The next centre is `x` with probability `D(x)^2 / sum D^2`, where `D` is the
    distance to the nearest centre so far. Raises `UserError` for too few points.
    """
    rng = np.random.default_rng(seed)
    points = np.asarray(points, np.float64)
    chosen = [points[rng.integers(len(points))]]
    distance = np.full(len(points), np.inf)
    while len(chosen) < k:
        distance = np.minimum(distance, np.square(points - chosen[-1]).sum(-1))
        total = np.cumsum(distance)
        if not total[-1] > 0:
            fewer = f" or --set num_codes={len(chosen)}" if len(chosen) > 1 else ""
            told = f"these images have {len(chosen)} colours, fewer than num_codes={k}"
            raise UserError(f"{told}; use more images{fewer}")
        # In (0, total]: a sum above zero, so that no point is chosen twice.
        drawn = total[-1] * (1 - rng.random())
        chosen.append(points[np.searchsorted(total, drawn)])
    return np.stack(chosen)


def lloyd(points: Points, centres: Points, *, steps: int) -> tuple[Points, list[float]]:
    """k-means: every point to its nearest centre, every centre to its points' mean.

    Neither half can raise `mean_x min_k |x - e_k|^2`, which is returned for the start
    and after every step. Ends where no point moves; centres without points stay.
    """
    points, centres = np.asarray(points, np.float64), np.array(centres, np.float64)
    nearest, objective = np.empty(0, np.int64), []
    while True:
        norms, before = np.square(centres).sum(-1), nearest
        parts = (points[i : i + CHUNK] for i in range(0, len(points), CHUNK))
        found = [(norms - 2 * x @ centres.T).argmin(-1) for x in parts]
        nearest = np.concatenate(found)
        objective.append(float(np.square(points - centres[nearest]).sum(-1).mean()))
        if len(objective) > steps or np.array_equal(before, nearest):
            return centres, objective
        counts = np.bincount(nearest, minlength=len(centres))
        sums = [np.bincount(nearest, x, minlength=len(centres)) for x in points.T]
        used = counts > 0
        centres[used] = np.stack(sums, axis=1)[used] / counts[used, None]
