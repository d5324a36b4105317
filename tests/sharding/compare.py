"""Twenty steps of every train step on eight devices, against one device.

Run as `python -m tests.sharding.compare BITS MESH/MESH... STEP...`, since the number of
devices and float64 are fixed before JAX starts; prints the largest differences as JSON.
"""

import json
import os
import sys
from dataclasses import replace
from functools import partial

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice

from minivim import classifier, data, fast, trainer
from minivim.config import (
    ClassifierConfig,
    ClassifierRecipe,
    DiscriminatorConfig,
    LossConfig,
)
from minivim.sharding import MeshShape, make_mesh
from minivim.training import make_step, new_state
from tests import tiny

STEPS = 20
RUN = replace(tiny.RUN, steps=STEPS, batch_size=16)
TOKENIZER = replace(tiny.TOKENIZER_RECIPE, flip=True, run=RUN)
PRIOR = replace(
    tiny.PRIOR_RECIPE,
    model=replace(tiny.PRIOR, stack=replace(tiny.STACK, dropout=0.1, remat="full")),
    label_dropout=0.2,
    run=RUN,
)
RECIPES = {
    "tokenizer": TOKENIZER,
    "statistics": replace(
        TOKENIZER,
        model=replace(
            tiny.TOKENIZER,
            quantizer=replace(tiny.TOKENIZER.quantizer, codebook="ema", revive_after=2),
        ),
    ),
    "adversarial": replace(
        TOKENIZER,
        model=replace(tiny.TOKENIZER, output="laplace"),
        loss=LossConfig(logit_laplace=0.1, adversarial=0.1),
        discriminator=DiscriminatorConfig(width=8, max_width=16, r1_interval=3),
    ),
    "perceptual": replace(
        TOKENIZER, loss=LossConfig(perceptual=0.1), perceptual_net="shapes/classifier"
    ),
    "cnn": replace(
        TOKENIZER, model=replace(tiny.TOKENIZER, encoder=tiny.CNN, decoder=tiny.CNN)
    ),
    "prior": PRIOR,
    # On a mesh with a TPU's kernel of attention, as `main` has it.
    "kernel": replace(
        PRIOR, model=replace(PRIOR.model, grid=16), run=replace(RUN, batch_size=8)
    ),
    "parts": replace(PRIOR, run=replace(RUN, accumulate=2)),
    "fly": replace(
        PRIOR,
        codes="fly",
        flip=True,
        optim=replace(
            tiny.OPTIM, second_moment="factored", first_moment="int8", clip_norm=1.0
        ),
    ),
    "classifier": ClassifierRecipe(
        name="tiny",
        model=ClassifierConfig(kind="cnn", num_classes=tiny.CLASSES, width=8),
        optim=tiny.OPTIM,
        run=RUN,
        image_size=16,
    ),
}


def widened(tree):
    """Host arrays, floats in the widest type that is switched on."""
    wide = np.dtype(jnp.zeros(()).dtype)

    def one(leaf):
        leaf = np.asarray(leaf)
        return leaf.astype(wide) if leaf.dtype.kind == "f" else leaf

    return jax.tree.map(one, tree)


def ready(recipe):
    if recipe.stage == "prior":
        return tiny.ready(recipe, network=tiny.tokenizer())
    if isinstance(recipe, ClassifierRecipe):
        rows = {"image": tiny.images(24, 16), "label": np.arange(24) % tiny.CLASSES}
        source = data.ArraySource(rows, class_names=("a", "b", "c"))
        network = tiny.build(classifier.build, recipe.model)
        classifier.build = lambda config, *, rngs: nnx.clone(network)
        return tiny.ready(recipe, source)
    return tiny.ready(recipe, network=trainer.frozen_network(recipe))


def trained(recipe, mesh):
    """State and metrics on the host, how far parameters moved, how many are split."""
    _, parts, batches, _ = ready(recipe)
    model, frozen = jax.tree.map(jnp.asarray, widened((parts.model, parts.frozen)))
    state = new_state(model, parts.optim, steps=STEPS, mesh=mesh)
    start = jax.device_get(state.params)
    step = make_step(
        model, parts.loss, parts.optim, steps=STEPS, key=jax.random.key(0),
        accumulate=recipe.run.accumulate, mesh=mesh,
        **parts.options | {"frozen": frozen},
    )  # fmt: skip
    found = []
    for at in range(STEPS):
        state, metrics = step(state, widened(next(batches)), at=at)
        found.append(metrics)
    leaves = jax.tree.leaves(state.params)
    split = sum(not leaf.sharding.is_fully_replicated for leaf in leaves)
    moved = largest(start, state.params)
    return jax.device_get(state), jax.device_get(found), moved, split


def largest(one, other) -> float:
    """Largest difference of two trees of numbers."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(
        float(np.abs(np.asarray(a, np.float64) - np.asarray(b)).max(initial=0))
        for a, b in pairs
    )


def main(bits: str, meshes: str, *names: str) -> list[dict]:
    jax.config.update("jax_enable_x64", bits == "64")
    found = []
    for name in names:
        recipe = RECIPES[name]
        if bits == "32":
            # Adam divides even a gradient that is nothing but rounding, as that of a
            # key's bias, by its own size; a larger eps keeps such parameters still.
            recipe = replace(recipe, optim=replace(recipe.optim, eps=1e-4))
        one, metrics, moved, _ = trained(recipe, make_mesh(devices=jax.devices()[:1]))
        patch = pytest.MonkeyPatch()
        if name == "kernel":
            patch.setattr(fast, "device", partial(AbstractDevice, "TPU v4", 1, "tpu"))
            patch.setattr(fast, "splash", partial(fast.splash, interpret=True))
        for mesh in meshes.split("/"):
            other, again, _, split = trained(recipe, make_mesh(MeshShape.parse(mesh)))
            row = {
                "name": name,
                "mesh": mesh,
                "type": str(jax.tree.leaves(one.params)[0].dtype),
                "state": largest(one, other),
                "metrics": largest(metrics, again),
                "moved": moved,
                "split": split,
            }
            print(row, file=sys.stderr)
            found.append(row)
        patch.undo()
    return found


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
