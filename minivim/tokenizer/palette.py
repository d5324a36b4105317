"""iGPT's tokens: small pixels, each rounded to a colour of a palette.

Chen et al. 2020 shrink an image until its pixels are few enough for a Transformer and
cluster their colours by k-means. Nothing else is learnt, so that what a prior knows
after training it has found itself: the baseline of the paper's Table 7.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from einops import reduce, repeat
from flax import nnx
from jaxtyping import Array, Float, Int

from minivim.config import PaletteConfig
from minivim.errors import UserError
from minivim.tokenizer.model import Tokenizer
from minivim.tokenizer.quantizer import Quantizer

CHUNK = 8192  # points whose distances are in memory at once


class Means(nnx.Module):
    """Each patch as the mean of its pixels: an image shrunk by a box filter."""

    def __init__(self, config: PaletteConfig):
        self.size = config.patch_size

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B N C"]:
        rule = "b (h p) (w q) c -> b (h w) c"
        return reduce(images, rule, "mean", p=self.size, q=self.size)


class Flat(nnx.Module):
    """Each patch in one colour: the small image at the size of the large one."""

    def __init__(self, config: PaletteConfig):
        self.grid, self.size = config.grid, config.patch_size

    def __call__(
        self, colours: Float[Array, "B N C"]
    ) -> tuple[Float[Array, "B H W C"], dict]:
        rule = "b (h w) c -> b (h p) (w q) c"
        sizes = {"h": self.grid, "p": self.size, "q": self.size}
        return repeat(colours, rule, **sizes), {}


class Palette(Tokenizer):
    """Stage 1 without a network: `encode` shrinks and rounds, `decode` paints.

    `c_i = argmin_k |mean(patch_i) - e_k|^2`. Images come back at the size that they
    had, every patch in one colour.
    """

    def __init__(self, config: PaletteConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder, self.decoder = Means(config), Flat(config)
        width = config.channels
        self.quantizer = Quantizer(
            config.quantizer, in_width=width, out_width=width, rngs=rngs
        )


def fit_palette(
    config: PaletteConfig,
    images: Float[np.ndarray, "n H W C"],
    *,
    seed: int = 0,
    steps: int = 100,
) -> tuple[Palette, list[float]]:
    """A palette of the colours of these images, and the objective of every step.

    Raises `UserError` where the shrunk images have fewer colours than the palette.
    """
    palette = Palette(config, rngs=nnx.Rngs(0))
    pixels = np.asarray(palette.encoder(jnp.asarray(images)))
    pixels = pixels.reshape(-1, config.channels)
    first = spread_out(pixels, config.num_codes, seed=seed)
    colours, objective = lloyd(pixels, first, steps=steps)
    palette.quantizer.codebook[...] = jnp.asarray(colours, jnp.float32)
    return palette, objective


def spread_out(
    points: Float[np.ndarray, "M d"], k: int, *, seed: int = 0
) -> Float[np.ndarray, "k d"]:
    """Where k-means starts (k-means++): each centre a point, far ones more likely.

    The next centre is `x` with probability `D(x)^2 / sum D^2`, where `D` is the
    distance to the nearest centre so far. Raises `UserError` for fewer than `k`
    different points.
    """
    rng = np.random.default_rng(seed)
    points = np.asarray(points, np.float64)
    chosen = [points[rng.integers(len(points))]]
    distance = np.full(len(points), np.inf)
    while len(chosen) < k:
        distance = np.minimum(distance, np.square(points - chosen[-1]).sum(-1))
        total = np.cumsum(distance)
        if not total[-1] > 0:
            raise UserError(
                f"these images have {len(chosen)} colours, fewer than num_codes={k}; "
                "use more images"
                + (f" or --set num_codes={len(chosen)}" if len(chosen) > 1 else "")
            )
        # Up to a sum above zero, so that a point that is chosen already never is again.
        wanted = total[-1] * (1 - rng.random())
        chosen.append(points[np.searchsorted(total, wanted)])
    return np.stack(chosen)


def lloyd(
    points: Float[np.ndarray, "M d"], centres: Float[np.ndarray, "k d"], *, steps: int
) -> tuple[Float[np.ndarray, "k d"], list[float]]:
    """k-means: every point to its nearest centre, every centre to its points' mean.

    Neither half can raise `mean_x min_k |x - e_k|^2`, which is returned for the start
    and after every step; ends early where no point moves. A centre without points
    stays where it is.
    """
    points, centres = np.asarray(points, np.float64), np.array(centres, np.float64)
    nearest, value = _assign(points, centres)
    objective = [value]
    for _ in range(steps):
        counts = np.bincount(nearest, minlength=len(centres))
        sums = [np.bincount(nearest, x, minlength=len(centres)) for x in points.T]
        used = counts > 0
        centres[used] = np.stack(sums, axis=1)[used] / counts[used, None]
        before, (nearest, value) = nearest, _assign(points, centres)
        objective.append(value)
        if np.array_equal(before, nearest):
            break
    return centres, objective


def _assign(
    points: np.ndarray, centres: np.ndarray
) -> tuple[Int[np.ndarray, " M"], float]:
    """The nearest centre of every point, and the mean squared distance to it."""
    norms = np.square(centres).sum(-1)
    starts = range(0, len(points), CHUNK)
    parts = [points[i : i + CHUNK] for i in starts]
    nearest = np.concatenate([(norms - 2 * x @ centres.T).argmin(-1) for x in parts])
    return nearest, float(np.square(points - centres[nearest]).sum(-1).mean())
