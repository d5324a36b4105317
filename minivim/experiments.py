"""From a recipe and data to a trained model: what `minivim train` does."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file
from tqdm.auto import tqdm

from minivim import classifier, data, metrics, weights
from minivim.config import (
    ClassifierRecipe,
    PriorRecipe,
    ProbeRecipe,
    TokenizerRecipe,
    as_dict,
    leaves,
)
from minivim.data import Source
from minivim.errors import UserError
from minivim.prior import Prior, prior_loss
from minivim.probe import ProbeResult, linear_probe
from minivim.tokenizer import (
    Players,
    Tokenizer,
    adversarial_loss,
    random_flip,
    taps_of,
    tokenizer_loss,
)
from minivim.training import (
    Workdir,
    fit,
    make_step,
    new_state,
    read_metrics,
    train_seconds,
)
from minivim.training.checkpoint import Row, check_writable
from minivim.training.loop import Batches
from minivim.training.optim import Optim
from minivim.training.step import Loss, Taps

TrainableRecipe = TokenizerRecipe | PriorRecipe | ClassifierRecipe


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


def train(
    recipe: TrainableRecipe, *, spec: str, workdir: str | Path, quiet: bool = False
) -> tuple[nnx.Module, list[Row]]:
    """Train a recipe on the data `spec` names, or go on where `workdir` stopped.

    At the end the workdir holds `model.safetensors` and `card.json`, which `load`
    reads. Returns the model and the rows of metrics of this call. Raises `UserError`
    for data that does not fit the recipe and a workdir of another run.
    """
    tokenizer = _tokenizer_for(recipe) if isinstance(recipe, PriorRecipe) else None
    if isinstance(recipe, ClassifierRecipe):
        shape = recipe.image_shape
    elif isinstance(recipe, TokenizerRecipe):
        shape = recipe.model.image_shape
    else:
        assert tokenizer is not None
        shape = tokenizer.config.image_shape
    source = data.open_source(spec, split="train", **shape)
    held_out = data.open_source(spec, split="test", **shape)
    identity = {k: v for k, v in leaves(recipe).items() if not k.startswith("name")}
    identity |= {"stage": recipe.stage, "data": source.fingerprint}
    if tokenizer is not None:
        identity["tokenizer_hash"] = weights.weights_hash(tokenizer)
    folder = Workdir(workdir, identity)
    if isinstance(recipe, TokenizerRecipe):
        parts = tokenizer_experiment(recipe, source, held_out)
    elif isinstance(recipe, PriorRecipe):
        assert tokenizer is not None
        parts = prior_experiment(recipe, tokenizer, source, held_out, quiet=quiet)
    else:
        parts = classifier_experiment(recipe, source, held_out)
    model, rows = run(recipe, parts, workdir=folder, quiet=quiet)
    card = {
        **run_card(recipe, source.description, rows),
        "train_seconds": round(train_seconds(read_metrics(workdir)), 1),
        **parts.card,
    }
    weights.save(workdir, model, kind=recipe.stage, card=card)
    folder.close()
    return model, rows


def train_probe(recipe: ProbeRecipe, *, spec: str, workdir: str | Path) -> ProbeResult:
    """Probe a trained prior; writes `probe.safetensors` and `probe.json`."""
    tokenizer, prior = weights.load_pair(recipe.prior, recipe.tokenizer or None)
    shape = tokenizer.config.image_shape
    train_source = data.open_source(spec, split="train", **shape)
    test_source = data.open_source(spec, split="test", **shape)
    data.require_labels(train_source)
    folder = Path(workdir)
    check_writable(folder)
    result = probe(recipe, prior, tokenizer, train=train_source, test=test_source)
    save_file(result.as_dict(), str(folder / "probe.safetensors"))
    rows = [
        dict(zip(("features", "held_out", "test"), row, strict=True))
        for row in result.rows()
    ]
    card = {"recipe": as_dict(recipe), "data": train_source.description, "rows": rows}
    (folder / "probe.json").write_text(json.dumps(card, indent=1) + "\n")
    return result


# Paper, section 5.3: no perceptual loss behind codes that are probed
def probe(
    recipe: ProbeRecipe,
    prior: Prior,
    tokenizer: Tokenizer,
    *,
    train: Source,
    test: Source,
) -> ProbeResult:
    """Stage 3 on the first images of two sources (section 4.2).

    Raises `UserError` for a tokenizer that labels have touched: its codes would know
    what the probe is asked (section 5.3 drops the perceptual loss for that reason).
    """
    card = weights.card_of(tokenizer)
    if card.get("recipe", {}).get("loss", {}).get("perceptual"):
        raise UserError(
            f"the tokenizer {card.path} was trained with a perceptual loss, whose "
            "network has seen labels; probe one that was trained with "
            "loss.perceptual=0"
        )
    return linear_probe(
        prior,
        tokenizer,
        data.stack(train, recipe.train_size),
        data.stack(test, recipe.test_size),
        num_classes=train.num_classes,
        held_out=recipe.held_out,
        seed=recipe.seed,
    )


def run(
    recipe: TrainableRecipe,
    parts: Experiment,
    *,
    workdir: Workdir | None = None,
    quiet: bool = False,
) -> tuple[nnx.Module, list[Row]]:
    """The loop on an experiment; the model comes back with its last parameters."""
    steps = recipe.run.steps
    key = jax.random.key(recipe.run.seed)
    state = new_state(parts.model, parts.optim, steps=steps)
    step = make_step(
        parts.model,
        parts.loss,
        parts.optim,
        steps=steps,
        key=key,
        taps=parts.taps,
        lazy_every=parts.lazy_every,
        accumulate=recipe.run.accumulate,
    )
    state, rows = fit(
        state,
        step,
        parts.batches,
        recipe.run,
        workdir=workdir,
        describe=parts.describe,
        evaluate=parts.evaluate,
        title=f"{recipe.stage} {recipe.name}",
        quiet=quiet,
    )
    model = nnx.merge(nnx.graphdef(parts.model), state.variables)
    return parts.export(model), rows


def run_card(
    recipe: TrainableRecipe, description: str, rows: list[Row]
) -> dict[str, Any]:
    """What a card says of a run."""
    last = rows[-1] if rows else {}
    figures = {k: v for k, v in last.items() if k != "step" and not isinstance(v, list)}
    return {
        "recipe": as_dict(recipe),
        "seed": recipe.run.seed,
        "steps": recipe.run.steps,
        "data": description,
        "figures": figures,
        "machine": machine(),
        "licence": "Apache-2.0",
        "versions": {"jax": jax.__version__},
    }


def machine() -> str:
    """The kind of machine, without its name."""
    device = jax.devices()[0]
    kind = platform.machine() if device.platform == "cpu" else device.device_kind
    return f"{os.cpu_count()} cores, {jax.device_count()} x {device.platform} ({kind})"


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
    from minivim.tokenizer.perceptual import perceptual_net

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


def encode_all(
    tokenizer: Tokenizer, images: np.ndarray, *, batch_size: int = 256
) -> np.ndarray:
    """Codes `int32 [n, N]` of uint8 or float images, in batches."""
    parts = []
    for first in range(0, len(images), batch_size):
        part = images[first : first + batch_size]
        scaled = part.astype(np.float32) / 255 if part.dtype == np.uint8 else part
        parts.append(
            np.asarray(tokenizer.encode(_padded(scaled, batch_size)))[: len(part)]
        )
    return np.concatenate(parts)


def decode_all(
    tokenizer: Tokenizer, codes: np.ndarray, *, batch_size: int = 256
) -> np.ndarray:
    """Images `float32 [n, H, W, C]` of codes, in batches."""
    parts = []
    for first in range(0, len(codes), batch_size):
        part = np.asarray(codes[first : first + batch_size])
        parts.append(
            np.asarray(tokenizer.decode(_padded(part, batch_size)))[: len(part)]
        )
    return np.concatenate(parts)


def encode_source(
    tokenizer: Tokenizer, source: Source, *, batch_size: int = 256, quiet: bool = False
) -> data.ArraySource:
    """A whole source as codes and labels in memory."""
    codes, labels = [], []
    firsts = range(0, len(source), batch_size)
    for first in tqdm(firsts, desc="encode", unit="batch", disable=quiet):
        rows = source.take(np.arange(first, min(first + batch_size, len(source))))
        codes.append(encode_all(tokenizer, rows["image"], batch_size=batch_size))
        labels.append(rows["label"])
    return data.ArraySource(
        {"codes": np.concatenate(codes), "label": np.concatenate(labels)},
        class_names=source.class_names,
        description=f"codes of {source.description}",
    )


@nnx.jit
def _nll(prior: Prior, codes: jax.Array, labels: jax.Array | None) -> jax.Array:
    logits, _ = prior(codes, labels)
    chosen = jnp.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def nats_per_token(
    prior: Prior,
    codes: np.ndarray,
    labels: np.ndarray | None,
    *,
    batch_size: int = 64,
) -> float:
    """Mean of `-log p(c_i | class, c_<i)` over all codes, without dropout."""
    parts = []
    for first in range(0, len(codes), batch_size):
        part = slice(first, first + batch_size)
        rows = jnp.asarray(_padded(codes[part], batch_size))
        named = None
        if labels is not None:
            named = jnp.asarray(_padded(labels[part], batch_size))
        parts.append(np.asarray(_nll(prior, rows, named))[: len(codes[part])])
    return float(np.mean(np.concatenate(parts)))


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    """Repeat the last row up to `count`, so that one program serves every batch."""
    missing = count - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, 0)]) if missing else rows


def _images(source: Source, count: int) -> np.ndarray:
    return data.stack(source, count)["image"].astype(np.float32) / 255


def _floats(summary: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(value) for name, value in summary.items()}


def _tokenizer_for(recipe: PriorRecipe) -> Tokenizer:
    if not recipe.tokenizer:
        raise UserError("a prior needs a tokenizer; use --set tokenizer=FOLDER")
    tokenizer = weights.load(recipe.tokenizer)
    if not isinstance(tokenizer, Tokenizer):
        raise UserError(f"{recipe.tokenizer} is no tokenizer; name one")
    has = {
        "num_codes": tokenizer.config.quantizer.num_codes,
        "grid": tokenizer.config.grid,
    }
    for name, value in has.items():
        if getattr(recipe.model, name) != value:
            raise UserError(
                f"the tokenizer {recipe.tokenizer} has {name}={value}, the recipe "
                f"{getattr(recipe.model, name)}; use --set model.{name}={value}"
            )
    return tokenizer


def _check_classes(wanted: int, source: Source) -> None:
    if not wanted:
        return
    data.require_labels(source)
    if source.num_classes != wanted:
        raise UserError(
            f"{source.description} has {source.num_classes} classes, the recipe "
            f"{wanted}; use --set num_classes={source.num_classes}"
        )


def replaced(recipe: TrainableRecipe, **run: Any) -> TrainableRecipe:
    """The recipe with other run settings, for shorter or seeded copies."""
    return dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, **run))
