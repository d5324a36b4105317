"""Training that starts from weights one has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from minivim import config, weights
from minivim.config.checks import require
from minivim.errors import note


def given(ref: str | Path, stage: str, tokenizer_hash: str) -> Any:
    """The weights to start from; `UserError` for another stage or another's codes."""
    model = weights.load(ref)
    kind, known = model.card["kind"], model.card.get("tokenizer_hash")
    require(kind == stage, f"{ref} is a {kind}; start from a {stage}")
    told = f"{ref} was trained on the codes of another tokenizer"
    remedy = f"use that one, {model.card.get('tokenizer')}"
    require(known in (None, tokenizer_hash), f"{told}; {remedy}")
    return model


def origin(model: Any, freeze: Sequence[str]) -> dict[str, Any]:
    """What run and card say of weights to start from and of parts that keep theirs."""
    said: dict[str, Any] = {"freeze": sorted(freeze)} if freeze else {}
    if model is not None:
        said["start"] = weights.identity(model)
        said |= {"labels_seen": seen} if (seen := model.card.labels_seen) else {}
    return said


def start_from(model: Any, old: Any) -> None:
    """Copy weights and statistics by name; arrays of another size start anew.

    Raises `UserError` where most of the model would.
    """
    kinds = (nnx.Param, nnx.BatchStat)
    known = dict(nnx.to_flat_state(nnx.state(old, kinds)))
    state, anew, size, total = nnx.state(model, kinds), [], 0, 0
    for path, leaf in nnx.to_flat_state(state):
        total += leaf.size
        if path in known and known[path].shape == leaf.shape:
            leaf[...] = jnp.copy(known[path][...])
            continue
        anew.append(".".join(map(str, path)))
        size += leaf.size
    told = f"{old.card.path} does not fit the recipe, for instance at"
    remedy = "use --set with the settings on its card"
    require(2 * size <= total, f"{told} {' '.join(anew[:1])}; {remedy}")
    before, now = config.leaves(old.config), config.leaves(model.config)
    changed = [f"{k}={v}" for k, v in now.items() if before.get(k) != v]
    if changed:
        note(f"{old.card.path} had other settings than {', '.join(changed)}")
    if anew:
        note(f"these start anew: {', '.join(anew)}")
    nnx.update(model, state)
