"""From a recipe and data to a trained model: what `minivim train` does.

    minivim train tokenizer shapes --data shapes --workdir runs/tokenizer
    minivim train prior shapes --data shapes --workdir runs/prior

`train` opens the data, `setup` says what the step and the loop need to know of a stage,
`make_step` compiles a step and `fit` repeats it.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
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
from minivim.context import Context
from minivim.data import Source
from minivim.data.augment import augment
from minivim.encode import Views, decode_all, encode_all, encode_source, nats_per_token
from minivim.errors import UserError
from minivim.files import write_json
from minivim.prior import Prior, prior_loss
from minivim.probe import ProbeResult, linear_probe
from minivim.sharding import (
    MeshShape,
    check_batch,
    make_mesh,
    on_one_device,
    rows_here,
)
from minivim.tokenizer import (
    Players,
    Tokenizer,
    adversarial_loss,
    tokenizer_loss,
    zeros_of,
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
from minivim.training.loop import floats
from minivim.training.optim import Optim
from minivim.training.step import Loss

TrainableRecipe = TokenizerRecipe | PriorRecipe | ClassifierRecipe
AnySource = Source | data.Stream


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What `make_step` and `fit` need to know of a stage.

    `frozen` is a network that is not trained and `zeros` are arrays that show the
    gradients of single terms (see `Context`); `export` takes of a trained model what is
    worth keeping; `describe` makes a row of a step's mean metrics; `evaluate` gives
    figures of a model on held-out arrays.
    """

    model: nnx.Module
    loss: Loss
    optim: Optim
    evaluate: Callable[[Any, data.Batch], dict[str, float]]
    describe: Callable[[dict[str, np.ndarray]], Row] = floats
    export: Callable[[Any], Any] = lambda model: model
    frozen: nnx.Module | None = None
    zeros: Callable[[data.Batch], dict[str, jax.Array]] | None = None
    lazy_every: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of `make_step`."""
        names = ("frozen", "zeros", "lazy_every")
        return {name: getattr(self, name) for name in names}


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
    `minivim.data.Stream` for what that cannot promise. Returns the model, with its
    card, and the rows of metrics of this call, none where the run was finished already.
    Raises `UserError` for data that does not fit the recipe, a batch that the mesh
    cannot split and a workdir of another run.
    """
    run, devices = recipe.run, make_mesh(mesh)
    check_batch(devices, batch_size=run.batch_size, accumulate=run.accumulate)
    first = jax.process_index() == 0
    network, source, held_out = opened(recipe, spec, stream=stream)
    # All but the title and what changes no number.
    free = ("name", "run.keep")
    identity = {k: v for k, v in leaves(recipe).items() if k not in free}
    identity |= {"stage": recipe.stage, "data": source.fingerprint}
    if isinstance(network, Tokenizer):
        identity["tokenizer_hash"] = weights.weights_hash(network)
    # Before images are encoded: another run's folder is refused at once.
    with Workdir(workdir, identity, keep=run.keep) as folder:
        if stream and first:
            print(f"minivim: note: {data.CAVEAT}", file=sys.stderr)
        images, test = coded(
            recipe, network, source, held_out, workers=workers, quiet=quiet or not first
        )
        parts = setup(recipe, frozen=network)
        graph = nnx.graphdef(parts.model)
        key = jax.random.key(run.seed)
        state = new_state(parts.model, parts.optim, steps=run.steps, mesh=devices)
        step = make_step(
            parts.model, parts.loss, parts.optim, steps=run.steps, key=key,
            accumulate=run.accumulate, mesh=devices, **parts.options,
        )  # fmt: skip
        rows_read = rows_here(devices, run.batch_size).tolist()
        batches = data.batches(
            images, batch_size=run.batch_size, seed=run.seed, rows=rows_read,
            workers=workers,
        )  # fmt: skip
        try:
            state, rows = fit(
                state, step, batches, run,
                workdir=folder,
                describe=parts.describe,
                evaluate=lambda now: parts.evaluate(nnx.merge(graph, now), test),
                title=f"{recipe.stage} {recipe.name}",
                quiet=quiet or not first,
            )  # fmt: skip
        finally:
            batches.close()
    model = parts.export(nnx.merge(graph, on_one_device(state.variables)))
    if first:
        # All of the run: this call may have had no step left to do.
        written = read_metrics(workdir)
        card = {
            **run_card(recipe, source.description, written),
            "train_seconds": round(train_seconds(written), 1),
            **_provenance(recipe, network, source),
        }
        weights.save(workdir, model, kind=recipe.stage, card=card)
        # As `weights.load` would give it, for those who ask what it was trained on.
        model.card = weights.read_card(workdir)
    return model, rows


