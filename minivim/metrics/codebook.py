"""How much of a codebook is in use: usage, perplexity and their fair baselines.

A share of used codes says little without the number of tokens it was counted on:
more tokens can only raise it. So there are two functions, and each one fixes that
number: `codebook_usage` counts everything it is given, `usage_by_image_batch` is the
paper's rule. `expected_unique` is what a perfectly uniform codebook would reach.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int

from minivim.errors import UserError


class CodebookUsage(NamedTuple):
    """Usage of a codebook, counted over one fixed set of tokens.

    usage: share of the codes that occur at least once, in [0, 1].
    perplexity: exp of the entropy of the code histogram, in [1, num_codes].
    counts: int64 [num_codes], how often each code occurs.
    """

    usage: float
    perplexity: float
    counts: np.ndarray

    @classmethod
    def from_counts(cls, counts: Int[ArrayLike, " K"]) -> CodebookUsage:
        """Usage from a histogram [K]; histograms of parts may be added beforehand."""
        counts = np.asarray(counts, np.int64)
        total = counts.sum()
        if total == 0:
            raise UserError("codebook usage needs at least one token; pass some codes")
        share = counts[counts > 0] / total
        entropy = -float(np.sum(share * np.log(share)))
        return cls(share.size / counts.size, math.exp(entropy), counts)


# Paper silent, Table 4: usage and perplexity over any fixed set of tokens
def codebook_usage(codes: Int[ArrayLike, ...], *, num_codes: int) -> CodebookUsage:
    """Usage and perplexity over all given tokens, whatever their order or batching.

        usage = #{k: count_k > 0} / K,  perplexity = exp(-sum_k p_k ln p_k)

    codes: any shape, in [0, K); p_k = count_k / sum(count). The result depends on the
    multiset of tokens only, so compare two codebooks on the same number of tokens.
    Raises UserError for no tokens and for codes out of range.
    """
    flat = _checked(codes, num_codes).ravel()
    return CodebookUsage.from_counts(np.bincount(flat, minlength=num_codes))


# Paper, Table 4: codebook usage within batches of 256 test images
def usage_by_image_batch(
    codes: Int[ArrayLike, "N T"], *, num_codes: int, images: int = 256
) -> float:
    """Usage by the paper's rule: within a batch of 256 test images, then averaged.

        mean_b #{k: k occurs in batch b} / K      (Table 4, caption)

    codes: [N, T], one row per image, batches taken in the given order. The last batch
    is left out when it is not full, since fewer tokens would show fewer codes. The
    batch is part of the definition: it is no setting for speed. Raises UserError for
    fewer than `images` images and for codes out of range.
    """
    rows = _checked(codes, num_codes)
    full = len(rows) // images
    if not full:
        raise UserError(
            f"usage over batches of {images} images needs that many, got {len(rows)}; "
            "pass more images, or use codebook_usage and state the number of tokens"
        )
    used = [np.unique(part).size for part in np.split(rows[: full * images], full)]
    return sum(used) / (full * num_codes)


def expected_unique(n: int, num_codes: int) -> float:
    """Number of different codes to expect in n independent uniform draws.

        E = K (1 - (1 - 1/K)^n)

    The ceiling for usage on n tokens: no codebook is expected to show more without
    its tokens being arranged to differ. Unit: codes (divide by K for a share).
    """
    if num_codes == 1:
        return float(n > 0)
    # expm1 and log1p keep the digits that 1 - (1 - 1/K)^n loses for a large K.
    return -num_codes * math.expm1(n * math.log1p(-1 / num_codes))


def _checked(codes: ArrayLike, num_codes: int) -> np.ndarray:
    array = np.asarray(codes)
    if array.size and (array.min() < 0 or array.max() >= num_codes):
        raise UserError(
            f"codes run from {array.min()} to {array.max()}, but num_codes is "
            f"{num_codes}; pass the codebook's own size"
        )
    return array
