"""The fast forms and the library's own: the same numbers, and the platform decides."""

import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minivim import fast
from minivim.transformer import Block
from tests import tiny


@pytest.fixture
def both(monkeypatch):
    """Compares value and gradients of a function in both forms, not yet compiled."""

    def compare(function, *arguments):
        found = []
        for platforms in (("cpu",), ()):
            monkeypatch.setattr(fast, "OURS", platforms)
            value, pull = jax.vjp(function, *arguments)
            found.append((value, pull(jnp.cos(value))))
        leaves = [jax.tree.leaves(form) for form in found]
        assert len(leaves[0]) == len(leaves[1]) > 1
        for ours, theirs in zip(*leaves, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
        return found[0][0]

    return compare


def normal(seed: int, *shape: int):
    return jax.random.normal(jax.random.key(seed), shape)


def test_the_platform_of_the_mesh_decides(monkeypatch):
    """A program for a TPU may be traced on a CPU."""
    assert fast.ours()
    monkeypatch.setattr(fast, "OURS", ("tpu",))
    assert not fast.ours()
    mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=TPU)
    with jax.sharding.use_abstract_mesh(mesh):
        assert fast.ours()


@settings(deadline=None, max_examples=30)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 9)),
        elements=st.sampled_from([-np.inf, -1.0, 0.0, 1.0, np.inf]),
    )
)
def test_argmax_is_numpys_ties_included(x):
    np.testing.assert_array_equal(fast.argmax(jnp.asarray(x)), x.argmax(-1))


def test_argmax_of_nan_stays_in_range():
    assert int(fast.argmax(jnp.full(5, jnp.nan))) == 4


def test_argmax_of_the_library(both, monkeypatch):
    monkeypatch.setattr(fast, "OURS", ())
    found = fast.argmax(jnp.array([[1.0, 3.0, 3.0], [2.0, 1.0, 0.0]]))
    assert found.dtype == jnp.int32 and found.tolist() == [1, 0]


def test_a_block_on_rows_is_a_block_on_tokens(both):
    graph, params = nnx.split(tiny.build(Block, tiny.STACK))

    def block(params, x):
        model = nnx.merge(graph, params)
        cache = jnp.zeros((2, 2, 4, 8))
        step, *_ = model.step(x[:, :1], cache, cache, jnp.int32(0))
        return jnp.concatenate([step, model(x, causal=True)], axis=1)

    y = both(block, params, normal(1, 2, 4, 16))
    assert y.shape == (2, 5, 16)
    np.testing.assert_allclose(y[:, 0], y[:, 1], atol=1e-5)


TPU = jax.sharding.AbstractDevice("TPU v4", 2, "tpu")
GPU = jax.sharding.AbstractDevice("NVIDIA H200", None, "gpu")


def in_a_block(causal: bool, *, tokens=256, **changes):
    """A block's loss and gradients, compiled."""
    graph, params = nnx.split(tiny.build(Block, replace(tiny.STACK, **changes)))

    def loss(params, x):
        return jnp.sum(jnp.cos(nnx.merge(graph, params)(x, causal=causal)))

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return jax.tree.leaves(run(params, normal(5, 2, tokens, 16)))


@pytest.mark.parametrize("causal", [True, False])
def test_a_kernel_of_attention_is_the_written_form(causal, monkeypatch):
    written, calls = in_a_block(causal), []

    def splash(*arrays, **how):
        calls.append(how)
        return real(*arrays, **how, interpret=True)

    real = fast.splash
    monkeypatch.setattr(fast, "splash", splash)
    monkeypatch.setattr(fast, "device", lambda: TPU)
    for ours, theirs in zip(written, in_a_block(causal), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    assert calls == [{"causal": causal}]
    # Neither what no whole block holds nor who asks for the written form has it.
    in_a_block(causal, tokens=100)
    monkeypatch.setenv("MINIVIM_ATTENTION", "written")
    in_a_block(causal)
    assert len(calls) == 1
    monkeypatch.setenv("MINIVIM_ATTENTION", "writen")
    assert "set it to auto or written" in tiny.message(lambda: in_a_block(causal))


def test_a_gpu_s_kernel_of_attention_is_for_bfloat16(monkeypatch):
    asked = []

    def of_the_library(*arrays, implementation, **how):
        asked.append(implementation)
        return real(*arrays, **how)

    real = jax.nn.dot_product_attention
    written = in_a_block(True, tokens=6, precision="bfloat16")
    monkeypatch.setattr(jax.nn, "dot_product_attention", of_the_library)
    monkeypatch.setattr(fast, "device", lambda: GPU)
    kernel = in_a_block(True, tokens=6, precision="bfloat16")
    for ours, theirs in zip(written, kernel, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.1, atol=0.2)
    in_a_block(True, tokens=6)
    in_a_block(True, tokens=6, precision="bfloat16", heads=4)  # of four numbers each
    assert asked == ["cudnn"]


def test_blur_is_the_outer_product_of_its_taps(both):
    dot = jnp.zeros((1, 7, 7, 2)).at[0, 3, 3, 1].set(1)
    found = np.asarray(both(lambda x: fast.blur(x, (1, 3, 3, 1), (2, 1)), dot))
    taps = np.array([1, 3, 3, 1]) / 8
    np.testing.assert_allclose(found[0, 2:6, 2:6, 1], np.outer(taps, taps), atol=1e-6)
    assert found[..., 0].max() == 0
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("shape", "size", "options"),
    [
        ((7, 9), 1, {"stride": 2}),
        ((7, 9), 3, {"stride": 2}),
        ((7, 9), 3, {"padding": (1, 1)}),
        ((1, 1), 3, {"padding": (1, 1)}),
        ((2, 2), 3, {"padding": (1, 1)}),
        ((1, 5), 3, {"padding": (1, 1)}),
    ],
)
def test_convolution_of_gathered_rows_is_the_library_s(both, shape, size, options):
    x, kernel = normal(3, 2, *shape, 3), normal(4, size, size, 3, 5)
    both(lambda x, kernel: fast.conv(x, kernel, **options), x, kernel)


def test_a_batch_is_split_over_the_cores(monkeypatch):
    """Only where each has enough of it, and one device holds all."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    here = jnp.zeros(3)
    assert [fast.parts(n, here) for n in (1, 9, 11, 12, 13, 48)] == [1, 1, 1, 3, 1, 3]
    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        assert fast.parts(12, here) == 1
    assert jax.jit(lambda x: jnp.int32(fast.parts(12, x, here)))(here) == 1
