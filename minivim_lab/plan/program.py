"""The real train step of a recipe, compiled for chips that need not be there."""

import math
import time
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from minivim import recipes, trainer, weights
from minivim.config import PaletteRecipe, PriorRecipe, leaves, with_overrides
from minivim.errors import UserError, brief
from minivim.sharding import by_rows, check_batch, place, shardings_of
from minivim.tokenizer.perceptual import PerceptualConfig
from minivim.trainer import Setup, TrainableRecipe
from minivim.training.step import abstract_state, make_step
from minivim_lab.plan.chips import refusal
from minivim_lab.plan.hlo import Traffic, costs
from minivim_lab.plan.products import product_flops

# On a scale from -1 to 1. A step with StyleGAN2's discriminator compiles six times as
# fast, and its program needs a seventh more memory.
QUICK = {"exec_time_optimization_effort": -1.0}


@dataclass(frozen=True, kw_only=True)
class Program:
    """What the compiler says of one program, on one chip; bytes, FLOPs and seconds.

    `flops` are those of the compiled text; of a refused program, which has none, those
    of the trace over all chips. `share` is how many of a run's steps use the program.
    """

    name: str
    share: float
    fits: bool
    needed: int  # the most that lies in memory at once: arguments and temporaries
    flops: float
    compile_seconds: float
    processor_seconds: float  # of all cores, for the machine may have been busy
    # The compiler's words where it refuses; nothing below is known then.
    refusal: str = ""
    # `temp_size_in_bytes`, which with the arguments is more than the chip has for some
    # programs that fit: not all of it is there at once.
    temp_size: int = 0
    hbm_bytes: int = 0
    collectives: dict[str, Traffic] = field(default_factory=dict)
    unknown_loops: int = 0
    unknown_kernels: int = 0
    # The largest parts of `hbm_bytes`, by instruction and line.
    places: dict[str, int] = field(default_factory=dict)


def trainable(name: str, stage: str | None = None) -> TrainableRecipe:
    """The recipe of this name with a train step; `UserError` for several or none."""
    found = [recipes.recipe(stage, name)] if stage else recipes.named(name)
    steps = [one for one in found if isinstance(one, TrainableRecipe)]
    if not steps:
        kind = "palette" if isinstance(found[0], PaletteRecipe) else "probe"
        raise UserError(f"{name} is a {kind}, which has no train step; name another")
    if len(steps) > 1:
        stages = " or ".join(one.stage for one in steps)
        raise UserError(f"{name} is the name of several recipes; add --stage {stages}")
    return steps[0]


def abstract(recipe: TrainableRecipe) -> tuple[Setup, dict[str, Any]]:
    """A recipe's setup and a batch as shapes alone, whatever the size.

    Frozen networks that are not at hand are taken as VGG16's LPIPS and as the tokenizer
    of the recipe that bears the folder's name. Raises `UserError` where there is none.
    """

    def rows(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((recipe.run.batch_size, *shape), dtype)

    network = _frozen(recipe)
    sized: Any = recipe if recipe.stage == "classifier" else recipe.model
    sized = network.config if recipe.stage == "prior" else sized
    side, channels = sized.image_shape.values()
    batch = {"image": rows(side, side, channels, dtype=jnp.float32)}
    if isinstance(recipe, PriorRecipe) and recipe.codes == "cache":
        batch = {"codes": rows(recipe.model.num_tokens)}
    batch["label"] = rows()
    model = nnx.eval_shape(lambda: trainer.build(recipe))
    return trainer.setup(recipe, model, network), batch


def _frozen(recipe: Any) -> Any:
    """The tokenizer of a prior or the perceptual network of a tokenizer, as shapes."""
    prior = recipe.stage == "prior"
    if not prior and not (recipe.stage == "tokenizer" and recipe.loss.perceptual):
        return None
    try:
        found = weights.load(recipe.tokenizer if prior else recipe.perceptual_net)
    except UserError:
        if not prior:
            return weights.abstract("perceptual", PerceptualConfig())
        known = recipes.RECIPES.get(("tokenizer", PurePath(recipe.tokenizer).name))
        if known is None:
            raise
        return weights.abstract("tokenizer", known().model)  # type: ignore[union-attr]
    return nnx.eval_shape(lambda: found)


class Inputs:
    """A recipe's step and the shapes of its arguments; without a mesh on no device."""

    def __init__(self, recipe: TrainableRecipe, mesh: Mesh | None):
        (parts, batch), run = abstract(recipe), recipe.run
        state = abstract_state(parts.model, parts.optim, steps=run.steps)
        if mesh is not None:
            check_batch(mesh, batch_size=run.batch_size, accumulate=run.accumulate)
            state = place(state, shardings_of(state, mesh))
            batch = place(batch, dict.fromkeys(batch, by_rows(mesh)))
        self.objective, self.state, self.batch = parts, state, batch
        self.chips = 1 if mesh is None else mesh.size
        self.step = make_step(
            parts.model, parts.loss, parts.optim, steps=run.steps,
            key=jax.random.key(run.seed), accumulate=run.accumulate, mesh=mesh,
            **parts.options,
        )  # fmt: skip
        if mesh is not None:
            # On one chip: parameters, statistics, optimiser; then batch and frozen too.
            self.state_bytes = _bytes_on_one(state)
            self.argument_bytes = _bytes_on_one((state, batch, self.step.frozen))

    def trace(self, due: bool = False) -> Any:
        """The step's program; `due`: with the lazy terms."""
        return self.step.trace(self.state, self.batch, due=due)


def _bytes_on_one(tree: Any) -> int:
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def schedule(objective: Setup) -> dict[str, tuple[bool, float]]:
    """The programs of a run: whether lazy terms are due, and their share of steps."""
    every = objective.lazy_every or math.inf
    both = {"step": (False, 1 - 1 / every), "step with R1": (True, 1 / every)}
    return {name: program for name, program in both.items() if program[1]}


def model_flops(recipe: TrainableRecipe) -> float:
    """FLOPs of a mean step without anything computed twice, on all chips together."""
    remat = [name for name in leaves(recipe) if name.split(".")[-1] == "remat"]
    plain = Inputs(with_overrides(recipe, [f"{name}=none" for name in remat]), None)
    return sum(
        share * product_flops(plain.trace(due).jaxpr)
        for due, share in schedule(plain.objective).values()
    )


def compiled(given: Inputs, name: str, due: bool, share: float, quick: bool) -> Program:
    """Compile; out of memory is an answer, any other refusal a `UserError`."""
    traced = given.trace(due)
    wall, processor = time.perf_counter(), time.process_time()
    try:
        executable = traced.lower().compile(QUICK if quick else None)
    except jax.errors.JaxRuntimeError as error:
        if (refused := refusal(error)) is None:
            problem = f"the compiler refuses the {name} ({brief(error)})"
            remedy = "try another --mesh, precision or remat"
            raise UserError(f"{problem}; {remedy}") from error
        needed, words = refused
        flops = product_flops(traced.jaxpr) / given.chips
        found = {"fits": False, "needed": needed, "refusal": words, "flops": flops}
    else:
        memory, read = executable.memory_analysis(), costs(executable.as_text())
        found = {**vars(read), "fits": True, "flops": float(read.flops)}
        found["places"] = dict(read.places.most_common(5))
        found["needed"] = int(memory.peak_memory_in_bytes)
        found["temp_size"] = int(memory.temp_size_in_bytes)
    found["compile_seconds"] = round(time.perf_counter() - wall, 1)
    found["processor_seconds"] = round(time.process_time() - processor, 1)
    return Program(name=name, share=share, **found)
