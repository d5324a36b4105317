"""Training state on disk: atomic, exact, and cut back to one step."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from minivim.errors import UserError
from minivim.training.step import TrainState

# Figures of some steps by name (a histogram is a list), under "step" the last of them.
Row = dict[str, Any]


def _first_difference(old: dict, new: dict) -> str:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            return f"{name} was {old.get(name)!r}, now {new.get(name)!r}"
    return ""


def _read_identity(file: Path) -> dict:
    try:
        return dict(json.loads(file.read_text()))
    except ValueError as error:
        raise UserError(f"{file} is damaged; choose another --workdir") from error


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def check_writable(folder: Path) -> None:
    """Make a folder and write to it, or say in a `UserError` why that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").write_text("yes")
        (folder / ".writable").unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to workdir {folder} ({error.strerror}); choose another "
            "--workdir or free it"
        ) from error


class Workdir:
    """A run's folder: `run.json`, `metrics.jsonl` and `checkpoints/`.

    `identity` is what makes this run this run (recipe and data); a folder with another
    identity is refused. Raises `UserError` for that, for a folder that cannot be
    written and for a full disk.
    """

    def __init__(self, path: str | Path, identity: dict[str, Any], *, keep: int = 2):
        self.path = Path(path).absolute()
        self.metrics_path = self.path / "metrics.jsonl"
        self._identify(json.loads(json.dumps(identity)))
        self._manager = ocp.CheckpointManager(
            self.path / "checkpoints",
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=False
            ),
        )

    def _identify(self, identity: dict[str, Any]) -> None:
        check_writable(self.path)
        file = self.path / "run.json"
        if not file.exists():
            write_text(file, json.dumps(identity, indent=1))
        elif (old := _read_identity(file)) != identity:
            raise UserError(
                f"{self.path} holds another run ({_first_difference(old, identity)}); "
                "choose another --workdir, or give the settings it was started with"
            )

    def save(self, state: TrainState, data: dict[str, Any]) -> None:
        """Write `state` and the data position under the state's step."""
        need = 2 * _bytes(state)
        free = shutil.disk_usage(self.path).free
        if free < need:
            raise UserError(
                f"workdir {self.path} is full: a checkpoint needs {need / 1e6:.0f} MB "
                f"and {free / 1e6:.0f} MB are free; free some and run the same command"
            )
        step = int(state.step)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data)
                ),
                force=True,
            )
            self._manager.wait_until_finished()
        except OSError as error:
            raise UserError(
                f"cannot write the checkpoint of step {step} to {self.path} "
                f"({error.strerror}); free the disk and run the same command"
            ) from error

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint, or None; cuts `metrics.jsonl` back to its step."""
        step = self._manager.latest_step()
        self._cut_metrics(0 if step is None else step)
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
            ),
        )
        return restored["state"], restored["data"]

    def _cut_metrics(self, step: int) -> None:
        if self.metrics_path.exists():
            rows = [row for row in read_metrics(self.path) if row["step"] <= step]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            write_text(self.metrics_path, lines)

    def log(self, row: Row) -> None:
        """Append one line to `metrics.jsonl`."""
        with self.metrics_path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        self._manager.close()


def read_metrics(workdir: str | Path) -> list[Row]:
    """Rows of a run's `metrics.jsonl`; a line that a kill cut short is left out."""
    rows = []
    for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def train_seconds(rows: list[Row]) -> float:
    """Seconds spent in steps, over all the parts of a run that was interrupted."""
    steps = [0.0, *(row["step"] for row in rows)]
    return sum(
        (row["step"] - before) / row["steps_per_second"]
        for row, before in zip(rows, steps, strict=False)
    )


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)
