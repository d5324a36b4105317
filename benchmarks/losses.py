"""`python -m benchmarks.losses`: what each term of stage 1 adds to a training step.

A ladder on the `shapes` recipe, each rung with one term more, measured in turns. R1 is
a step of its own on every 16th: its row spreads what that step costs more over all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minivim.runtime import restart_with_environment


@dataclass(frozen=True)
class Rung:
    """A recipe, and whether the step is one with R1."""

    name: str
    recipe: Any
    due: bool = False


def rungs(lpips: str) -> list[Rung]:
    """L2 alone, then one term more each time; `full` ends the ladder."""
    from minivim.recipes import shapes_tokenizer, shapes_tokenizer_gan

    full = shapes_tokenizer_gan()

    def without(*terms: str) -> Any:
        return replace(full, loss=replace(full.loss, **dict.fromkeys(terms, 0.0)))

    default = replace(full, discriminator=type(full.discriminator)())
    return [
        Rung("L2", shapes_tokenizer()),
        Rung("+ logit-laplace", without("perceptual", "adversarial")),
        Rung("+ perceptual, classifier", without("adversarial")),
        Rung("+ adversarial, width 32", full),
        Rung("+ R1", full, due=True),
        Rung("full, default discriminator (64 to 512)", default),
        Rung("full, default discriminator, R1", default, due=True),
        Rung("full, LPIPS on VGG16 as perceptual", replace(full, perceptual_net=lpips)),
    ]


def step_of(rung: Rung, source: Any) -> Callable[[], float]:
    """Seconds of one step, after two that compile and warm up."""
    import jax

    from minivim import data
    from minivim.trainer import frozen_network, setup
    from minivim.training import make_step, new_state

    recipe = rung.recipe
    parts = setup(recipe, frozen=frozen_network(recipe))
    batches = data.batches(
        source, batch_size=recipe.run.batch_size, seed=recipe.run.seed
    )
    state = [new_state(parts.model, parts.optim, steps=10_000)]
    step = make_step(
        parts.model,
        parts.loss,
        parts.optim,
        steps=10_000,
        key=jax.random.key(0),
        **parts.options,
    )
    at = 0 if rung.due else 1

    def call() -> float:
        batch = next(batches)
        began = time.perf_counter()
        state[0], metrics = step(state[0], batch, at=at)
        jax.block_until_ready((state[0], metrics))
        return time.perf_counter() - began

    for _ in range(2):
        call()
    return call


def measure(repetitions: int) -> list[dict[str, Any]]:
    """Rows with the median step and its ratio to the L2 step of the same turn."""
    import jax
    import numpy as np
    from flax import nnx
    from tqdm.auto import tqdm

    from minivim import data, weights
    from minivim.tokenizer.perceptual import LPIPS, PerceptualConfig

    source = data.open_source("shapes", split="test")
    with tempfile.TemporaryDirectory() as folder:
        # Random weights cost what trained ones do.
        network = nnx.jit(lambda: LPIPS(PerceptualConfig(), rngs=nnx.Rngs(0)))()
        weights.save(folder, network, card={})
        ladder = rungs(folder)
        calls = [step_of(rung, source) for rung in tqdm(ladder, desc="compile")]
    seconds = np.empty((repetitions, len(calls)))
    for i in tqdm(range(repetitions), desc="turns"):
        for j in np.random.default_rng(i).permutation(len(calls)):
            seconds[i, j] = calls[j]()
    jax.clear_caches()
    found = {rung.name: seconds[:, j] for j, rung in enumerate(ladder)}
    interval = ladder[0].recipe.discriminator.r1_interval
    for plain, lazy in (
        ("+ adversarial, width 32", "+ R1"),
        ("full, default discriminator (64 to 512)", "full, default discriminator, R1"),
    ):
        found[lazy] = found[plain] + (found[lazy] - found[plain]) / interval
    return rows_of(found)


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Medians and quartiles of the ratio; `adds` is the rise over the rung before."""
    import numpy as np

    rows, before, base = [], 0.0, found["L2"]
    for name, seconds in found.items():
        low, ratio, high = np.percentile(seconds / base, (25, 50, 75))
        rows.append(
            {
                "step": name,
                "ms": round(1e3 * float(np.median(seconds)), 1),
                "ratio": round(float(ratio), 2),
                "quartiles": [round(float(low), 2), round(float(high), 2)],
                "adds": round(float(ratio) - before, 2) if name[0] in "L+" else None,
            }
        )
        before = float(ratio)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; ratio and rise in units of an L2 step."""
    lines = [
        "| step | ms | of an L2 step | quartiles | adds |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["quartiles"]
        adds = "-" if row["adds"] is None else f"{row['adds']:.2f}"
        lines.append(
            f"| {row['step']} | {row['ms']:.0f} | **{row['ratio']:.2f}** "
            f"| {low:.2f} - {high:.2f} | {adds} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.losses", description=__doc__
    )
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/losses.json"))
    chosen = parser.parse_args()
    restart_with_environment()
    rows = measure(chosen.repetitions)
    chosen.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
