"""`python -m benchmarks.losses`: what each term of stage 1 adds to a training step.

A ladder on the `shapes` recipe, each rung with one term more, measured in turns. R1 is
a step of its own on every 16th: its row spreads what that step costs more over all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from minivim.runtime import restart_with_environment
from minivim_lab.tables import markdown_table


def ladder(lpips: str) -> dict[str, Any]:
    """Recipes: L2 alone, then one term more each time; what is full ends the ladder."""
    from minivim.recipes import shapes_tokenizer, shapes_tokenizer_gan

    full = shapes_tokenizer_gan()

    def without(*terms: str) -> Any:
        return replace(full, loss=replace(full.loss, **dict.fromkeys(terms, 0.0)))

    def without_r1(recipe: Any) -> Any:
        critic = replace(recipe.discriminator, r1_gamma=0.0)
        return replace(recipe, discriminator=critic)

    default = replace(full, discriminator=type(full.discriminator)())
    return {
        "L2": shapes_tokenizer(),
        "+ logit-laplace": without("perceptual", "adversarial"),
        "+ perceptual, classifier": without("adversarial"),
        "+ adversarial, width 32": without_r1(full),
        "+ R1": full,
        "full, default discriminator (64 to 512)": without_r1(default),
        "full, default discriminator, R1": default,
        "full, LPIPS on VGG16 as perceptual": replace(
            without_r1(full), perceptual_net=lpips
        ),
    }


def measure(repetitions: int) -> list[dict[str, Any]]:
    """Rows with the median step and its ratio to the L2 step of the same turn."""
    import numpy as np
    from flax import nnx
    from tqdm.auto import tqdm

    from minivim import data, weights
    from minivim.tokenizer.perceptual import LPIPS, PerceptualConfig
    from minivim_lab.reproduce.tokenizers import step_clock

    source = data.open_source("shapes", split="test")
    with tempfile.TemporaryDirectory() as folder:
        # Random weights cost what trained ones do.
        network = nnx.jit(lambda: LPIPS(PerceptualConfig(), rngs=nnx.Rngs(0)))()
        weights.save(folder, network, card={})
        clocks = {
            name: step_clock(recipe, source, timer=time.perf_counter)
            for name, recipe in tqdm(ladder(folder).items(), desc="compile")
        }
    found = {name: np.empty(repetitions) for name in clocks}
    for i in tqdm(range(repetitions), desc="turns"):
        for name in np.random.default_rng(i).permutation([*clocks]).tolist():
            found[name][i] = clocks[name]()
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
    lines = []
    for row in rows:
        low, high = row["quartiles"]
        adds = "-" if row["adds"] is None else f"{row['adds']:.2f}"
        ratio, spread = f"**{row['ratio']:.2f}**", f"{low:.2f} - {high:.2f}"
        lines.append([row["step"], f"{row['ms']:.0f}", ratio, spread, adds])
    return markdown_table(["step", "ms", "of an L2 step", "quartiles", "adds"], lines)


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
