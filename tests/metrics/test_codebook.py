"""Codebook usage: definitions, invariances (C14) and the paper's rule."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivim.errors import UserError
from minivim.metrics import (
    CodebookUsage,
    codebook_usage,
    expected_unique,
    usage_by_image_batch,
)


@pytest.mark.paper("usage and perplexity over any fixed set of tokens")
def test_known_values():
    stats = codebook_usage(jnp.array([[0, 0], [1, 3]]), num_codes=8)
    assert stats.usage == 3 / 8
    assert stats.counts.tolist() == [2, 1, 0, 1, 0, 0, 0, 0]
    # Entropy of (1/2, 1/4, 1/4) is 1.5 bits.
    assert stats.perplexity == pytest.approx(2**1.5)


def test_extremes():
    uniform = codebook_usage(np.arange(64).repeat(3), num_codes=64)
    assert uniform.usage == 1 and uniform.perplexity == pytest.approx(64)
    dead = codebook_usage(np.zeros(100, int), num_codes=64)
    assert dead.usage == 1 / 64 and dead.perplexity == 1


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 40),
    batch=st.integers(1, 40),
    num_codes=st.integers(1, 50),
)
@pytest.mark.paper("usage and perplexity over any fixed set of tokens")
def test_invariant_to_order_shape_and_batching(seed, images, batch, num_codes):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, num_codes, (images, 6))
    whole = codebook_usage(codes, num_codes=num_codes)
    shuffled = codebook_usage(rng.permutation(codes.ravel()), num_codes=num_codes)
    parts = [codes[i : i + batch] for i in range(0, images, batch)]
    summed = CodebookUsage.from_counts(
        np.sum([codebook_usage(p, num_codes=num_codes).counts for p in parts], axis=0)
    )
    for other in (shuffled, summed):
        assert other.usage == whole.usage
        assert other.perplexity == whole.perplexity
        np.testing.assert_array_equal(other.counts, whole.counts)
    assert whole.perplexity + 1e-9 >= 1
    assert whole.perplexity <= whole.usage * num_codes * (1 + 1e-9)


def test_batch_average_would_not_be_invariant():
    """Why the token set is global: averaging over batches moves with their size."""
    codes = np.random.default_rng(0).integers(0, 512, (64, 16))
    small, large = (
        np.mean([codebook_usage(p, num_codes=512).usage for p in np.split(codes, n)])
        for n in (16, 2)
    )
    assert large > 1.5 * small


@pytest.mark.paper("codebook usage within batches of 256 test images")
def test_paper_rule_counts_within_each_full_batch():
    # Two batches of 4 images: codes {0, 1} and {2, 3, 4}; a ninth image is left out.
    codes = np.array([[0, 1]] * 4 + [[2, 3]] * 3 + [[4, 4]] + [[9, 8]])
    assert usage_by_image_batch(codes, num_codes=10, images=4) == pytest.approx(0.25)
    assert codebook_usage(codes, num_codes=10).usage == 0.7
    assert usage_by_image_batch(codes, num_codes=10, images=9) == 0.7


def test_paper_rule_ignores_order_within_a_batch_and_of_batches():
    codes = np.random.default_rng(1).integers(0, 999, (512, 4))
    usage = usage_by_image_batch(codes, num_codes=999)
    assert usage_by_image_batch(codes[::-1], num_codes=999) == usage
    within = codes.reshape(2, 256, 4)[:, ::-1].reshape(512, 4)
    assert usage_by_image_batch(within, num_codes=999) == usage
    assert 0 < usage < codebook_usage(codes, num_codes=999).usage


def test_errors():
    with pytest.raises(UserError, match="256 images needs that many, got 255"):
        usage_by_image_batch(np.zeros((255, 4), int), num_codes=8)
    for bad in ([0, 8], [-1, 3]):
        with pytest.raises(UserError, match="num_codes is 8"):
            codebook_usage(np.array(bad), num_codes=8)
    with pytest.raises(UserError, match="at least one token"):
        codebook_usage(np.zeros((0, 4), int), num_codes=8)


def test_expected_unique_matches_simulation():
    draws = np.random.default_rng(0).integers(0, 256, (400, 300))
    seen = np.mean([np.unique(row).size for row in draws])
    assert expected_unique(300, 256) == pytest.approx(seen, rel=0.01)


def test_expected_unique_limits():
    assert expected_unique(0, 7) == 0 and expected_unique(0, 1) == 0
    assert expected_unique(1, 7) == pytest.approx(1)
    assert expected_unique(5, 1) == 1
    assert expected_unique(10**6, 7) == pytest.approx(7)
    # Few draws from a huge book hardly collide: n - n(n-1)/2K.
    assert math.isclose(expected_unique(10, 10**12), 10 - 45e-12, rel_tol=1e-15)
