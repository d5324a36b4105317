"""Models as files: `model.safetensors` and a card that says where they come from.

A folder with these two files is what `load` reads, what a finished run's workdir holds
and what the package ships. A prior is refused over another tokenizer's codes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.flax import load_file, save_file

from minivim import files
from minivim.config import as_dict, from_dict
from minivim.errors import UserError
from minivim.prior import Prior
from minivim.tokenizer import Tokenizer

HERE = Path(__file__).parent
# Families of shipped weights, and the public name of the data of each.
DATA = {"shapes": "shapes", "cifar10": "uoft-cs/cifar10"}
# First parts of a path that cannot be a hub owner: a missing runs/x is not fetched.
NO_OWNERS = ("", ".", "..", "~", "runs")
WEIGHTS, CARD = "model.safetensors", "card.json"
# Settings and model of each kind; a module is imported when its kind is built.
KINDS = {
    "tokenizer": ("minivim.config:TokenizerConfig", "minivim.tokenizer:Tokenizer"),
    "prior": ("minivim.config:PriorConfig", "minivim.prior:Prior"),
    "classifier": ("minivim.config:ClassifierConfig", "minivim.classifier:build"),
    "palette": ("minivim.config:PaletteConfig", "minivim_lab.igpt:Palette"),
    "perceptual": (
        "minivim.tokenizer.perceptual:PerceptualConfig",
        "minivim.tokenizer.perceptual:LPIPS",
    ),
    "inception": (
        "minivim_lab.inception:InceptionConfig",
        "minivim_lab.inception:Inception",
    ),
}


@dataclass(frozen=True, eq=False)
class Card:
    """What is known of a set of weights. Compared by identity, never by content."""

    path: str
    values: dict[str, Any] = field(repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    @property
    def labels_seen(self) -> str:
        """How labels took part in the training, "" if they did not.

        Cards from before the field `labels_seen` tell it by their recipe.
        """
        perceptual = self.get("recipe", {}).get("loss", {}).get("perceptual")
        return self.get("labels_seen", "a perceptual loss" if perceptual else "")


def abstract(kind: str, config: Any) -> Any:
    """A model of one of `KINDS` with shapes for parameters: no memory, no time."""
    model: Any = resolve_name(KINDS[kind][1])
    return nnx.eval_shape(lambda: model(config, rngs=nnx.Rngs(0)))


def flat_weights(model: nnx.Module) -> dict[str, jax.Array]:
    """Parameters by their dotted path."""
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {".".join(map(str, path)): leaf[...] for path, leaf in state}


def weights_hash(model: nnx.Module) -> str:
    """SHA-256 over names, shapes and float32 bytes of all parameters."""
    digest = hashlib.sha256()
    for name, value in sorted(flat_weights(model).items()):
        array = np.asarray(value, np.float32)
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save(
    folder: str | Path,
    model: nnx.Module,
    *,
    kind: str,
    card: dict[str, Any],
    storage: str = "float32",
) -> Path:
    """Write weights and card; `storage` is the type on disk (float32 in memory)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: x.astype(storage) for name, x in flat_weights(model).items()}
    values = {
        "format": 1,
        "kind": kind,
        "model": as_dict(model.config),  # type: ignore[attr-defined]
        "parameters": sum(x.size for x in weights.values()),
        "storage": storage,
        **card,
    }
    with files.whole(folder / WEIGHTS, folder / CARD) as [weights_file, card_file]:
        save_file(weights, str(weights_file))
        card_file.write_text(json.dumps(values, indent=1) + "\n")
    return folder


