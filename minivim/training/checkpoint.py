"""Training state on disk: atomic, exact, and cut back to one step.

A checkpoint is written in the background, into a folder that gets its name when it is
whole; the last `keep` stay. Reading one compares every array with the digest that was
taken when it was saved, because orbax's format has no checksum for large arrays.
"""

from __future__ import annotations

import errno
import gc
import io
import json
import logging
import os
import shutil
import sys
import zlib
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from minivim.errors import UserError
from minivim.files import write, write_json
from minivim.training.digest import digests
from minivim.training.processes import agreed, on_first
from minivim.training.step import TrainState

# errno values meaning "cannot write".
_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO
)  # fmt: skip
# Figures of some steps by name (a histogram is a list), under "step" the last of them.
Row = dict[str, Any]


def _another_run(old: dict, new: dict) -> str:
    """In which settings two runs differ, three at most, and what to do."""
    names = [n for n in old.keys() | new.keys() if old.get(n) != new.get(n)]
    names.sort(key=lambda name: (name != "stage", name))
    changes = {n: f"{n} was {old.get(n)!r}, now {new.get(n)!r}" for n in names}
    changes["data"] = "its pictures have changed"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"holds another run ({', '.join(changes[n] for n in names[:3])}{more}); choose "
        "another --workdir, or give the settings and pictures it was started with"
    )


def _checksum(record: dict) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _reason(error: BaseException) -> str:
    """Why something failed, in a few words."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = " ".join(text.split())
    # Tensorstore names files and source lines beside the system's own words.
    known = [words for words in map(os.strerror, _DISK) if words in text]
    return known[0] if known else text[:200]


def _not_orbax(record: logging.LogRecord) -> bool:
    """False for errors that orbax's threads log: they are raised again later."""
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


