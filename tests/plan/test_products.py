"""Three counts of the same FLOPs: compiled text, trace, and XLA's own analysis."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from minivim_lab.plan import costs, product_flops
from minivim_lab.plan.program import model_flops, schedule
from tests import tiny
from tests.plan.made import traced_once

ONES = jnp.ones


def three_counts(function, *arguments):
    traced = jax.jit(function).trace(*arguments)
    executable = traced.lower().compile()
    return (
        costs(executable.as_text()).flops,
        product_flops(traced.jaxpr),
        executable.cost_analysis()["flops"],
    )


CONVOLUTIONS = {
    "plain": {"window_strides": (1, 1), "padding": "SAME"},
    "strides": {"window_strides": (2, 1), "padding": [(0, 1), (2, 0)]},
    "holes": {"window_strides": (1, 2), "padding": "VALID", "rhs_dilation": (2, 1)},
    "transposed": {
        "window_strides": (1, 1),
        "padding": [(2, 2), (1, 3)],
        "lhs_dilation": (2, 2),
    },
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_count_as_xla_counts_them(name):
    def convolved(x, w):
        return jax.lax.conv_general_dilated(
            x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"), **CONVOLUTIONS[name]
        )

    text, trace, own = three_counts(convolved, ONES((2, 9, 8, 16)), ONES((3, 3, 16, 8)))
    assert text == trace
    assert text == pytest.approx(own, rel=0.01)


def test_gradients_of_a_convolution():
    def loss(x, w):
        y = jax.lax.conv_general_dilated(
            x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jnp.square(y))

    arguments = ONES((4, 12, 12, 8)), ONES((3, 3, 8, 16))
    text, trace, own = three_counts(jax.grad(loss, argnums=(0, 1)), *arguments)
    assert text == trace
    assert text == pytest.approx(own, rel=0.03)


def test_products_without_loops():
    def function(x, y):
        return jnp.einsum("bij,bkj->bik", x, y) @ ONES((48, 16))

    text, trace, own = three_counts(function, ONES((3, 64, 32)), ONES((3, 48, 32)))
    assert text == trace == 2 * 3 * 64 * 48 * (32 + 16)
    assert text == pytest.approx(own, rel=0.01)


def test_a_loop_in_a_loop_counts_in_full_where_xla_counts_once():
    def step(x, w):
        inner = jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=5)[0]
        return inner, None

    def function(x, weights):
        return jax.lax.scan(jax.checkpoint(step), x, weights)[0]

    shapes = ONES((16, 64)), ONES((3, 64, 64))
    text, trace, own = three_counts(function, *shapes)
    once = 2 * 16 * 64 * 64
    assert text == trace == 15 * once
    assert own < 2 * once


def test_of_a_condition_the_largest_branch():
    def function(which, x):
        return jax.lax.switch(which, [lambda x: x, lambda x: x @ x], x)

    traced = jax.jit(function).trace(0, ONES((8, 8)))
    assert product_flops(traced.jaxpr) == 2 * 8**3


def test_a_loop_of_unknown_length_is_refused():
    def function(x):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="unknown length"):
        product_flops(jax.make_jaxpr(function)(ONES((8, 8))))


def test_a_kernel_counts_once_for_every_part_of_its_grid():
    def kernel(x, y):
        y[...] = x[...] @ x[...]

    part = pl.BlockSpec((None, 8, 8), lambda i, j: (i, 0, j))
    shape = jax.ShapeDtypeStruct((3, 8, 16), jnp.float32)
    call = pl.pallas_call(
        kernel, shape, grid=(3, 2), in_specs=[part], out_specs=part, interpret=True
    )
    assert product_flops(jax.make_jaxpr(call)(ONES((3, 8, 16)))) == 6 * 2 * 8**3


STACK = replace(tiny.STACK, blocks=3, remat="full")
PRIOR = replace(
    tiny.PRIOR_RECIPE,
    tokenizer="shapes/tokenizer",
    model=replace(tiny.PRIOR, stack=STACK),
)


def both(recipe, due=False):
    found = traced_once(recipe, None)
    traced = found.trace(due)
    text = traced.lower().compile().as_text()
    return costs(text), product_flops(traced.jaxpr)


@pytest.mark.parametrize(
    "recipe",
    [PRIOR, tiny.TOKENIZER_RECIPE, replace(PRIOR, run=replace(tiny.RUN, accumulate=2))],
    ids=["prior", "tokenizer", "accumulated"],
)
def test_a_train_step_counts_the_same_both_ways(recipe):
    found, traced = both(recipe)
    assert found.flops == pytest.approx(traced, rel=0.01)
    assert not found.unknown_loops
    assert not found.collectives


def test_what_is_computed_twice_is_no_model_flops():
    twice = product_flops(traced_once(PRIOR, None).trace().jaxpr)
    once = model_flops(PRIOR)
    per_token = 3 * (4 * 16 * 16 + 16 * 32)
    # All products of a block but the last, which no gradient needs.
    attention = 3 * 2 * 4 * 16
    assert twice - once == 2 * 8 * 4 * (per_token + attention)


def test_lazy_terms_have_a_program_of_their_own():
    assert schedule(traced_once(PRIOR, None).objective) == {"step": (False, 1.0)}
    players = tiny_players()
    found = schedule(traced_once(players, None).objective)
    assert found == {"step": (False, 0.75), "step with R1": (True, 0.25)}


def tiny_players():
    recipe = tiny.TOKENIZER_RECIPE
    critic = replace(recipe.discriminator, width=4, max_width=8, r1_interval=4)
    loss = replace(recipe.loss, adversarial=0.1)
    return replace(recipe, loss=loss, discriminator=critic)


EIGHT = """
import json, sys
import jax
from minivim_lab.plan import costs, product_flops
from minivim_lab.plan.paper import predicted
from minivim_lab.plan.program import Inputs
from minivim.sharding import MeshShape, make_mesh
from tests.plan.test_products import PRIOR

