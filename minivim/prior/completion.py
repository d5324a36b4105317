"""The rest of a picture whose upper rows are given, as often as one likes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int, PRNGKeyArray

from minivim.errors import UserError
from minivim.prior.decoding import sample
from minivim.prior.transformer import Prior, check_labels
from minivim.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Several completions of each picture.

    `given` is what the encoder was shown. Of the codes of each picture the first
    `known` are those of `given`.
    """

    given: Float[np.ndarray, "B H W C"]
    known: int
    codes: Int[np.ndarray, "B S N"]
    images: Float[np.ndarray, "B S H W C"]


def complete(
    prior: Prior,
    tokenizer: Tokenizer,
    images: ArrayLike,
    *,
    key: PRNGKeyArray,
    rows: int | None = None,
    labels: ArrayLike | Sequence[int] | None = None,
    count: int = 1,
    peek: bool = False,
    **options: Any,
) -> Completion:
    """Keep the codes of the first `rows` rows (by default half), draw the others.

        c_i ~ p(c_i | class, c_1, ..., c_P, ..., c_{i-1}),  i > P

    The tokenizer's encoder sees the whole image, so that the codes of its upper half
    know a little of the lower half, and a completion would be told what it is meant to
    guess. By default the encoder is shown the upper rows above a plain ground of their
    mean colour; with `peek` the image as it is. Codes are kept, not pixels: the decoder
    looks at all of them, and may draw the upper rows a little differently.

    images: uint8, or float in [0, 1], [B, H, W, C]. `labels` are one for each image,
    by default none; `options` go to `sample`. Raises `UserError` for rows outside the
    picture, a count below 1, and where `encode` and `sample` do.
    """
    grid = tokenizer.config.grid
    rows = grid // 2 if rows is None else rows
    if not 0 < rows < grid:
        raise UserError(
            f"rows={rows} of a picture that has {grid} rows of codes; keep 1 to "
            f"{grid - 1}"
        )
    if count < 1:
        raise UserError(f"count={count} must be above zero; use 1 or more")
    array = np.asarray(images)
    tokenizer.check_images(array.shape)
    given = array.astype(np.float32) / 255 if array.dtype == np.uint8 else array
    if not peek:
        given = hide_below(given, rows * (tokenizer.config.image_size // grid))
    if labels is not None:
        labels = np.repeat(check_labels(prior, labels), count)
    known = rows * grid
    prefix = np.asarray(tokenizer.encode(given))[:, :known]
    codes = sample(
        prior,
        key=key,
        prefix=np.repeat(prefix, count, axis=0),
        labels=labels,
        **options,
    )
    drawn = np.asarray(tokenizer.decode(codes))
    return Completion(
        given=given,
        known=known,
        codes=np.asarray(codes).reshape(len(given), count, -1),
        images=drawn.reshape(len(given), count, *drawn.shape[1:]),
    )


def hide_below(
    images: Float[np.ndarray, "B H W C"], height: int
) -> Float[np.ndarray, "B H W C"]:
    """The images with all pixels from row `height` on at the mean of those above."""
    hidden = images.copy()
    hidden[:, height:] = images[:, :height].mean((1, 2), keepdims=True)
    return hidden
