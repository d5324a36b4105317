"""Drawing more pictures than are wanted, and keeping those a classifier likes best.

A method that buys agreement with variety: what the classifier finds odd is thrown away,
right or wrong. Its figures must come from another network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from tqdm.auto import tqdm

from minivim.classifier import require_no_judge
from minivim.errors import UserError
from minivim.prior.decoding import sample
from minivim.prior.transformer import Prior, check_labels
from minivim.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """All that was drawn, and which of it was kept.

    The first `n` candidates have the `n` labels that were asked for, in their order: a
    plain draw, to compare with. `chosen` has the kept ones in the same order, of each
    class the best first. Scores are nats, `log p(label | image)`.
    """

    codes: Int[np.ndarray, "M N"]
    images: Float[np.ndarray, "M H W C"]
    labels: Int[np.ndarray, " M"]
    scores: Float[np.ndarray, " M"]
    chosen: Int[np.ndarray, " n"]

    @property
    def kept(self) -> Bool[np.ndarray, " M"]:
        """Which candidates were kept."""
        return np.isin(np.arange(len(self.labels)), self.chosen)


# Paper, section 5.2: rejection by a classifier, half of the candidates kept
def reject(
    prior: Prior,
    tokenizer: Tokenizer,
    classifier: Callable[..., Any],
    *,
    key: PRNGKeyArray,
    labels: ArrayLike | Sequence[int],
    acceptance: float = 0.5,
    batch_size: int = 256,
    quiet: bool = False,
    **options: Any,
) -> Rejection:
    """Of `n / acceptance` candidates of each class keep the `n` most like it.

    `score = log p(label | decode(codes))` by the classifier; the paper has a ResNet-101
    and keeps 0.5 (Table 6). `labels` are those of the pictures wanted, `options` go to
    `sample`. The draw follows from `key` and `batch_size`; with one batch and
    `acceptance=1` it is that of `sample`.

    Raises `UserError` for a judge, which would then grade what it chose; for a
    classifier of other classes or images; for an acceptance outside (0, 1]; and where
    `sample` does.
    """
    labels = check_labels(prior, labels)
    _check(prior, tokenizer, classifier, acceptance)
    wanted = candidates(labels, acceptance)
    starts = range(0, len(wanted), batch_size)
    keys = [key] if len(starts) == 1 else list(jax.random.split(key, len(starts)))
    parts, quiet = [], quiet or len(starts) < 2
    for number, start in enumerate(tqdm(starts, desc="draw", disable=quiet)):
        part = wanted[start : start + batch_size]
        # Of one size, so that one compiled program serves every batch.
        padded = np.resize(part, min(batch_size, len(wanted)))
        codes = sample(prior, key=keys[number], labels=padded, **options)
        images = tokenizer.decode(codes)
        scores = _scores(classifier, images, padded)
        parts.append([np.asarray(x)[: len(part)] for x in (codes, images, scores)])
    codes, images, scores = map(np.concatenate, zip(*parts, strict=True))
    return Rejection(
        codes=codes,
        images=images,
        labels=wanted,
        scores=scores,
        chosen=best_of_each(wanted, scores, wanted=labels),
    )


def candidates(
    labels: Int[np.ndarray, " n"], acceptance: float
) -> Int[np.ndarray, " M"]:
    """The labels, then more of each class: `ceil(n / acceptance)` together."""
    classes, counts = np.unique(labels, return_counts=True)
    # 3 / 0.3 is a little more than 10.
    more = [math.ceil(n / acceptance - 1e-9) - n for n in counts.tolist()]
    return np.concatenate([labels, np.repeat(classes, more)]).astype(np.int32)


def best_of_each(
    labels: Int[np.ndarray, " M"],
    scores: Float[np.ndarray, " M"],
    *,
    wanted: Int[np.ndarray, " n"],
) -> Int[np.ndarray, " n"]:
    """For each wanted label the best candidate of that class not yet taken."""
    chosen = np.empty(len(wanted), np.int64)
    for label in np.unique(wanted):
        mine, places = np.flatnonzero(labels == label), wanted == label
        best = mine[np.argsort(-scores[mine], kind="stable")]
        chosen[places] = best[: places.sum()]
    return chosen


@nnx.jit
def _scores(
    classifier: Callable[..., Any],
    images: Float[ArrayLike, "B H W C"],
    labels: Int[ArrayLike, " B"],
) -> Float[Array, " B"]:
    nats = jax.nn.log_softmax(classifier(jnp.asarray(images))[0])
    return jnp.take_along_axis(nats, jnp.asarray(labels)[:, None], axis=1)[:, 0]


def _check(prior: Prior, tokenizer: Tokenizer, network: Any, acceptance: float) -> None:
    if not 0 < acceptance <= 1:
        raise UserError(
            f"acceptance={acceptance} is the share of candidates that is kept; use a "
            "value in (0, 1]"
        )
    config: Any = getattr(network, "config", None)
    if not hasattr(config, "kind"):
        raise UserError(
            "rejection needs a labelled network; name one that `minivim train "
            "classifier` made"
        )
    require_no_judge(network)
    if config.num_classes != prior.config.num_classes:
        raise UserError(
            f"the classifier knows {config.num_classes} classes and the prior "
            f"{prior.config.num_classes}; use one that was trained on the same data"
        )
    shape = tokenizer.config.image_shape
    if config.channels != shape["channels"] or shape["image_size"] % 8:
        raise UserError(
            f"the classifier reads images of {config.channels} channels, with sides "
            f"that are multiples of 8; this tokenizer's are {shape}"
        )
