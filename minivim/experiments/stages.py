"""The stages made ready for the loop: model, loss, batches, figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minivim import classifier, data, metrics, weights
from minivim.config import ClassifierRecipe, PriorRecipe, TokenizerRecipe
from minivim.data import Source
from minivim.errors import UserError
from minivim.experiments.coding import (
    decode_all,
    encode_all,
    encode_source,
    nats_per_token,
)
from minivim.prior import Prior, prior_loss
from minivim.tokenizer import (
    Players,
    Tokenizer,
    adversarial_loss,
    random_flip,
    taps_of,
    tokenizer_loss,
)
from minivim.tokenizer.perceptual import perceptual_net
from minivim.training.checkpoint import Row
from minivim.training.loop import Batches
from minivim.training.optim import Optim
from minivim.training.step import Loss, Taps


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A stage made ready for the loop."""

    model: nnx.Module
    loss: Loss
    optim: Optim
    batches: Batches
    describe: Callable[[dict[str, np.ndarray]], Row]
    evaluate: Callable[[Any], dict[str, float]]
    card: dict[str, Any]
    taps: Taps | None = None
    lazy_every: int = 0
    # What is worth keeping of the trained model.
    export: Callable[[Any], Any] = lambda model: model


class Attached:
    """Batches with constant arrays beside each of them, such as frozen weights."""

    def __init__(self, batches: Batches, constants: dict[str, Any]):
        self._batches, self._constants = batches, constants
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __next__(self) -> dict[str, Any]:
        return {**next(self._batches), **self._constants}


def tokenizer_experiment(
    recipe: TokenizerRecipe, source: Source, held_out: Source
) -> Experiment:
    """Stage 1 on images; with an adversarial term two networks, one of them kept."""
    codes, size = recipe.model.quantizer.num_codes, recipe.run.batch_size
    pair = bool(recipe.loss.adversarial)
    model = (
        Players(recipe)
        if pair
        else Tokenizer(recipe.model, rngs=nnx.Rngs(recipe.run.seed))
    )
    graph = nnx.graphdef(model)
    images = _images(held_out, recipe.run.eval_size)
    frozen, card = _perceptual(recipe)

    def loss(model: Any, batch: dict, *, key: jax.Array) -> tuple:
        options: dict[str, Any] = {"weights": recipe.loss, "flip": recipe.flip}
        if frozen:
            options["perceptual"] = nnx.merge(frozen[0], batch["perceptual"])
        if pair:
            options["config"] = recipe.discriminator
        value, terms = (adversarial_loss if pair else tokenizer_loss)(
            model, batch, **options, key=key
        )
        counts = jnp.bincount(terms.pop("codes").ravel(), length=codes)
        return value, terms | {"counts": counts}

    def export(model: Any) -> Tokenizer:
        return model.tokenizer if pair else model

    def evaluate(variables: Any) -> dict[str, float]:
        tokenizer = export(nnx.merge(graph, variables))
        coded = encode_all(tokenizer, images, batch_size=size)
        recon = decode_all(tokenizer, coded, batch_size=size)
        found = metrics.codebook_usage(coded, num_codes=codes)
        return {
            "psnr": float(metrics.psnr(images, recon)),
            "usage": found.usage,
            "perplexity": found.perplexity,
        }

    batches: Batches = data.batches(source, batch_size=size, seed=recipe.run.seed)
    if frozen:
        batches = Attached(batches, {"perceptual": frozen[1]})
    return Experiment(
        model=model,
        loss=loss,
        optim=recipe.optims,
        batches=batches,
        describe=_tokenizer_row,
        evaluate=evaluate,
        card=card,
        taps=taps_of(recipe.loss),
        lazy_every=recipe.discriminator.r1_interval if pair else 0,
        export=export,
    )


def _tokenizer_row(summary: dict[str, np.ndarray]) -> Row:
    """Counts as usage, R1 over the steps that had it, histograms as lists."""
    found = metrics.CodebookUsage.from_counts(summary.pop("counts"))
    due = float(summary.pop("r1_due", 0.0))
    if "r1" in summary and not due:
        summary.pop("r1")
    elif due:
        summary["r1"] = summary["r1"] / due
    row: Row = {k: v.tolist() if v.ndim else float(v) for k, v in summary.items()}
    return row | {"usage": found.usage, "perplexity": found.perplexity}