def load(ref: str | Path, *, tokenizer: Tokenizer | None = None) -> Any:
    """Load any kind of weights that `KINDS` names; `model.card` is its card.

    `ref` is a folder (a finished run's workdir will do), a shipped name such as
    `shapes/tokenizer`, or a hub id `owner/name` with an optional `@revision`. A prior
    is checked against `tokenizer`, if given; `load_pair` loads both. Statistics, such
    as an EMA codebook's, are not in the file: they start at zero, as in a new model.
    Raises `UserError` when nothing is there, when a file is damaged and when prior and
    tokenizer do not belong together.
    """
    card = read_card(ref)
    file = Path(card.path) / WEIGHTS
    with _reading(Path(card.path) / CARD):
        config = from_dict(resolve_name(KINDS[card["kind"]][0]), card["model"])
    with _reading(file):
        weights = load_file(str(file))
    graph, state = nnx.split(abstract(card["kind"], config))
    filled = []
    for path, leaf in nnx.to_flat_state(state):
        name = ".".join(map(str, path))
        if isinstance(leaf, nnx.BatchStat):
            filled.append((path, leaf.replace(jnp.zeros(leaf.shape, leaf.dtype))))
            continue
        value = weights.get(name)
        if value is None or value.shape != leaf.shape:
            raise UserError(
                f"{file} does not fit its card at {name!r}; fetch or export both files "
                "again"
            )
        # Widened by NumPy: XLA cannot compile it for processors without F16C.
        wide = np.asarray(value).astype(np.float32)
        filled.append((path, leaf.replace(jnp.asarray(wide))))
    model = nnx.merge(graph, nnx.from_flat_state(filled))
    model.card = card
    known = card.get("tokenizer_hash")
    if tokenizer is not None and known and weights_hash(tokenizer) != known:
        raise UserError(
            f"the prior {card.path} was trained on the codes of another tokenizer "
            f"({card['tokenizer']}, {known[:12]}); load that one, or train a prior on "
            "this tokenizer"
        )
    return model


def load_pair(
    prior_ref: str | Path, tokenizer_ref: str | Path | None = None
) -> tuple[Tokenizer, Prior]:
    """A prior and the tokenizer of its codes, by default the one its card names."""
    card = read_card(prior_ref)
    if card["kind"] != "prior":
        raise UserError(f"{prior_ref} is a {card['kind']}, not a prior; name a prior")
    ref = tokenizer_ref or card.get("tokenizer")
    if not ref:
        raise UserError(f"the card of {prior_ref} names no tokenizer; name one")
    try:
        tokenizer = load(ref)
    except UserError as error:
        raise UserError(
            f"no tokenizer for {prior_ref}: {error}; name another (--tokenizer)"
        ) from error
    return tokenizer, load(card.path, tokenizer=tokenizer)


def card_of(model: nnx.Module) -> Card:
    """The card that a loaded model carries; an empty one for a model that was built."""
    return getattr(model, "card", Card("", {}))


def identity(model: nnx.Module) -> dict[str, str]:
    """Where weights were read from, by their name if they are shipped, and their hash.

    A model that was built has its type for a name.
    """
    path = Path(card_of(model).path)
    name = path.as_posix() if path.name else type(model).__name__
    if path.is_relative_to(HERE):
        name = path.relative_to(HERE).as_posix()
    return {"name": name, "hash": weights_hash(model)}


def shipped() -> list[str]:
    """Names of the weights inside the package."""
    return sorted(
        p.parent.relative_to(HERE).as_posix() for p in HERE.glob(f"*/*/{CARD}")
    )


def find(ref: str | Path) -> Path:
    """The folder that a reference means, fetched from the hub if need be."""
    folder, names = Path(ref), shipped()
    if (folder / CARD).exists():
        return folder
    if str(ref) in names:
        return HERE / ref
    if (folder / "run.json").exists():
        raise UserError(
            f"{ref} is a run that has not finished; start it again with its command"
        )
    if folder.is_dir():
        raise UserError(f"{ref} holds no {CARD}; name the folder of a finished run")
    owner, _, name = str(ref).partition("/")
    local = (*NO_OWNERS, *(shipped_name.split("/")[0] for shipped_name in names))
    if not name or "/" in name or owner in local:
        raise UserError(
            f"there are no weights at {str(ref)!r}; shipped are {', '.join(names)}; or "
            "give the folder of a finished run, or a hub id owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = str(ref).partition("@")
    only: Any = {"revision": revision or None, "allow_patterns": [WEIGHTS, CARD]}
    try:
        return Path(snapshot_download(name, **only))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"cannot fetch {str(ref)!r} from the hub ({type(error).__name__}); check "
            "the name and the connection, or give a local folder"
        ) from error


def read_card(ref: str | Path) -> Card:
    """The card of what `load` would read; no model is loaded."""
    folder = find(ref)
    with _reading(folder / CARD):
        values = json.loads((folder / CARD).read_text())
        if values["kind"] not in KINDS:
            raise ValueError(f"a {values['kind']} is no kind of weights")
    return Card(str(folder), values)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Raises `UserError` for a file that is damaged or is not what it should be."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:80]
        raise UserError(
            f"{file} cannot be read ({reason}): it is damaged or cut short; fetch or "
            "export it again"
        ) from error
