"""From a recipe and data to a trained model: what `minivim train` does.

`train` opens the data, `setup` says what the step and the loop need to know of a stage,
`make_step` compiles a step and `fit` repeats it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from minivim import classifier, config, data, encode, metrics, training, weights
from minivim.config import ClassifierRecipe, PriorRecipe, ProbeRecipe, TokenizerRecipe
from minivim.config.checks import require
from minivim.config.settings import registered_names
from minivim.context import Context
from minivim.data import CAVEAT, Source, Stream, announce, batches, checked
from minivim.data.augment import augment
from minivim.errors import note
from minivim.files import claim, write_json
from minivim.prior import Prior, prior_loss
from minivim.probe import ProbeResult, linear_probe
from minivim.sharding import MeshShape, check_batch, fetch, make_mesh, rows_here
from minivim.tokenizer import Players, Tokenizer, objective
from minivim.tokenizer.perceptual import perceptual_net
from minivim.training import hooks
from minivim.training.checkpoint import Row, so_far
from minivim.training.loop import floats
from minivim.training.step import Loss, Optim
from minivim.weights.warm_start import given, origin, start_from

TrainableRecipe = TokenizerRecipe | PriorRecipe | ClassifierRecipe


def train(
    recipe: TrainableRecipe,
    data: Any,
    workdir: str | Path,
    *,
    start: str | Path | None = None,
    freeze: Sequence[str] = (),
    mesh: MeshShape | None = None,
    workers: int = 0,
    stream: bool = False,
    quiet: bool = False,
    losses: Mapping[str, float] | None = None,
    ramps: Mapping[str, int] | None = None,
    average: float = 0.0,
    log: Callable[[Row], object] = lambda row: None,
    watch: Callable[[int, Any], object] | None = None,
) -> tuple[nnx.Module, list[Row]]:
    """Train a recipe on data, or go on where `workdir` stopped.

    `data` is what `open_source` takes, or for a prior a folder of codes that
    `encode_folder` wrote; a new run looks at the headers of all pictures first. `start`
    names weights to start from, with a new optimizer and schedule, and `freeze` parts
    of the model that keep theirs, such as "encoder". `mesh` lays the run out over all
    devices of all processes; when a run goes on it may be another one, and so may
    `workers`, the processes that decode images. For `stream` see `data.Stream`.

    `losses` are weights of terms that `minivim.register` knows; `ramps` the steps over
    which the weight of a term grows from zero ("adversarial" from its first step on).
    With an `average` such as 0.999 a moving average of the parameters is judged,
    written and returned (see `make_step`). All three are part of the run. The first
    process calls `log` with each row of metrics, all call `watch` with step and model
    at evaluations and checkpoints; the model's arrays are given up in the next step.

    A run goes on with more steps where the learning rates of those it has done stay. At
    the end the workdir holds what `load` reads. Returns the model, with its card, and
    the rows of metrics of this call. Raises `UserError` for data or weights that do not
    fit the recipe, a batch that the mesh cannot split and a workdir of another run.
    """
    added = hooks.added(recipe, losses or {}, ramps or {}, average)
    run, devices, first = recipe.run, make_mesh(mesh), not jax.process_index()
    check_batch(devices, batch_size=run.batch_size, accumulate=run.accumulate)
    network, source, held_out = opened(recipe, data, stream=stream)
    identity, old = _identity(recipe, network, source, held_out), None
    if start:
        codes = getattr(getattr(source, "card", None), "tokenizer_hash", "")
        old = given(start, recipe.stage, identity.get("tokenizer_hash", codes))
    identity |= (came := origin(old, freeze) | added)
    # Before images are encoded: another run's folder is refused at once.
    extends = partial(_extends, recipe, identity)
    with training.Workdir(workdir, identity, keep=run.keep, extends=extends) as folder:
        quiet = quiet or not first
        if folder.new and not stream:
            check: Any = partial(checked, headers=True, quiet=quiet)
            source, held_out = check(source), check(held_out)
        if first:
            announce(source)
            if stream:
                note(CAVEAT)
            if (end := recipe.optim.decay_end) > run.steps:
                told = f"the learning rate falls until step {end}, and the run ends at"
                note(f"{told} {run.steps}; optim.decay_end=0 ends both together")
        how: Any = {"workers": workers, "quiet": quiet}
        rows_from, test = coded(recipe, network, source, held_out, **how)
        parts = setup(recipe, frozen=network)
        facts = _provenance(recipe, network, source, workdir) | came
        if first:
            draft = {"kind": recipe.stage, "model": config.as_dict(recipe.model)}
            draft |= run_card(recipe, source, workdir) | facts
            write_json(Path(workdir) / weights.DRAFT, draft)
        if old is not None and folder.new:
            start_from(parts.export(parts.model), old)
        model, optim, export = parts.model, parts.optim, parts.export
        merged = partial(nnx.merge, nnx.graphdef(model))
        how = {"steps": run.steps, "mesh": devices, "average": average}
        state = training.new_state(model, optim, **how)
        loss = partial(hooks.with_terms, parts.loss, added) if added else parts.loss
        key = jax.random.key(run.seed)
        how |= parts.options | {"accumulate": run.accumulate, "freeze": freeze}
        step = training.make_step(model, loss, optim, key=key, **how)
        rows = batches(
            rows_from, batch_size=run.batch_size, seed=run.seed, workers=workers,
            rows=rows_here(devices, run.batch_size).tolist(),
        )  # fmt: skip
        with closing(rows):
            state, told = training.fit(
                state, step, rows, run, workdir=folder, describe=parts.describe,
                evaluate=lambda now: parts.evaluate(merged(now), test),
                log=log if first else lambda row: None,
                watch=lambda n, s: watch and watch(n, export(merged(s.variables))),
                title=f"{recipe.stage} {recipe.name}", quiet=quiet,
            )  # fmt: skip
        model = export(merged(jax.tree.map(jnp.asarray, fetch(state.variables))))
        if first:  # Before another command is let in.
            weights.save(workdir, model, card=run_card(recipe, source, workdir) | facts)
            # As `weights.load` would give it, for those who ask what it was trained on.
            model.card = weights.read_card(workdir)
    return model, told


def _identity(
    recipe: TrainableRecipe, network: Any, source: Any, held_out: Any
) -> dict[str, Any]:
    """All that makes a run this run, but the title and what changes no number."""
    free = ("name", "run.keep")
    identity = {k: v for k, v in config.leaves(recipe).items() if k not in free}
    kinds = dict(enumerate(registered_names(recipe)))
    identity |= {"stage": recipe.stage, "data": source.fingerprint}
    identity |= {"registered": kinds} if kinds else {}
    if isinstance(network, Tokenizer):
        identity["tokenizer_hash"] = weights.weights_hash(network)
    if left_out := {*source.unreadable, *held_out.unreadable}:
        identity["unreadable"] = sorted(left_out)
    return identity


def _extends(recipe: Any, new: dict[str, Any], old: dict[str, Any], done: int) -> bool:
    """Whether the steps that a shorter run has done had the learning rates of this."""
    if old | {name: new[name] for name in ("run.steps", "optim.decay_end")} != new:
        return False
    before = replace(recipe.optim, decay_end=old["optim.decay_end"])
    runs = (before, old["run.steps"]), (recipe.optim, recipe.run.steps)
    at = jnp.arange(done)
    was, now = (training.learning_rate(one, steps=n)(at) for one, n in runs)
    return old["run.steps"] < recipe.run.steps and bool(jnp.array_equal(was, now))


@dataclass(frozen=True)
class Setup:
    """What `make_step` and `fit` need to know of a stage."""

    model: nnx.Module
    loss: Loss
    optim: Optim
    # Figures on held-out arrays, a row of mean metrics, what is kept of the model.
    evaluate: Callable[[Any, data.Batch], dict[str, float]]
    describe: Callable[[dict[str, np.ndarray]], Row] = floats
    export: Callable[[Any], Any] = lambda model: model
    # See `Context`.
    frozen: nnx.Module | None = None
    zeros: Callable[[data.Batch], dict[str, jax.Array]] | None = None
    lazy_every: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of `make_step`."""
        return {name: getattr(self, name) for name in ("frozen", "zeros", "lazy_every")}


