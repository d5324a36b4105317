"""What is measured: ours and its twin, from the same weights, on the same inputs.

Every function asserts first that both compute the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from benchmarks import flops, twins
from minivim.config import PriorConfig
from minivim.prior import Prior, generate, prior_loss, sample
from minivim.recipes import shapes_prior, shapes_tokenizer
from minivim.tokenizer import Tokenizer, tokenizer_loss
from minivim.training import learning_rate, make_step, new_state

# Between losses, logits and pixels, relative to the largest value.
TOLERANCE = 1e-3
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    name: str
    ours: Callable[[], object]
    twin: Callable[[], object]
    flops: float


def agree(name: str, ours: object, twin: torch.Tensor) -> None:
    """Refuse to measure what does not compute the same."""
    a, b = np.asarray(ours), twin.detach().numpy()
    error = np.abs(a - b).max() / np.abs(b).max()
    if not error < TOLERANCE:
        raise AssertionError(f"{name}: ours and the twin differ by {error:.1e}")


def _steps(name, recipe, model, loss, batch, twin, twin_loss) -> tuple[Any, Any]:
    """One call, one training step, of both; their losses agree for three steps."""
    steps = recipe.run.steps
    state = [new_state(model, recipe.optim, steps=steps)]
    step = make_step(model, loss, recipe.optim, steps=steps, key=jax.random.key(0))
    rate = learning_rate(recipe.optim, steps=steps)
    rates = iter(np.asarray(jax.vmap(rate)(jnp.arange(steps))).tolist())
    optimizer = twins.adamw(twin, recipe.optim)

    def ours() -> dict[str, jax.Array]:
        state[0], metrics = step(state[0], batch)
        return metrics

    def theirs() -> torch.Tensor:
        value, _ = twin_loss()
        twins.train_step(value, optimizer, rate=next(rates))
        return value

    for _ in range(3):
        agree(name, ours()["loss"], theirs())
    return ours, theirs


def tokenizer_training(batch: int) -> Case:
    name, recipe = f"tokenizer train step, batch {batch}", shapes_tokenizer()
    model = Tokenizer(recipe.model, rngs=nnx.Rngs(0))
    twin = twins.Tokenizer(recipe.model)
    twins.copy_weights(model, twin)
    images = _images(batch)
    inputs = torch.tensor(images)
    loss = partial(tokenizer_loss, weights=recipe.loss, flip=recipe.flip)
    pair = _steps(
        name, recipe, model, loss, {"image": jnp.asarray(images)},
        twin, partial(twins.tokenizer_loss, twin, inputs, recipe.loss),
    )  # fmt: skip
    flop = flops.encode(recipe.model) + flops.decode(recipe.model)
    return Case(name, *pair, flops.TRAINING * batch * flop)


def prior_training(batch: int) -> Case:
    """Without label dropout, whose random numbers differ."""
    name, recipe = f"prior train step, batch {batch}", shapes_prior()
    model = Prior(recipe.model, rngs=nnx.Rngs(0))
    twin = twins.Prior(recipe.model)
    twins.copy_weights(model, twin)
    codes, labels = _codes(recipe.model, batch)
    inputs = torch.tensor(codes).long(), torch.tensor(labels)
    pair = _steps(
        name, recipe, model, prior_loss,
        {"codes": jnp.asarray(codes), "label": jnp.asarray(labels)},
        twin, partial(twins.prior_loss, twin, *inputs),
    )  # fmt: skip
    return Case(name, *pair, flops.TRAINING * batch * flops.prior(recipe.model))


def sampling(batch: int, grid: int = 8) -> Case:
    """Every code of a picture, at temperature 1; logits agree for given codes.

    64 tokens by the prior of `shapes`, more by 8 blocks of width 256.
    """
    config = shapes_prior().model
    if grid != config.grid:
        stack = replace(config.stack, blocks=8, width=256, heads=8, hidden=1024)
        config = replace(config, grid=grid, stack=stack)
    model, twin = Prior(config, rngs=nnx.Rngs(0)), twins.Prior(config)
    twins.copy_weights(model, twin)
    codes, labels = _codes(config, batch)
    name, classes = f"sample {config.num_tokens} tokens, batch {batch}", labels
    _, logits = generate(
        model, labels=jnp.asarray(labels), codes=jnp.asarray(codes),
        known=jnp.int32(config.num_tokens), key=jax.random.key(0),
        temperature=jnp.float32(1), keep_logits=True,
    )  # fmt: skip
    _, want = twin.sample(torch.tensor(labels), torch.tensor(codes).long())
    agree(name, jnp.swapaxes(logits, 0, 1), want)
    key, theirs = jax.random.key(0), torch.tensor(classes)
    return Case(
        name,
        lambda: sample(model, key=key, labels=classes),
        lambda: twin.sample(theirs),
        batch * flops.prior(config),
    )


def encoding(batch: int) -> Case:
    name, config = f"encode, batch {batch}", shapes_tokenizer().model
    model, twin = Tokenizer(config, rngs=nnx.Rngs(0)), twins.Tokenizer(config)
    twins.copy_weights(model, twin)
    images = _images(batch)
    ours, theirs = jnp.asarray(images), torch.tensor(images)
    same = np.mean(np.asarray(model.encode(ours)) == twin.encode(theirs).numpy())
    # A vector half way between two codes may fall to either by rounding.
    if same < 0.999:
        raise AssertionError(f"{name}: only {same:.2%} of the codes are the same")
    return Case(
        name,
        lambda: model.encode(ours),
        lambda: twin.encode(theirs),
        batch * flops.encode(config),
    )


def _images(batch: int) -> np.ndarray:
    return RNG.random((batch, 32, 32, 3), dtype=np.float32)


def _codes(config: PriorConfig, batch: int) -> tuple[np.ndarray, np.ndarray]:
    codes = RNG.integers(0, config.num_codes, (batch, config.num_tokens))
    labels = RNG.integers(0, config.num_classes, batch)
    return codes.astype(np.int32), labels.astype(np.int32)


CASES: tuple[Callable[[], Case], ...] = (
    partial(tokenizer_training, 64),
    partial(prior_training, 64),
    partial(sampling, 1),
    partial(sampling, 8),
    partial(sampling, 64),
    *(partial(sampling, batch, grid) for grid in (16, 32) for batch in (1, 8, 32)),
    partial(encoding, 64),
    partial(encoding, 256),
)