def _perceptual(recipe: TokenizerRecipe) -> tuple[tuple, dict[str, Any]]:
    """Graph and state of the network that the perceptual term compares by, and a card.

    Both are empty without the term.
    """
    if not recipe.loss.perceptual:
        return (), {}
    network = weights.load(recipe.perceptual_net)
    card = {
        "perceptual_net": recipe.perceptual_net,
        "perceptual_net_hash": weights.weights_hash(network),
    }
    return nnx.split(perceptual_net(network)), card


def prior_experiment(
    recipe: PriorRecipe,
    tokenizer: Tokenizer,
    source: Source,
    held_out: Source,
    *,
    quiet: bool = False,
) -> Experiment:
    """Stage 2 on the codes of a frozen tokenizer."""
    _check_classes(recipe.model.num_classes, source)
    size, seed = recipe.run.batch_size, recipe.run.seed
    model = Prior(recipe.model, rngs=nnx.Rngs(seed))
    graph, (frozen_graph, frozen) = nnx.graphdef(model), nnx.split(tokenizer)
    test = data.stack(held_out, recipe.run.eval_size)
    test_codes = encode_all(tokenizer, test["image"], batch_size=size)

    def codes_of(batch: dict, key: jax.Array) -> jax.Array:
        images = random_flip(batch["image"], key=key) if recipe.flip else batch["image"]
        # Not `encode`, which is a program of its own and may not nest in a gradient.
        coder = nnx.merge(frozen_graph, batch["tokenizer"])
        return coder.quantizer(coder.encoder(images))[1]["codes"]

    def loss(model: Prior, batch: dict, *, key: jax.Array) -> tuple:
        flip_key, key = jax.random.split(key)
        if recipe.codes == "fly":
            batch = batch | {"codes": codes_of(batch, flip_key)}
        return prior_loss(model, batch, label_dropout=recipe.label_dropout, key=key)

    def evaluate(params: Any) -> dict[str, float]:
        labels = test["label"] if recipe.model.num_classes else None
        nll = nats_per_token(
            nnx.merge(graph, params), test_codes, labels, batch_size=size
        )
        return {"nll": nll}

    batches: Batches
    if recipe.codes == "fly":
        images = data.batches(source, batch_size=size, seed=seed)
        batches = Attached(images, {"tokenizer": frozen})
    else:
        cached = encode_source(tokenizer, source, batch_size=4 * size, quiet=quiet)
        batches = data.batches(cached, batch_size=size, seed=seed)
    card = {
        "tokenizer": recipe.tokenizer,
        "tokenizer_hash": weights.weights_hash(tokenizer),
        "class_names": list(source.class_names) if recipe.model.num_classes else [],
    }
    return Experiment(
        model=model,
        loss=loss,
        optim=recipe.optim,
        batches=batches,
        describe=_floats,
        evaluate=evaluate,
        card=card,
    )


def classifier_experiment(
    recipe: ClassifierRecipe, source: Source, held_out: Source
) -> Experiment:
    """A labelled network on images."""
    _check_classes(recipe.model.num_classes, source)
    size, seed = recipe.run.batch_size, recipe.run.seed
    model = classifier.build(recipe.model, rngs=nnx.Rngs(seed))
    graph = nnx.graphdef(model)
    test = data.stack(held_out, recipe.run.eval_size)

    def evaluate(params: Any) -> dict[str, float]:
        network = nnx.merge(graph, params)
        images = test["image"].astype(np.float32) / 255
        return {"accuracy": float(classifier.accuracy(network, images, test["label"]))}

    batches = data.batches(source, batch_size=size, seed=seed)
    card = {"class_names": list(source.class_names)}
    return Experiment(
        model=model,
        loss=classifier.classifier_loss,
        optim=recipe.optim,
        batches=batches,
        describe=_floats,
        evaluate=evaluate,
        card=card,
    )


def _images(source: Source, count: int) -> np.ndarray:
    return data.stack(source, count)["image"].astype(np.float32) / 255


def _floats(summary: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(value) for name, value in summary.items()}


def _check_classes(wanted: int, source: Source) -> None:
    if not wanted:
        return
    data.require_labels(source)
    if source.num_classes != wanted:
        raise UserError(
            f"{source.description} has {source.num_classes} classes, the recipe "
            f"{wanted}; use --set num_classes={source.num_classes}"
        )