def setup(recipe: TrainableRecipe, model: Any = None, frozen: Any = None) -> Setup:
    """A recipe made ready for the step and the loop, by default with a new model.

    `frozen` is a prior's tokenizer or a perceptual network. Both may be abstract.
    """
    model = build(recipe) if model is None else model
    if isinstance(recipe, TokenizerRecipe):
        return _tokenizer_setup(recipe, model, frozen)
    if isinstance(recipe, PriorRecipe):
        return _prior_setup(recipe, model, frozen)

    def evaluate(model: Any, test: data.Batch) -> dict[str, float]:
        return {"accuracy": classifier.accuracy(model, test["image"], test["label"])}

    return Setup(model, classifier.classifier_loss, recipe.optim, evaluate)


def build(recipe: TrainableRecipe) -> nnx.Module:
    """The model that a recipe trains, from its seed; two with an adversarial term."""
    rngs = nnx.Rngs(recipe.run.seed)
    if isinstance(recipe, ClassifierRecipe):
        return classifier.build(recipe.model, rngs=rngs)
    if isinstance(recipe, PriorRecipe):
        return Prior(recipe.model, rngs=rngs)
    adversarial = recipe.loss.adversarial
    return Players(recipe) if adversarial else Tokenizer(recipe.model, rngs=rngs)


