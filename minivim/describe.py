"""Recipes and figures in words, for the terminal."""

from typing import Any

import jax
from flax import nnx

from minivim import config, weights
from minivim.metrics.judged import FEWEST
from minivim.recipes import PRINTED


def build_abstract(recipe: Any) -> Any:
    """The model with shapes for parameters: no memory, seconds at any size."""
    palette = isinstance(recipe, config.PaletteRecipe)
    return weights.abstract("palette" if palette else recipe.stage, recipe.model)


def count_parameters(model: nnx.Module) -> int:
    """Number of trained values of a model, real or abstract."""
    return sum(array.size for array in jax.tree.leaves(nnx.state(model, nnx.Param)))


def describe_recipe(recipe: config.Recipe) -> str:
    """Every setting, then the parameter count three ways where the paper has one."""
    lines = [f"{recipe.stage} {recipe.name}"]
    lines += [f"  {name} = {value}" for name, value in config.leaves(recipe).items()]
    if not isinstance(recipe, config.ProbeRecipe):
        lines.append(f"parameters: {count_parameters(build_abstract(recipe)):,}")
    if not isinstance(recipe, config.TokenizerRecipe | config.PriorRecipe):
        return "\n".join(lines)
    formula = "(K + 2 grid + classes + 1) D + stack + (D + 1) K"
    if isinstance(recipe, config.TokenizerRecipe):
        formula = "patch embedding + positions + both stacks + tanh heads + projections"
        formula += " to and from the codes + K d"
    lines[-1] += " counted"
    if recipe.model.parameters is not None:
        lines[-1] += f", {recipe.model.parameters:,} by\n  {formula}, "
        lines[-1] += "stack(L, D, H) = L (4 D^2 + 2 D H + H + 9 D) + 2 D"
    for name, size in vars(recipe.model).items():
        if isinstance(size, config.StackConfig) and size in PRINTED:
            printed = f"paper, Table 2, {name}: {PRINTED[size]}M printed = 11 L D^2 + "
            lines += [f"{printed}(2*8192 + 1024) D = {size.printed_parameters:,}"]
    return "\n".join(lines)


def figures_table(found: dict[str, dict[str, Any]]) -> str:
    """Figures of several weights beside those of real images, above their origin."""
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
        origin = figures["provenance"]
        said = [f"the first {origin['images']} of {origin['of']} of {origin['data']}"]
        said += [f"{k}: {origin[k]}" for k in ("pixels", "probe") if k in origin]
        if "train" in origin:
            said.append(f"neighbours among {origin['train']}")
        if "images" in real:
            halves = " and ".join(map(str, real["halves"]))
            apart = f"distances between sets of {halves}; {origin['score_parts']} parts"
            said.append(f"real images: scores of {real['images']}, {apart}")
        for role, network in origin["networks"].items():
            said.append(f"{role}: {network['name']} ({network['hash'][:12]})")
        if None in [*figures.values(), *real.values()]:
            said.append(f"too few: less than {FEWEST} images, or real ones in a half")
        lines += [f"  {line}" for line in [*said, f"seed {origin['seed']}"]]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """A number with four significant digits; of several by name, least and most."""
    if value is None:
        return "too few"
    if isinstance(value, dict):
        ends = (min(value, key=value.__getitem__), max(value, key=value.__getitem__))
        return " to ".join(f"{_shown(value[end])} ({end})" for end in ends)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
