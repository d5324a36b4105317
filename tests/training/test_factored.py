"""Factored Adam: where it equals Adam, what it stores, and bugs it could have."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minivim import recipes
from minivim.config import DiscriminatorConfig, LossConfig, OptimConfig
from minivim.describe import build_abstract
from minivim.tokenizer import Players
from minivim.training import factored as module
from minivim.training import make_step, new_state, optimizer
from minivim.training.factored import (
    is_matrix,
    quantise,
    restore,
    scale_by_factored_adam,
)
from tests import tiny

B1, B2, EPS, STEPS = 0.9, 0.96, 1e-8, 12
PLAIN = {"first_moment": "float32", "second_moment": "factored"}
PAPER = replace(tiny.OPTIM, first_moment="int8", second_moment="factored")
ADVERSARIAL = replace(
    tiny.TOKENIZER_RECIPE,
    loss=LossConfig(adversarial=0.1),
    discriminator=DiscriminatorConfig(width=4, max_width=8),
    optim=PAPER,
)
RNG = np.random.default_rng(0)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def run(transform, gradients, params=None) -> list:
    """The updates that a transformation makes of a row of gradients."""
    params = jax.tree.map(jnp.asarray, params or gradients[0])
    state, found = transform.init(params), []
    update = jax.jit(transform.update)
    for gradient in gradients:
        change, state = update(jax.tree.map(jnp.asarray, gradient), state, params)
        found.append(jax.tree.map(np.asarray, change))
    return found


def ours(**moments) -> optax.GradientTransformation:
    return scale_by_factored_adam(B1, B2, EPS, **(PLAIN | moments))


def random(*shape: int, steps: int = STEPS) -> list[dict]:
    """Gradients of a kernel whose entries differ a hundredfold in size."""
    size = 10 ** RNG.uniform(-1, 1, shape)
    return [{"kernel": size * RNG.normal(size=shape)} for _ in range(steps)]


def distance(one: list[dict], other: list[dict]) -> float:
    """Largest difference of two rows of updates, relative to the other."""
    pairs = zip(one, other, strict=True)
    return max(
        np.linalg.norm(a["kernel"] - b["kernel"]) / np.linalg.norm(b["kernel"])
        for a, b in pairs
    )


# --- where it is Adam --------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (2, 3, 5, 7), (1, 6), (6, 1)])
def test_products_of_a_row_and_a_column_give_adam(x64, shape):
    """Gradients c_t u v^T with fixed u and v, for each layer its own."""
    u, v = (
        RNG.normal(size=(*shape[:-1], 1)),
        RNG.normal(size=(*shape[:-2], 1, shape[-1])),
    )
    layers = (*shape[:-2], 1, 1)
    gradients = [{"kernel": RNG.normal(size=layers) * u * v} for _ in range(STEPS)]
    adam = run(optax.scale_by_adam(B1, B2, EPS), gradients)
    found = run(ours(), gradients)
    assert found[0]["kernel"].dtype == np.float64
    assert distance(found, adam) < 1e-10


def test_varying_directions_do_not_give_adam(x64):
    gradients = [
        {"kernel": RNG.normal(size=(40, 1)) * RNG.normal(size=(1, 30))}
        for _ in range(STEPS)
    ]
    adam = run(optax.scale_by_adam(B1, B2, EPS), gradients)
    assert 0.05 < distance(run(ours(), gradients), adam) < 0.6


def test_a_diagonal_gradient_shows_the_limit_of_a_product(x64):
    """Each row and column has one entry: the square root of n too long a step."""
    n = 16
    gradients = [{"kernel": np.eye(n)}]
    [adam] = run(optax.scale_by_adam(B1, B2, EPS), gradients)
    [found] = run(ours(), gradients)
    np.testing.assert_allclose(adam["kernel"], np.eye(n), atol=1e-6)
    np.testing.assert_allclose(found["kernel"], n**0.5 * np.eye(n), atol=1e-5)


# optax rounds b1 m to bfloat16 before it adds the gradient, ours after.
@pytest.mark.parametrize(("first", "within"), [("float32", 1e-6), ("bfloat16", 0.01)])
def test_full_moments_are_the_library_s(first, within):
    gradients = random(5, 7)
    adam = run(optax.scale_by_adam(B1, B2, EPS, mu_dtype=first), gradients)
    found = run(ours(first_moment=first, second_moment="full"), gradients)
    assert distance(found, adam) < within


def test_vectors_are_always_the_library_s():
    names = {"bias": (7,), "blocks": (3, 7), "gain": ()}
    gradients = [
        {"blocks": {name: RNG.normal(size=shape) for name, shape in names.items()}}
        for _ in range(STEPS)
    ]
    adam = run(optax.scale_by_adam(B1, B2, EPS), gradients)
    found = run(ours(first_moment="int8"), gradients)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(adam), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


# --- a second formulation, number by number ----------------------------------------


def by_hand(
    gradients, *, int8: bool, factored: bool, axes=(-2, -1), bucket_axis=-2
) -> list[dict]:
    """The same in loops over layers, rows and columns, in float64."""
    down, across = axes
    shape = np.shape(gradients[0]["kernel"])
    m, v = np.zeros(shape), np.zeros(shape)
    row, column = v.mean(across, keepdims=True), v.mean(down, keepdims=True)
    found = []
    for t, gradient in enumerate(gradients, start=1):
        g = gradient["kernel"]
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g * g
        row = B2 * row + (1 - B2) * (g * g).mean(across, keepdims=True)
        column = B2 * column + (1 - B2) * (g * g).mean(down, keepdims=True)
        square = row * column / row.mean(down, keepdims=True) if factored else v
        update = np.empty(shape)
        for index in np.ndindex(shape):
            hat = square[index] / (1 - B2**t)
            update[index] = m[index] / (1 - B1**t) / (math.sqrt(hat) + EPS)
        found.append({"kernel": update})
        if int8:
            columns = np.moveaxis(m, bucket_axis, -1)  # a view
            for index in np.ndindex(columns.shape[:-1]):
                bucket = max(abs(x) for x in columns[index]) / 127
                columns[index] = [bucket * round(x / bucket) for x in columns[index]]
    return found


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5), (2, 2, 4, 5)])
@pytest.mark.paper("Adam with a factored second and an int8 first moment")
def test_loops_by_hand_agree(x64, shape, factored, int8):
    gradients = random(*shape)
    moments = {
        "first_moment": "int8" if int8 else "float32",
        "second_moment": "factored" if factored else "full",
    }
    expected = by_hand(gradients, int8=int8, factored=factored)
    assert distance(run(ours(**moments), gradients), expected) < 1e-12


@pytest.mark.parametrize("axes", [(-3, -1), (-3, -2), (-1, -2)])
def test_other_axes_of_a_stack_would_be_noticed(x64, axes):
    gradients = random(3, 4, 5)
    found = run(ours(), gradients)
    wrong = by_hand(gradients, int8=False, factored=True, axes=axes)
    # Rows and columns may be swapped: R_i C_j / mean(R) is the same either way.
    assert (distance(found, wrong) > 0.1) == (axes != (-1, -2))


def test_layers_do_not_see_each_other(x64):
    gradients = random(3, 4, 5)
    together = run(ours(first_moment="int8"), gradients)
    for layer in range(3):
        alone = run(
            ours(first_moment="int8"),
            [{"kernel": g["kernel"][layer]} for g in gradients],
        )
        kept = [{"kernel": update["kernel"][layer]} for update in together]
        assert distance(kept, alone) < 1e-12


def test_a_bucket_for_each_row_would_be_noticed(x64):
    gradients = random(3, 4, 5)
    found = run(ours(first_moment="int8"), gradients)
    for axis, same in ((-2, True), (-1, False), (-3, False)):
        expected = by_hand(gradients, int8=True, factored=True, bucket_axis=axis)
        assert (distance(found, expected) < 1e-12) == same
        assert same or distance(found, expected) > 1e-3


BUGS = {
    "no mean in the denominator": ("unfactor", lambda rows, columns: rows * columns),
    "one mean for all layers": (
        "unfactor",
        lambda rows, columns: rows / rows.mean() * columns,
    ),
    "no bias correction": ("bias_correction", lambda moment, decay, count: moment),
    "cut instead of rounded": (
        "quantise",
        lambda x: (jnp.trunc(x / quantise(x)[1]).astype(jnp.int8), quantise(x)[1]),
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_bugs_would_be_noticed(x64, bug, monkeypatch):
    name, mutant = BUGS[bug]
    gradients = random(3, 4, 5)
    expected = by_hand(gradients, int8=True, factored=True)
    assert distance(run(ours(first_moment="int8"), gradients), expected) < 1e-12
    monkeypatch.setattr(module, name, mutant)
    assert distance(run(ours(first_moment="int8"), gradients), expected) > 1e-3


# --- int8 --------------------------------------------------------------------------

# Few, since each compiles anew.
SHAPES = st.sampled_from([(1, 1), (1, 5), (5, 1), (5, 4), (2, 3, 4), (2, 1, 3, 2)])
NUMBERS = st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False).filter(
    lambda x: x == 0 or abs(x) > 2.0**-80
)
MATRICES = arrays(np.float32, SHAPES, elements=NUMBERS)


@given(MATRICES)
@settings(max_examples=60, deadline=None)
@pytest.mark.paper("int8 with one scale a column, rounded to the nearest")
def test_rounding_errs_by_half_a_bucket_at_most(x):
    values, bucket = quantise(jnp.asarray(x))
    assert values.dtype == jnp.int8 and values.shape == x.shape
    assert bucket.shape == (*x.shape[:-2], 1, x.shape[-1])
    error = np.abs(np.asarray(restore(values, bucket), np.float64) - x)
    assert (error <= np.asarray(bucket, np.float64) * (0.5 + 1e-4)).all()
    # The largest of each column is hit, and zeros stay zeros.
    largest = np.abs(x).max(-2, keepdims=True)
    at = np.broadcast_to(largest, x.shape) == np.abs(x)
    kept = np.abs(np.asarray(values))[at & (x != 0)]
    assert (kept == 127).all()
    assert (np.asarray(values)[x == 0] == 0).all()
    assert (np.asarray(bucket)[largest == 0] == 0).all()


@given(MATRICES, st.integers(-20, 20))
@settings(max_examples=60, deadline=None)
def test_rounding_follows_sign_and_scale(x, power):
    values, bucket = quantise(jnp.asarray(x))
    negative, same = quantise(-jnp.asarray(x))
    np.testing.assert_array_equal(negative, -values)
    np.testing.assert_array_equal(same, bucket)
    scaled, larger = quantise(jnp.asarray(x) * 2.0**power)
    np.testing.assert_array_equal(scaled, values)
    np.testing.assert_array_equal(larger, bucket * 2.0**power)
    again, _ = quantise(restore(values, bucket))
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize("first", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-41, 1e-15, 1e15])
def test_no_gradient_is_too_small_for_a_number(first, size):
    """Zeros, and gradients whose square is below or near the limits of float32."""
    gradients = [{"kernel": np.full((3, 4), size, np.float32)}] * 3
    gradients[1] = {"kernel": np.zeros((3, 4), np.float32)}
    for update in run(ours(first_moment=first), gradients):
        assert np.isfinite(update["kernel"]).all()
        assert np.abs(update["kernel"]).max() < 2


def test_a_gradient_that_is_none_is_not_hidden():
    bad = {"kernel": np.ones((3, 4), np.float32)}
    bad["kernel"][1, 2] = np.nan
    good = {"kernel": np.ones((3, 4), np.float32)}
    for update in run(ours(first_moment="int8"), [bad, good]):
        assert np.isnan(update["kernel"][:, 2]).any()


# --- which parameters, and what is stored ------------------------------------------


def states(model, config):
    """Parameters and the optimiser's state, as shapes, by path."""
    params = nnx.state(model, nnx.Param)
    found = jax.eval_shape(optimizer(config, steps=4).init, params)
    flat = jax.tree_util.tree_leaves_with_path
    return dict(flat(params)), [p for p in flat(found) if len(p[0]) > 2]


