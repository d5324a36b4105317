"""Rejection: what is kept scores best within its class, and counts are exact."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minivim
from minivim import classifier
from minivim.config import ClassifierConfig
from minivim.errors import UserError
from minivim.prior.methods import best_of_each, candidates
from tests import tiny

KEY = jax.random.key(3)
CONFIG = ClassifierConfig(kind="cnn", num_classes=tiny.CLASSES, width=4)
LABELS = np.array([2, 0, 2, 1, 2, 0])


@pytest.fixture(scope="module")
def parts():
    network = tiny.build(classifier.build, CONFIG)
    return tiny.prior(), tiny.tokenizer(), network


def reject(parts, **options):
    options = {"key": KEY, "labels": LABELS, "quiet": True} | options
    return minivim.reject(*parts, **options)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    acceptance=st.floats(0.05, 1.0),
    seed=st.integers(0, 99),
)
def test_the_best_of_each_class_are_kept(labels, acceptance, seed):
    labels = np.array(labels)
    drawn = candidates(labels, acceptance)
    np.testing.assert_array_equal(drawn[: len(labels)], labels)
    scores = np.random.default_rng(seed).choice([-3.0, -2.0, -1.0], len(drawn))
    chosen = best_of_each(drawn, scores, wanted=labels)
    np.testing.assert_array_equal(drawn[chosen], labels)
    assert len(set(chosen)) == len(labels)
    for label in set(labels):
        mine = np.flatnonzero(drawn == label)
        count = (labels == label).sum()
        assert count / acceptance - 1e-6 <= len(mine) < count / acceptance + 1
        kept = np.isin(mine, chosen)
        assert kept.sum() == count
        refused = scores[mine[~kept]]
        assert scores[mine[kept]].min() >= refused.max(initial=-np.inf)
        assert (np.diff(scores[chosen[labels == label]]) <= 0).all()  # best first


@pytest.mark.parametrize(("n", "acceptance", "drawn"), [(3, 0.3, 10), (5, 0.5, 10)])
def test_no_candidate_too_many(n, acceptance, drawn):
    assert len(candidates(np.zeros(n, int), acceptance)) == drawn


@pytest.mark.paper("rejection by a classifier, half of the candidates kept")
def test_half_are_kept_and_the_scores_are_the_classifiers(parts):
    found = reject(parts)
    assert len(found.labels) == 12 and found.kept.sum() == len(LABELS)
    np.testing.assert_array_equal(found.labels[found.chosen], LABELS)
    images = np.asarray(parts[1].decode(found.codes))
    np.testing.assert_allclose(found.images, images, atol=1e-6)
    logits = np.asarray(tiny.call(parts[2], jnp.asarray(images))[0], np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = np.log(p[np.arange(12), found.labels])
    np.testing.assert_allclose(found.scores, wanted, atol=1e-5)
    for label in range(tiny.CLASSES):
        mine = found.labels == label
        kept, refused = (found.scores[mine & k] for k in (found.kept, ~found.kept))
        assert kept.min() >= refused.max()


def test_an_acceptance_of_one_is_plain_sampling(parts):
    found = reject(parts, acceptance=1.0, temperature=0.7)
    plain = minivim.sample(parts[0], key=KEY, labels=LABELS, temperature=0.7)
    np.testing.assert_array_equal(found.codes, plain)
    assert found.kept.all()
    assert sorted(found.chosen) == list(range(6))  # each once
    np.testing.assert_array_equal(found.labels[found.chosen], LABELS)


def test_the_key_decides_and_batches_are_of_one_size(parts):
    one, other = (reject(parts, batch_size=5) for _ in range(2))
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.chosen, other.chosen)
    assert (reject(parts, batch_size=5, key=jax.random.key(4)).codes != one.codes).any()
    # The third batch of five holds two candidates, and draws like a full one.
    labels = np.resize(one.labels[10:], 5)
    key = jax.random.split(KEY, 3)[2]
    third = minivim.sample(parts[0], key=key, labels=labels)
    np.testing.assert_array_equal(one.codes[10:], third[:2])


def test_a_judge_is_refused(parts):
    judge = tiny.build(classifier.build, replace(CONFIG, kind="residual"))
    with pytest.raises(UserError, match="is a judge, which alone reports figures"):
        reject((*parts[:2], judge))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"acceptance": 0.0}, r"use a value in \(0, 1\]"),
        ({"acceptance": 1.5}, r"use a value in \(0, 1\]"),
        ({"labels": [3]}, "label 3 is out of range"),
        ({"top_k": 99}, "top_k=99 is out of range"),
    ],
)
def test_impossible_rejections(parts, options, message):
    with pytest.raises(UserError, match=message):
        reject(parts, **options)


def test_networks_that_do_not_fit(parts):
    prior, tokenizer, network = parts
    for change, message in (
        ({"num_classes": 5}, "knows 5 classes and the prior 3"),
        ({"channels": 1}, "use 1 channels and sides"),
    ):
        other = tiny.build(classifier.build, replace(CONFIG, **change))
        with pytest.raises(UserError, match=message):
            reject((prior, tokenizer, other))
    with pytest.raises(UserError, match="a Tokenizer is no classifier"):
        reject((prior, tokenizer, tokenizer))
    with pytest.raises(UserError, match="no class token"):
        reject((tiny.prior(num_classes=0), tokenizer, network))
