"""The stages made ready for the loop: objective, batches, figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
from minivim.experiments.objectives import (
    Objective,
    classifier_objective,
    prior_objective,
    tokenizer_model,
    tokenizer_objective,
)
from minivim.prior import Prior
from minivim.tokenizer import Tokenizer
from minivim.training.checkpoint import Row
from minivim.training.loop import Batches


@dataclass(frozen=True, kw_only=True)
class Experiment(Objective):
    """A stage made ready for the loop."""

    batches: Batches
    describe: Callable[[dict[str, np.ndarray]], Row]
    evaluate: Callable[[Any], dict[str, float]]
    card: dict[str, Any]


class Attached:
    """Batches with constant arrays beside each of them, such as frozen weights."""

    def __init__(self, batches: Batches, constants: dict[str, Any]):
        self._batches, self._constants = batches, constants
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __next__(self) -> dict[str, Any]:
        return {**next(self._batches), **self._constants}


def tokenizer_experiment(
    recipe: TokenizerRecipe,
    source: Source,
    held_out: Source,
    *,
    rows: Sequence[int] | None = None,
) -> Experiment:
    """Stage 1 on images; with an adversarial term two networks, one of them kept.

    `rows` are those of every batch that this process reads, by default all.
    """
    codes, size = recipe.model.quantizer.num_codes, recipe.run.batch_size
    model = tokenizer_model(recipe)
    graph = nnx.graphdef(model)
    images = _images(held_out, recipe.run.eval_size)
    network, card = _perceptual(recipe)
    objective = tokenizer_objective(recipe, model, network)

    def evaluate(variables: Any) -> dict[str, float]:
        tokenizer = objective.export(nnx.merge(graph, variables))
        coded = encode_all(tokenizer, images, batch_size=size)
        recon = decode_all(tokenizer, coded, batch_size=size)
        found = metrics.codebook_usage(coded, num_codes=codes)
        return {
            "psnr": float(metrics.psnr(images, recon)),
            "usage": found.usage,
            "perplexity": found.perplexity,
        }

    images_of = data.batches(source, batch_size=size, seed=recipe.run.seed, rows=rows)
    return Experiment(
        **objective.parts(),
        batches=Attached(images_of, objective.constants),
        describe=_tokenizer_row,
        evaluate=evaluate,
        card=card,
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


def _perceptual(recipe: TokenizerRecipe) -> tuple[Any, dict[str, Any]]:
    """The network that the perceptual term compares by, and a card; or neither."""
    if not recipe.loss.perceptual:
        return None, {}
    network = weights.load(recipe.perceptual_net)
    card = {
        "perceptual_net": recipe.perceptual_net,
        "perceptual_net_hash": weights.weights_hash(network),
    }
    return network, card


def prior_experiment(
    recipe: PriorRecipe,
    tokenizer: Tokenizer,
    source: Source,
    held_out: Source,
    *,
    quiet: bool = False,
    rows: Sequence[int] | None = None,
) -> Experiment:
    """Stage 2 on the codes of a frozen tokenizer."""
    _check_classes(recipe.model.num_classes, source)
    size, seed = recipe.run.batch_size, recipe.run.seed
    model = Prior(recipe.model, rngs=nnx.Rngs(seed))
    graph = nnx.graphdef(model)
    test = data.stack(held_out, recipe.run.eval_size)
    test_codes = encode_all(tokenizer, test["image"], batch_size=size)
    objective = prior_objective(recipe, model, tokenizer)

    def evaluate(params: Any) -> dict[str, float]:
        labels = test["label"] if recipe.model.num_classes else None
        nll = nats_per_token(
            nnx.merge(graph, params), test_codes, labels, batch_size=size
        )
        return {"nll": nll}

    if recipe.codes == "cache":
        source = encode_source(tokenizer, source, batch_size=4 * size, quiet=quiet)
    batches = data.batches(source, batch_size=size, seed=seed, rows=rows)
    card = {
        "tokenizer": recipe.tokenizer,
        "tokenizer_hash": weights.weights_hash(tokenizer),
        "class_names": list(source.class_names) if recipe.model.num_classes else [],
    }
    return Experiment(
        **objective.parts(),
        batches=Attached(batches, objective.constants),
        describe=_floats,
        evaluate=evaluate,
        card=card,
    )


def classifier_experiment(
    recipe: ClassifierRecipe,
    source: Source,
    held_out: Source,
    *,
    rows: Sequence[int] | None = None,
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

    return Experiment(
        **classifier_objective(recipe, model).parts(),
        batches=data.batches(source, batch_size=size, seed=seed, rows=rows),
        describe=_floats,
        evaluate=evaluate,
        card={"class_names": list(source.class_names)},
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
