"""Recipes and figures in words, for the terminal."""

from __future__ import annotations

import math
from typing import Any

import jax
from flax import nnx

from minivim import config, weights
from minivim.recipes import PRINTED


def build_abstract(recipe: Any) -> Any:
    """The model with shapes for parameters: no memory, seconds at any size."""
    palette = isinstance(recipe, config.PaletteRecipe)
    return weights.abstract("palette" if palette else recipe.stage, recipe.model)


def count_parameters(model: nnx.Module) -> int:
    """Number of trained values of a model, real or abstract."""
    arrays = jax.tree.leaves(nnx.state(model, nnx.Param))
    return sum(math.prod(array.shape) for array in arrays)


def describe_recipe(recipe: config.Recipe) -> str:
    """Every setting, then the parameter count three ways where the paper has one."""
    lines = [f"{recipe.stage} {recipe.name}"]
    lines += [f"  {name} = {value}" for name, value in config.leaves(recipe).items()]
    if isinstance(recipe, config.ProbeRecipe):
        return "\n".join(lines)
    counted = count_parameters(build_abstract(recipe))
    stack = "stack(L, D, H) = L (4 D^2 + 2 D H + H + 9 D) + 2 D"
    if isinstance(recipe, config.TokenizerRecipe):
        formula = "patch embedding + positions + both stacks + tanh heads + projections"
        formula += " to and from the codes + K d"
        stacks = {"encoder": recipe.model.encoder, "decoder": recipe.model.decoder}
    elif isinstance(recipe, config.PriorRecipe):
        formula = "(K + 2 grid + classes + 1) D + stack + (D + 1) K"
        stacks = {"stack": recipe.model.stack}
    else:
        return "\n".join([*lines, f"parameters: {counted:,}"])
    lines.append(f"parameters: {counted:,} counted")
    if recipe.model.parameters is not None:
        lines[-1] += f", {recipe.model.parameters:,} by\n  {formula}, {stack}"
    for name, size in stacks.items():
        if isinstance(size, config.StackConfig) and size in PRINTED:
            lines.append(
                f"paper, Table 2, {name}: {PRINTED[size]}M printed = 11 L D^2 + "
                f"(2*8192 + 1024) D = {size.printed_parameters:,}"
            )
    return "\n".join(lines)


def figures_table(found: dict[str, dict[str, Any]]) -> str:
    """Figures of several weights, aligned; beside some, what real images have.

    Below stands what they were measured on.
    """
    lines = []
    for name, figures in found.items():
        lines.append(name)
        real = figures.get("real", {})
        rows = [row for row in figures if row not in ("real", "provenance")]
        width = max(map(len, rows))
        for row in rows:
            line = f"  {row:{width}}  {_shown(figures[row])}"
            if row in real and row != "images":
                line = f"{line:{width + 12}}  real images: {_shown(real[row])}"
            lines.append(line)
        lines += _origin(figures.get("provenance"), real)
    return "\n".join(lines)


def _origin(origin: dict[str, Any] | None, real: dict[str, Any]) -> list[str]:
    """Lines on data, networks and seed."""
    if not origin:
        return []
    lines = [f"  the first {origin['images']} of {origin['of']} of {origin['data']}"]
    lines += [
        f"  {name}: {origin[name]}" for name in ("pixels", "probe") if name in origin
    ]
    if "train" in origin:
        lines.append(f"  neighbours among {origin['train']}")
    if "images" in real:
        lines.append(
            f"  real images: scores of {real['images']}, distances between sets of "
            f"{' and '.join(map(str, real['halves']))}; {origin['score_parts']} parts"
        )
    for role, network in origin["networks"].items():
        lines.append(f"  {role}: {network['name']} ({network['hash'][:12]})")
    return [*lines, f"  seed {origin['seed']}"]


def _shown(value: Any) -> str:
    """A number with four significant digits; of several by name, least and most."""
    if isinstance(value, dict):
        ends = (min(value, key=value.__getitem__), max(value, key=value.__getitem__))
        return " to ".join(f"{_shown(value[end])} ({end})" for end in ends)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
