"""Models as files: `model.safetensors` and a card that says where they come from.

A folder with these two files is what `load` reads, what a finished run's workdir holds
and what the package ships. A prior is refused over another tokenizer's codes.
"""

import hashlib
import json
import math
import os
from contextlib import AbstractContextManager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import safe_open
from safetensors.flax import save_file

from minivim import files
from minivim.card import Card
from minivim.config import as_dict, from_dict
from minivim.config.checks import require
from minivim.config.settings import registered_names
from minivim.errors import UserError, explained, note
from minivim.prior import Prior
from minivim.tokenizer import Tokenizer

HERE = Path(__file__).parent
# Families of shipped weights, and the public name of the data of each.
DATA = {"shapes": "shapes", "cifar10": "uoft-cs/cifar10"}
# First parts of a path that cannot be a hub owner: a missing runs/x is not fetched.
NO_OWNERS = ("", ".", "..", "~", "runs")
WEIGHTS, CARD, FORMAT = "model.safetensors", "card.json", 1
# What a run has in the place of a card until it has finished.
DRAFT = "card.draft.json"
TOGETHER = "fetch or export both again"
# Where a prior on the hub has its tokenizer.
PAIRED = "tokenizer"
# Types of what is read of a card, where it is there; the model has rules of its own.
SCHEMA: dict[str, type] = {"format": int, "class_names": list}
SCHEMA |= dict.fromkeys(("kind", "tokenizer", "tokenizer_hash", "labels_seen"), str)
SCHEMA |= dict.fromkeys(("model", "recipe", "figures"), dict)
STORED = ("F16", "BF16", "F32", "F64")
LPIPS, INCEPTION = "minivim.tokenizer.perceptual", "minivim_lab.inception"
# Settings and model of each kind; a module is imported when its kind is built.
KINDS = {
    "tokenizer": ("minivim.config:TokenizerConfig", "minivim.tokenizer:Tokenizer"),
    "prior": ("minivim.config:PriorConfig", "minivim.prior:Prior"),
    "classifier": ("minivim.config:ClassifierConfig", "minivim.classifier:build"),
    "palette": ("minivim.config:PaletteConfig", "minivim_lab.igpt:Palette"),
    "perceptual": (f"{LPIPS}:PerceptualConfig", f"{LPIPS}:LPIPS"),
    "inception": (f"{INCEPTION}:InceptionConfig", f"{INCEPTION}:Inception"),
}


def abstract(kind: str, config: Any) -> Any:
    """A model of one of `KINDS` with shapes for parameters: no memory, no time."""
    model: Any = resolve_name(KINDS[kind][1])
    return nnx.eval_shape(lambda: model(config, rngs=nnx.Rngs(0)))


def flat_weights(model: nnx.Module, kind: Any = nnx.Param) -> dict[str, jax.Array]:
    """Parameters, or other variables, by their dotted path."""
    state = nnx.to_flat_state(nnx.state(model, kind))
    return {".".join(map(str, path)): leaf[...] for path, leaf in state}


def weights_hash(model: Any) -> str:
    """SHA-256 over names, shapes and float32 bytes of all parameters.

    The names of registered quantizers count as well, where there is one.
    """
    names = registered_names(getattr(model, "config", None))
    digest = hashlib.sha256("".join(names).encode())
    for name, value in sorted(flat_weights(model).items()):
        array = np.asarray(value, np.float32)
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def kind_of(model: Any) -> str:
    """Which of `KINDS` a model is, by its settings; `UserError` for another one."""
    for kind, (settings, _) in KINDS.items():
        if type(getattr(model, "config", None)) is resolve_name(settings):
            return kind
    remedy = f"give a model of one of these kinds: {', '.join(KINDS)}"
    raise UserError(f"{type(model).__name__} has no such settings; {remedy}")


def save(folder: str | Path, model: Any, *, card: dict, storage="float32") -> Path:
    """Write weights and card; `storage` is the type on disk (float32 in memory)."""
    folder, kind = Path(folder), kind_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: x.astype(storage) for name, x in flat_weights(model).items()}
    count = sum(x.size for x in weights.values())
    weights |= flat_weights(model, nnx.BatchStat)
    values = {"format": FORMAT, "kind": kind, "model": as_dict(model.config)}
    values |= {"parameters": count, "storage": storage, **card}
    with files.whole(folder / WEIGHTS, folder / CARD) as [weights_file, card_file]:
        save_file(weights, str(weights_file))
        card_file.write_text(json.dumps(values, indent=1) + "\n")
    (folder / DRAFT).unlink(missing_ok=True)
    return folder