def _tokenizer_setup(recipe: TokenizerRecipe, model: Any, network: Any) -> Setup:
    pair, critic = bool(recipe.loss.adversarial), recipe.discriminator
    how: Any = {"weights": recipe.loss, "flip": recipe.flip, "crop": recipe.crop}
    how |= {"precision": recipe.loss_precision}
    loss = partial(objective.tokenizer_loss, **how)
    if pair:
        loss = partial(objective.adversarial_loss, config=critic, **how)

    def export(model: Any) -> Tokenizer:
        return model.tokenizer if pair else model

    def evaluate(model: Any, test: data.Batch) -> dict[str, float]:
        size = recipe.run.batch_size
        return encode.round_trip(export(model), test["image"], batch_size=size)

    def describe(summary: dict[str, np.ndarray]) -> Row:
        """Counts as usage, R1 over the steps that had it, histograms as lists."""
        used = metrics.CodebookUsage.from_counts(summary.pop("counts"))
        if "r1_due" in summary:
            due, r1 = float(summary.pop("r1_due")), summary.pop("r1")
            summary |= {"r1": r1 / due} if due else {}
        row: Row = {k: v.tolist() if v.ndim else float(v) for k, v in summary.items()}
        return row | {"usage": used.usage, "perplexity": used.perplexity}

    return Setup(
        model=model,
        loss=loss,
        optim=recipe.optims,
        evaluate=evaluate,
        describe=describe,
        export=export,
        frozen=None if network is None else perceptual_net(network),
        zeros=objective.zeros_of(recipe.loss),
        # Without R1 both programs would be one.
        lazy_every=critic.r1_interval if pair and critic.r1_gamma else 0,
    )


def _prior_setup(recipe: PriorRecipe, model: Any, tokenizer: Any) -> Setup:
    """Stage 2; on the fly the frozen encoder is part of the step, else not needed."""
    fly, rate = recipe.codes == "fly", recipe.label_dropout

    def loss(model: Any, batch: dict, context: Context, *, key: jax.Array) -> tuple:
        image_key, key = jax.random.split(key)
        if fly:
            views = {"flip": recipe.flip, "crop": recipe.crop}
            images = augment(batch["image"], key=image_key, **views)
            # Not `encode`, a program of its own, which may not nest in a gradient.
            _, aux = context.frozen.quantizer(context.frozen.encoder(images))
            batch = batch | {"codes": aux["codes"]}
        return prior_loss(model, batch, context, label_dropout=rate, key=key)

    def evaluate(model: Prior, test: data.Batch) -> dict[str, float]:
        labels = test["label"] if recipe.model.num_classes else None
        codes, size = test["codes"], recipe.run.batch_size
        return {"nll": encode.nats_per_token(model, codes, labels, batch_size=size)}

    return Setup(model, loss, recipe.optim, evaluate, frozen=tokenizer if fly else None)