class Damaged(Exception):
    """A checkpoint does not hold what was saved."""


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

    `identity` is what makes this run this run (recipe and data); a folder with
    checkpoints of another one is refused. The last `keep` checkpoints stay. Where a run
    has several processes, all make and use a Workdir of one shared folder, and the
    first writes what is not an array. Leaving it as a context closes it; after an error
    inside, a failed write is not raised beside it. Raises `UserError` for another
    identity, for a folder that cannot be written and for a full disk.
    """

    def __init__(self, path: str | Path, identity: dict[str, Any], *, keep: int = 2):
        self.path = Path(path).absolute()
        self.metrics_path = self.path / "metrics.jsonl"
        self._checkpoints = self.path / "checkpoints"
        on_first(lambda: self._identify(json.loads(json.dumps(identity))))
        options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        self._manager = ocp.CheckpointManager(self._checkpoints, options=options)
        self._failed = ""
        logging.getLogger("absl").addFilter(_not_orbax)

    def _identify(self, identity: dict[str, Any]) -> None:
        check_writable(self.path)
        # What a kill left half written. Orbax would remove it in a thread of its own,
        # which nobody waits for where a run ends before its first checkpoint.
        for part in self._checkpoints.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
            shutil.rmtree(part, ignore_errors=True)
        file = self.path / "run.json"
        saved = [*self._checkpoints.glob("[0-9]*"), *self.path.glob("*.safetensors")]
        if not saved or not file.exists():
            write_json(file, identity)
            return
        try:
            old = dict(json.loads(file.read_text()))
        except ValueError as error:
            raise UserError(f"{file} is damaged; choose another --workdir") from error
        if old != identity:
            raise UserError(f"{self.path} {_another_run(old, identity)}")

    def save(self, state: TrainState, data: dict[str, Any]) -> None:
        """Start to write `state` and the data position under the state's step.

        On return the arrays may be given away: a device's are copied, and a CPU's
        buffers are not used again as long as they are being written. Waits for the
        checkpoint before, and raises its `UserError` if it could not be written.
        """
        self.wait()
        record = json.loads(json.dumps({"data": data, "digests": digests(state)}))
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave(record | {"seal": _checksum(record)}),
        )
        try:
            self._manager.save(int(state.step), args=args, force=True)
        except OSError as error:
            raise UserError(self._unwritten(error)) from error

    def _unwritten(self, error: BaseException) -> str:
        return (
            f"cannot write a checkpoint to {self.path} ({_reason(error)}); free the "
            "disk and run the same command, which goes on from the one before"
        )

    def settle(self) -> None:
        """Wait for what is being written, in this process alone; raises nothing."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # of a thread of orbax, whatever it met
            self._failed = self._unwritten(error)

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk, or raise its `UserError`."""
        self.settle()
        failed, self._failed = agreed(self._failed), ""
        if failed:
            raise UserError(failed)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint that can be read, or None where there is none.

        Arrays come back with the shardings of `like`, whatever those were that saved
        them. Checkpoints that are damaged are moved aside with a warning, and
        `metrics.jsonl` is cut back to the step. Raises `UserError` if there are
        checkpoints and all are damaged.
        """
        self.wait()
        damaged: dict[int, str] = {}
        steps = sorted(self._manager.all_steps()) if jax.process_index() == 0 else []
        for step in reversed(json.loads(agreed(json.dumps(steps)))):
            try:
                state, data = self._read(step, like)
            except Damaged as error:
                damaged[step] = str(error)
                continue
            on_first(partial(self._return_to, step, damaged))
            self._manager.reload()
            return state, data
        if damaged:
            step, why = next(iter(damaged.items()))
            raise UserError(
                f"no checkpoint in {self._checkpoints} can be read (step {step}: "
                f"{why}); choose another --workdir, or delete {self.path} to start anew"
            )
        on_first(lambda: self._return_to(0, {}))
        return None

    def _read(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """One checkpoint; raises `Damaged`, on all processes if on one."""
        # Read without waiting for other processes, any of which may fail.
        me = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"read{me}"
        )
        reader = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(), multiprocessing_options=alone
        )
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(shapes), data=ocp.args.JsonRestore()
        )
        restored, record, why = None, {}, ""
        # Where several arrays fail, all but the first print a traceback, and again when
        # what is left of them is collected.
        with redirect_stderr(io.StringIO()):
            try:
                restored = reader.restore(self._checkpoints / str(step), args=args)
                record = dict(restored["data"])
                if record.pop("seal", None) != _checksum(record):
                    raise Damaged("the data position is not what was saved")
                if int(restored["state"].step) != step:
                    raise Damaged("it is of another step")
            except Exception as error:  # what orbax raises depends on the file
                why = _reason(error)
            if why:
                gc.collect()
        if why := agreed(why):
            raise Damaged(why)
        assert restored is not None
        for name, value in digests(restored["state"]).items():
            if record["digests"].get(name) != value:
                raise Damaged(f"the numbers of {name} are not those that were saved")
        return restored["state"], record["data"]

    def _return_to(self, used: int, damaged: dict[int, str]) -> None:
        """Move damaged checkpoints aside and cut the metrics back to the step used."""
        for step, why in damaged.items():
            aside = self.path / f"damaged-{step}"
            try:
                shutil.rmtree(aside, ignore_errors=True)
                (self._checkpoints / str(step)).rename(aside)
            except OSError as error:
                raise UserError(
                    f"checkpoint {step} in {self.path} is damaged and cannot be moved "
                    f"({_reason(error)}); delete it and run the same command"
                ) from error
            print(
                f"minivim: warning: the checkpoint of step {step} is damaged ({why}) "
                f"and now lies in {aside}; going on from step {used}",
                file=sys.stderr,
            )
        if self.metrics_path.exists():
            rows = [row for row in read_metrics(self.path) if row["step"] <= used]
            write(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows))

    def log(self, row: Row) -> None:
        """Append one line to `metrics.jsonl`, in the first process."""
        if jax.process_index() == 0:
            with self.metrics_path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def close(self, *, quietly: bool = False) -> None:
        """Wait for the last checkpoint; raises its `UserError`, unless `quietly`."""
        try:
            self.settle() if quietly else self.wait()
        finally:
            self._manager.close()
            logging.getLogger("absl").removeFilter(_not_orbax)

    def __enter__(self) -> Workdir:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close(quietly=kind is not None)


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
