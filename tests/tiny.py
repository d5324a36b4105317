"""The smallest models, recipes and pictures that tests share."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from minivim import data, trainer
from minivim.config import (
    CNNConfig,
    OptimConfig,
    PaletteConfig,
    PriorConfig,
    PriorRecipe,
    QuantizerConfig,
    RunConfig,
    StackConfig,
    TokenizerConfig,
    TokenizerRecipe,
)
from minivim.data import ArraySource
from minivim.errors import UserError
from minivim.prior import Prior
from minivim.tokenizer import Tokenizer
from minivim.training import Workdir, fit, make_step, new_state
from minivim.training.step import Step, TrainState

CLASSES = 3
STACK = StackConfig(blocks=2, width=16, heads=2, hidden=32)
CNN = CNNConfig(channels=4, multipliers=(1, 1, 2), res_blocks=1, groups=2)
TOKENIZER = TokenizerConfig(
    image_size=8,
    patch_size=4,
    encoder=replace(STACK, blocks=1),
    decoder=replace(STACK, blocks=1),
    quantizer=QuantizerConfig(num_codes=24, code_dim=4),
)
PALETTE = PaletteConfig(image_size=8, patch_size=4, num_codes=24)
PRIOR = PriorConfig(num_codes=24, grid=2, stack=STACK, num_classes=CLASSES)
OPTIM = OptimConfig(peak_lr=3e-3, warmup_steps=2, final_lr=1e-4)
RUN = RunConfig(
    steps=12, batch_size=8, log_every=2, eval_every=4, checkpoint_every=5, eval_size=8
)
TOKENIZER_RECIPE = TokenizerRecipe(name="tiny", model=TOKENIZER, optim=OPTIM, run=RUN)
PRIOR_RECIPE = PriorRecipe(
    name="tiny", model=PRIOR, optim=OPTIM, run=RUN, tokenizer="none"
)


@cache
def _built(kind: type, config: Any, seed: int) -> nnx.Module:
    model = nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    rng = np.random.default_rng(seed)
    filled = []
    for path, leaf in nnx.to_flat_state(state):
        scale = {"kernel": leaf.shape[-2] ** -0.5 if leaf.ndim > 1 else 1.0}
        values = rng.normal(size=leaf.shape) * scale.get(path[-1], 0.1)
        values = {"scale": 1 + values, "codebook": 10 * values}.get(path[-1], values)
        kind = jnp.float32 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
        filled.append((path, leaf.replace(jnp.asarray(values, kind))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def build(kind: type, config: Any, seed: int = 0) -> Any:
    """A model with random parameters from NumPy: compiling the initialisers of every
    configuration would take longer than the tests. No bias or table is zero."""
    return nnx.clone(_built(kind, config, seed))


def tokenizer(seed: int = 0, **changes) -> Tokenizer:
    return build(Tokenizer, replace(TOKENIZER, **changes), seed)


def prior(seed: int = 0, **changes) -> Prior:
    return build(Prior, replace(PRIOR, **changes), seed)


@nnx.jit
def call(model: nnx.Module, *arguments: Any, **options: Any) -> Any:
    """`model(...)`, compiled once for each configuration and shape."""
    return model(*arguments, **options)


def gradients(loss: Any, model: nnx.Module) -> dict[str, np.ndarray]:
    """Gradients of `loss(model)` by the dotted name of the parameter."""
    found = nnx.jit(nnx.grad(loss))(model)
    return {
        ".".join(map(str, path)): np.asarray(leaf[...])
        for path, leaf in nnx.to_flat_state(nnx.state(found))
    }


def assert_same(a: Any, b: Any) -> None:
    """Two trees, bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def message(call: Any) -> str:
    """What a refusal says, in one line."""
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def images(count: int = 24, size: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def source(count: int = 24, seed: int = 0) -> ArraySource:
    labels = np.arange(count, dtype=np.int32) % CLASSES
    return ArraySource(
        {"image": images(count, seed=seed), "label": labels},
        class_names=[f"class {i}" for i in range(CLASSES)],
    )


class Nowhere(Workdir):
    """For runs of which nothing is kept."""

    def __init__(self) -> None:
        pass

    def restore(self, like: Any) -> None:
        pass

    def log(self, row: Any) -> None:
        pass

    def save(self, state: Any, data: Any) -> None:
        pass

    def wait(self) -> None:
        pass


class Ready(NamedTuple):
    """A recipe made ready on made-up pictures, as `minivim.train` does it."""

    recipe: Any
    parts: trainer.Setup
    batches: Any
    test: dict[str, np.ndarray]

    def state(self) -> TrainState:
        steps = self.recipe.run.steps
        return new_state(self.parts.model, self.parts.optim, steps=steps)

    def step(self, **changes: Any) -> Step:
        parts, run = self.parts, self.recipe.run
        how = {"key": jax.random.key(run.seed), "accumulate": run.accumulate}
        how |= parts.options | changes
        return make_step(parts.model, parts.loss, parts.optim, steps=run.steps, **how)

    def run(self, workdir: Any = None) -> tuple[Any, list[dict[str, Any]]]:
        """The trained model and its rows of metrics."""
        parts, graph = self.parts, nnx.graphdef(self.parts.model)
        state, rows = fit(
            self.state(), self.step(), self.batches, self.recipe.run,
            workdir=workdir or Nowhere(), describe=parts.describe, quiet=True,
            evaluate=lambda now: parts.evaluate(nnx.merge(graph, now), self.test),
        )  # fmt: skip
        return parts.export(nnx.merge(graph, state.variables)), rows


def ready(
    recipe: Any, images: Any = None, held_out: Any = None, *, network: Any = None
) -> Ready:
    images = source() if images is None else images
    images, test = trainer.coded(
        recipe, network, images, held_out or images, quiet=True
    )
    batches = data.batches(
        images, batch_size=recipe.run.batch_size, seed=recipe.run.seed
    )
    return Ready(recipe, trainer.setup(recipe, frozen=network), batches, test)


def pictures(folder: Path, *, labels: int = CLASSES, each: int = 10) -> Path:
    """Nested folders of 1-bit and grey PNGs of another size than any recipe's."""
    rng = np.random.default_rng(0)
    for label in range(labels):
        below = folder / f"class{label}"
        below.mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 256, (11, 13), dtype=np.uint8)
            pixels[:, : 4 * label + 1] = 255
            grey = Image.fromarray(pixels)
            picture = grey.convert("1") if number % 2 else grey
            picture.save(below / f"{number}.png")
    return folder


# --set values that make the `shapes` recipes as small as the ones above.
SIZES = ["blocks=1", "width=16", "heads=2", "hidden=32", "unroll=1"]
RUN_SETTINGS = [
    "steps=6",
    "batch_size=8",
    "log_every=2",
    "eval_every=6",
    "checkpoint_every=3",
    "eval_size=8",
    "warmup_steps=2",
    "decay_end=0",
]
TOKENIZER_SETTINGS = [
    "image_size=8",
    "patch_size=4",
    "num_codes=24",
    "code_dim=4",
    *(f"{side}.{size}" for side in ("encoder", "decoder") for size in SIZES),
    *RUN_SETTINGS,
]
PRIOR_SETTINGS = [
    "num_codes=24", "grid=2", f"num_classes={CLASSES}", *SIZES, *RUN_SETTINGS
]  # fmt: skip