found = {}
for shape in ("data=8", "fsdp=8", "data=2,fsdp=2,tensor=2"):
    mesh = make_mesh(MeshShape.parse(shape))
    given = Inputs(PRIOR, mesh)
    traced = given.trace()
    read = costs(traced.lower().compile().as_text())
    rules = None
    if "tensor" not in shape:
        rules = predicted(given.state.params, mesh, gathered=4)
    found[shape] = {
        "flops": read.flops,
        "trace": product_flops(traced.jaxpr),
        "kinds": {kind: one.bytes for kind, one in read.collectives.items()},
        "wire": sum(one.wire for one in read.collectives.values()),
        "rules": rules,
        "state": given.state_bytes,
        "parameters": sum(x.size for x in jax.tree.leaves(given.state.params)),
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def eight():
    """A small step on meshes of eight devices, in a process that has as many."""
    flag = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", EIGHT],
        env=os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_chip_has_its_share_of_the_flops(eight):
    for shape, found in eight.items():
        assert 8 * found["flops"] == pytest.approx(found["trace"], rel=0.02), shape


def test_data_parallel_sums_four_bytes_a_parameter(eight):
    found = eight["data=8"]
    assert found["rules"] == {"gradients": 4 * found["parameters"], "parameters": 0}
    # Two metrics are summed as well: nll, which is the loss, and accuracy.
    assert found["kinds"] == {"all-reduce": 4 * found["parameters"] + 8}
    assert found["wire"] == found["kinds"]["all-reduce"] * 2 * 7 / 8


def test_fsdp_gathers_what_the_rules_predict(eight):
    found = eight["fsdp=8"]
    rules, kinds = found["rules"], found["kinds"]
    assert kinds["all-gather"] == pytest.approx(rules["parameters"], rel=0.05)
    assert kinds["all-reduce"] == pytest.approx(rules["gradients"], rel=0.1)
    assert found["state"] < eight["data=8"]["state"] / 4