def setup(
    recipe: TrainableRecipe,
    model: nnx.Module | None = None,
    frozen: nnx.Module | None = None,
) -> Setup:
    """A recipe made ready for the step and the loop, by default with a new model.

    `frozen` is a prior's tokenizer or the network of a perceptual loss. Both may be
    abstract, shapes without values, to plan a step for a machine that is not there.
    """
    makers: dict[type, Callable[..., Setup]] = {
        TokenizerRecipe: _tokenizer_setup,
        PriorRecipe: _prior_setup,
        ClassifierRecipe: _classifier_setup,
    }
    return makers[type(recipe)](
        recipe, build(recipe) if model is None else model, frozen
    )


def build(recipe: TrainableRecipe) -> nnx.Module:
    """The model that a recipe trains, from its seed.

    With an adversarial term it is two networks, of which the tokenizer is kept.
    """
    rngs = nnx.Rngs(recipe.run.seed)
    if isinstance(recipe, ClassifierRecipe):
        return classifier.build(recipe.model, rngs=rngs)
    if isinstance(recipe, PriorRecipe):
        return Prior(recipe.model, rngs=rngs)
    adversarial = recipe.loss.adversarial
    return Players(recipe) if adversarial else Tokenizer(recipe.model, rngs=rngs)


def _tokenizer_setup(recipe: TokenizerRecipe, model: Any, network: Any) -> Setup:
    """Stage 1."""
    pair, critic = bool(recipe.loss.adversarial), recipe.discriminator
    options: Any = {"weights": recipe.loss, "flip": recipe.flip, "crop": recipe.crop}

    def export(model: Any) -> Tokenizer:
        return model.tokenizer if pair else model

    def evaluate(model: Any, test: data.Batch) -> dict[str, float]:
        images = test["image"].astype(np.float32) / 255
        return round_trip(export(model), images, batch_size=recipe.run.batch_size)

    return Setup(
        model=model,
        loss=partial(adversarial_loss, config=critic, **options)
        if pair
        else partial(tokenizer_loss, **options),
        optim=recipe.optims,
        frozen=None if network is None else perceptual_net(network),
        zeros=zeros_of(recipe.loss),
        # Without R1 both programs would be one.
        lazy_every=critic.r1_interval if pair and critic.r1_gamma else 0,
        evaluate=evaluate,
        describe=_tokenizer_row,
        export=export,
    )


def _tokenizer_row(summary: dict[str, np.ndarray]) -> Row:
    """Counts as usage, R1 over the steps that had it, histograms as lists."""
    used = metrics.CodebookUsage.from_counts(summary.pop("counts"))
    due = float(summary.pop("r1_due", 0.0))
    if "r1" in summary and not due:
        summary.pop("r1")
    elif due:
        summary["r1"] = summary["r1"] / due
    row: Row = {k: v.tolist() if v.ndim else float(v) for k, v in summary.items()}
    return row | {"usage": used.usage, "perplexity": used.perplexity}