def frozen_network(recipe: TrainableRecipe) -> Any:
    """A prior's tokenizer or the network of a perceptual loss; None without either."""
    if isinstance(recipe, TokenizerRecipe) and recipe.loss.perceptual:
        return weights.load(recipe.perceptual_net)
    if not isinstance(recipe, PriorRecipe):
        return None
    name = recipe.tokenizer
    require(bool(name), "a prior needs a tokenizer; use --set tokenizer=FOLDER")
    tokenizer = weights.load(name)
    require(isinstance(tokenizer, Tokenizer), f"{name} is no tokenizer; name one")
    size, grid = tokenizer.config.quantizer.num_codes, tokenizer.config.grid
    _check_sizes(recipe, f"the tokenizer {name}", size, grid)
    return tokenizer


def _check_sizes(recipe: PriorRecipe, what: str, num_codes: int, grid: int) -> None:
    for name, value in (("num_codes", num_codes), ("grid", grid)):
        wanted = getattr(recipe.model, name)
        told = f"{what} has {name}={value}, the recipe {wanted}"
        require(wanted == value, f"{told}; use --set model.{name}={value}")


def opened(
    recipe: TrainableRecipe, spec: Any, *, stream: bool = False
) -> tuple[Any, Source | Stream, Source | Stream]:
    """The frozen network, if the recipe needs one, and the data of both splits."""
    prior = isinstance(recipe, PriorRecipe)
    if prior and data.is_codes(spec):
        network, opener, shape = None, data.open_codes, {}
    else:
        network = frozen_network(recipe)
        told = "codes=cache encodes all images beforehand, and a stream has no end"
        cached = stream and prior and recipe.codes == "cache"
        require(not cached, f"{told}; use --set codes=fly, or leave out --stream")
        opener = data.open_stream if stream else data.open_source
        sized: Any = recipe if isinstance(recipe, ClassifierRecipe) else recipe.model
        shape = (network.config if prior else sized).image_shape
    source, held_out = (opener(spec, split=s, **shape) for s in ("train", "test"))
    if isinstance(source, data.CodeSource):
        _check_codes(recipe, spec, source.card, stream=stream)
    wanted = 0 if isinstance(recipe, TokenizerRecipe) else recipe.model.num_classes
    if wanted:
        data.require_labels(source)
        data.require_labels(held_out)
        count = source.num_classes
        told = f"{source.description} has {count} classes, the recipe {wanted}"
        require(count == wanted, f"{told}; use --set num_classes={count}")
    return network, source, held_out


def _check_codes(recipe: Any, folder: Any, card: Any, *, stream: bool) -> None:
    """Raise `UserError` unless a folder of codes is what the recipe is for."""
    told = f"{folder} holds codes, read by index, and no images; use --set codes=cache"
    told = f"{told} views=1 flip=false crop=1, without --stream"
    require(not stream and recipe.codes == "cache", told)
    if recipe.tokenizer:
        name, known = card.tokenizer, card.tokenizer_hash
        named = weights.weights_hash(frozen_network(recipe))
        told = f"{folder} holds codes of {name} ({known[:12]}), the recipe names "
        told += f"{recipe.tokenizer} ({named[:12]})"
        require(named == known, f"{told}; use --set tokenizer={name} or encode again")
    _check_sizes(recipe, str(folder), card.num_codes, card.grid)
    has, asked = (
        " ".join(f"{name}={getattr(one, name)}" for name in ("views", "flip", "crop"))
        for one in (card, recipe)
    )
    told = f"{folder} has {has}, the recipe {asked}; encode again, or use --set views=1"
    told += " flip=false crop=1 to take its views as they are"
    require(recipe.views == 1 or asked == has, told)


