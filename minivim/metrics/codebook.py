"""How much of a codebook is in use: usage, perplexity and their fair baselines.

A share of used codes says little without the number of tokens it was counted on: more
can only raise it. `codebook_usage` counts all that it is given; `usage_by_image_batch`,
the paper's rule, fixes the number; `expected_unique` is what chance would reach.
"""

import math
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int

from minivim.config.checks import require
from minivim.data.arrays import array_of, at_hand, whole
from minivim.errors import UserError


class CodebookUsage(NamedTuple):
    """Usage of a codebook, counted over one fixed set of tokens."""

    usage: float  # share of the codes that occur at least once, in [0, 1]
    perplexity: float  # exp of the entropy of the histogram, in [1, num_codes]
    counts: Int[np.ndarray, " K"]  # how often each code occurs

    @classmethod
    def from_counts(cls, counts: Int[ArrayLike, " K"]) -> "CodebookUsage":
        """Usage from a histogram [K]; histograms of parts may be added beforehand."""
        counts = np.asarray(counts, np.int64)
        told = "codebook usage needs at least one token; pass some codes"
        require(bool(counts.any()), told)
        share = counts[counts > 0] / counts.sum()
        entropy = -float(np.sum(share * np.log(share)))
        return cls(share.size / counts.size, math.exp(entropy), counts)


# Paper silent, Table 4: usage and perplexity over any fixed set of tokens
def codebook_usage(codes: Int[ArrayLike, "..."], *, num_codes: int) -> CodebookUsage:
    """Usage and perplexity over all given tokens, whatever their order or batching.

        usage = #{k: count_k > 0} / K,  perplexity = exp(-sum_k p_k ln p_k)

    codes: any shape, in [0, K); p_k = count_k / sum(count). Compare two codebooks on
    the same number of tokens. Raises UserError for no tokens and codes out of range.
    """
    flat = _checked(codes, num_codes).ravel()
    return CodebookUsage.from_counts(np.bincount(flat, minlength=num_codes))


# Paper, Table 4: codebook usage within batches of 256 test images
def usage_by_image_batch(
    codes: Int[ArrayLike, "N T"], *, num_codes: int, images: int = 256
) -> float:
    """Usage by the paper's rule: within a batch of 256 test images, then averaged.

        mean_b #{k: k occurs in batch b} / K      (Table 4, caption)

    codes: [N, T], one row per image, in the given order. A last batch that is not full
    is left out, since fewer tokens show fewer codes: the batch is part of the rule, not
    a setting for speed. Raises UserError for fewer images and for codes out of range.
    """
    rows = _checked(codes, num_codes)
    told = f"images={images} must be above zero, and codes in rows, not {rows.shape}"
    require(rows.ndim == 2 and images > 0, f"{told}; give codes [N, T]")
    full = len(rows) // images
    told = f"usage over batches of {images} images needs that many, got {len(rows)}"
    require(full > 0, f"{told}; pass more, or use codebook_usage for all tokens")
    used = [np.unique(part).size for part in np.split(rows[: full * images], full)]
    return sum(used) / (full * num_codes)


def expected_unique(n: int, num_codes: int) -> float:
    """Number of different codes to expect in n independent uniform draws.

        E = K (1 - (1 - 1/K)^n)

    More are shown only by tokens arranged to differ. Unit: codes, not a share.
    """
    if num_codes == 1:
        return float(n > 0)
    # expm1 and log1p keep the digits that 1 - (1 - 1/K)^n loses for a large K.
    return -num_codes * math.expm1(n * math.log1p(-1 / num_codes))


def _checked(codes: ArrayLike, num_codes: int) -> np.ndarray:
    array = array_of(codes, "codes", "give whole numbers")
    require(at_hand(array), "codes are counted by NumPy; call it outside of jit")
    array = np.asarray(array)
    told = f"codes of type {array.dtype} cannot be counted; give whole numbers"
    require(whole(array) or not array.size, told)
    if array.size and (array.min() < 0 or array.max() >= num_codes):
        told = f"codes run from {array.min()} to {array.max()}, but num_codes is"
        raise UserError(f"{told} {num_codes}; pass the codebook's own size")
    return array
