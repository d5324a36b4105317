"""Models as files: `model.safetensors` and a card that says where they come from.

A folder with these two files is what `load` reads, what a finished run's workdir holds
and what the package ships. Loading a prior over another tokenizer's codes is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.flax import load_file, save_file

from minivim import classifier
from minivim.config import (
    ClassifierConfig,
    PaletteConfig,
    PriorConfig,
    TokenizerConfig,
    as_dict,
    from_dict,
)
from minivim.errors import UserError
from minivim.prior import Prior
from minivim.tokenizer import Tokenizer
from minivim.tokenizer.perceptual import LPIPS, PerceptualConfig
from minivim_lab.inception import Inception, InceptionConfig

HERE = Path(__file__).parent
# Families of shipped weights, and the public name of the data of each.
DATA = {"shapes": "shapes", "cifar10": "uoft-cs/cifar10"}
# Of a path that is not there; nothing of the kind owns a repository on the hub.
NO_OWNERS = ("", ".", "..", "~", "runs")
WEIGHTS, CARD = "model.safetensors", "card.json"


def _palette(config: PaletteConfig, *, rngs: nnx.Rngs) -> Tokenizer:
    from minivim_lab.igpt import Palette

    return Palette(config, rngs=rngs)


KINDS: dict[str, tuple[type, Any]] = {
    "tokenizer": (TokenizerConfig, Tokenizer),
    "palette": (PaletteConfig, _palette),
    "prior": (PriorConfig, Prior),
    "classifier": (ClassifierConfig, classifier.build),
    "perceptual": (PerceptualConfig, LPIPS),
    "inception": (InceptionConfig, Inception),
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


def build(config: Any, *, rngs: nnx.Rngs) -> Any:
    """A new model of the kind that the settings are of."""
    return dict(KINDS.values())[type(config)](config, rngs=rngs)


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
    weights = {
        name: value.astype(storage) for name, value in flat_weights(model).items()
    }
    values = {
        "format": 1,
        "kind": kind,
        "model": as_dict(model.config),  # type: ignore[attr-defined]
        "parameters": sum(value.size for value in weights.values()),
        "storage": storage,
        **card,
    }
    parts = {name: folder / f"{name}.part" for name in (WEIGHTS, CARD)}
    try:
        save_file(weights, str(parts[WEIGHTS]))
        parts[CARD].write_text(json.dumps(values, indent=1) + "\n")
        # Both are whole before they take the places of what was there.
        for name, part in parts.items():
            os.replace(part, folder / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return folder


def load(ref: str | Path, *, tokenizer: Tokenizer | None = None) -> Any:
    """Load any kind of weights that `KINDS` names; `model.card` is its card.

    `ref` is a folder (a finished run's workdir will do), a shipped name such as
    `shapes/tokenizer`, or a hub id `owner/name` with an optional `@revision`. A prior
    is checked against `tokenizer`, if given, else against the tokenizer that its card
    names, if that is at hand. Statistics, such as an EMA codebook's, are not in the
    file: they start at zero, as in a new model. Raises `UserError` when nothing is
    there, when a file is damaged and when prior and tokenizer do not belong together.
    """
    folder = find(ref)
    card = read_card(folder)
    config = _config_of(card)
    model = nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    weights = _read_weights(folder / WEIGHTS)
    flat = nnx.to_flat_state(state)
    filled = []
    for path, leaf in flat:
        name = ".".join(map(str, path))
        if isinstance(leaf, nnx.BatchStat):
            filled.append((path, leaf.replace(jnp.zeros(leaf.shape, leaf.dtype))))
            continue
        value = weights.pop(name, None)
        if value is None or value.shape != leaf.shape:
            raise UserError(
                f"{folder / WEIGHTS} does not fit its card at {name!r}; "
                "fetch or export both files again"
            )
        # Widened by NumPy: XLA cannot compile it for processors without F16C.
        wide = np.asarray(value).astype(np.float32)
        filled.append((path, leaf.replace(jnp.asarray(wide))))
    model = nnx.merge(graph, nnx.from_flat_state(filled))
    model.card = card
    if card["kind"] == "prior":
        check_pair(model, tokenizer or _named_tokenizer(card))
    return model


def load_pair(
    prior_ref: str | Path, tokenizer_ref: str | Path | None = None
) -> tuple[Tokenizer, Prior]:
    """A prior and the tokenizer of its codes, by default the one its card names."""
    card = read_card(find(prior_ref))
    if card["kind"] != "prior":
        raise UserError(f"{prior_ref} is a {card['kind']}, not a prior; name a prior")
    named = card.get("tokenizer")
    if not (tokenizer_ref or named):
        raise UserError(f"the card of {prior_ref} names no tokenizer; name one")
    if not tokenizer_ref:
        try:
            find(named)
        except UserError as error:
            reason = str(error).partition(";")[0]
            raise UserError(
                f"{reason} (the tokenizer that the card of {prior_ref} names); put it "
                "back, or say where it is now (sample and complete have --tokenizer)"
            ) from error
    tokenizer = load(tokenizer_ref or named)
    return tokenizer, load(prior_ref, tokenizer=tokenizer)


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


def check_pair(prior: Prior, tokenizer: Tokenizer | None) -> None:
    """Refuse a prior whose codes are not this tokenizer's."""
    card = card_of(prior)
    if tokenizer is None or "tokenizer_hash" not in card.values:
        return
    if weights_hash(tokenizer) != card["tokenizer_hash"]:
        raise UserError(
            f"the prior {card.path} was trained on the codes of another tokenizer "
            f"({card['tokenizer']}, {card['tokenizer_hash'][:12]}); load that one, or "
            "train a prior on this tokenizer"
        )


def shipped() -> list[str]:
    """Names of the weights inside the package."""
    return sorted(
        p.parent.relative_to(HERE).as_posix() for p in HERE.glob(f"*/*/{CARD}")
    )


def find(ref: str | Path) -> Path:
    """The folder that a reference means, fetched from the hub if need be."""
    if (Path(ref) / CARD).exists():
        return Path(ref)
    if Path(ref).is_dir():
        unfinished = (Path(ref) / "run.json").exists()
        raise UserError(
            f"{ref} is a run that has not finished; start it again with its command"
            if unfinished
            else f"{ref} holds no {CARD}; name the folder of a finished run"
        )
    if str(ref) in shipped():
        return HERE / ref
    family, _, name = str(ref).partition("/")
    families = {s.split("/")[0] for s in shipped()}
    if not name or "/" in name or family in families or family in NO_OWNERS:
        raise UserError(
            f"there are no weights at {str(ref)!r}; shipped are "
            f"{', '.join(shipped())}; or give the folder of a finished run, or a hub "
            "id owner/name"
        )
    return _fetch(str(ref))


def _fetch(ref: str) -> Path:
    """Download a hub repository's two files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = ref.partition("@")
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=[WEIGHTS, CARD]
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"cannot fetch {ref!r} from the hub ({type(error).__name__}); check the "
            "name and the connection, or give a local folder"
        ) from error
    return Path(folder)


def read_card(folder: Path) -> Card:
    """The card of a folder; raises `UserError` for one that cannot be read."""
    try:
        values = json.loads((folder / CARD).read_text())
        if values["kind"] not in KINDS:
            raise KeyError(values["kind"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / CARD} cannot be read as a card ({error}); fetch or export the "
            "folder again"
        ) from error
    return Card(str(folder), values)


def _config_of(card: Card) -> Any:
    try:
        return from_dict(KINDS[card["kind"]][0], card["model"])
    except (KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:80]
        raise UserError(
            f"{Path(card.path) / CARD} describes no {card['kind']} ({reason}); fetch "
            "or export the folder again"
        ) from error


def _read_weights(path: Path) -> dict[str, jax.Array]:
    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged or cut short ({error}); fetch or export it again"
        ) from error


def _named_tokenizer(card: Card) -> Tokenizer | None:
    try:
        return load(card["tokenizer"])
    except (UserError, KeyError):
        return None
