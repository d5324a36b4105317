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
    Views,
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

AnySource = Source | data.Stream


@dataclass(frozen=True, kw_only=True)
class Experiment(Objective):
    """A stage made ready for the loop."""

    batches: Attached
    describe: Callable[[dict[str, np.ndarray]], Row]
    evaluate: Callable[[Any], dict[str, float]]
    card: dict[str, Any]


class Attached:
    """Batches with constant arrays beside each of them, such as frozen weights."""

    def __init__(
        self,
        batches: data.BatchIterator | data.StreamIterator,
        constants: dict[str, Any],
    ):
        self._batches, self._constants = batches, constants
        self.get_state, self.set_state = batches.get_state, batches.set_state
        self.close = batches.close

    def __next__(self) -> dict[str, Any]:
        return {**next(self._batches), **self._constants}


def tokenizer_experiment(
    recipe: TokenizerRecipe,
    source: AnySource,
    held_out: AnySource,
    *,
    rows: Sequence[int] | None = None,
    workers: int = 0,
) -> Experiment:
    """Stage 1 on images; with an adversarial term two networks, one of them kept.

    `rows` are those of every batch that this process reads, by default all; `workers`
    other processes decode them.
    """
    size = recipe.run.batch_size
    model = tokenizer_model(recipe)
    graph = nnx.graphdef(model)
    images = _images(held_out, recipe.run.eval_size)
    network, card = _perceptual(recipe)
    objective = tokenizer_objective(recipe, model, network)

    def evaluate(variables: Any) -> dict[str, float]:
        tokenizer = objective.export(nnx.merge(graph, variables))
        return round_trip(tokenizer, images, batch_size=size)

    images_of = data.batches(
        source, batch_size=size, seed=recipe.run.seed, rows=rows, workers=workers
    )
    return Experiment(
        **objective.parts(),
        batches=Attached(images_of, objective.constants),
        describe=_tokenizer_row,
        evaluate=evaluate,
        card=card,
    )


def round_trip(
    tokenizer: Tokenizer, images: np.ndarray, *, batch_size: int = 256
) -> dict[str, float]:
    """PSNR of images there and back, and what of the codebook they use."""
    coded = encode_all(tokenizer, images, batch_size=batch_size)
    recon = decode_all(tokenizer, coded, batch_size=batch_size)
    size = tokenizer.config.quantizer.num_codes
    found = metrics.codebook_usage(coded, num_codes=size)
    return {
        "psnr": float(metrics.psnr(images, recon)),
        "usage": found.usage,
        "perplexity": found.perplexity,
    }


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
    tokenizer: Tokenizer | None,
    source: AnySource,
    held_out: AnySource,
    *,
    quiet: bool = False,
    rows: Sequence[int] | None = None,
    workers: int = 0,
) -> Experiment:
    """Stage 2 on the codes of a frozen tokenizer, None where the sources hold codes."""
    _check_classes(recipe.model.num_classes, source)
    size, seed = recipe.run.batch_size, recipe.run.seed
    model = Prior(recipe.model, rngs=nnx.Rngs(seed))
    graph = nnx.graphdef(model)
    test = data.stack(held_out, recipe.run.eval_size)
    if isinstance(source, data.CodeSource):
        test_codes, card = test["codes"], _codes_card(recipe, source)
    else:
        assert tokenizer is not None
        test_codes = encode_all(tokenizer, test["image"], batch_size=size)
        card = {
            "tokenizer": recipe.tokenizer,
            "tokenizer_hash": weights.weights_hash(tokenizer),
        }
        if recipe.codes == "cache":
            assert isinstance(source, Source)
            views = Views(
                count=recipe.views, flip=recipe.flip, crop=recipe.crop, seed=seed
            )
            source = encode_source(
                tokenizer, source, views=views, batch_size=4 * size, workers=workers,
                quiet=quiet,
            )  # fmt: skip
    objective = prior_objective(recipe, model, tokenizer)

    def evaluate(params: Any) -> dict[str, float]:
        labels = test["label"] if recipe.model.num_classes else None
        nll = nats_per_token(
            nnx.merge(graph, params), test_codes, labels, batch_size=size
        )
        return {"nll": nll}

    batches = data.batches(
        source, batch_size=size, seed=seed, rows=rows, workers=workers
    )
    names = list(source.class_names) if recipe.model.num_classes else []
    return Experiment(
        **objective.parts(),
        batches=Attached(batches, objective.constants),
        describe=_floats,
        evaluate=evaluate,
        card=card | {"class_names": names},
    )


def classifier_experiment(
    recipe: ClassifierRecipe,
    source: AnySource,
    held_out: AnySource,
    *,
    rows: Sequence[int] | None = None,
    workers: int = 0,
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

    batches = data.batches(
        source, batch_size=size, seed=seed, rows=rows, workers=workers
    )
    return Experiment(
        **classifier_objective(recipe, model).parts(),
        batches=Attached(batches, {}),
        describe=_floats,
        evaluate=evaluate,
        card={"class_names": list(source.class_names)},
    )


def _codes_card(recipe: PriorRecipe, source: data.CodeSource) -> dict[str, Any]:
    """What a prior's card says of codes that were read from a folder."""
    card = source.card
    return {
        "tokenizer": recipe.tokenizer or card.tokenizer,
        "tokenizer_hash": card.tokenizer_hash,
        "codes": {name: getattr(card, name) for name in ("views", "flip", "crop")},
    }


def _images(source: AnySource, count: int) -> np.ndarray:
    return data.stack(source, count)["image"].astype(np.float32) / 255


def _floats(summary: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(value) for name, value in summary.items()}


def _check_classes(wanted: int, source: AnySource) -> None:
    if not wanted:
        return
    data.require_labels(source)
    if source.num_classes != wanted:
        raise UserError(
            f"{source.description} has {source.num_classes} classes, the recipe "
            f"{wanted}; use --set num_classes={source.num_classes}"
        )
