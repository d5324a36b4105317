"""Two ways to use the sampler: rejection by a classifier, and completion of a picture.

Rejection buys agreement with variety: what the classifier finds odd is thrown away,
right or wrong. Its figures must come from another network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from tqdm.auto import tqdm

from minivim.batched import in_batches
from minivim.classifier import Classifier, require_classifier
from minivim.config.checks import KINDS, require
from minivim.data.arrays import at_hand, check_key
from minivim.prior.model import Prior, check_labels
from minivim.prior.sampling import is_number, sample
from minivim.tokenizer import Tokenizer


def _above_zero(number: Any) -> bool:
    return KINDS[int].holds(number) and number > 0


def require_known(name: str, *values: Any) -> None:
    """`UserError` for values under `jit`, of which no NumPy array can be made."""
    told = f"{name} gives arrays of NumPy, so it cannot be part of a compiled program"
    require(all(map(at_hand, values)), f"{told}; call it outside, or use sample")


@dataclass(frozen=True)
class Rejection:
    """All candidates; the first `n`, with the labels asked for, are a plain draw."""

    codes: Int[np.ndarray, "M N"]
    images: Float[np.ndarray, "M H W C"]
    labels: Int[np.ndarray, " M"]
    scores: Float[np.ndarray, " M"]  # nats, `log p(label | image)`
    # Those kept, in the order of the labels asked for, the best of each class first.
    chosen: Int[np.ndarray, " n"]

    @property
    def kept(self) -> Bool[np.ndarray, " M"]:
        return np.isin(np.arange(len(self.labels)), self.chosen)


# Paper, section 5.2: rejection by a classifier, half of the candidates kept
def reject(
    prior: Prior,
    tokenizer: Tokenizer,
    classifier: Any,
    *,
    key: PRNGKeyArray,
    labels: ArrayLike | Sequence[int | str],
    acceptance: float = 0.5,
    batch_size: int = 256,
    keep_images: bool = True,
    quiet: bool = False,
    **options: Any,
) -> Rejection:
    """Draw `n / acceptance` candidates of each class and keep the `n` best.

    `score = log p(label | decode(codes))` by the classifier; the paper has a ResNet-101
    and keeps 0.5 (Table 6). `labels` are those of the pictures wanted, `options` go to
    `sample`. The draw follows from `key` and `batch_size`. Without `keep_images` the
    images have no rows of pixels, to save memory.

    Raises `UserError` for a judge, a classifier of other classes or images, an
    acceptance outside (0, 1], and where `sample` does.
    """
    wanted: Any = check_labels(prior, labels)
    require_known("reject", check_key(key), wanted)
    require(len(wanted) > 0, "no labels of pictures to draw; give one or more")
    require(_above_zero(batch_size), f"batch_size={batch_size}: give 1 or more")
    told = f"acceptance={acceptance} is the share that is kept; use a value in (0, 1]"
    require(is_number(acceptance, lambda x: 0 < x <= 1), told)
    told = f"acceptance={acceptance} asks for too many candidates"
    require(len(wanted) < 2**31 * acceptance, f"{told}; use a larger share")
    size, channels = tokenizer.config.image_size, tokenizer.config.channels
    require_classifier(classifier).check_shape((size, size, channels))
    theirs, ours = classifier.config.num_classes, prior.config.num_classes
    told = f"the classifier knows {theirs} classes and the prior {ours}"
    require(theirs == ours, f"{told}; use one that was trained on the same data")
    drawn = candidates(wanted, acceptance)
    count = math.ceil(len(drawn) / batch_size)
    keys = iter([key] if count == 1 else jax.random.split(key, count))
    bar = tqdm(total=count, desc="draw", disable=quiet or count < 2)

    def draw(labels: np.ndarray) -> tuple[Array, Array, Array]:
        codes = sample(prior, key=next(keys), labels=labels, **options)
        images = tokenizer.decode(codes)
        bar.update()
        scores = _scores(classifier, images, labels)
        return codes, images if keep_images else images[:, :0], scores

    codes, images, scores = in_batches(draw, drawn, batch_size=batch_size)
    chosen = best_of_each(drawn, scores, wanted=wanted)
    return Rejection(codes, images, drawn, scores, chosen)


def candidates(labels: np.ndarray, acceptance: float) -> Int[np.ndarray, " M"]:
    """The labels, then more of each class: `ceil(n / acceptance)` together."""
    classes, counts = np.unique(labels, return_counts=True)
    # 3 / 0.3 is a little more than 10.
    more = [math.ceil(n / acceptance - 1e-9) - n for n in counts.tolist()]
    return np.concatenate([labels, np.repeat(classes, more)]).astype(np.int32)


def best_of_each(
    labels: np.ndarray, scores: np.ndarray, *, wanted: np.ndarray
) -> Int[np.ndarray, " n"]:
    """For each wanted label the best candidate of that class not yet taken."""
    chosen = np.empty(len(wanted), np.int64)
    for label in np.unique(wanted):
        mine, places = np.flatnonzero(labels == label), wanted == label
        chosen[places] = mine[np.argsort(-scores[mine], kind="stable")][: places.sum()]
    return chosen


@nnx.jit
def _scores(classifier: Classifier, images: Array, labels: Any) -> Float[Array, " B"]:
    nats = jax.nn.log_softmax(classifier(images)[0])
    return jnp.take_along_axis(nats, labels[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class Completion:
    """Several completions of each picture."""

    given: Float[np.ndarray, "B H W C"]  # as the encoder saw them
    known: int  # how many codes of these each completion keeps
    codes: Int[np.ndarray, "B S N"]
    images: Float[np.ndarray, "B S H W C"]


def complete(
    prior: Prior,
    tokenizer: Tokenizer,
    images: Any,
    *,
    key: PRNGKeyArray,
    rows: int | None = None,
    labels: ArrayLike | Sequence[int | str] | None = None,
    count: int = 1,
    peek: bool = False,
    **options: Any,
) -> Completion:
    """Keep the codes of the first `rows` rows (by default half), draw the others.

        c_i ~ p(c_i | class, c_1, ..., c_P, ..., c_{i-1}),  i > P

    An encoder that sees the whole image tells the codes of its upper half a little of
    the lower, which a completion is meant to guess. So by default it is shown the upper
    rows above a plain ground of their mean colour; with `peek` the image as it is.
    Codes are kept, not pixels, so the upper rows may look a little different.

    `labels` are one for each image, by default none; `options` go to `sample`. Raises
    `UserError` for impossible rows and counts, and where `encode` and `sample` do.
    """
    require_known("complete", key, images, labels)
    grid, size = tokenizer.config.grid, tokenizer.config.image_size
    rows = grid // 2 if rows is None else rows
    told = f"rows={rows} of a picture that has {grid} rows of codes"
    require(_above_zero(rows) and rows < grid, f"{told}; keep 1 to {grid - 1}")
    require(_above_zero(count), f"count={count} must be above zero; use 1 or more")
    given = np.array(tokenizer.pixels(images))
    if not peek:
        height = rows * (size // grid)
        given[:, height:] = given[:, :height].mean((1, 2), keepdims=True)
    if labels is not None:
        labels = np.repeat(check_labels(prior, labels), count)
    known = rows * grid
    prefix = np.repeat(np.asarray(tokenizer.encode(given))[:, :known], count, axis=0)
    codes = sample(prior, key=key, prefix=prefix, labels=labels, **options)
    drawn, shape = np.asarray(tokenizer.decode(codes)), (len(given), count)
    codes = np.asarray(codes).reshape(*shape, -1)
    return Completion(given, known, codes, drawn.reshape(*shape, *given.shape[1:]))
