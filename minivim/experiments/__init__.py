"""From a recipe and data to a trained model: what `minivim train` does."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from safetensors.numpy import save_file

from minivim import data, weights
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
from minivim.experiments.coding import (
    Views,
    decode_all,
    encode_all,
    encode_batches,
    encode_folder,
    encode_source,
    nats_per_token,
)
from minivim.experiments.objectives import Objective, TrainableRecipe
from minivim.experiments.stages import (
    AnySource,
    Attached,
    Experiment,
    classifier_experiment,
    prior_experiment,
    tokenizer_experiment,
)
from minivim.prior import Prior
from minivim.probe import ProbeResult, linear_probe
from minivim.sharding import (
    MeshShape,
    Placed,
    check_batch,
    make_mesh,
    on_one_device,
    rows_here,
)
from minivim.tokenizer import Tokenizer
from minivim.training import (
    Workdir,
    fit,
    make_step,
    new_state,
    read_metrics,
    train_seconds,
)
from minivim.training.checkpoint import Row, check_writable

__all__ = [
    "Attached",
    "Experiment",
    "Objective",
    "TrainableRecipe",
    "Views",
    "classifier_experiment",
    "decode_all",
    "encode_all",
    "encode_batches",
    "encode_folder",
    "encode_source",
    "machine",
    "nats_per_token",
    "prior_experiment",
    "probe",
    "replaced",
    "run",
    "run_card",
    "tokenizer_experiment",
    "train",
    "train_probe",
]


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
        model.card = weights.read_card(Path(workdir))  # type: ignore[attr-defined]
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