def coded(
    recipe: TrainableRecipe, network: Any, source: Any, held_out: Any, **reading: Any
) -> tuple[Any, data.Batch]:
    """What to train on and held-out arrays: a prior's as codes, the first if cached."""
    run, test = recipe.run, data.stack(held_out, recipe.run.eval_size)
    if isinstance(recipe, PriorRecipe) and "codes" not in test:
        size, images = run.batch_size, test["image"]
        test["codes"] = encode.encode_all(network, images, batch_size=size)
        if recipe.codes == "cache":
            views = encode.Views(recipe.views, recipe.flip, recipe.crop, run.seed)
            reading |= {"views": views, "batch_size": 4 * size}
            source = encode.encode_source(network, source, **reading)
    return source, test


def run_card(recipe: TrainableRecipe, source: Any, workdir: Any) -> dict[str, Any]:
    """What a card says of a run and its metrics until now."""
    card = {"recipe": config.as_dict(recipe), "seed": recipe.run.seed}
    card |= {"steps": recipe.run.steps, "data": source.description}
    card |= {"data_read": source.summary} if source.summary else {}
    card |= so_far(workdir) | {"machine": machine(), "licence": "Apache-2.0"}
    return card | {"versions": {"jax": jax.__version__}}


def machine() -> str:
    """The kind of machine, without its name."""
    device = jax.devices()[0]
    kind = platform.machine() if device.platform == "cpu" else device.device_kind
    return f"{os.cpu_count()} cores, {jax.device_count()} x {device.platform} ({kind})"


def _provenance(recipe: Any, network: Any, source: Any, workdir: Any) -> dict[str, Any]:
    """What a card says of networks and labels that took part in the training."""
    names = list(source.class_names)
    if isinstance(recipe, ClassifierRecipe):
        return {"class_names": names, "labels_seen": "its own training"}
    known = "" if network is None else weights.weights_hash(network)
    if isinstance(recipe, TokenizerRecipe):
        net, why = recipe.perceptual_net, "a perceptual loss"
        card = {"perceptual_net": net, "perceptual_net_hash": known, "labels_seen": why}
        return card if known else {}
    codes: Any = None if known else source.card
    name, known = recipe.tokenizer or codes.tokenizer, known or codes.tokenizer_hash
    card = {"tokenizer": weights.relative(name, workdir), "tokenizer_hash": known}
    if codes:
        card["codes"] = {n: getattr(codes, n) for n in ("views", "flip", "crop")}
    return card | {"class_names": names if recipe.model.num_classes else []}


def train_probe(recipe: ProbeRecipe, spec: Any, workdir: str | Path) -> ProbeResult:
    """Probe a trained prior; writes `probe.safetensors` and `probe.json`."""
    tokenizer, prior = weights.load_pair(recipe.prior, recipe.tokenizer or None)
    shape = tokenizer.config.image_shape
    source, test = (data.open_source(spec, split=s, **shape) for s in ("train", "test"))
    data.require_labels(source)
    announce(source)
    folder, names = Path(workdir), ("features", "held_out", "test")
    with claim(folder):
        result = probe(recipe, prior, tokenizer, train=source, test=test)
        layer = {name: np.asarray(value) for name, value in vars(result.probe).items()}
        save_file(layer, str(folder / "probe.safetensors"))
        rows = [dict(zip(names, row, strict=True)) for row in result.rows()]
        card = {"recipe": config.as_dict(recipe), "data": source.description}
        write_json(folder / "probe.json", card | {"rows": rows})
    return result


def probe(
    recipe: ProbeRecipe, prior: Prior, tokenizer: Tokenizer, train: Source, test: Source
) -> ProbeResult:
    """Stage 3 on the first images of two sources (section 4.2)."""
    rows = data.stack(train, recipe.train_size), data.stack(test, recipe.test_size)
    how: Any = {"held_out": recipe.held_out, "seed": recipe.seed}
    return linear_probe(prior, tokenizer, *rows, num_classes=train.num_classes, **how)
