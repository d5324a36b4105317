"""The optimizer of section 5.2 beside Adam: what it saves, and how far it drifts.

The `shapes` prior is trained several times at once, from the same parameters and on the
same batches. Any two runs drift apart, so two distances are measured, and a yardstick:
the updates that each optimizer makes of the gradients along Adam's trajectory, the
parameters it reaches along its own, and Adam on other batches.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm.auto import tqdm

from minivim import data, recipes, show, weights
from minivim.config import OptimConfig, PriorRecipe, RunConfig, with_overrides
from minivim.context import NO_CONTEXT
from minivim.data import Source
from minivim.describe import build_abstract, count_parameters
from minivim.errors import UserError
from minivim.tokenizer import Tokenizer
from minivim.train import Setup, coded, setup
from minivim.training import optimizer
from minivim_lab import widgets
from minivim_lab.reproduce import stored
from minivim_lab.reproduce.stored import Options
from minivim_lab.tables import markdown_table

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


def main(options: Options) -> str:
    """Run the study; returns its title and table."""
    if options.only or options.seeds or options.speed:
        problem = "the rows of optimiser run side by side from one seed"
        raise UserError(f"{problem}; leave out --only, --seeds and --speed")
    found = run(options.of("shapes"))
    if options.page:
        pictures = {"optimiser": picture(found)}
        stored.write_page(options.page, "optimiser", found, markdown(found), pictures)
    return f"{TITLE}, {found[0]['of']} steps\n\n{table(found)}"


def run(options: Options) -> list[dict[str, Any]]:
    """Train all rows side by side, or read what an earlier call left."""
    settings = [f"run.steps={STEPS}", f"optim.warmup_steps={STEPS // 10}"]
    recipe: Any = with_overrides(recipes.recipe("prior", "shapes"), settings)
    tokenizer = weights.load(recipe.tokenizer)
    shape = tokenizer.config.image_shape
    train, test = (options.source(split, **shape) for split in ("train", "test"))
    below = weights.weights_hash(tokenizer)
    key = stored.recipe_hash(recipe, data=train.fingerprint, below=below)
    return stored.measured(
        options.out / f"optimiser-{STEPS}-{key}" / stored.FIGURES,
        {"moments": MOMENTS, "window": WINDOW, "test": test.fingerprint},
        lambda: compared(recipe, tokenizer, train, test, quiet=options.quiet),
    )


def compared(
    recipe: PriorRecipe, tokenizer: Tokenizer, train: Source, test: Source, quiet: bool
) -> list[dict[str, Any]]:
    """A record of curves and figures for every row of `MOMENTS`."""
    codes, held_out = coded(recipe, tokenizer, train, test, quiet=quiet)
    parts = setup(recipe, frozen=tokenizer)
    graph = nnx.graphdef(parts.model)
    start = nnx.state(parts.model, nnx.Param)
    steps = recipe.run.steps
    walks = {
        name: Walk(replace(recipe.optim, **moments), start, steps=steps)
        for name, moments in MOMENTS.items()
    }
    curves = _curves(recipe.run, parts, codes, walks, quiet)
    large = nnx.state(build_abstract(recipes.vim_large()), nnx.Param)
    count = count_parameters(parts.model)
    records = []
    for name, walk in walks.items():
        record: dict[str, Any] = {"row": name, "seed": recipe.run.seed, "of": steps}
        nats = parts.evaluate(nnx.merge(graph, walk.params), held_out)["nll"]
        record |= {"held_out": nats, "held_out_images": recipe.run.eval_size}
        record["bytes_per_weight"] = state_bytes(walk.config, start) / count
        record["vim_large_gib"] = state_bytes(walk.config, large) / 2**30
        records.append(record | curves[name])
    return records


def state_bytes(config: OptimConfig, params: Any) -> int:
    """Bytes of the optimizer's state for parameters, real or abstract."""
    state = jax.eval_shape(optimizer(config, steps=1).init, params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


class Walk:
    """An optimizer on a trajectory of its own, and beside it on Adam's."""

    def __init__(self, config: OptimConfig, start: Any, *, steps: int):
        transform = optimizer(config, steps=steps)
        self.config, self.params = config, start
        self.update = jax.jit(transform.update)
        # The second remembers the gradients along Adam's trajectory.
        self.state = self.shadow = transform.init(start)

    def move(self, grads: Any) -> Any:
        """Make an update, and return it."""
        updates, self.state = self.update(grads, self.state, self.params)
        self.params = optax.apply_updates(self.params, updates)
        return updates

    def follow(self, grads: Any, params: Any) -> Any:
        """The update that it would make at Adam's parameters."""
        updates, self.shadow = self.update(grads, self.shadow, params)
        return updates


def _curves(
    run: RunConfig, parts: Setup, codes: Source, walks: dict[str, Walk], quiet: bool
) -> dict[str, dict[str, list]]:
    """Train to the end: the loss and both distances, means of `WINDOW` steps."""
    graph, key = nnx.graphdef(parts.model), jax.random.key(run.seed)

    @jax.jit
    def gradient(params: Any, batch: Any, step: Any) -> tuple:
        """Loss and gradient as in a training step."""

        def loss(params: Any) -> jax.Array:
            now = jax.random.fold_in(key, step)
            model = nnx.merge(graph, params)
            return parts.loss(model, batch, NO_CONTEXT, key=now)[0]

        return jax.value_and_grad(loss)(params)

    seen: dict[str, list[tuple[float, ...]]] = {name: [] for name in walks}
    adam = walks[ADAM]
    start = adam.params
    drawn = data.batches(codes, batch_size=run.batch_size, seed=run.seed)
    batches = [next(drawn) for _ in range(2 * run.steps)]
    for step in tqdm(range(run.steps), unit="step", disable=quiet):
        before = adam.params
        losses, grads, updates = {}, {}, {}
        for name, walk in walks.items():
            batch = batches[step + run.steps if name == OTHER else step]
            losses[name], grads[name] = gradient(walk.params, batch, step)
            updates[name] = walk.move(grads[name])
        for name, walk in walks.items():
            update = _apart(walk.follow(grads[ADAM], before), updates[ADAM])
            moved = _apart(walk.params, adam.params, start)
            seen[name].append((float(losses[name]), float(update), float(moved)))
    return {name: _windows(rows) for name, rows in seen.items()}


@jax.jit
def _apart(one: Any, other: Any, start: Any = None) -> jax.Array:
    """`|one - other| / |other - start|` over all parameters; NaN where both are 0."""
    way = other if start is None else jax.tree.map(jnp.subtract, other, start)
    apart = jax.tree.map(jnp.subtract, one, other)
    return optax.global_norm(apart) / optax.global_norm(way)


def _windows(rows: Sequence[tuple[float, ...]]) -> dict[str, list]:
    """Means by the last step of each window; the first rate is 0, hence the NaN."""
    ends = list(range(WINDOW, len(rows) + 1, WINDOW))
    means = [np.nanmean(rows[end - WINDOW : end], axis=0) for end in ends]
    loss, update, parameters = np.transpose(means).round(6).tolist()
    return {"steps": ends, "loss": loss, "update": update, "parameters": parameters}


# Rows whose update is not Adam's.
APPROXIMATE = [name for name, moments in MOMENTS.items() if moments]


def table(found: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of all rows."""
    titles = (
        "moments", "state, bytes a weight", "state of VIM-Large, GiB",
        "held-out nats", "update on equal gradients, % from Adam's",
        "parameters, % from Adam's",
    )  # fmt: skip
    lines = (
        [
            row["row"],
            f"{row['bytes_per_weight']:.2f}",
            f"{row['vim_large_gib']:.2f}",
            f"{row['held_out']:.3f}",
            f"{100 * np.mean(row['update']):.1f}" if row["row"] in APPROXIMATE else "-",
            f"{100 * row['parameters'][-1]:.0f}" if row["row"] != ADAM else "-",
        ]
        for row in found
    )
    return markdown_table(titles, lines)


def picture(found: Sequence[dict[str, Any]]) -> show.Plot:
    """Loss and both distances over the steps."""

    def curves(key: str, names: Sequence[str], scale: int = 100) -> dict:
        rows = (row for row in found if row["row"] in names)
        return {r["row"]: (r["steps"], scale * np.array(r[key])) for r in rows}

    every = list(MOMENTS)
    panels = {
        "training loss, nats": curves("loss", every, scale=1),
        "update on equal gradients, % from Adam's": curves("update", APPROXIMATE),
        "parameters, % from Adam's": curves("parameters", every[1:]),
    }
    return widgets.curves(panels)


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The section of the results page."""
    first = found[0]
    return (
        f"## {TITLE}\n\n"
        f"{first['of']} steps of the `shapes` prior from seed {first['seed']}, "
        f"measured on the codes of {first['held_out_images']} test images: "
        "`minivim reproduce optimiser`.\n\n"
        f"{table(found)}\n\n![{picture(found).alt}](./optimiser.png)\n"
    )
