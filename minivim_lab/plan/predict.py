"""What the sharding rules say that chips must exchange, without a compiler."""

from __future__ import annotations

import math
import re
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from minivim import recipes, train
from minivim.config import with_overrides
from minivim.errors import UserError
from minivim.sharding import AXES, MeshShape, spec_of
from minivim.training.step import abstract_state
from minivim_lab.plan.answer import Plan

# Arrays that a loop over blocks reads a slice of.
IN_A_LOOP, KERNEL = re.compile(r"\bblocks\b"), re.compile(r"\bkernel\b")
REDUCTIONS, GATHERS = ("all-reduce", "reduce-scatter"), ("all-gather",)


def predicted(
    params: Any, mesh: Any, *, gathered: int = 2, summed: int = 4
) -> dict[str, int]:
    """Bytes of a step's exchanges by the rules; see `Traffic.bytes` for what counts.

    "gradients": every parameter's once, where the batch is split.
    "parameters": what `fsdp` splits is put together for each use: the blocks' in the
    forward and again in the backward pass, what lies outside of the loop once.

    gathered: bytes of a parameter on the way; a TPU multiplies in bfloat16 and gathers
    what it rounded. summed: bytes of a gradient of the blocks' matrices on the way, 2
    with precision=bfloat16, since the chips' shares are added before they are made
    float32. Raises `UserError` for a mesh with `tensor`, where activations
    travel too.
    """
    if mesh.shape["tensor"] > 1:
        raise UserError("the rules give no count for activations; use tensor=1")
    gradients = parameters = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        count = math.prod(leaf.shape)
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        product = IN_A_LOOP.search(name) and KERNEL.search(name)
        gradients += count * (summed if product else leaf.dtype.itemsize)
        split = "fsdp" in jax.tree.leaves(tuple(spec_of(name, leaf.shape, mesh)))
        if split and mesh.shape["fsdp"] > 1:
            parameters += gathered * count * (2 if IN_A_LOOP.search(name) else 1)
    several = mesh.shape["data"] * mesh.shape["fsdp"] > 1
    return {"gradients": gradients if several else 0, "parameters": parameters}


def rules_of(answer: Plan) -> dict[str, int]:
    """`predicted` for a plan's recipe and mesh; empty where activations travel too."""
    sizes = MeshShape.parse(answer.mesh).over(answer.chips)
    if sizes[2] > 1:
        return {}
    mesh = AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    recipe = with_overrides(
        recipes.recipe(answer.stage, answer.recipe), list(answer.settings)
    )
    objective, _ = train.abstract(recipe)  # type: ignore[arg-type]
    params = abstract_state(objective.model, objective.optim, steps=answer.steps).params
    return predicted(params, mesh, summed=4 if answer.precision == "float32" else 2)


def exchanged(answer: Plan) -> dict[str, float]:
    """The same two figures as the compiler has them, of a plan that fits."""
    kinds = {"gradients": REDUCTIONS, "parameters": GATHERS}
    return {name: answer.exchanged(*kinds[name])[1] for name in kinds}
