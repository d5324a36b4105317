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
from minivim.trainer import Setup, coded, setup
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
    graph, start = nnx.graphdef(parts.model), nnx.state(parts.model, nnx.Param)
    run, optims = recipe.run, {}
    for name, moments in MOMENTS.items():
        optims[name] = replace(recipe.optim, **moments)
    curves, reached = _curves(run, parts, codes, optims, quiet)
    large = nnx.state(build_abstract(recipes.vim_large()), nnx.Param)
    count = count_parameters(parts.model)
    records = []
    for name, config in optims.items():
        record: dict[str, Any] = {"row": name, "seed": run.seed, "of": run.steps}
        nats = parts.evaluate(nnx.merge(graph, reached[name]), held_out)["nll"]
        record |= {"held_out": nats, "held_out_images": run.eval_size}
        record["bytes_per_weight"] = state_bytes(config, start) / count
        record["vim_large_gib"] = state_bytes(config, large) / 2**30
        records.append(record | curves[name])
    return records


def state_bytes(config: OptimConfig, params: Any) -> int:
    """Bytes of the optimizer's state for parameters, real or abstract."""
    state = jax.eval_shape(optimizer(config, steps=1).init, params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _curves(
    run: RunConfig, parts: Setup, codes: Source, optims: dict[str, Any], quiet: bool
) -> tuple[dict[str, dict[str, list]], dict[str, Any]]:
    """Train to the end: the loss and both distances, means of `WINDOW` steps; weights.

    Every optimizer has a trajectory of its own, and is asked beside it what it would do
    of the gradients along Adam's, which a second state remembers.
    """
    graph, key = nnx.graphdef(parts.model), jax.random.key(run.seed)

    @jax.jit
    def gradient(params: Any, batch: Any, step: Any) -> tuple:
        """Loss and gradient as in a training step."""

        def loss(params: Any) -> jax.Array:
            now = jax.random.fold_in(key, step)
            model = nnx.merge(graph, params)
            return parts.loss(model, batch, NO_CONTEXT, key=now)[0]

        return jax.value_and_grad(loss)(params)

    seen: dict[str, list[tuple[float, ...]]] = {name: [] for name in optims}
    start: Any = nnx.state(parts.model, nnx.Param)
    made = {name: optimizer(config, steps=run.steps) for name, config in optims.items()}
    update = {name: jax.jit(one.update) for name, one in made.items()}
    own = {name: one.init(start) for name, one in made.items()}
    along: dict[str, Any] = dict(own)
    params: dict[str, Any] = dict.fromkeys(optims, start)
    drawn = data.batches(codes, batch_size=run.batch_size, seed=run.seed)
    batches = [next(drawn) for _ in range(2 * run.steps)]
    for step in tqdm(range(run.steps), unit="step", disable=quiet):
        before, losses, grads, moves = params[ADAM], {}, {}, {}
        for name, now in params.items():
            batch = batches[step + run.steps if name == OTHER else step]
            losses[name], grads[name] = gradient(now, batch, step)
            moves[name], own[name] = update[name](grads[name], own[name], now)
        for name, now in params.items():
            params[name] = optax.apply_updates(now, moves[name])
        for name, now in params.items():
            move, along[name] = update[name](grads[ADAM], along[name], before)
            apart, away = _apart(move, moves[ADAM]), _apart(now, params[ADAM], start)
            seen[name].append((float(losses[name]), float(apart), float(away)))
    return {name: _windows(rows) for name, rows in seen.items()}, params


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
