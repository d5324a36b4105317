"""What the step of each stage compiles: network, loss and optimiser, without data.

The networks may be abstract, shapes without values, so that a step can be planned for a
machine that is not there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minivim import classifier, recipes, weights
from minivim.config import ClassifierRecipe, PriorRecipe, TokenizerRecipe
from minivim.data.augment import augment
from minivim.errors import UserError
from minivim.prior import Prior, prior_loss
from minivim.tokenizer import (
    Players,
    Tokenizer,
    adversarial_loss,
    taps_of,
    tokenizer_loss,
)
from minivim.tokenizer.perceptual import LPIPS, PerceptualConfig, perceptual_net
from minivim.training.optim import Optim
from minivim.training.step import Loss, Taps

TrainableRecipe = TokenizerRecipe | PriorRecipe | ClassifierRecipe


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Network, loss and optimiser of a stage, ready for `make_step`."""

    model: nnx.Module
    loss: Loss
    optim: Optim
    taps: Taps | None = None
    lazy_every: int = 0
    # Frozen weights that lie beside every batch, by name.
    constants: dict[str, Any] = field(default_factory=dict)
    # What is worth keeping of the trained model.
    export: Callable[[Any], Any] = lambda model: model

    def parts(self) -> dict[str, Any]:
        """The fields by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def tokenizer_model(recipe: TokenizerRecipe) -> Tokenizer | Players:
    """The tokenizer, with an adversarial term beside its discriminator."""
    if recipe.loss.adversarial:
        return Players(recipe)
    return Tokenizer(recipe.model, rngs=nnx.Rngs(recipe.run.seed))


def tokenizer_objective(
    recipe: TokenizerRecipe, model: nnx.Module, network: Any = None
) -> Objective:
    """Stage 1; `network` is what the perceptual term compares features of."""
    codes, pair = recipe.model.quantizer.num_codes, bool(recipe.loss.adversarial)
    critic = recipe.discriminator
    frozen = nnx.split(perceptual_net(network)) if network is not None else ()

    def loss(model: Any, batch: dict, *, key: jax.Array) -> tuple:
        options: dict[str, Any] = {
            "weights": recipe.loss,
            "flip": recipe.flip,
            "crop": recipe.crop,
        }
        if frozen:
            options["perceptual"] = nnx.merge(frozen[0], batch["perceptual"])
        if pair:
            options["config"] = critic
        value, terms = (adversarial_loss if pair else tokenizer_loss)(
            model, batch, **options, key=key
        )
        counts = jnp.bincount(terms.pop("codes").ravel(), length=codes)
        return value, terms | {"counts": counts}

    return Objective(
        model=model,
        loss=loss,
        optim=recipe.optims,
        taps=taps_of(recipe.loss),
        # Without R1 both programs would be one.
        lazy_every=critic.r1_interval if pair and critic.r1_gamma else 0,
        constants={"perceptual": frozen[1]} if frozen else {},
        export=(lambda model: model.tokenizer) if pair else (lambda model: model),
    )


def prior_objective(
    recipe: PriorRecipe, model: nnx.Module, tokenizer: Tokenizer | None
) -> Objective:
    """Stage 2; on the fly the frozen encoder is part of the step, else not needed."""
    fly = recipe.codes == "fly"
    frozen: Any = nnx.split(tokenizer) if fly else ()

    def codes_of(batch: dict, key: jax.Array) -> jax.Array:
        images = augment(batch["image"], flip=recipe.flip, crop=recipe.crop, key=key)
        # Not `encode`, which is a program of its own and may not nest in a gradient.
        coder = nnx.merge(frozen[0], batch["tokenizer"])
        return coder.quantizer(coder.encoder(images))[1]["codes"]

    def loss(model: Prior, batch: dict, *, key: jax.Array) -> tuple:
        flip_key, key = jax.random.split(key)
        if fly:
            batch = batch | {"codes": codes_of(batch, flip_key)}
        return prior_loss(model, batch, label_dropout=recipe.label_dropout, key=key)

    return Objective(
        model=model,
        loss=loss,
        optim=recipe.optim,
        constants={"tokenizer": frozen[1]} if fly else {},
    )


def classifier_objective(recipe: ClassifierRecipe, model: nnx.Module) -> Objective:
    """A labelled network."""
    return Objective(model=model, loss=classifier.classifier_loss, optim=recipe.optim)


def abstract(recipe: TrainableRecipe) -> tuple[Objective, dict[str, Any]]:
    """A recipe's objective and a batch as shapes alone, whatever the size.

    Frozen networks that are not at hand are taken as VGG16's LPIPS and as the tokenizer
    of the recipe that bears the folder's name. Raises `UserError` where there is none.
    """

    def rows(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((recipe.run.batch_size, *shape), dtype)

    labels = {"label": rows(dtype=jnp.int32)}
    if isinstance(recipe, ClassifierRecipe):
        side, channels = recipe.image_size, recipe.model.channels
        model = nnx.eval_shape(lambda: classifier.build(recipe.model, rngs=nnx.Rngs(0)))
        found = classifier_objective(recipe, model)
        return found, {"image": rows(side, side, channels), **labels}
    if isinstance(recipe, TokenizerRecipe):
        config = recipe.model
        model = nnx.eval_shape(lambda: tokenizer_model(recipe))
        network = _abstract_network(recipe) if recipe.loss.perceptual else None
        found = tokenizer_objective(recipe, model, network)
        batch = {"image": rows(config.image_size, config.image_size, config.channels)}
        return found, {**batch, **labels, **found.constants}
    model = nnx.eval_shape(lambda: Prior(recipe.model, rngs=nnx.Rngs(0)))
    tokenizer = _abstract_tokenizer(recipe)
    found = prior_objective(recipe, model, tokenizer)
    size, channels = tokenizer.config.image_size, tokenizer.config.channels
    batch = (
        {"image": rows(size, size, channels)}
        if recipe.codes == "fly"
        else {"codes": rows(recipe.model.num_tokens, dtype=jnp.int32)}
    )
    return found, {**batch, **labels, **found.constants}


def _abstract_network(recipe: TokenizerRecipe) -> nnx.Module:
    try:
        return weights.load(recipe.perceptual_net)
    except UserError:
        return nnx.eval_shape(lambda: LPIPS(PerceptualConfig(), rngs=nnx.Rngs(0)))


def _abstract_tokenizer(recipe: PriorRecipe) -> Tokenizer:
    try:
        return weights.load(recipe.tokenizer)
    except UserError:
        name = PurePath(recipe.tokenizer).name
        known = recipes.RECIPES.get(("tokenizer", name))
        if known is None:
            raise
        config: Any = known().model  # type: ignore[union-attr]
        return nnx.eval_shape(lambda: weights.build(config, rngs=nnx.Rngs(0)))
