"""C19: a batch in parts gives the update of the whole, if no sample sees another."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minivim.config import DiscriminatorConfig, LossConfig
from minivim.prior import prior_loss
from minivim.training import make_step, new_state
from tests import tiny

# Plain descent in effect, since Adam would hide the size of a gradient.
OPTIM = replace(tiny.OPTIM, eps=1e3, warmup_steps=0, weight_decay=0.0)
KEY = jax.random.key(0)


def prior_update(accumulate: int, loss=prior_loss):
    """Metrics and movement of one step of the tiny prior."""
    model = tiny.prior()
    codes = np.random.default_rng(0).integers(0, 24, (8, 4)).astype(np.int32)
    step = make_step(model, loss, OPTIM, steps=9, key=KEY, accumulate=accumulate)
    state = new_state(model, OPTIM, steps=9)
    before = jax.tree.map(jnp.copy, state.params)
    state, metrics = step(state, {"codes": codes, "label": np.arange(8) % 3})
    return metrics, jax.tree.map(jnp.subtract, state.params, before)


def apart(one, other) -> float:
    """Largest difference over the largest movement."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    size = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(one))
    return max(float(jnp.abs(x - y).max()) for x, y in pairs) / size


def test_parts_of_a_batch_give_the_update_of_the_whole():
    metrics, whole = prior_update(1)
    again, parts = prior_update(4)
    assert apart(whole, parts) < 1e-4
    for name in ("loss", "grad_norm", "accuracy"):
        np.testing.assert_allclose(again[name], metrics[name], rtol=1e-4)


def test_summed_gradients_would_not():
    """The bug: gradients of the parts added up, as if the batch had not grown."""

    def summed(model, batch, context, *, key):
        value, metrics = prior_loss(model, batch, key=key)
        return 4 * value, metrics

    _, whole = prior_update(1)
    assert apart(whole, prior_update(4, loss=summed)[1]) > 1


@pytest.mark.parametrize(
    ("group", "same"),
    [
        (0, True),
        pytest.param(4, True, marks=pytest.mark.slow),
        pytest.param(8, False, marks=pytest.mark.slow),
    ],
)
def test_two_networks(group, same):
    """With minibatch stddev samples see others: in a group of 8 of a batch of 8 all.

    Groups of 4 hold every second sample, and so do the parts.
    """
    recipe = replace(
        tiny.TOKENIZER_RECIPE,
        optim=OPTIM,
        model=replace(tiny.TOKENIZER, output="laplace"),
        loss=LossConfig(logit_laplace=0.1, adversarial=0.1),
        discriminator=DiscriminatorConfig(width=4, max_width=8, stddev_group=group),
    )
    found = []
    for accumulate in (1, 2):
        ready = tiny.ready(recipe)
        step, state = ready.step(accumulate=accumulate, lazy_every=0), ready.state()
        before = jax.tree.map(jnp.copy, state.params)
        state, metrics = step(state, next(ready.batches))
        moved = jax.tree.map(jnp.subtract, state.params, before)
        found.append((metrics, moved["discriminator"], moved["tokenizer"]))
    (metrics, *whole), (again, *parts) = found
    assert [apart(a, b) < 1e-3 for a, b in zip(whole, parts, strict=True)] == [same] * 2
    assert (metrics["counts"] == again["counts"]).all()
    assert int(again["logits_real"].sum()) == tiny.RUN.batch_size
    for name in ("grad_norm_l2", "grad_norm_logit_laplace"):
        np.testing.assert_allclose(again[name], metrics[name], rtol=1e-3)


def test_what_a_part_writes_the_next_one_reads():
    """Statistics run through the parts in order."""

    class Counter(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.ones(()))
            self.seen = nnx.BatchStat(jnp.zeros(()))

    def loss(model, batch, context, *, key):
        model.seen[...] += batch["x"].sum()
        return model.w[...] * jnp.mean(batch["x"]), {}

    step = make_step(Counter(), loss, OPTIM, steps=9, key=KEY, accumulate=2)
    state, _ = step(new_state(Counter(), OPTIM, steps=9), {"x": jnp.arange(6.0)})
    assert float(state.stats["seen"][...]) == 15
