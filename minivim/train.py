"""From a recipe and data to a trained model: what `minivim train` does."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from safetensors.numpy import save_file

from minivim import classifier, data, metrics, recipes, weights
from minivim.config import (
    ClassifierRecipe,
    PriorRecipe,
    ProbeRecipe,
    TokenizerRecipe,
    as_dict,
    leaves,
)
from minivim.data import Source
from minivim.data.augment import augment
from minivim.encode import Views, decode_all, encode_all, encode_source, nats_per_token
from minivim.errors import UserError
from minivim.files import write_json
from minivim.prior import Prior, prior_loss
from minivim.probe import ProbeResult, linear_probe
from minivim.sharding import (
    MeshShape,
    Placed,
    check_batch,
    make_mesh,
    on_one_device,
    rows_here,
)
from minivim.tokenizer import (
    Players,
    Tokenizer,
    adversarial_loss,
    taps_of,
    tokenizer_loss,
)
from minivim.tokenizer.perceptual import LPIPS, PerceptualConfig, perceptual_net
from minivim.training import (
    Workdir,
    fit,
    make_step,
    new_state,
    read_metrics,
    train_seconds,
)
from minivim.training.checkpoint import Row, check_writable
from minivim.training.optim import Optim
from minivim.training.step import Loss, Taps

TrainableRecipe = TokenizerRecipe | PriorRecipe | ClassifierRecipe
AnySource = Source | data.Stream


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
        return weights.abstract("tokenizer", config)


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
        "labels_seen": "a perceptual loss",
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
        card={
            "class_names": list(source.class_names),
            "labels_seen": "its own training",
        },
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


def train(
    recipe: TrainableRecipe,
    *,
    spec: str,
    workdir: str | Path,
    mesh: MeshShape | None = None,
    workers: int = 0,
    stream: bool = False,
    quiet: bool = False,
) -> tuple[nnx.Module, list[Row]]:
    """Train a recipe on the data `spec` names, or go on where `workdir` stopped.

    At the end the workdir holds `model.safetensors` and `card.json`, which `load`
    reads. `mesh` lays the run out over all devices, of all processes where there are
    several; it may be another one when a run goes on, and so may `workers`, the number
    of processes that decode images. A prior's data may be a folder of codes that
    `encode_folder` wrote. With `stream` images are read in a row, not by index: see
    `minivim.data.Stream` for what that cannot promise. Returns the model and the rows
    of metrics of this call, none where the run was finished already. Raises `UserError`
    for data that does not fit the recipe, a batch that the mesh cannot split and a
    workdir of another run. The model carries its card.
    """
    size = recipe.run.batch_size
    devices = make_mesh(mesh)
    check_batch(devices, batch_size=size, accumulate=recipe.run.accumulate)
    rows_read = rows_here(devices, size).tolist()
    quiet = quiet or jax.process_index() > 0
    tokenizer, source, held_out = _opened(recipe, spec, stream=stream)
    # All but the title and what changes no number.
    free = ("name", "run.keep")
    identity = {k: v for k, v in leaves(recipe).items() if k not in free}
    identity |= {"stage": recipe.stage, "data": source.fingerprint}
    if tokenizer is not None:
        identity["tokenizer_hash"] = weights.weights_hash(tokenizer)
    # Before the experiment: another run's folder is refused before images are encoded.
    with Workdir(workdir, identity, keep=recipe.run.keep) as folder:
        reading: Any = {"rows": rows_read, "workers": workers}
        if isinstance(recipe, TokenizerRecipe):
            parts = tokenizer_experiment(recipe, source, held_out, **reading)
        elif isinstance(recipe, PriorRecipe):
            parts = prior_experiment(
                recipe, tokenizer, source, held_out, quiet=quiet, **reading
            )
        else:
            parts = classifier_experiment(recipe, source, held_out, **reading)
        if stream and jax.process_index() == 0:
            print(f"minivim: note: {data.CAVEAT}", file=sys.stderr)
        try:
            model, rows = run(recipe, parts, mesh=devices, workdir=folder, quiet=quiet)
        finally:
            parts.batches.close()
    if jax.process_index() == 0:
        # All of the run: this call may have had no step left to do.
        written = read_metrics(workdir)
        card = {
            **run_card(recipe, source.description, written),
            "train_seconds": round(train_seconds(written), 1),
            **parts.card,
        }
        weights.save(workdir, model, kind=recipe.stage, card=card)
        # As `weights.load` would give it, for those who ask what it was trained on.
        model.card = weights.read_card(workdir)  # type: ignore[attr-defined]
    return model, rows


def _opened(
    recipe: TrainableRecipe, spec: str, *, stream: bool
) -> tuple[Tokenizer | None, AnySource, AnySource]:
    """A prior's tokenizer, unless its data are codes, and the data of both splits."""
    tokenizer = None
    if isinstance(recipe, PriorRecipe):
        if data.is_codes(spec):
            return None, *_opened_codes(recipe, spec, stream=stream)
        tokenizer = _tokenizer_for(recipe)
        shape = tokenizer.config.image_shape
        if stream and recipe.codes == "cache":
            raise UserError(
                "codes=cache encodes all images beforehand, and a stream has no end; "
                "use --set codes=fly, or leave out --stream"
            )
    elif isinstance(recipe, ClassifierRecipe):
        shape = recipe.image_shape
    else:
        shape = recipe.model.image_shape
    opener = data.open_stream if stream else data.open_source
    return (
        tokenizer,
        opener(spec, split="train", **shape),
        opener(spec, split="test", **shape),
    )


