"""`python -m benchmarks.faults`: kill -9 at random moments, and what a run ends as.

A tiny tokenizer is trained by the command a user would type. It is killed when its
metrics reach a random step; every other kill waits for a checkpoint that is just being
written, which orbax's temporary folder shows. After every kill the same command is
started again. In the end weights and metrics are compared with an undisturbed run.

Then two commands of different seeds are started in one folder at the same time, again
and again: one has to be refused in one line. The other is killed, the same command
ends the run, and again weights and metrics are those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests import tiny

LAYERS = ["blocks=1", "width=16", "heads=2", "hidden=32", "unroll=1"]
MODEL = [
    "image_size=8", "patch_size=4", "num_codes=24", "code_dim=4", "batch_size=8",
    "eval_size=8", "warmup_steps=2", "decay_end=0",
    *(f"{side}.{setting}" for side in ("encoder", "decoder") for setting in LAYERS),
]  # fmt: skip
PATIENCE = 300  # seconds without what is waited for


@dataclass(frozen=True)
class Plan:
    """A run, and how often it is killed; writing takes a good share of its time."""

    steps: int = 3000
    checkpoint_every: int = 60
    log_every: int = 10
    kills: int = 20
    seed: int = 0

    def command(self, data: Path, workdir: Path, *, run_seed: int = 0) -> list[str]:
        return [
            sys.executable, "-m", "minivim", "train", "tokenizer", "shapes", "--quiet",
            "--data", str(data), "--workdir", str(workdir), "--set", *MODEL,
            f"steps={self.steps}", f"checkpoint_every={self.checkpoint_every}",
            f"log_every={self.log_every}", f"eval_every={self.steps // 4}",
            f"run.seed={run_seed}",
        ]  # fmt: skip


@dataclass(frozen=True)
class Kill:
    """The last step in the metrics, and that of the newest whole checkpoint."""

    step: int
    checkpoint: int
    writing: bool


def last_step(workdir: Path) -> int:
    """The last step in the metrics; 0 before the first."""
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    for line in reversed(lines):
        try:
            return json.loads(line)["step"]
        except json.JSONDecodeError:
            continue  # it is just being written
    return 0


def writing(workdir: Path) -> bool:
    """Whether a checkpoint has been begun and has no name yet."""
    folder = workdir / "checkpoints"
    try:
        return any("checkpoint-tmp" in path.name for path in folder.iterdir())
    except FileNotFoundError:
        return False


def newest(workdir: Path) -> int:
    folder = workdir / "checkpoints"
    found = folder.iterdir() if folder.is_dir() else ()
    return max((int(path.name) for path in found if path.name.isdigit()), default=0)


def polls(process: subprocess.Popen) -> Iterator[None]:
    """Moments until something happens that the caller waits for."""
    until = time.monotonic() + PATIENCE
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"the run ended by itself with {process.returncode}")
        if time.monotonic() > until:
            raise RuntimeError(f"nothing happened for {PATIENCE} seconds")
        yield
        time.sleep(0.001)


def stopped_while_writing(process: subprocess.Popen, workdir: Path) -> bool:
    """Halt the process; it goes on unless it halted in the middle of a write."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    if writing(workdir):
        return True
    process.send_signal(signal.SIGCONT)
    return False


