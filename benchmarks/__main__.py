"""`python -m benchmarks`: our speed beside that of the PyTorch twins."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path

from minivim.runtime import restart_with_environment


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results.json"))
    parser.add_argument(
        "--page", type=Path, help="folder of the book for the table and the plot"
    )
    return parser.parse_args()


def main() -> None:
    chosen = options()
    # Both rivals get glibc's settings, since they share the process.
    restart_with_environment()
    import jax
    import torch
    from tqdm.auto import tqdm

    from benchmarks.cases import CASES
    from benchmarks.measure import matmul_limit

    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    limit = matmul_limit()
    rows = read(chosen.out).get("rows", {}) if chosen.only else {}
    for name in tqdm([n for n in CASES if chosen.only in n], dynamic_ncols=True):
        rows[name] = row(name, limit, repetitions=8 if chosen.quick else 40)
        report = {
            "threads": threads,
            "processor": processor(),
            "matmul_gflops": round(limit / 1e9, 1),
            "versions": {"jax": jax.__version__, "torch": torch.__version__},
            "rows": rows,
        }
        chosen.out.write_text(json.dumps(report, indent=1) + "\n")
    report = read(chosen.out)
    print(table(report))
    if chosen.page:
        write_page(report, chosen.page)


def read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def processor() -> str:
    """The maker and name of the processor (Linux)."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else "unknown"


def row(name: str, limit: float, *, repetitions: int) -> dict:
    """Figures of a case; its matrix products alone take `flops / limit` seconds."""
    import numpy as np

    from benchmarks.cases import CASES
    from benchmarks.measure import first_call, in_turns

    case = CASES[name]()
    first = {"ours": first_call(case.ours), "twin": first_call(case.twin)}
    case.check()
    times = in_turns(case.ours, case.twin, repetitions=repetitions, title=name)
    low, middle, high = times.ratio
    found = {"ratio": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}
    for who in ("ours", "twin"):
        seconds = np.median(getattr(times, who))
        found[who] = {
            "ms": round(1e3 * seconds, 2),
            "first_ms": round(1e3 * first[who][0], 1),
            "first_mb": round(first[who][1], 1),
            "of_limit": round(case.flops / limit / seconds, 3),
        }
    return found


def table(report: dict) -> str:
    """A Markdown table; ratio above 1: ours is faster."""
    lines = [
        f"{report['processor']}, {report['threads']} threads, matmul limit "
        f"{report['matmul_gflops']} GFLOP/s, "
        + ", ".join(f"{k} {v}" for k, v in report["versions"].items()),
        "",
        "| case | twin / ours | quartiles | ours, ms | twin, ms | of limit: ours, twin "
        "| first call, ms: ours, twin | first call, MB: ours, twin |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, r in report["rows"].items():
        (low, high), ours, twin = r["quartiles"], r["ours"], r["twin"]
        lines.append(
            f"| {name} | **{r['ratio']:.2f}** | {low:.2f} to {high:.2f} "
            f"| {ours['ms']:,.1f} | {twin['ms']:,.1f} "
            f"| {ours['of_limit']:.0%}, {twin['of_limit']:.0%} "
            f"| {ours['first_ms']:,.0f}, {twin['first_ms']:,.0f} "
            f"| {ours['first_mb']:,.0f}, {twin['first_mb']:,.0f} |"
        )
    return "\n".join(lines)


def write_page(report: dict, folder: Path) -> None:
    """`speed.json`, `speed.md` and `speed.png`: the table, and time over tokens."""
    folder.joinpath("speed.json").write_text(json.dumps(report, indent=1) + "\n")
    words = (
        "## Speed beside PyTorch\n\nOur models and their twins in PyTorch have the "
        "same weights, and a check compares what they compute before anything is "
        "timed. The two are then called in turns; a ratio above 1 means that ours is "
        "faster. "
        "*Of limit* is the time that the matrix products alone need at the fastest "
        "rate measured, divided by the time taken. The first call compiles in JAX. "
        "The twins are not compiled: `torch.compile` made a training step 6 % "
        "(tokenizer) and 1 % (prior) faster, and needs a C++ compiler. "
        "Made by `python -m benchmarks --page book/results`.\n\n"
        "![Time for each token against the number of tokens](./speed.png)\n\n"
    )
    folder.joinpath("speed.md").write_text(words + table(report) + "\n")
    growth(report["rows"]).savefig(folder / "speed.png", dpi=110)


def growth(rows: dict):
    """Milliseconds for each token of a picture, from 64 to 1,024 tokens."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    for axis, batch in zip(axes, (1, 8, 32), strict=True):
        for who, style in {"ours": "C0-o", "twin": "C1--s"}.items():
            points = {}
            for name, found in rows.items():
                match = re.fullmatch(rf"8 x 256: sample ([\d,]+) .*batch {batch}", name)
                if match:
                    tokens = int(match[1].replace(",", ""))
                    points[tokens] = found[who]["ms"] / tokens
            axis.plot(list(points), list(points.values()), style, label=who)
        axis.set(title=f"batch {batch}", xlabel="tokens", ylim=0, xscale="log")
        axis.set_xticks([64, 256, 1024], labels=["64", "256", "1,024"])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("ms a token")
    axes[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
