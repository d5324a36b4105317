"""C10: the cached sampler is the trained model, for every option and position."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minivim import fast
from minivim.errors import UserError
from minivim.evaluate import prior_figures
from minivim.prior import (
    Prior,
    complete,
    filter_logits,
    generate,
    guide,
    knows_null,
    sample,
    sampling,
)
from minivim.weights import Card
from tests import tiny

LENGTH = tiny.PRIOR.num_tokens
CODES = jnp.asarray(np.random.default_rng(1).integers(0, 24, (3, LENGTH)), jnp.int32)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def prior():
    return tiny.prior()


def largest_difference(prior, *, labels, known, guidance=None, key=KEY, **filters):
    """Largest gap between the sampler's logits and teacher forcing on its codes.

    Infinite when the two refuse different codes, or when a drawn code was refused.
    """
    traced = {
        name: jnp.float32(value) if isinstance(value, float) else value
        for name, value in filters.items()
    }
    codes, cached = generate(
        prior,
        labels=labels,
        codes=CODES,
        known=jnp.int32(known),
        key=key,
        guidance=None if guidance is None else jnp.float32(guidance),
        keep_logits=True,
        **traced,
    )
    np.testing.assert_array_equal(codes[:, :known], CODES[:, :known])
    full = tiny.call(prior, codes, labels)[0]
    if guidance is not None:
        full = guide(conditional=full, null=tiny.call(prior, codes)[0], scale=guidance)
    full = np.asarray(filter_logits(full, **filters))
    cached = np.asarray(cached).swapaxes(0, 1)
    drawn = np.take_along_axis(full, np.asarray(codes)[..., None], axis=-1)[:, known:]
    if (np.isfinite(full) != np.isfinite(cached)).any() or np.isneginf(drawn).any():
        return np.inf
    allowed = np.isfinite(full)
    return float(np.abs(full[allowed] - cached[allowed]).max())


def test_parts_of_the_loop_equal_teacher_forcing(prior, monkeypatch):
    """Each has a longer cache; 200 tokens have parts of 64, 64, 64 and 8."""
    assert sampling.cache_lengths(64) == [64]
    assert sampling.cache_lengths(200) == [64, 128, 192, 200]
    assert sampling.cache_lengths(1024) == [*range(128, 1025, 128)]
    monkeypatch.setattr(sampling, "cache_lengths", lambda tokens: [1, 3, tokens])
    options = ("top_k", "keep_logits", "total")
    parted = jax.jit(generate.__wrapped__, static_argnames=options)
    monkeypatch.setitem(globals(), "generate", parted)
    for known, guidance in ((0, None), (2, 2.5)):
        gap = largest_difference(
            prior, labels=jnp.array([0, 1, 2]), known=known, guidance=guidance,
            temperature=0.9,
        )  # fmt: skip
        assert gap < 1e-5


@pytest.mark.parametrize("options", [{}, {"guidance": 2.0, "top_k": 7}])
def test_a_batch_in_parts_is_the_same_batch(prior, monkeypatch, options):
    """Each thread draws the noise that its pictures have in the whole."""
    labels, prefix = np.arange(8) % 3, np.arange(8)[:, None]
    drawn = []
    for parts in (1, 2, 4):
        monkeypatch.setattr(fast, "parts", lambda batch, *_, n=parts: n)
        drawn.append(sample(prior, key=KEY, labels=labels, prefix=prefix, **options))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert len({tuple(row) for row in np.asarray(drawn[0])[:, 1:].tolist()}) > 1


@pytest.mark.parametrize(
    ("top_k", "top_p", "guidance"), product([None, 5], [None, 0.8], [None, 2.5])
)
@pytest.mark.paper("a cache that equals the trained model")
def test_cached_logits_equal_teacher_forcing(prior, top_k, top_p, guidance):
    null = jnp.full(3, prior.null_class)
    for known, temperature, labels in (
        (0, 1.0, jnp.array([0, 1, 2])),
        (0, 0.7, null),
        (1, 1.0, null),
        (3, 1.3, jnp.array([2, 2, 0])),
        (LENGTH, 1.0, jnp.array([1, 0, 1])),
    ):
        gap = largest_difference(
            prior,
            labels=labels,
            known=known,
            guidance=guidance,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        assert gap < 1e-4


def test_a_prior_without_classes_also_agrees():
    prior = tiny.prior(num_classes=0)
    for known in range(LENGTH + 1):
        labels = jnp.zeros(3, jnp.int32)
        assert (
            largest_difference(prior, labels=labels, known=known, temperature=1.0)
            < 1e-4
        )


class CacheOffByOne(Prior):
    """Writes each token over the one before it."""

    def step(self, x, cache, position, blocks=()):
        return super().step(x, cache, jnp.maximum(position - 1, 0), blocks)


class PredecessorIsZero(Prior):
    """Mixes each token with its predecessor, which the sampler takes to be zero."""

    def _run(self, codes, labels, key):
        positions = jnp.broadcast_to(jnp.arange(codes.shape[1]), codes.shape)
        start = self.start(labels)[:, None]
        x = jnp.concatenate([start, self.embed(codes, positions)], axis=1)
        before = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        return self.stack((x + before) / 2, causal=True, key=key)

    def step(self, x, cache, position, blocks=()):
        return super().step(x / 2, cache, position, blocks)


@pytest.mark.parametrize("broken", [CacheOffByOne, PredecessorIsZero])
@pytest.mark.paper("a cache that equals the trained model")
def test_a_broken_sampler_is_caught(broken):
    prior = tiny.build(broken, tiny.PRIOR)
    labels = jnp.array([0, 1, 2])
    gap = largest_difference(prior, labels=labels, known=LENGTH, temperature=1.0)
    assert gap > 1e-2


def test_drawn_codes_were_allowed(prior):
    labels = np.arange(60) % tiny.CLASSES
    codes = sample(prior, key=KEY, labels=labels, top_k=3, top_p=0.7)
    full = tiny.call(prior, codes, jnp.asarray(labels))[0]
    allowed = np.isfinite(np.asarray(filter_logits(full, top_k=3, top_p=0.7)))
    assert np.take_along_axis(allowed, np.asarray(codes)[..., None], axis=-1).all()
    assert allowed.sum(-1).max() <= 3
    assert len(np.unique(np.asarray(codes), axis=0)) > 3


def test_top_k_1_is_greedy(prior):
    labels = np.arange(6) % tiny.CLASSES
    codes = sample(prior, key=KEY, labels=labels, top_k=1)
    full = tiny.call(prior, codes, jnp.asarray(labels))[0]
    np.testing.assert_array_equal(codes, np.asarray(full).argmax(-1))
    again = sample(prior, key=jax.random.key(9), labels=labels, top_k=1)
    np.testing.assert_array_equal(codes, again)


@pytest.mark.paper("code after code, at temperature 1, from all codes")
def test_same_key_same_codes(prior):
    one, again, other = (
        np.asarray(sample(prior, key=jax.random.key(k), num_samples=16))
        for k in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert one.dtype == np.int32
    assert one.shape == (16, LENGTH)


@pytest.mark.parametrize("length", range(LENGTH + 1))
def test_a_prefix_is_kept_and_completed(prior, length):
    prefix = CODES[:, :length]
    codes = np.asarray(sample(prior, key=KEY, prefix=prefix))
    np.testing.assert_array_equal(codes[:, :length], prefix)
    if length < LENGTH:
        other = sample(prior, key=jax.random.key(5), prefix=prefix)
        assert (codes[:, length:] != np.asarray(other)[:, length:]).any()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.paper("code after code, at temperature 1, from all codes")
def test_first_codes_follow_the_softmax(prior, temperature):
    count = 4000
    labels = np.full(count, 1)
    codes = sample(prior, key=KEY, labels=labels, temperature=temperature)
    found = np.bincount(np.asarray(codes)[:, 0], minlength=24)
    logits = tiny.call(prior, CODES[:1], jnp.array([1]))[0][0, 0]
    expected = count * np.asarray(jax.nn.softmax(logits / temperature))
    rare = expected < 5
    pairs = [(found[~rare], expected[~rare])]
    if rare.any():
        pairs.append(
            (found[rare].sum(keepdims=True), expected[rare].sum(keepdims=True))
        )
    chi_square = sum((((f - e) ** 2) / e).sum() for f, e in pairs)
    assert chi_square < 60  # 23 degrees of freedom: exceeded once in 25,000


@pytest.mark.paper("classifier-free guidance")
def test_guidance_of_one_is_no_guidance(prior):
    labels = np.array([0, 1, 2])
    plain = sample(prior, key=KEY, labels=labels)
    guided = sample(prior, key=KEY, labels=labels, guidance=1.0)
    np.testing.assert_array_equal(plain, guided)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": [0, 3]}, "label 3 is out of range; use 0 to 2"),
        ({"num_samples": 2, "top_k": 25}, "top_k=25 is out of range.* use 1 to 24"),
        ({"num_samples": 2, "top_k": 0}, "top_k=0 is out of range"),
        ({"num_samples": 2, "top_p": 0.0}, r"use a value in \(0, 1\]"),
        ({"num_samples": 2, "top_p": 1.5}, r"use a value in \(0, 1\]"),
        ({"num_samples": 2, "temperature": 0.0}, "use top_k=1 for greedy draws"),
        ({"num_samples": 2, "temperature": float("nan")}, "must be above zero"),
        ({"num_samples": 2, "guidance": 2.0}, "guidance needs labels"),
        ({"labels": [0], "guidance": float("nan")}, "guidance=nan must be a number"),
        ({"labels": [0], "guidance": float("inf")}, "1 is no guidance"),
        ({"labels": [0], "guidance": -0.5}, r"from 0 \(the label is ignored\)"),
        ({"prefix": np.zeros((2, 5), np.int32)}, r"give \[B, P\] codes with P at most"),
        ({"prefix": np.full((2, 1), 24, np.int32)}, "use 0 to 23"),
        ({"num_samples": 3, "labels": [0, 1]}, r"disagree on how many \(\[2, 3\]\)"),
        ({}, "how many samples"),
        ({"num_samples": 0}, "how many samples"),
    ],
)
def test_impossible_wishes_are_refused(prior, options, message):
    if "labels" in options:
        options = {**options, "labels": np.array(options["labels"])}
    with pytest.raises(UserError, match=message):
        sample(prior, key=KEY, **options)


def test_nothing_is_asked_of_a_null_class_that_was_never_trained():
    prior, labels = tiny.prior(), np.array([0, 1])
    prior.card = Card("mine", {"recipe": {"label_dropout": 0.0}})
    with pytest.raises(UserError, match="leave out guidance"):
        sample(prior, key=KEY, labels=labels, guidance=3.0)
    with pytest.raises(UserError, match="give labels"):
        sample(prior, key=KEY, num_samples=2)
    plain = sample(prior, key=KEY, labels=labels)
    guided = sample(prior, key=KEY, labels=labels, guidance=1.0)
    np.testing.assert_array_equal(plain, guided)
    found = prior_figures(prior, tiny.tokenizer(), tiny.source(8))
    assert "nll" in found and "nll_without_label" not in found
    for recipe in ({}, {"label_dropout": 0.1}):
        prior.card = Card("mine", {"recipe": recipe})
        assert knows_null(prior)
    unlabelled = tiny.prior(num_classes=0)
    unlabelled.card = Card("mine", {"recipe": {"label_dropout": 0.0}})
    assert knows_null(unlabelled) and knows_null(tiny.prior())


@pytest.mark.parametrize("labels", [[0.5], [[1, 2]], 1, [True]])
def test_what_is_no_label_is_refused(prior, labels):
    labels = np.array(labels)
    with pytest.raises(UserError, match="one whole number for each image"):
        sample(prior, key=KEY, labels=labels)
    with pytest.raises(UserError, match="one whole number for each image"):
        complete(prior, tiny.tokenizer(), tiny.images(1), key=KEY, labels=labels)


def test_labels_for_an_unlabelled_prior_are_refused():
    with pytest.raises(UserError, match="no class token"):
        sample(tiny.prior(num_classes=0), key=KEY, labels=np.array([0]))
