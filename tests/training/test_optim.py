"""Learning rates as the paper states them, decay on kernels, one update per step."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from minivim import recipes
from minivim.config import OptimConfig
from minivim.training import learning_rate, make_step, new_state, optimizer
from minivim.training.optim import decays
from tests import tiny


class Toy(nnx.Module):
    """Three weights whose gradient is 1."""

    def __init__(self):
        self.w = nnx.Param(jnp.zeros(3))


def toy_loss(model, batch, context, *, key):
    return jnp.sum(model.w[...]) + 0 * jnp.sum(batch["x"]), {}


BATCH = {"x": np.zeros(2, np.float32)}


def rates(config: OptimConfig, steps: int, at: list[int]) -> list[float]:
    schedule = learning_rate(config, steps=steps)
    return [float(schedule(step)) for step in at]


@pytest.mark.paper("warm-up over 50k steps, then a cosine to 5e-5")
def test_stage_1_of_the_paper():
    recipe = recipes.vit_vqgan_ss()
    at = [0, 25_000, 50_000, 162_500, 275_000, 500_000]
    # A straight line would pass through the middle as well, not through the quarter.
    quarter = 5e-5 + 5e-5 * (1 + 0.5**0.5) / 2
    expected = [0, 5e-5, 1e-4, quarter, 7.5e-5, 5e-5]
    found = rates(recipe.optim, recipe.run.steps, at)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.paper("constant to step 80k, then exponential to 1e-5")
def test_stage_2_of_the_paper():
    recipe = recipes.vim_large()
    at = [0, 2_500, 5_000, 40_000, 80_000, 265_000, 450_000]
    middle = (4.5e-4 * 1e-5) ** 0.5
    expected = [0, 2.25e-4, 4.5e-4, 4.5e-4, 4.5e-4, middle, 1e-5]
    found = rates(recipe.optim, recipe.run.steps, at)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_constant_stays_at_its_peak():
    config = OptimConfig(peak_lr=0.5, warmup_steps=10, schedule="constant")
    assert rates(config, 100, [5, 10, 50, 100]) == [0.25, 0.5, 0.5, 0.5]


def test_without_warm_up_the_first_step_has_the_peak():
    config = OptimConfig(peak_lr=0.5, warmup_steps=0, schedule="cosine")
    assert rates(config, 100, [0, 100]) == pytest.approx([0.5, 0.0], abs=1e-7)


@pytest.mark.parametrize("schedule", ["cosine", "exponential"])
def test_the_rate_waits_for_decay_start_and_ends_at_the_last_step(schedule):
    config = OptimConfig(
        peak_lr=0.5, warmup_steps=10, schedule=schedule, decay_start=40, final_lr=0.1
    )
    found = rates(config, 100, [10, 25, 40, 100])
    assert found == pytest.approx([0.5, 0.5, 0.5, 0.1], rel=1e-4)
    assert 0.1 < rates(config, 100, [70])[0] < 0.5


@pytest.mark.parametrize("schedule", ["cosine", "exponential"])
def test_the_rate_stays_at_its_end(schedule):
    config = OptimConfig(
        peak_lr=0.5, warmup_steps=10, schedule=schedule, decay_end=60, final_lr=0.1
    )
    found = rates(config, 100, [10, 60, 80, 100])
    assert found == pytest.approx([0.5, 0.1, 0.1, 0.1], rel=1e-4)
    assert 0.1 < rates(config, 100, [35])[0] < 0.5


def test_the_logged_rate_is_the_rate_that_was_used():
    config = replace(tiny.OPTIM, peak_lr=0.1, warmup_steps=3, weight_decay=0.0)
    model = Toy()
    step = make_step(model, toy_loss, config, steps=8, key=jax.random.key(0))
    state = new_state(model, config, steps=8)
    schedule = learning_rate(config, steps=8)
    before = 0.0
    for number in range(8):
        state, metrics = step(state, BATCH)
        # Adam moves a weight of constant gradient by the learning rate exactly.
        after = float(jax.tree.leaves(state.params)[0][0])
        assert float(metrics["lr"]) == pytest.approx(float(schedule(number)), rel=1e-6)
        assert before - after == pytest.approx(float(metrics["lr"]), rel=1e-3, abs=1e-7)
        before = after
    assert float(metrics["grad_norm"]) == pytest.approx(3**0.5)


def test_one_optimiser_update_per_step():
    model = Toy()
    step = make_step(model, toy_loss, tiny.OPTIM, steps=8, key=jax.random.key(0))
    state = new_state(model, tiny.OPTIM, steps=8)
    for number in range(1, 5):
        state, _ = step(state, BATCH)
        counts = optax.tree_utils.tree_get_all_with_path(state.optimizer, "count")
        assert counts
        assert {int(count) for _, count in counts} == {number}
        assert int(state.step) == number


def test_a_model_survives_the_donation_of_its_state():
    model = Toy()
    step = make_step(model, toy_loss, tiny.OPTIM, steps=8, key=jax.random.key(0))
    state, _ = step(new_state(model, tiny.OPTIM, steps=8), BATCH)
    jax.block_until_ready(state)
    np.testing.assert_array_equal(model.w[...], np.zeros(3))


@pytest.mark.parametrize("model", [tiny.tokenizer(), tiny.prior()])
@pytest.mark.paper("weight decay for matrices only")
def test_weight_decay_is_for_kernels_only(model):
    mask = decays(nnx.state(model, nnx.Param))
    found = {
        jax.tree_util.keystr(path): decayed
        for path, decayed in jax.tree_util.tree_leaves_with_path(mask)
    }
    assert {name for name, decayed in found.items() if decayed} == {
        name for name in found if "'kernel'" in name
    }
    assert 0 < sum(found.values()) < len(found)


@pytest.mark.paper("weight decay 1e-4, decoupled")
def test_weight_decay_pulls_kernels_to_zero():
    config = OptimConfig(peak_lr=0.1, warmup_steps=0, weight_decay=0.5)
    params = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
    update = optimizer(config, steps=10)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = update.update(zeros, update.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05 * np.ones(2), rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], np.zeros(2))


@pytest.mark.paper("clipping by the global norm")
def test_clipping_is_by_global_norm():
    config = OptimConfig(
        peak_lr=1.0, warmup_steps=0, weight_decay=0.0, eps=1.0, clip_norm=1.0
    )
    params = {"bias": jnp.zeros(2), "scale": jnp.zeros(1)}
    grads = {"bias": jnp.array([30.0, 0.0]), "scale": jnp.array([40.0])}
    update = optimizer(config, steps=10)
    updates, _ = update.update(grads, update.init(params), params)
    # Clipped to 0.6 and 0.8; Adam's first update is g / (|g| + eps).
    np.testing.assert_allclose(updates["bias"], [-0.6 / 1.6, 0], rtol=1e-5)
    np.testing.assert_allclose(updates["scale"], [-0.8 / 1.8], rtol=1e-5)