def load(
    ref: str | Path, *, tokenizer: Tokenizer | None = None, step: int | None = None
) -> Any:
    """Load any kind of weights that `KINDS` names; `model.card` is its card.

    `ref` is a folder (a run's workdir will do), a shipped name such as
    `shapes/tokenizer`, or a hub id `owner/name` with an optional `@revision`. Of a run
    that has not finished it is the newest checkpoint, with `step` another one that is
    kept. A prior is checked against `tokenizer`, if given; `load_pair` loads both.
    Statistics that a file lacks start at zero. Raises `UserError` where nothing is
    there, a file is damaged, and prior and tokenizer do not belong together.
    """
    card = read_card(ref)
    kind, file = card["kind"], Path(card.path) / WEIGHTS
    about, opened, most = _card_file(card.path), None, math.inf
    if step is None and about.name == CARD:
        with _reading(file):
            files.regular(file)
            with open(file, "rb") as start:
                if int.from_bytes(start.read(8), "little") > 2**20:
                    raise ValueError("its header has more than 1 MB")
            opened = safe_open(str(file), "np")
            most = len(opened.keys())
    try:
        with _reading(about):
            config = from_dict(resolve_name(KINDS[kind][0]), card["model"])
            parts = config, *vars(config).values()
            layers = sum(getattr(part, "layers", 0) for part in parts)
            problem = f"{layers} layers cannot be in the {most} arrays of {file}"
            require(layers <= most, f"{problem}; {TOGETHER}")
            graph, state = nnx.split(abstract(kind, config))
    except UserError as error:
        raise UserError(f"{about} describes no model: {error}") from error
    if opened is None:
        card, state = _of_run(card, state, step)
    else:
        state = _read(file, opened, state)
    model = nnx.merge(graph, state)
    model.card = card
    if tokenizer is not None and kind == "prior":
        known, size = card.get("tokenizer_hash", ""), tokenizer.config
        same = (config.num_codes, config.grid) == (size.quantizer.num_codes, size.grid)
        problem = f"the prior {card.path} was trained on the codes of another tokenizer"
        problem += f" ({card.get('tokenizer')}, {known[:12]}); load that one, or train"
        fits = same and known in ("", weights_hash(tokenizer))
        require(fits, f"{problem} a prior on this tokenizer")
    return model


def _of_run(card: Card, like: nnx.State, step: int | None) -> tuple[Card, nnx.State]:
    """A run's card at one of its steps, and the variables of a model like that."""
    from minivim.training.checkpoint import peek, so_far

    file, recipe = _card_file(card.path), card.get("recipe", {})
    with _reading(file):
        pair = recipe.get("loss", {}).get("adversarial")
        total = f"{recipe.get('run', {}).get('steps', 0):,}"
    saved = nnx.State({"tokenizer": like}) if pair else like
    kept, found = peek(card.path, saved, step, bool(card.get("average")))
    if file.name == DRAFT:
        note(f"{card.path} has not finished: step {kept:,} of {total}")
    values = card.values | {"steps": kept} | so_far(card.path, kept)
    return Card(card.path, values), found["tokenizer"] if pair else found


def _read(file: Path, opened: Any, state: nnx.State) -> nnx.State:
    """An abstract model's state with its arrays, once the header is seen to fit."""
    leaves = {".".join(map(str, path)): x for path, x in nnx.to_flat_state(state)}
    names, arrays = set(opened.keys()), {}
    # Older files hold no statistics.
    missing = {n for n, x in leaves.items() if isinstance(x, nnx.BatchStat)} - names
    with _reading(file):
        for name in sorted(leaves.keys() - missing ^ names)[:1]:
            what = "lacks" if name in leaves else "has besides"
            told = f"{file} does not fit its card: it {what} {name!r}"
            raise UserError(f"{told}; {TOGETHER}")
        for name in sorted(names):
            told, leaf = opened.get_slice(name), leaves[name]
            known = STORED if jnp.issubdtype(leaf.dtype, jnp.floating) else ("I32",)
            fits = tuple(told.get_shape()) == leaf.shape and told.get_dtype() in known
            require(fits, f"{file} does not fit its card at {name!r}; {TOGETHER}")
        for name in sorted(names):
            # Widened by NumPy: XLA cannot compile it for processors without F16C.
            array = np.asarray(opened.get_tensor(name)).astype(leaves[name].dtype)
            problem = f"{name!r} of {file} holds NaN or infinity; {TOGETHER}"
            require(bool(np.isfinite(array).all()), problem)
            arrays[name] = array

    def fill(path: tuple, leaf: Any) -> Any:
        found = arrays.get(".".join(map(str, path)), np.zeros(leaf.shape, leaf.dtype))
        return leaf.replace(jnp.asarray(found))

    return nnx.map_state(fill, state)