def names(path) -> tuple:
    return tuple(str(part) for part in path)


def test_matrices_and_vectors_of_a_prior():
    params, _ = states(tiny.prior(), PAPER)
    found = {
        ".".join(str(part.key) for part in path[:-1])
        for path, leaf in params.items()
        if is_matrix(path, leaf.shape)
    }
    blocks = ("qkv", "attention_out", "ffn_up", "ffn_down")
    assert found == {"codes", "classes", "rows", "columns", "head.kernel"} | {
        f"stack.blocks.{name}.kernel" for name in blocks
    }


def test_kernels_of_every_network_are_matrices():
    cnn = replace(tiny.TOKENIZER, encoder=tiny.CNN)
    recipe = replace(ADVERSARIAL, model=cnn)
    params, _ = states(nnx.eval_shape(lambda: Players(recipe)), PAPER)
    for path, leaf in params.items():
        name = path[-2].key
        matrix = name in ("kernel", "codebook", "table")
        assert is_matrix(path, leaf.shape) == matrix, names(path)
        assert matrix == (leaf.ndim > 1) or "['blocks']" in names(path)


@pytest.mark.parametrize("first", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("make", [tiny.prior, tiny.tokenizer])
def test_the_state_has_the_axes_and_the_paths_of_the_parameters(make, first):
    """So that a rule that splits a parameter over devices serves its moments."""
    params, state = states(make(), replace(PAPER, first_moment=first))
    by_name = {names(path): leaf for path, leaf in params.items()}
    seen = set()
    for path, leaf in state:
        [(name, of)] = [
            (name, of)
            for name, of in by_name.items()
            if names(path)[-len(name) :] == name
        ]
        assert leaf.ndim == of.ndim
        pairs = zip(leaf.shape, of.shape, strict=True)
        assert all(mine in (1, theirs) for mine, theirs in pairs)
        seen.add(name)
    assert seen == by_name.keys()


def test_bytes_of_vim_large():
    """14.8 GB of AdamW become 1.9: counted from the sizes, against the real state."""
    recipe = recipes.vim_large_class()
    m = recipe.model
    width, hidden = m.stack.width, m.stack.hidden
    tables = [
        (rows, width) for rows in (m.num_codes, m.num_classes + 1, m.grid, m.grid)
    ]
    block = [(width, 3 * width), (width, width), (width, hidden), (hidden, width)]
    matrices = [*tables, (width, m.num_codes), *block * m.stack.blocks]
    vectors = m.num_codes + 2 * width + m.stack.blocks * (9 * width + hidden)
    weights = sum(d * h for d, h in matrices)
    assert weights + vectors == m.parameters
    sides = sum(d + h for d, h in matrices)
    columns = sum(h for _, h in matrices)
    counts = 8  # of the moments and of the schedule
    expected = {
        ("float32", "full"): 8 * weights,
        ("float32", "factored"): 4 * weights + 4 * sides,
        ("bfloat16", "factored"): 2 * weights + 4 * sides,
        ("int8", "factored"): weights + 4 * columns + 4 * sides,
        ("int8", "full"): 5 * weights + 4 * columns,
    }
    params = nnx.state(build_abstract(recipe), nnx.Param)
    for (first, second), size in expected.items():
        config = replace(recipe.optim, first_moment=first, second_moment=second)
        found = jax.eval_shape(optimizer(config, steps=4).init, params)
        counted = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(found))
        assert counted == size + 8 * vectors + counts, (first, second)
        gigabytes = {("float32", "full"): 14.8, ("int8", "factored"): 1.9}
        if (first, second) in gigabytes:
            assert round(counted / 1e9, 1) == gigabytes[first, second]


