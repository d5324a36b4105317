"""`python -m benchmarks`: our speed beside that of the PyTorch twins."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from minivim.runtime import restart_with_environment


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results.json"))
    return parser.parse_args()


def main() -> None:
    chosen = options()
    # Both rivals get glibc's settings, since they share the process.
    restart_with_environment()
    import jax
    import torch
    from tqdm.auto import tqdm

    from benchmarks.cases import CASES
    from benchmarks.measure import in_turns, matmul_limit

    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    limit = matmul_limit()
    rows = []
    for make in tqdm(CASES, desc="cases", dynamic_ncols=True):
        case = make()
        if chosen.only not in case.name:
            continue
        repetitions = 8 if chosen.quick else 40
        times = in_turns(case.ours, case.twin, repetitions=repetitions, title=case.name)
        rows.append(row(case.name, times, case.flops / limit))
    report = {
        "threads": threads,
        "matmul_gflops": round(limit / 1e9, 1),
        "versions": {"jax": jax.__version__, "torch": torch.__version__},
        "rows": rows,
    }
    chosen.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


def row(name: str, times, least: float) -> dict:
    """`least` is the time of the case's matrix products at the measured limit."""
    import numpy as np

    ours, twin = np.median(times.ours), np.median(times.twin)
    low, middle, high = times.ratio
    return {
        "case": name,
        "ours_ms": round(1e3 * ours, 2),
        "twin_ms": round(1e3 * twin, 2),
        "ours_first_ms": round(1e3 * times.first, 2),
        "ratio": round(middle, 3),
        "ratio_quartiles": [round(low, 3), round(high, 3)],
        "ours_of_limit": round(least / ours, 3),
        "twin_of_limit": round(least / twin, 3),
    }


def table(report: dict) -> str:
    """A Markdown table; ratio above 1: ours is faster."""
    lines = [
        f"{report['threads']} threads, matmul limit {report['matmul_gflops']} GFLOP/s, "
        + ", ".join(f"{k} {v}" for k, v in report["versions"].items()),
        "",
        "| case | ours ms | first | twin ms | twin / ours | quartiles "
        "| of limit | twin |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in report["rows"]:
        low, high = r["ratio_quartiles"]
        lines.append(
            f"| {r['case']} | {r['ours_ms']:.1f} | {r['ours_first_ms']:.0f} "
            f"| {r['twin_ms']:.1f} "
            f"| **{r['ratio']:.2f}** | {low:.2f} - {high:.2f} "
            f"| {r['ours_of_limit']:.0%} | {r['twin_of_limit']:.0%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
