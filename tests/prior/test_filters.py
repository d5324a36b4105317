"""Temperature, top-k, top-p and guidance against plain computations."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivim.prior import filter_logits, guide, keep_top_k, keep_top_p

K = 7
weights = st.lists(st.integers(1, 1000), min_size=K, max_size=K, unique=True)


def kept(logits) -> set[int]:
    return set(np.flatnonzero(np.isfinite(np.asarray(logits))))


@settings(max_examples=30, deadline=None)
@given(weights, st.integers(1, K))
def test_top_k_keeps_exactly_the_k_largest(weights, k):
    logits = jnp.log(jnp.array(weights, jnp.float32))
    filtered = keep_top_k(logits, k)
    assert kept(filtered) == set(np.argsort(weights)[-k:])
    chosen = list(kept(filtered))
    np.testing.assert_array_equal(
        np.asarray(filtered)[chosen], logits[jnp.array(chosen)]
    )


def test_top_k_keeps_ties_with_the_smallest():
    assert kept(keep_top_k(jnp.array([1.0, 2.0, 1.0, 0.0]), 2)) == {0, 1, 2}


@settings(max_examples=60, deadline=None)
@given(weights, st.data())
def test_top_p_keeps_the_smallest_set_that_reaches_p(weights, data):
    total = sum(weights)
    # Between two possible sums, where rounding cannot decide.
    wanted = data.draw(st.integers(0, total - 1)) + 0.5
    order, reached, smallest = np.argsort(weights)[::-1], 0, set()
    for code in order:
        if reached >= wanted:
            break
        smallest.add(int(code))
        reached += weights[code]
    logits = jnp.log(jnp.array(weights, jnp.float32))
    assert kept(keep_top_p(logits, wanted / total)) == smallest


def test_top_p_always_keeps_the_most_likely_code():
    assert kept(keep_top_p(jnp.array([0.0, 9.0, 0.0]), 1e-6)) == {1}
    assert kept(keep_top_p(jnp.array([0.0, 9.0, 0.0]), 1.0)) == {0, 1, 2}


def test_a_top_p_of_one_is_no_filter():
    """Of 8,192 codes dozens were dropped, where float32 sums reached 1 early."""
    logits = 4 * np.random.default_rng(0).normal(size=(4, 8192)).astype(np.float32)
    np.testing.assert_array_equal(keep_top_p(jnp.asarray(logits), 1.0), logits)
    traced = filter_logits(jnp.asarray(logits), top_p=jnp.float32(1))
    np.testing.assert_array_equal(traced, logits)


def test_top_p_filters_each_row_by_itself():
    rows = jnp.array([[0.0, 5.0, 0.0], [1.0, 1.0, 1.0]])
    filtered = keep_top_p(rows, 0.9)
    assert kept(filtered[0]) == {1}
    assert kept(filtered[1]) == {0, 1, 2}


def test_temperature_divides():
    logits = jnp.array([0.0, 1.0, -2.0])
    np.testing.assert_allclose(filter_logits(logits, temperature=0.5), 2 * logits)
    np.testing.assert_array_equal(filter_logits(logits), logits)


@pytest.mark.paper("temperature, top-k and top-p")
def test_top_p_sees_the_temperature():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    assert kept(filter_logits(logits, top_p=0.6)) == {0, 1}
    assert kept(filter_logits(logits, top_p=0.6, temperature=0.25)) == {0}


@pytest.mark.paper("temperature, top-k and top-p")
def test_top_p_comes_after_top_k():
    logits = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))
    # Of all codes 0.4 + 0.3 < 0.75, of the best two 0.57 < 0.75 <= 1.
    assert kept(filter_logits(logits, top_p=0.75)) == {0, 1, 2}
    assert kept(filter_logits(logits, top_p=0.75, top_k=2)) == {0, 1}
    # Before top-k, p = 0.55 would keep two codes; after it the first has 0.57.
    assert kept(filter_logits(logits, top_p=0.55)) == {0, 1}
    assert kept(filter_logits(logits, top_p=0.55, top_k=2)) == {0}


@pytest.mark.parametrize(
    ("scale", "expected"), [(0.0, [1.0, 2.0]), (1.0, [3.0, 0.0]), (2.0, [5.0, -2.0])]
)
@pytest.mark.paper("classifier-free guidance")
def test_guidance_extrapolates_from_null_to_conditional(scale, expected):
    conditional, null = jnp.array([3.0, 0.0]), jnp.array([1.0, 2.0])
    found = guide(conditional=conditional, null=null, scale=scale)
    np.testing.assert_allclose(found, expected)
