"""What is measured: ours and its twin, from the same weights, on the same inputs.

The check of every case, called before anything is timed in turns, asserts that both
compute the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from benchmarks import twins
from minivim import recipes
from minivim.config import (
    PriorConfig,
    PriorRecipe,
    TokenizerConfig,
    TokenizerRecipe,
    with_overrides,
)
from minivim.prior import Prior, generate, prior_loss, sample
from minivim.tokenizer import Tokenizer, tokenizer_loss
from minivim.training import learning_rate, make_step, new_state
from minivim_lab.plan import product_flops
from minivim_lab.plan.program import model_flops

# Between losses, logits and pixels, relative to the largest value.
TOLERANCE = 1e-3
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    ours: Callable[[], object]
    twin: Callable[[], object]
    check: Callable[[], None]
    flops: float


def agree(ours: object, twin: torch.Tensor) -> None:
    """Refuse to measure what does not compute the same."""
    a, b = np.asarray(ours), twin.detach().numpy()
    error = np.abs(a - b).max() / np.abs(b).max()
    if not error < TOLERANCE:
        raise AssertionError(f"ours and the twin differ by {error:.1e}")


def _steps(recipe, model, loss, batch, twin, twin_loss) -> Case:
    """A call is one training step; the losses agree for three steps."""
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

    def check() -> None:
        for _ in range(3):
            agree(ours()["loss"], theirs())

    size = len(jax.tree.leaves(batch)[0])
    flops = model_flops(with_overrides(recipe, [f"batch_size={size}"]))
    return Case(ours, theirs, check, flops)


def tokenizer_training(recipe: TokenizerRecipe, batch: int) -> Case:
    model, twin = _tokenizers(recipe.model)
    images = _images(batch)
    inputs = torch.tensor(images)
    # Without flips, whose random numbers differ.
    loss = partial(tokenizer_loss, weights=recipe.loss, flip=False)
    return _steps(
        recipe, model, loss, {"image": jnp.asarray(images)},
        twin, partial(twins.tokenizer_loss, twin, inputs, recipe.loss),
    )  # fmt: skip


def prior_training(recipe: PriorRecipe, batch: int) -> Case:
    """Without label dropout, whose random numbers differ."""
    model, twin = _priors(recipe.model)
    codes, labels = _codes(recipe.model, batch)
    inputs = torch.tensor(codes).long(), torch.tensor(labels)
    return _steps(
        recipe, model, prior_loss,
        {"codes": jnp.asarray(codes), "label": jnp.asarray(labels)},
        twin, partial(twins.prior_loss, twin, *inputs),
    )  # fmt: skip


def sampling(config: PriorConfig, batch: int) -> Case:
    """Every code of a picture, at temperature 1; logits agree for given codes.

    Its products count as in one pass over given codes.
    """
    model, twin = _priors(config)
    codes, labels = _codes(config, batch)

    def check() -> None:
        _, logits = generate(
            model, labels=jnp.asarray(labels), codes=jnp.asarray(codes),
            known=jnp.int32(config.num_tokens), key=jax.random.key(0),
            temperature=jnp.float32(1), keep_logits=True,
        )  # fmt: skip
        _, want = twin.sample(torch.tensor(labels), torch.tensor(codes).long())
        agree(jnp.swapaxes(logits, 0, 1), want)

    key, theirs = jax.random.key(0), torch.tensor(labels)
    return Case(
        lambda: sample(model, key=key, labels=labels),
        lambda: twin.sample(theirs),
        check,
        product_flops(jax.make_jaxpr(model)(codes, labels)),
    )


def encoding(config: TokenizerConfig, batch: int) -> Case:
    model, twin = _tokenizers(config)
    images = _images(batch)
    ours, theirs = jnp.asarray(images), torch.tensor(images)

    def check() -> None:
        same = np.mean(np.asarray(model.encode(ours)) == twin.encode(theirs).numpy())
        # A vector half way between two codes may fall to either by rounding.
        if same < 0.999:
            raise AssertionError(f"only {same:.2%} of the codes are the same")

    return Case(
        lambda: model.encode(ours),
        lambda: twin.encode(theirs),
        check,
        product_flops(jax.make_jaxpr(model.encode)(ours)),
    )


def _tokenizers(config: TokenizerConfig) -> tuple[Tokenizer, twins.Tokenizer]:
    model, twin = Tokenizer(config, rngs=nnx.Rngs(0)), twins.Tokenizer(config)
    twins.copy_weights(model, twin)
    return model, twin


def _priors(config: PriorConfig) -> tuple[Prior, twins.Prior]:
    model, twin = Prior(config, rngs=nnx.Rngs(0)), twins.Prior(config)
    twins.copy_weights(model, twin)
    return model, twin


def _images(batch: int) -> np.ndarray:
    return RNG.random((batch, 32, 32, 3), dtype=np.float32)


def _codes(config: PriorConfig, batch: int) -> tuple[np.ndarray, np.ndarray]:
    codes = RNG.integers(0, config.num_codes, (batch, config.num_tokens))
    labels = RNG.integers(0, config.num_classes, batch)
    return codes.astype(np.int32), labels.astype(np.int32)


def _wide(grid: int) -> PriorConfig:
    """8 blocks of width 256, for any number of tokens."""
    config = recipes.shapes_prior().model
    stack = replace(config.stack, blocks=8, width=256, heads=8, hidden=1024)
    return replace(config, grid=grid, stack=stack)


def _cases() -> dict[str, Callable[[], Case]]:
    found: dict[str, Callable[[], Case]] = {}
    for data in ("shapes", "cifar10"):
        tokenizer = getattr(recipes, f"{data}_tokenizer")()
        prior = getattr(recipes, f"{data}_prior")()
        found |= {
            f"{data}: tokenizer train step, batch 64": partial(
                tokenizer_training, tokenizer, 64
            ),
            f"{data}: prior train step, batch 64": partial(prior_training, prior, 64),
            f"{data}: encode, batch 64": partial(encoding, tokenizer.model, 64),
            f"{data}: encode, batch 256": partial(encoding, tokenizer.model, 256),
        }
        for batch in (1, 8, 64):
            name = f"{data}: sample 64 tokens, batch {batch}"
            found[name] = partial(sampling, prior.model, batch)
    for grid in (8, 16, 32):
        for batch in (1, 8, 32):
            name = f"8 x 256: sample {grid**2:,} tokens, batch {batch}"
            found[name] = partial(sampling, _wide(grid), batch)
    return found


CASES = _cases()