def _opened_codes(
    recipe: PriorRecipe, folder: str, *, stream: bool
) -> tuple[data.CodeSource, data.CodeSource]:
    """Both splits of a folder of codes, if they are what the recipe is for."""
    source, held_out = (data.open_codes(folder, split) for split in ("train", "test"))
    card = source.card
    if stream or recipe.codes == "fly":
        raise UserError(
            f"{folder} holds codes, read by index, and no images; use --set "
            "codes=cache views=1 flip=false crop=1, without --stream"
        )
    if recipe.tokenizer:
        found = weights.weights_hash(_tokenizer_for(recipe))
        if found != card.tokenizer_hash:
            raise UserError(
                f"{folder} holds codes of {card.tokenizer} "
                f"({card.tokenizer_hash[:12]}), the recipe names {recipe.tokenizer} "
                f"({found[:12]}); use --set tokenizer={card.tokenizer} or encode again"
            )
    _check_sizes(recipe, folder, num_codes=card.num_codes, grid=card.grid)
    asked = {name: getattr(recipe, name) for name in ("views", "flip", "crop")}
    has = {name: getattr(card, name) for name in asked}
    if recipe.views > 1 and asked != has:
        raise UserError(
            f"{folder} has {_in_words(has)}, the recipe {_in_words(asked)}; encode "
            "again, or use --set views=1 flip=false crop=1 to take what is there"
        )
    return source, held_out


def _in_words(settings: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())


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
    layer = {name: np.asarray(value) for name, value in vars(result.probe).items()}
    save_file(layer, str(folder / "probe.safetensors"))
    rows = [
        dict(zip(("features", "held_out", "test"), row, strict=True))
        for row in result.rows()
    ]
    card = {"recipe": as_dict(recipe), "data": train_source.description, "rows": rows}
    write_json(folder / "probe.json", card)
    return result


def probe(
    recipe: ProbeRecipe,
    prior: Prior,
    tokenizer: Tokenizer,
    *,
    train: Source,
    test: Source,
) -> ProbeResult:
    """Stage 3 on the first images of two sources (section 4.2)."""
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
    mesh: Mesh | None = None,
    workdir: Workdir | None = None,
    quiet: bool = False,
) -> tuple[nnx.Module, list[Row]]:
    """The loop on an experiment; the model comes back with its last parameters.

    On a mesh, by default of one device, whose rows the experiment's batches hold.
    """
    steps = recipe.run.steps
    key = jax.random.key(recipe.run.seed)
    mesh = mesh or make_mesh(devices=jax.local_devices()[:1])
    state = new_state(parts.model, parts.optim, steps=steps, mesh=mesh)
    step = make_step(
        parts.model,
        parts.loss,
        parts.optim,
        steps=steps,
        key=key,
        taps=parts.taps,
        lazy_every=parts.lazy_every,
        accumulate=recipe.run.accumulate,
        mesh=mesh,
    )
    state, rows = fit(
        state,
        step,
        Placed(parts.batches, mesh, recipe.run.batch_size),
        recipe.run,
        workdir=workdir,
        describe=parts.describe,
        evaluate=parts.evaluate,
        title=f"{recipe.stage} {recipe.name}",
        quiet=quiet,
    )
    model = nnx.merge(nnx.graphdef(parts.model), on_one_device(state.variables))
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


def _tokenizer_for(recipe: PriorRecipe) -> Tokenizer:
    if not recipe.tokenizer:
        raise UserError("a prior needs a tokenizer; use --set tokenizer=FOLDER")
    tokenizer = weights.load(recipe.tokenizer)
    if not isinstance(tokenizer, Tokenizer):
        raise UserError(f"{recipe.tokenizer} is no tokenizer; name one")
    _check_sizes(
        recipe,
        f"the tokenizer {recipe.tokenizer}",
        num_codes=tokenizer.config.quantizer.num_codes,
        grid=tokenizer.config.grid,
    )
    return tokenizer


def _check_sizes(recipe: PriorRecipe, what: str, **has: int) -> None:
    for name, value in has.items():
        if getattr(recipe.model, name) != value:
            raise UserError(
                f"{what} has {name}={value}, the recipe "
                f"{getattr(recipe.model, name)}; use --set model.{name}={value}"
            )


def replaced(recipe: TrainableRecipe, **run: Any) -> TrainableRecipe:
    """The recipe with other run settings, for shorter or seeded copies."""
    return dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, **run))
