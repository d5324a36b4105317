"""VIM: separate tables, causality, features without labels, label dropout."""

import inspect
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minivim.errors import UserError
from minivim.prior import Prior, check_labels, drop_labels, prior_loss
from tests import tiny

CODES = jnp.asarray(np.random.default_rng(0).integers(0, 24, (3, 4)), jnp.int32)
LABELS = jnp.array([0, 1, 2])


@pytest.fixture(scope="module")
def prior():
    return tiny.prior()


@nnx.jit
def table_gradients(prior, codes, labels, key):
    def loss(prior):
        return prior_loss(prior, {"codes": codes, "label": labels}, key=key)[0]

    grads = nnx.grad(loss)(prior)
    return grads.codes[...], grads.classes[...]


@nnx.jit
def gradients_with_dropped_labels(prior, key):
    def loss(prior):
        batch = {"codes": CODES, "label": LABELS}
        return prior_loss(prior, batch, label_dropout=0.5, key=key)[0]

    return nnx.grad(loss)(prior).classes[...]


def rows_used(table) -> set[int]:
    return set(np.flatnonzero(np.abs(np.asarray(table)).max(axis=1)))


@settings(max_examples=20, deadline=None)
@given(
    hnp.arrays(np.int32, (3, 4), elements=st.integers(0, 23)),
    hnp.arrays(np.int32, 3, elements=st.integers(0, tiny.CLASSES - 1)),
)
@pytest.mark.paper("a class token with a table of its own")
def test_codes_and_classes_touch_only_their_own_rows(codes, labels):
    of_codes, of_classes = table_gradients(
        tiny.prior(), jnp.asarray(codes), jnp.asarray(labels), jax.random.key(0)
    )
    # The last code is predicted, never read.
    assert rows_used(of_codes) == set(codes[:, :-1].ravel())
    assert rows_used(of_classes) == set(labels)


def test_null_class_has_a_row_of_its_own(prior):
    assert prior.null_class == tiny.CLASSES
    assert prior.classes[...].shape == (tiny.CLASSES + 1, 16)
    assert prior.codes[...].shape == (24, 16)
    null = jnp.full(3, prior.null_class)
    without = tiny.call(prior, CODES)[0]
    np.testing.assert_array_equal(without, tiny.call(prior, CODES, null)[0])
    for label in range(tiny.CLASSES):
        given_label = tiny.call(prior, CODES, jnp.full(3, label))[0]
        assert float(jnp.abs(given_label - without).max()) > 1e-3


@pytest.mark.paper("the start of a prior without labels")
def test_a_prior_without_classes_starts_from_a_learnt_vector():
    prior = tiny.prior(num_classes=0)
    assert prior.null_class == 0
    assert prior.classes[...].shape == (1, 16)
    batch = {"codes": CODES, "label": LABELS}  # the labels are not looked at
    grads = tiny.gradients(
        lambda p: prior_loss(p, batch, key=jax.random.key(0))[0], prior
    )
    assert rows_used(grads["classes"]) == {0}


@pytest.mark.paper("a causal Transformer over codes in raster order")
def test_logits_never_depend_on_their_own_or_later_codes(prior):
    logits, aux = tiny.call(prior, CODES, LABELS)
    assert logits.shape == (3, 4, 24)
    assert logits.dtype == jnp.float32
    assert aux["blocks"].shape == (2, 3, 4, 16)
    for i in range(4):
        other = CODES.at[:, i].set((CODES[:, i] + 1) % 24)
        changed = tiny.call(prior, other, LABELS)[0]
        difference = np.abs(np.asarray(changed - logits)).max(axis=(0, 2))
        assert (difference[: i + 1] == 0).all()
        assert (difference[i + 1 :] > 1e-4).all()


