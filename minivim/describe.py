"""Recipes and figures in words, for the terminal."""

from __future__ import annotations

import math
from typing import Any

import jax
from flax import nnx

from minivim import weights
from minivim.config import (
    ClassifierRecipe,
    PaletteRecipe,
    PriorRecipe,
    Recipe,
    StackConfig,
    TokenizerRecipe,
    leaves,
)
from minivim.recipes import PRINTED


def build_abstract(
    recipe: TokenizerRecipe | PaletteRecipe | PriorRecipe | ClassifierRecipe,
) -> Any:
    """The model with shapes for parameters: no memory, seconds at any size."""
    return weights.abstract(recipe.stage, recipe.model)


def count_parameters(model: nnx.Module) -> int:
    """Number of trained values of a model, real or abstract."""
    leaves_ = jax.tree.leaves(nnx.state(model, nnx.Param))
    return sum(math.prod(leaf.shape) for leaf in leaves_)


def describe_recipe(recipe: Recipe) -> str:
    """Every setting, then the parameter count three ways where the paper has one."""
    lines = [f"{recipe.stage} {recipe.name}"]
    lines += [f"  {name} = {value}" for name, value in leaves(recipe).items()]
    if isinstance(recipe, TokenizerRecipe | PriorRecipe):
        counted = count_parameters(build_abstract(recipe))
        lines.append(f"parameters: {counted:,} counted, {recipe.model.parameters:,} by")
        lines.append(f"  {_closed_form(recipe)}")
        lines += _printed(recipe)
    elif isinstance(recipe, ClassifierRecipe | PaletteRecipe):
        lines.append(f"parameters: {count_parameters(build_abstract(recipe)):,}")
    return "\n".join(lines)


def _closed_form(recipe: TokenizerRecipe | PriorRecipe) -> str:
    stack = "stack(L, D, H) = L (4 D^2 + 2 D H + H + 9 D) + 2 D"
    if isinstance(recipe, PriorRecipe):
        return f"(K + 2 grid + classes + 1) D + stack + (D + 1) K, {stack}"
    return (
        "patch embedding + positions + both stacks + tanh heads + projections to and "
        f"from the codes + K d, {stack}"
    )


def _printed(recipe: TokenizerRecipe | PriorRecipe) -> list[str]:
    """The paper's counts, one per stack, and the formula that gives them."""
    stacks = {"stack": getattr(recipe.model, "stack", None)}
    if isinstance(recipe, TokenizerRecipe):
        stacks = {"encoder": recipe.model.encoder, "decoder": recipe.model.decoder}
    rows = []
    for name, stack in stacks.items():
        if isinstance(stack, StackConfig) and stack in PRINTED:
            rows.append(
                f"paper, Table 2, {name}: {PRINTED[stack]}M printed = 11 L D^2 + "
                f"(2*8192 + 1024) D = {stack.printed_parameters:,}"
            )
    return rows


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
            line = f"  {row:{width}}  {shown(figures[row])}"
            if row in real and row != "images":
                line = f"{line:{width + 12}}  real images: {shown(real[row])}"
            lines.append(line)
        lines += _origin(figures.get("provenance", {}), real)
    return "\n".join(lines)


def _origin(origin: dict[str, Any], real: dict[str, Any]) -> list[str]:
    """Lines on data, networks and seed."""
    if not origin:
        return []
    lines = [f"  the first {origin['images']} of {origin['of']} of {origin['data']}"]
    if "pixels" in origin:
        lines.append(f"  pixels: {origin['pixels']}")
    if "probe" in origin:
        lines.append(f"  probe: {origin['probe']}")
    if "train" in origin:
        lines.append(f"  neighbours among {origin['train']}")
    if "images" in real:
        lines.append(
            f"  real images: scores of {real['images']}, distances between sets of "
            f"{' and '.join(map(str, real['halves']))}; {origin['score_parts']} parts"
        )
    for role, network in origin["networks"].items():
        lines.append(f"  {role}: {network['name']} ({network['hash'][:12]})")
    lines.append(f"  seed {origin['seed']}")
    return lines


def shown(value: Any) -> str:
    """A figure with four significant digits; of many by name, the least and most."""
    if isinstance(value, dict):
        least, most = (
            min(value, key=value.__getitem__),
            max(value, key=value.__getitem__),
        )
        return f"{shown(value[least])} ({least}) to {shown(value[most])} ({most})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
