"""How much of a codebook is alive: usage, perplexity and their fair baselines.

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
        """Usage from a histogram; histograms of parts may be added beforehand.

            usage = #{k: counts_k > 0} / K,  perplexity = exp(-sum_k p_k ln p_k)

        counts: [K], p_k = counts_k / sum(counts). Raises UserError when all are zero.
        """
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

    codes: any shape, in [0, K). The result depends on the multiset of tokens only, so
    compare two codebooks on the same number of tokens. Raises UserError for no tokens
    and for codes out of range.
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
    rows = np.asarray(codes)
    counter = CodeCounter(num_codes=num_codes, images=images)
    return counter.update(rows.reshape(len(rows), -1)).usage_by_image_batch()


class CodeCounter:
    """Both figures from codes that arrive in batches of any size, in constant memory.

    counts: int64 [K], how often each code occurred so far. Memory: two rows of K.
    """

    def __init__(self, *, num_codes: int, images: int = 256):
        self.counts = np.zeros(num_codes, np.int64)
        self._images, self._seen = images, 0
        self._here = np.zeros(num_codes, bool)
        self._used, self._full = 0, 0

    def update(self, codes: Int[ArrayLike, "n T"]) -> CodeCounter:
        """Take in rows of codes. Raises `UserError` for codes out of range."""
        rows = _checked(codes, len(self.counts))
        self.counts += np.bincount(rows.ravel(), minlength=len(self.counts))
        while len(rows):
            part = rows[: self._images - self._seen % self._images]
            self._here[part] = True
            self._seen += len(part)
            rows = rows[len(part) :]
            if self._seen % self._images == 0:
                self._used += int(self._here.sum())
                self._full += 1
                self._here[:] = False
        return self

    def usage(self) -> CodebookUsage:
        """As `codebook_usage` of all codes so far."""
        return CodebookUsage.from_counts(self.counts)

    def usage_by_image_batch(self) -> float:
        """As the function, over all full batches so far, with its error."""
        if not self._full:
            raise UserError(
                f"usage over batches of {self._images} images needs that many, got "
                f"{self._seen}; pass more images, or use codebook_usage and state the "
                "number of tokens"
            )
        return self._used / (self._full * len(self.counts))


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
    """Codes as a numpy array, refused when one of them names no code."""
    array = np.asarray(codes)
    if array.size and (array.min() < 0 or array.max() >= num_codes):
        raise UserError(
            f"codes run from {array.min()} to {array.max()}, but num_codes is "
            f"{num_codes}; pass the codebook's own size"
        )
    return array