@pytest.mark.paper("a learnt token plus a learnt 2-D position")
def test_rows_and_columns_have_positions(prior):
    same = jnp.zeros((1, 4), jnp.int32)
    for table in (prior.rows, prior.columns):
        assert table[...].shape == (2, 16)
    vectors = prior.embed(same, jnp.arange(4)[None])[0]
    row, column = prior.rows[...], prior.columns[...]
    for i, (r, c) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        expected = prior.codes[...][0] + row[r] + column[c]
        np.testing.assert_allclose(vectors[i], expected, atol=1e-6)


@pytest.mark.paper("the mean over all tokens of one block's output")
def test_features_are_the_means_over_all_codes(prior):
    features = prior.features(CODES)
    assert features.shape == (2, 3, 16)
    # One more code, so that the last real one is among the inputs.
    longer = jnp.concatenate([CODES, CODES[:, :1]], axis=1)
    blocks = tiny.call(prior, longer)[1]["blocks"]
    np.testing.assert_allclose(features, blocks[:, :, 1:].mean(axis=2), atol=1e-5)


def test_features_take_no_label(prior):
    assert list(inspect.signature(Prior.features).parameters) == ["self", "codes"]
    other = nnx.clone(prior)
    other.classes[...] = other.classes[...].at[: tiny.CLASSES].add(5.0)
    np.testing.assert_array_equal(prior.features(CODES), other.features(CODES))


@pytest.mark.paper("labels dropped in training, for guidance")
def test_drop_labels_drops_at_the_rate():
    labels = jnp.tile(jnp.arange(3), 4000)
    dropped = np.asarray(
        drop_labels(labels, null_class=3, rate=0.2, key=jax.random.key(0))
    )
    gone = dropped == 3
    assert gone.mean() == pytest.approx(0.2, abs=0.02)
    np.testing.assert_array_equal(dropped[~gone], np.asarray(labels)[~gone])


@pytest.mark.paper("labels dropped in training, for guidance")
def test_label_dropout_trains_the_null_row(prior):
    _, plain = table_gradients(prior, CODES, LABELS, jax.random.key(0))
    assert rows_used(plain) == {0, 1, 2}
    seen = set()
    for seed in range(8):
        used = rows_used(gradients_with_dropped_labels(prior, jax.random.key(seed)))
        seen |= used
        assert used
    assert seen == {0, 1, 2, prior.null_class}


@pytest.mark.paper("the negative log-likelihood of the next code")
def test_loss_is_nats_per_token(prior):
    loss, metrics = nnx.jit(prior_loss)(
        prior, {"codes": CODES, "label": LABELS}, key=jax.random.key(0)
    )
    logits = tiny.call(prior, CODES, LABELS)[0]
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, CODES[..., None], axis=-1)
    assert float(loss) == pytest.approx(-float(chosen.mean()), rel=1e-5)
    assert float(metrics["nll"]) == float(loss)
    right = (np.asarray(logits).argmax(-1) == np.asarray(CODES)).mean()
    assert float(metrics["accuracy"]) == pytest.approx(right)


@pytest.mark.paper("dropout after attention, activation and FFN")
def test_dropout_is_used_in_the_loss_only():
    stack = replace(tiny.STACK, dropout=0.3)
    prior = tiny.prior(stack=stack)
    batch = {"codes": CODES, "label": LABELS}
    loss = nnx.jit(prior_loss)
    values = [float(loss(prior, batch, key=jax.random.key(k))[0]) for k in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    np.testing.assert_allclose(
        tiny.call(prior, CODES)[0], tiny.call(tiny.prior(), CODES)[0], atol=1e-5
    )


@pytest.mark.parametrize("label", [-1, 3, 99])
def test_a_label_out_of_range_is_refused(prior, label):
    with pytest.raises(UserError, match=f"label {label} is out of range.*0 to 2"):
        check_labels(prior, [0, label])


def test_labels_for_a_prior_without_classes_are_refused():
    with pytest.raises(UserError, match="no class token"):
        check_labels(tiny.prior(num_classes=0), [0])
