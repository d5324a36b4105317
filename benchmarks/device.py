"""A prior on an accelerator: attention in a kernel beside the written form.

    python -m benchmarks.device --recipe vim-base --batch 32 --out device.json

Times the recipe's train step in bfloat16 over given codes, both forms of attention in
turns, and the sampling of a whole picture. Prints tokens per second, MFU (the share of
the chip's peak that the model's own products take), the memory in use at most, and of
sampling the share of the memory's bandwidth that reading weights and cache would need.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from minivim import recipes
from minivim.config import with_overrides
from minivim.prior import Prior, prior_loss, sample
from minivim.trainer import build
from minivim.training import make_step, new_state
from minivim_lab.plan.program import model_flops
from minivim_lab.tables import markdown_table

# Dense products in bfloat16, FLOP/s, and bytes/s of the memory, as published.
CHIPS = {
    "H100": (989e12, 3.35e12),
    "H200": (989e12, 4.8e12),
    "A100": (312e12, 2.0e12),
    "TPU v4": (275e12, 1.2e12),
}
FORMS = {"kernel": "auto", "written": "written"}


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def train_steps(recipe: Any, repetitions: int) -> dict[str, dict[str, Any]]:
    """Seconds of a step and the memory it needs, by form of attention, in turns."""
    model, size, c = build(recipe), recipe.run.batch_size, recipe.model
    rng, steps, found = np.random.default_rng(0), {}, {}
    codes = rng.integers(0, c.num_codes, (size, c.num_tokens)).astype(np.int32)
    batch = {"codes": codes, "label": np.zeros(size, np.int32)}
    state = new_state(model, recipe.optim, steps=recipe.run.steps)
    for form, choice in FORMS.items():
        os.environ["MINIVIM_ATTENTION"] = choice
        step = make_step(
            model, prior_loss, recipe.optim, steps=recipe.run.steps,
            key=jax.random.key(0),
        )  # fmt: skip
        compiled = step.trace(state, batch).lower().compile()
        needed = compiled.memory_analysis()
        found[form] = {"temporaries_gb": needed.temp_size_in_bytes / 1e9}
        steps[form] = step
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for turn in range(repetitions + 1):
        for form, step in steps.items():
            os.environ["MINIVIM_ATTENTION"] = FORMS[form]  # read in the first turn
            began = time.perf_counter()
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
            if turn:
                times[form].append(time.perf_counter() - began)
    for form, taken in times.items():
        found[form]["seconds"] = float(np.median(taken))
    return found


def sampling(model: Prior, batch: int, repetitions: int) -> dict[str, Any]:
    """Seconds of a batch of pictures, and the bytes that must be read for it."""
    c, key = model.config, jax.random.key(0)
    labels = np.zeros(batch, int) if c.num_classes else None
    count = None if c.num_classes else batch
    draw = lambda: sample(model, key=key, labels=labels, num_samples=count)  # noqa: E731
    first = seconds(draw)
    taken = float(np.median([seconds(draw) for _ in range(repetitions)]))
    cache = jax.eval_shape(lambda: model.empty_cache(batch))
    cache_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))
    # On average half of the cache is filled.
    read = c.num_tokens * (4 * c.parameters + cache_bytes / 2)
    return {"seconds": taken, "first": first, "read_gb": read / 1e9}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device")
    parser.add_argument("--recipe", default="vim-base")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    settings = ["precision=bfloat16", f"batch_size={options.batch}", *options.set]
    recipe = with_overrides(recipes.recipe("prior", options.recipe), settings)
    # What is compiled to be measured is not compiled again to run.
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
    device, tokens = jax.devices()[0], recipe.model.num_tokens
    peak, bandwidth = next(
        (limits for name, limits in CHIPS.items() if name in device.device_kind),
        (None, None),
    )
    work = model_flops(recipe)
    rows: list[dict[str, Any]] = []
    for form, one in train_steps(recipe, options.repetitions).items():
        row = {"what": f"train step, attention {form}"} | one
        row["tokens_per_second"] = options.batch * tokens / one["seconds"]
        row["mfu"] = work / one["seconds"] / peak if peak else None
        rows.append(row)
    drawn = sampling(
        Prior(recipe.model, rngs=nnx.Rngs(0)),
        options.samples,
        max(1, options.repetitions // 3),
    )
    row = {"what": f"sample {options.samples} x {tokens} tokens"} | drawn
    row["tokens_per_second"] = options.samples * tokens / drawn["seconds"]
    least = drawn["read_gb"] * 1e9 / bandwidth if bandwidth else None
    row["of_bandwidth"] = least / drawn["seconds"] if least else None
    rows.append(row)
    stats = device.memory_stats() or {}
    report = {
        "device": device.device_kind, "jax": jax.__version__, "recipe": recipe.name,
        "batch": options.batch, "rows": rows,
        "peak_memory_gb": stats.get("peak_bytes_in_use", 0) / 1e9 or None,
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(", ".join(f"{name} {report[name]}" for name in report if name != "rows"))
    names = dict.fromkeys(name for row in rows for name in row)
    cells = [[_short(row.get(name)) for name in names] for row in rows]
    print(markdown_table(list(names), cells))


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if type(value) is float else value


if __name__ == "__main__":
    main()