def load_pair(
    prior_ref: str | Path,
    tokenizer_ref: str | Path | None = None,
    *,
    step: int | None = None,
) -> tuple[Tokenizer, Prior]:
    """A prior and the tokenizer of its codes, by default the one its card names.

    That is a path from the card's folder, else from here or absolute (files are read as
    data alone), or a shipped name; it is sought on the hub only if the prior was, too.
    """
    card = read_card(prior_ref)
    hub = Path(card.path) not in (Path(prior_ref), HERE / prior_ref)
    kind, named = card["kind"], card.get("tokenizer")
    require(kind == "prior", f"{prior_ref} is a {kind}, not a prior; name a prior")
    told = f"no tokenizer for {prior_ref}, whose card names {named!r}"
    try:
        require(bool(tokenizer_ref or named), "a prior alone draws codes")
        ref = tokenizer_ref or find(named, near=Path(card.path).absolute(), hub=hub)
        kind = read_card(ref)["kind"]
        require(kind in ("tokenizer", "palette"), f"{ref} is a {kind}")
        tokenizer = load(ref)
    except UserError as error:
        remedy = "name one (--tokenizer; train probe --set tokenizer=FOLDER)"
        raise UserError(f"{told}: {error}; {remedy}") from error
    return tokenizer, load(card.path, tokenizer=tokenizer, step=step)


def identity(model: Any) -> dict[str, str]:
    """The name of shipped weights, a folder or the type of a built model; the hash."""
    path = Path(getattr(model, "card", Card("", {})).path)
    if path.is_relative_to(HERE):
        path = path.relative_to(HERE)
    name = path.as_posix() if path.name else type(model).__name__
    return {"name": name, "hash": weights_hash(model)}


def shipped() -> list[str]:
    """Names of the weights inside the package."""
    cards = HERE.glob(f"*/*/{CARD}")
    return sorted(card.parent.relative_to(HERE).as_posix() for card in cards)


def relative(ref: str, folder: str | Path) -> str:
    """How a card in a folder names weights: a path from here becomes one from there."""
    here, there = Path(ref).resolve(), Path(folder).resolve()
    moves = not os.path.isabs(ref) and here.anchor == there.anchor
    return os.path.relpath(here, there) if moves and _card_file(here).exists() else ref


def hub_id(ref: str | Path) -> bool:
    """Whether a reference may be that of weights on the hub."""
    owner, _, name = str(ref).partition("/")
    return bool(name) and "/" not in name and owner not in (*NO_OWNERS, *DATA)


def find(ref: str | Path, near: Path = Path(), hub: bool = True) -> Path:
    """The folder that a reference means, from `near` or here, or fetched from `hub`."""
    told = f"{ref!r} is no name of weights; give text or a path"
    require(isinstance(ref, str | Path), told)
    places = [near / ref, Path(ref), HERE / ref]
    if os.path.isabs(ref):  # What was moved together is found again.
        parts = Path(ref).parts[-9:]
        ends = [Path(*parts[i:]) for i in range(1, len(parts))]
        places += [above / end for above in near.parents for end in ends]
    for place in places:
        if os.path.exists(_card_file(place)):
            return place
    problem = f"{ref} is a run that has not finished"
    begun = os.path.exists(Path(ref) / "run.json")
    require(not begun, f"{problem}; start it again with its command")
    remedy = "name the folder of a finished run"
    require(not os.path.isdir(ref), f"{ref} holds no {CARD}; {remedy}")
    told = f"there are no weights at {str(ref)!r}; shipped are {', '.join(shipped())}"
    remedy = "or give the folder of a finished run, or a hub id owner/name"
    require(hub and hub_id(ref), f"{told}; {remedy}")
    from huggingface_hub import snapshot_download

    name, _, revision = str(ref).partition("@")
    ours = [WEIGHTS, CARD, f"{PAIRED}/{WEIGHTS}", f"{PAIRED}/{CARD}"]
    only: Any = {"revision": revision or None, "allow_patterns": ours}
    remedy = "check the name and the connection, or give a local folder"
    with explained(f"cannot fetch {name!r} from the hub", remedy):
        return Path(snapshot_download(name, **only))


def read_card(ref: str | Path) -> Card:
    """The card of what `load` would read; no model is loaded."""
    folder = find(ref)
    file = _card_file(folder)
    with _reading(file):
        values = files.read_json(file)
        for name, kind in SCHEMA.items():
            if not isinstance(values.get(name, kind()), kind):
                raise ValueError(f"its {name} is no {kind.__name__}")
        if not all(isinstance(name, str) for name in values.get("class_names", ())):
            raise ValueError("its class_names are not all text")
        if values["kind"] not in KINDS:
            raise ValueError(f"a {values['kind']} is no kind of weights")
    newer = values.get("format", 1) > FORMAT
    told = f"{file} is of format {values.get('format')}, newer than {FORMAT}"
    require(not newer, f"{told}; install a newer minivim")
    return Card(str(folder), values)


def _card_file(folder: str | Path) -> Path:
    """The card of weights, or the draft of one."""
    draft = Path(folder) / DRAFT
    return draft if os.path.exists(draft) else Path(folder) / CARD


def _reading(file: Path) -> AbstractContextManager[None]:
    """Raises `UserError` for a file that is damaged or is not what it should be."""
    remedy = "it is damaged or cut short; fetch or export it again"
    return explained(f"{file} cannot be read", remedy)