def round_trip(
    tokenizer: Tokenizer, images: np.ndarray, *, batch_size: int = 256
) -> dict[str, float]:
    """PSNR of images there and back, and how much of the codebook they use."""
    codes = encode_all(tokenizer, images, batch_size=batch_size)
    recon = decode_all(tokenizer, codes, batch_size=batch_size)
    size = tokenizer.config.quantizer.num_codes
    used = metrics.codebook_usage(codes, num_codes=size)
    psnr = float(metrics.psnr(images, recon))
    return {"psnr": psnr, "usage": used.usage, "perplexity": used.perplexity}


def _prior_setup(recipe: PriorRecipe, model: Any, tokenizer: Any) -> Setup:
    """Stage 2; on the fly the frozen encoder is part of the step, else not needed."""
    fly = recipe.codes == "fly"

    def loss(
        model: Any, batch: dict, context: Context, *, key: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        image_key, key = jax.random.split(key)
        if fly:
            images = augment(
                batch["image"], flip=recipe.flip, crop=recipe.crop, key=image_key
            )
            # Not `encode`, a program of its own, which may not nest in a gradient.
            coder = context.frozen
            codes = coder.quantizer(coder.encoder(images))[1]["codes"]
            batch = batch | {"codes": codes}
        return prior_loss(
            model, batch, context, label_dropout=recipe.label_dropout, key=key
        )

    def evaluate(model: Prior, test: data.Batch) -> dict[str, float]:
        labels = test["label"] if recipe.model.num_classes else None
        size = recipe.run.batch_size
        return {"nll": nats_per_token(model, test["codes"], labels, batch_size=size)}

    return Setup(
        model=model, loss=loss, optim=recipe.optim,
        frozen=tokenizer if fly else None, evaluate=evaluate,
    )  # fmt: skip


def _classifier_setup(recipe: ClassifierRecipe, model: Any, _: None) -> Setup:
    """A labelled network."""

    def evaluate(model: Any, test: data.Batch) -> dict[str, float]:
        return {"accuracy": classifier.accuracy(model, test["image"], test["label"])}

    return Setup(
        model=model, loss=classifier.classifier_loss, optim=recipe.optim,
        evaluate=evaluate,
    )  # fmt: skip


def abstract(recipe: TrainableRecipe) -> tuple[Setup, dict[str, Any]]:
    """A recipe's setup and a batch as shapes alone, whatever the size.

    Frozen networks that are not at hand are taken as VGG16's LPIPS and as the tokenizer
    of the recipe that bears the folder's name. Raises `UserError` where there is none.
    """

    def rows(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((recipe.run.batch_size, *shape), dtype)

    network: Any = None
    if isinstance(recipe, PriorRecipe):
        network = _abstract_tokenizer(recipe)
    elif isinstance(recipe, TokenizerRecipe) and recipe.loss.perceptual:
        network = _abstract_network(recipe)
    side, channels = _image_shape(recipe, network).values()
    batch = {"image": rows(side, side, channels), "label": rows(dtype=jnp.int32)}
    if isinstance(recipe, PriorRecipe) and recipe.codes == "cache":
        del batch["image"]
        batch["codes"] = rows(recipe.model.num_tokens, dtype=jnp.int32)
    return setup(recipe, nnx.eval_shape(lambda: build(recipe)), network), batch


def _abstract_network(recipe: TokenizerRecipe) -> Any:
    try:
        found = weights.load(recipe.perceptual_net)
    except UserError:
        return nnx.eval_shape(lambda: LPIPS(PerceptualConfig(), rngs=nnx.Rngs(0)))
    return nnx.eval_shape(lambda: found)


def _abstract_tokenizer(recipe: PriorRecipe) -> Any:
    try:
        found = weights.load(recipe.tokenizer)
    except UserError:
        known = recipes.RECIPES.get(("tokenizer", PurePath(recipe.tokenizer).name))
        if known is None:
            raise
        return weights.abstract("tokenizer", known().model)  # type: ignore[union-attr]
    return nnx.eval_shape(lambda: found)


def _image_shape(recipe: TrainableRecipe, network: Any) -> dict[str, int]:
    """Side and channels of the images that a recipe trains on."""
    if isinstance(recipe, PriorRecipe):
        return network.config.image_shape
    if isinstance(recipe, ClassifierRecipe):
        return recipe.image_shape
    return recipe.model.image_shape


def frozen_network(recipe: TrainableRecipe) -> Any:
    """A prior's tokenizer or a perceptual loss' network, loaded; None without either.

    Raises `UserError` where there is none or it does not fit the recipe.
    """
    if isinstance(recipe, PriorRecipe):
        return _tokenizer_for(recipe)
    if isinstance(recipe, TokenizerRecipe) and recipe.loss.perceptual:
        return weights.load(recipe.perceptual_net)
    return None


def opened(
    recipe: TrainableRecipe, spec: str, *, stream: bool = False
) -> tuple[Any, AnySource, AnySource]:
    """The frozen network, if the recipe needs one, and the data of both splits."""
    if isinstance(recipe, PriorRecipe) and data.is_codes(spec):
        return None, *_opened_codes(recipe, spec, stream=stream)
    network = frozen_network(recipe)
    if stream and isinstance(recipe, PriorRecipe) and recipe.codes == "cache":
        raise UserError(
            "codes=cache encodes all images beforehand, and a stream has no end; "
            "use --set codes=fly, or leave out --stream"
        )
    opener = data.open_stream if stream else data.open_source
    shape = _image_shape(recipe, network)
    source, held_out = (opener(spec, split=s, **shape) for s in ("train", "test"))
    _check_classes(recipe, source)
    return network, source, held_out


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
    _check_classes(recipe, source)
    return source, held_out


def _in_words(settings: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())


def _check_classes(recipe: TrainableRecipe, source: AnySource) -> None:
    wanted = 0 if isinstance(recipe, TokenizerRecipe) else recipe.model.num_classes
    if not wanted:
        return
    data.require_labels(source)
    if source.num_classes != wanted:
        raise UserError(
            f"{source.description} has {source.num_classes} classes, the recipe "
            f"{wanted}; use --set num_classes={source.num_classes}"
        )


def coded(
    recipe: TrainableRecipe,
    network: Any,
    source: AnySource,
    held_out: AnySource,
    *,
    workers: int = 0,
    quiet: bool = True,
) -> tuple[AnySource, data.Batch]:
    """The source to train on and held-out arrays; a prior's images as codes.

    The source stays as it is where a prior encodes on the fly.
    """
    size, seed = recipe.run.batch_size, recipe.run.seed
    test = data.stack(held_out, recipe.run.eval_size)
    if isinstance(recipe, PriorRecipe) and "codes" not in test:
        test["codes"] = encode_all(network, test["image"], batch_size=size)
        if recipe.codes == "cache" and isinstance(source, Source):
            views = Views(
                count=recipe.views, flip=recipe.flip, crop=recipe.crop, seed=seed
            )
            source = encode_source(
                network, source, views=views, batch_size=4 * size, workers=workers,
                quiet=quiet,
            )  # fmt: skip
    return source, test


def _provenance(
    recipe: TrainableRecipe, network: Any, source: AnySource
) -> dict[str, Any]:
    """What a card says of networks and labels that took part in the training."""
    names = list(source.class_names)
    if isinstance(recipe, ClassifierRecipe):
        return {"class_names": names, "labels_seen": "its own training"}
    if isinstance(recipe, TokenizerRecipe):
        if network is None:
            return {}
        return {
            "perceptual_net": recipe.perceptual_net,
            "perceptual_net_hash": weights.weights_hash(network),
            "labels_seen": "a perceptual loss",
        }
    named = {"class_names": names if recipe.model.num_classes else []}
    if isinstance(source, data.CodeSource):
        card = source.card
        return named | {
            "tokenizer": recipe.tokenizer or card.tokenizer,
            "tokenizer_hash": card.tokenizer_hash,
            "codes": {name: getattr(card, name) for name in ("views", "flip", "crop")},
        }
    found = weights.weights_hash(network)
    return named | {"tokenizer": recipe.tokenizer, "tokenizer_hash": found}


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