def kill(
    command: list[str], workdir: Path, step: int, *, in_write: bool, delay: float
) -> Kill:
    """Start a run, let it reach `step` and end it with SIGKILL.

    `delay` seconds pass before, after the step or after the write has begun.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in polls(process):
            if last_step(workdir) >= step:
                break
        if in_write:
            for _ in polls(process):
                if not writing(workdir):
                    continue
                time.sleep(delay)
                if stopped_while_writing(process, workdir):
                    break
        else:
            time.sleep(delay)
    finally:
        process.kill()
        ended = process.wait()
    if ended != -signal.SIGKILL:
        raise RuntimeError(f"the run ended by itself with {ended}")
    return Kill(last_step(workdir), newest(workdir), writing(workdir))


def killed_run(plan: Plan, data: Path, workdir: Path) -> list[Kill]:
    """A run that is killed `plan.kills` times and then left alone."""
    rng = np.random.default_rng(plan.seed)
    command = plan.command(data, workdir)
    # The last tenth stays free, so that the last kill comes before the end.
    moments = np.sort(rng.integers(1, 9 * plan.steps // 10, plan.kills))
    kills = []
    for number, step in enumerate(moments.tolist()):
        in_write = number % 2 == 0
        delay = rng.uniform(0, 0.05)
        kills.append(kill(command, workdir, step, in_write=in_write, delay=delay))
        print(f"kill {number + 1}: {kills[-1]}", flush=True)
    finish(command)
    return kills


def finish(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def outcome(workdir: Path) -> dict[str, Any]:
    """What two runs are compared by: the bytes of the weights, and rows less times."""
    weights = (workdir / "model.safetensors").read_bytes()
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row.pop("steps_per_second")
    return {"weights": hashlib.sha256(weights).hexdigest(), "rows": rows}


def measure(plan: Plan, folder: Path) -> dict[str, Any]:
    """Both runs in `folder`, and what came of them."""
    data = tiny.pictures(folder / "pictures")
    kills = killed_run(plan, data, folder / "killed")
    finish(plan.command(data, folder / "whole"))
    one, other = outcome(folder / "killed"), outcome(folder / "whole")
    return {
        "plan": asdict(plan),
        "kills": [asdict(kill) for kill in kills],
        "weights_identical": one["weights"] == other["weights"],
        "rows": len(other["rows"]),
        "rows_identical": one["rows"] == other["rows"],
    }


@dataclass(frozen=True)
class Race:
    """Which of two commands had the folder, and what became of it."""

    winner: int
    step: int  # the last in the metrics when it was killed
    refused: str
    identical: bool


def race(plan: Plan, data: Path, workdir: Path, want: list[Any], delay: float) -> Race:
    """Two commands in one folder; the one that has it is killed and started again."""
    commands = [plan.command(data, workdir, run_seed=seed) for seed in range(2)]
    pipe = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    both = [subprocess.Popen(command, **pipe) for command in commands]
    until = time.monotonic() + PATIENCE
    while all(one.poll() is None for one in both) and time.monotonic() < until:
        time.sleep(0.01)
    [loser] = [i for i, one in enumerate(both) if one.poll() is not None]
    refused = both[loser].communicate()[1]
    if both[loser].returncode != 2 or refused.count("\n") != 1:
        raise RuntimeError(f"the second command said {refused!r}")
    step, winner = int(delay * plan.steps), 1 - loser
    for _ in polls(both[winner]):
        if last_step(workdir) >= step:
            break
    both[winner].kill()
    both[winner].communicate()
    step = last_step(workdir)
    finish(commands[winner])
    same = outcome(workdir) == want[winner]
    return Race(winner, step, refused.strip().replace(str(workdir), "WORKDIR"), same)


def races(count: int, seed: int, folder: Path) -> list[Race]:
    """As many rounds of `race`, each in a folder of its own."""
    plan, rng = Plan(steps=300), np.random.default_rng(seed)
    data, want = tiny.pictures(folder / "pictures"), []
    for number in range(2):
        whole = folder / f"whole{number}"
        finish(plan.command(data, whole, run_seed=number))
        want.append(outcome(whole))
    found = []
    for number in range(count):
        delay = float(rng.uniform(0, 0.8))
        found.append(race(plan, data, folder / f"both{number}", want, delay))
        print(f"race {number + 1}: {found[-1]}", flush=True)
    return found


def raced(found: list[Race]) -> str:
    """A section of the book."""
    wins, same = sum(one.winner for one in found), sum(one.identical for one in found)
    said = {one.refused for one in found}
    return "\n".join([
        "",
        "## Two commands in one folder",
        "",
        f"Two commands of different seeds were started {len(found)} times in one "
        f"folder at the same time: `--races {len(found)}`. One was refused each time "
        f"(the first {wins} times), with the line",
        "",
        *(f"    {line}" for line in sorted(said)),
        "",
        "and the exit code 2. The other was killed at a random step, after which its "
        f"command was let in again. {same} of {len(found)} runs ended with the weights "
        "and the rows of metrics, less the speed, of an undisturbed run.",
    ]) + "\n"  # fmt: skip


def markdown(found: dict[str, Any]) -> str:
    """A section of the book."""
    plan, kills = Plan(**found["plan"]), [Kill(**kill) for kill in found["kills"]]
    hits = sum(kill.writing for kill in kills)
    same = {True: "identical", False: "DIFFERENT"}
    lines = [
        "## Killed and restarted",
        "",
        f"A tiny tokenizer, {plan.steps:,} steps, a checkpoint every "
        f"{plan.checkpoint_every}, killed with SIGKILL {len(kills)} times and started "
        f"again as often: `python -m benchmarks.faults --kills {len(kills)} --seed "
        f"{plan.seed}`. {hits} of the kills came while a checkpoint was being "
        "written.",
        "",
        "| compared with an undisturbed run | |",
        "|---|---|",
        f"| bytes of `model.safetensors` | {same[found['weights_identical']]} |",
        f"| {found['rows']} rows of metrics, less the speed | "
        f"{same[found['rows_identical']]} |",
        "",
        "| kill | last row before it | newest whole checkpoint | during a write |",
        "|---|---|---|---|",
    ]
    for number, kill in enumerate(kills, start=1):
        during = "yes" if kill.writing else "no"
        lines.append(f"| {number} | {kill.step} | {kill.checkpoint} | {during} |")
    races = [Race(**one) for one in found.get("races", ())]
    return "\n".join(lines) + "\n" + (raced(races) if races else "")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--races", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/faults.json"))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Plan(kills=chosen.kills, seed=chosen.seed), Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        run = races(chosen.races, chosen.seed, Path(folder))
    found["races"] = [asdict(one) for one in run]
    chosen.out.write_text(json.dumps(found, indent=1) + "\n")
    page = markdown(found)
    chosen.out.with_suffix(".md").write_text(page)
    print(page, end="")
    same = found["weights_identical"] and found["rows_identical"]
    return 0 if same and all(one.identical for one in run) else 1


if __name__ == "__main__":
    sys.exit(main())
