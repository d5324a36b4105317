"""The shared stack: scan, remat and unroll change nothing, the mask is causal."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minivim.config import StackConfig
from minivim.transformer import Stack, dropout
from tests import tiny

CONFIG = replace(tiny.STACK, blocks=3)
X = jax.random.normal(jax.random.key(0), (2, 5, 16))


def stack(**changes) -> Stack:
    return tiny.build(Stack, replace(CONFIG, **changes))


@partial(nnx.jit, static_argnames="causal")
def call(model, x, *, causal=True, key=None):
    return model(x, causal=causal, key=key)


@nnx.jit
def loss_and_gradient(model: Stack, key=None):
    def loss(model):
        y, blocks = model(X, causal=True, key=key)
        return jnp.sum(jnp.sin(y)) + jnp.sum(blocks[0] ** 2)

    value, grads = nnx.value_and_grad(loss)(model)
    return value, nnx.state(grads)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.paper("one more LayerNorm after the last block")
def test_scan_equals_a_loop_over_the_blocks(causal):
    model = stack()
    y, blocks = call(model, X, causal=causal)
    graph, params = nnx.split(model.blocks)
    one = jax.jit(lambda params, x: nnx.merge(graph, params)(x, causal=causal))
    x = X
    for i in range(CONFIG.blocks):
        x = one(jax.tree.map(lambda p, i=i: p[i], params), x)
        np.testing.assert_allclose(blocks[i], x, atol=1e-5)
    np.testing.assert_allclose(y, model.norm(x), atol=1e-5)
    assert blocks.shape == (3, 2, 5, 16)


def test_blocks_start_different():
    kernels = Stack(CONFIG, rngs=nnx.Rngs(0)).blocks.qkv.kernel[...]
    assert kernels.shape == (3, 16, 48)
    assert float(jnp.abs(kernels[0] - kernels[1]).max()) > 0.01


@pytest.mark.parametrize(
    "changes", [{"unroll": 3}, {"remat": "dots"}, {"remat": "full"}]
)
def test_unroll_and_remat_change_no_number(changes):
    key = jax.random.key(1)
    plain = loss_and_gradient(stack(dropout=0.2), key)
    other = loss_and_gradient(stack(dropout=0.2, **changes), key)
    leaves = jax.tree.leaves(plain), jax.tree.leaves(other)
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("changed", [0, 2, 4])
def test_a_token_never_changes_outputs_before_it(changed):
    model = stack()
    other = X.at[:, changed].multiply(-1)  # a constant would leave with the norm
    before, after = call(model, X)[0], call(model, other)[0]
    difference = np.abs(np.asarray(after - before)).max(axis=(0, 2))
    assert (difference[:changed] == 0).all()
    assert (difference[changed:] > 1e-4).all()


def test_without_mask_every_token_matters():
    model = stack()
    other = X.at[:, 4].multiply(-1)
    difference = call(model, other, causal=False)[0] - call(model, X, causal=False)[0]
    assert (np.abs(np.asarray(difference)).max(axis=(0, 2)) > 1e-4).all()


def test_steps_with_a_cache_equal_one_causal_call():
    model = stack()
    whole = call(model, X)[0]
    cache = model.empty_cache(2, 5)
    step = nnx.jit(lambda model, x, cache, i: model.step(x, cache, i))
    for i in range(5):
        y, cache = step(model, X[:, i], cache, jnp.int32(i))
        np.testing.assert_allclose(y, whole[:, i], atol=1e-5)


def test_bfloat16_keeps_parameters_and_residuals_in_float32():
    model, plain = stack(precision="bfloat16"), stack()
    for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)):
        assert leaf.dtype == jnp.float32
    y, blocks = call(model, X)
    assert y.dtype == blocks.dtype == jnp.float32
    difference = float(jnp.abs(y - call(plain, X)[0]).max())
    assert 1e-6 < difference < 0.2
    assert model.empty_cache(1, 2).keys[0].dtype == jnp.bfloat16
    grads = tiny.gradients(lambda m: m(X, causal=True)[0].sum(), model)
    assert {g.dtype for g in grads.values()} == {np.dtype("float32")}


def test_dropout_is_off_without_a_key():
    model, plain = stack(dropout=0.5), stack()
    np.testing.assert_array_equal(call(model, X)[0], call(plain, X)[0])
    first, again, other = (call(model, X, key=jax.random.key(k))[0] for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 0.1
    assert float(jnp.abs(first - call(plain, X)[0]).max()) > 0.1


@pytest.mark.paper("dropout after attention, activation and FFN")
def test_dropout_keeps_the_mean():
    x = jnp.ones(20_000)
    dropped = dropout(x, 0.25, jax.random.key(0))
    assert float((dropped == 0).mean()) == pytest.approx(0.25, abs=0.02)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
    assert dropout(x, 0.25, None) is x


def test_heads_split_the_width():
    one, two = stack(heads=1), stack(heads=2)
    two = nnx.merge(nnx.graphdef(two), nnx.state(one))
    difference = call(one, X)[0] - call(two, X)[0]
    assert float(jnp.abs(difference).max()) > 1e-4


def test_closed_form_counts_the_stack():
    leaves = jax.tree.leaves(nnx.state(stack(), nnx.Param))
    assert sum(leaf.size for leaf in leaves) == CONFIG.parameters
    assert isinstance(CONFIG, StackConfig)