# --- in the optimiser of a recipe --------------------------------------------------

DECAYING = OptimConfig(
    peak_lr=0.1, warmup_steps=0, schedule="constant", weight_decay=0.5, b2=B2
)


def coupled(config: OptimConfig) -> optax.GradientTransformation:
    """The bug: decay goes through the moments, as L2 in the loss would."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        ours(first_moment=config.first_moment),
        optax.scale_by_learning_rate(config.peak_lr),
    )


@pytest.mark.parametrize("second", ["full", "factored"])
@pytest.mark.parametrize("first", ["float32", "bfloat16", "int8"])
def test_decay_does_not_go_through_the_moments(first, second):
    config = replace(DECAYING, first_moment=first, second_moment=second)
    params = {"kernel": RNG.normal(size=(4, 5)).astype(np.float32)}
    gradients = [{"kernel": 3 * g["kernel"]} for g in random(4, 5, steps=5)]

    def pull(make) -> float:
        with_, without = (
            run(make(replace(config, weight_decay=decay)), gradients, params)
            for decay in (0.5, 0.0)
        )
        expected = -config.peak_lr * 0.5 * params["kernel"]
        return max(
            np.abs(a["kernel"] - b["kernel"] - expected).max()
            for a, b in zip(with_, without, strict=True)
        )

    assert pull(lambda c: optimizer(c, steps=9)) < 1e-6
    if second == "factored":
        assert pull(coupled) > 0.01


def test_the_optimiser_is_clipped_adam_times_the_rate():
    """AdamW where int8 is off and gradients are products of a row and a column."""
    plain = replace(DECAYING, clip_norm=0.7, warmup_steps=3, schedule="cosine")
    params = {"kernel": RNG.normal(size=(4, 5)), "bias": RNG.normal(size=5)}
    u, v = RNG.normal(size=(4, 1)), RNG.normal(size=(1, 5))
    # All gradients are longer than the clip, whose factor so is part of c_t.
    gradients = [
        {"kernel": c * u * v, "bias": c * np.ones(5)} for c in (3.0, -2.0, 5.0, 1.0)
    ]
    adam = run(optimizer(plain, steps=9), gradients, params)
    found = run(
        optimizer(replace(plain, second_moment="factored"), steps=9), gradients, params
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(adam), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
    unclipped = replace(plain, second_moment="factored", clip_norm=0.0)
    other = run(optimizer(unclipped, steps=9), gradients, params)
    assert distance(other[1:], adam[1:]) > 0.01  # the first rate is zero


def test_both_networks_get_the_moments_of_the_recipe():
    found = ADVERSARIAL.optims
    assert {(o.first_moment, o.second_moment) for o in found.values()} == {
        ("int8", "factored")
    }
    params = nnx.state(nnx.eval_shape(lambda: Players(ADVERSARIAL)), nnx.Param)
    state = jax.eval_shape(optimizer(found, steps=4).init, params)
    for part in ("tokenizer", "discriminator"):
        leaves = jax.tree_util.tree_leaves_with_path(state.inner_states[part])
        small = {path[-2].key for path, leaf in leaves if leaf.dtype == jnp.int8}
        assert "kernel" in small
        assert all(f"['{part}']" in names(path) for path, _ in leaves if len(path) > 4)


def test_a_run_with_the_paper_s_moments_learns():
    """Through `jit`, donation and the state tree of Flax."""

    def loss(model, batch, context, *, key):
        return jnp.mean(jnp.square(model(batch["x"]) - batch["y"])), {}

    config = replace(PAPER, peak_lr=0.05)
    model = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    step = make_step(model, loss, config, steps=80, key=jax.random.key(0))
    state = new_state(model, config, steps=80)
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype), state.optimizer)
    weights, losses = RNG.normal(size=(6, 4)), []
    for _ in range(80):
        x = RNG.normal(size=(16, 6))
        state, metrics = step(state, {"x": x, "y": x @ weights})
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.05 * losses[0]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state.optimizer) == kinds


@pytest.mark.parametrize("moments", [tiny.OPTIM, PAPER])
def test_decay_reaches_the_kernels_of_both_networks(moments):
    """Without a gradient nothing else moves."""
    optim = replace(moments, weight_decay=0.5, warmup_steps=0)
    shapes = nnx.eval_shape(lambda: Players(ADVERSARIAL))
    params = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, np.float32), nnx.state(shapes, nnx.Param)
    )
    zeros = jax.tree.map(np.zeros_like, params)
    update = optimizer(replace(ADVERSARIAL, optim=optim).optims, steps=9)
    updates, _ = jax.jit(update.update)(zeros, update.init(params), params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
        decayed = -0.5 * optim.peak_lr if path[-2].key == "kernel" else 0.0
        np.testing.assert_allclose(leaf, decayed, rtol=1e-5)
