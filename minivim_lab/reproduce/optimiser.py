"""The optimiser of section 5.2 beside Adam: what it saves, and how far it drifts.

The `shapes` prior is trained several times at once, from the same parameters and on the
same batches. Two runs of anything drift apart, so there are two measures and a
yardstick: the update that each optimiser makes of the gradients on Adam's own way, the
parameters that it reaches on a way of its own, and Adam on the batches that come after.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm.auto import tqdm

from minivim import recipes, show, weights
from minivim.config import OptimConfig, PriorRecipe
from minivim.data import Source
from minivim.describe import build_abstract
from minivim.tokenizer import Tokenizer
from minivim.train import Experiment, prior_experiment
from minivim.training import optimizer
from minivim_lab import widgets
from minivim_lab.reproduce import stored

TITLE = "Stage 2: the optimiser that saves memory, beside Adam"
STEPS, WINDOW = 150, 10
ADAM, OTHER = "Adam", "Adam, other batches"
MOMENTS: dict[str, dict[str, Any]] = {
    ADAM: {},
    "factored": {"second_moment": "factored"},
    "factored, bfloat16": {"second_moment": "factored", "first_moment": "bfloat16"},
    "factored, int8": {"second_moment": "factored", "first_moment": "int8"},
    OTHER: {},
}


def run(*, spec: str, out: Path, quiet: bool = False) -> list[dict[str, Any]]:
    """Train all rows side by side, or read what an earlier call left."""
    recipe = recipes.recipe("prior", "shapes")
    assert isinstance(recipe, PriorRecipe)
    recipe = replace(
        recipe,
        optim=replace(recipe.optim, warmup_steps=STEPS // 10),
        run=replace(recipe.run, steps=STEPS),
    )
    tokenizer = weights.load(recipe.tokenizer)
    shape = tokenizer.config.image_shape
    train, test = (stored.source(spec, split, **shape) for split in ("train", "test"))
    below = weights.weights_hash(tokenizer)
    key = stored.recipe_hash(recipe, data=train.fingerprint, below=below)
    return stored.measured(
        out / f"optimiser-{STEPS}-{key}" / stored.FIGURES,
        {"moments": MOMENTS, "window": WINDOW, "test": test.fingerprint},
        lambda: compared(recipe, tokenizer, train, test, quiet=quiet),
    )


def compared(
    recipe: PriorRecipe,
    tokenizer: Tokenizer,
    source: Source,
    held_out: Source,
    *,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """One record of curves and figures for every row of `MOMENTS`."""
    parts = prior_experiment(recipe, tokenizer, source, held_out, quiet=quiet)
    walks = _walks(recipe, parts)
    curves = _curves(recipe, parts, walks, quiet=quiet)
    large = nnx.state(build_abstract(recipes.vim_large()), nnx.Param)
    count = sum(leaf.size for leaf in jax.tree.leaves(walks[ADAM].start))
    return [
        {
            "row": name,
            "seed": recipe.run.seed,
            "of": recipe.run.steps,
            "held_out": parts.evaluate(walk.params)["nll"],
            "held_out_images": recipe.run.eval_size,
            "bytes_per_weight": state_bytes(walk.config, walk.start) / count,
            "vim_large_gib": state_bytes(walk.config, large) / 2**30,
            **curves[name],
        }
        for name, walk in walks.items()
    ]


def state_bytes(config: OptimConfig, params: Any) -> int:
    """Bytes of the optimiser's state for parameters, real or abstract."""
    state = jax.eval_shape(optimizer(config, steps=1).init, params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


@dataclass
class Walk:
    """An optimiser on a way of its own, and beside it on Adam's."""

    config: OptimConfig
    start: Any
    params: Any
    state: Any
    # What it remembers of the gradients on Adam's way.
    shadow: Any
    update: Callable[..., tuple]

    def move(self, grads: Any) -> Any:
        """Make an update, and say which."""
        updates, self.state = self.update(grads, self.state, self.params)
        self.params = optax.apply_updates(self.params, updates)
        return updates

    def follow(self, grads: Any, params: Any) -> Any:
        """The update that it would make where Adam is."""
        updates, self.shadow = self.update(grads, self.shadow, params)
        return updates


def _walks(recipe: PriorRecipe, parts: Experiment) -> dict[str, Walk]:
    params = nnx.state(parts.model, nnx.Param)
    found = {}
    for name, moments in MOMENTS.items():
        config = replace(recipe.optim, **moments)
        transform = optimizer(config, steps=recipe.run.steps)
        state, update = transform.init(params), jax.jit(transform.update)
        found[name] = Walk(config, params, params, state, state, update)
    return found


def _curves(
    recipe: PriorRecipe, parts: Experiment, walks: dict[str, Walk], *, quiet: bool
) -> dict[str, dict[str, list]]:
    """Walk all the way: the loss and both distances, means of `WINDOW` steps."""
    gradient = _gradient(parts, jax.random.key(recipe.run.seed))
    seen: dict[str, list[tuple[float, ...]]] = {name: [] for name in walks}
    adam = walks[ADAM]
    steps = recipe.run.steps
    batches = [next(parts.batches) for _ in range(2 * steps)]
    for step in tqdm(range(steps), unit="step", disable=quiet):
        there = adam.params
        slopes, moved = {}, {}
        for name, walk in walks.items():
            batch = batches[step + steps if name == OTHER else step]
            loss, slopes[name] = gradient(walk.params, batch, step)
            seen[name].append((float(loss),))
            moved[name] = walk.move(slopes[name])
        for name, walk in walks.items():
            seen[name][-1] += (
                _apart(walk.follow(slopes[ADAM], there), moved[ADAM]),
                _apart(walk.params, adam.params, walk.start),
            )
    return {name: _windows(rows) for name, rows in seen.items()}


def _gradient(parts: Experiment, key: jax.Array) -> Callable[..., tuple]:
    """Loss and gradient as in a training step, whose randomness is by its number."""
    graph = nnx.graphdef(parts.model)

    @jax.jit
    def gradient(params: Any, batch: Any, step: Any) -> tuple:
        def objective(params: Any) -> jax.Array:
            model, now = nnx.merge(graph, params), jax.random.fold_in(key, step)
            return parts.loss(model, batch, key=now)[0]

        return jax.value_and_grad(objective)(params)

    return gradient


def _apart(one: Any, other: Any, start: Any = None) -> float:
    """`|one - other| / |other - start|` over all parameters; NaN where both are 0."""
    return float(_ratio(one, other, start))


@jax.jit
def _ratio(one: Any, other: Any, start: Any) -> jax.Array:
    way = other if start is None else jax.tree.map(jnp.subtract, other, start)
    apart = jax.tree.map(jnp.subtract, one, other)
    return optax.global_norm(apart) / optax.global_norm(way)


def _windows(rows: Sequence[tuple[float, ...]]) -> dict[str, list]:
    """Means by the last step of each window; the first rate is 0, hence the NaN."""
    ends = list(range(WINDOW, len(rows) + 1, WINDOW))
    means = [np.nanmean(rows[end - WINDOW : end], axis=0) for end in ends]
    columns = np.transpose(means).round(6).tolist()
    return {"steps": ends} | dict(
        zip(("loss", "update", "parameters"), columns, strict=True)
    )


def table(found: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of all rows."""
    lines = [
        "| moments | state, bytes a weight | state of VIM-Large, GiB | held-out nats | "
        "update on equal gradients, % from Adam's | parameters, % from Adam's |",
        "|---" * 6 + "|",
    ]
    for row in found:
        update, parameters = (
            f"{100 * np.mean(row['update']):.1f}"
            if row["row"] in _approximate()
            else "-",
            f"{100 * row['parameters'][-1]:.0f}" if row["row"] != ADAM else "-",
        )
        lines.append(
            f"| {row['row']} | {row['bytes_per_weight']:.2f} | "
            f"{row['vim_large_gib']:.2f} | {row['held_out']:.3f} | {update} | "
            f"{parameters} |"
        )
    return "\n".join(lines)


def _approximate() -> list[str]:
    """Rows whose update is not Adam's."""
    return [name for name, moments in MOMENTS.items() if moments]


def picture(found: Sequence[dict[str, Any]]) -> show.Plot:
    """Loss and both distances over the steps."""

    def curves(key: str, names: Sequence[str], percent: bool = True) -> dict:
        return {
            row["row"]: (row["steps"], (100 if percent else 1) * np.array(row[key]))
            for row in found
            if row["row"] in names
        }

    return widgets.curves(
        {
            "training loss, nats": curves("loss", list(MOMENTS), percent=False),
            "update on equal gradients, % from Adam's": curves(
                "update", _approximate()
            ),
            "parameters, % from Adam's": curves("parameters", list(MOMENTS)[1:]),
        }
    )


def write_page(found: Sequence[dict[str, Any]], *, page: Path) -> None:
    """The study as `optimiser.json`, `.md` and `.png` in the folder `page`."""
    page.mkdir(parents=True, exist_ok=True)
    (page / "optimiser.json").write_text(json.dumps(found, indent=1) + "\n")
    (page / "optimiser.md").write_text(markdown(found))
    (page / "optimiser.png").write_bytes(show.to_png(picture(found)))


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The section of the results page."""
    first = found[0]
    return "\n\n".join(
        [
            f"## {TITLE}",
            f"{first['of']} steps of the `shapes` prior from seed {first['seed']}, "
            f"measured on the codes of {first['held_out_images']} test images: "
            "`minivim reproduce optimiser`.",
            table(found),
            f"![{picture(found).alt}](./optimiser.png)\n",
        ]
    )
