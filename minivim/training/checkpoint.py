"""Training state on disk: atomic, exact, and cut back to one step.

A checkpoint is written in the background, into a folder that gets its name when it is
whole; the last `keep` stay. Reading one compares every array with the digest that was
taken when it was saved, because orbax's format has no checksum for large arrays.
"""

import errno
import gc
import io
import json
import logging
import os
import shutil
import sys
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, redirect_stderr, suppress
from math import inf, nan
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, UInt32

from minivim.config.checks import require
from minivim.errors import UserError, brief, explained, note
from minivim.files import claim, read_json, regular, write, write_json
from minivim.training.processes import agreed, on_first
from minivim.training.step import TrainState

# Figures of some steps by name (a histogram is a list), under "step" the last of them.
Row = dict[str, Any]


@jax.jit
def digest(x: Array) -> UInt32[Array, ""]:
    """sum_i (2i + 1) bits_i modulo 2^32, over all numbers of `x` in order.

    An odd weight hides no change of a single number of up to 32 bits. The order of a
    sum of integers does not matter: it is the same however `x` is split over devices.
    """
    if x.dtype != jnp.bool_:
        x = jax.lax.bitcast_convert_type(x, f"uint{min(8 * x.dtype.itemsize, 32)}")
    bits, position = x.astype(jnp.uint32), jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(bits.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        position = position * jnp.uint32(size) + along
    return jnp.sum(bits * (2 * position + 1), dtype=jnp.uint32)


def digests(tree: Any) -> dict[str, int]:
    """`digest` of every array by its path; all processes of a run must call it."""
    return {name: int(x) for name, x in _names(jax.tree.map(digest, tree)).items()}


def _names(tree: Any) -> dict[str, Any]:
    keystr = jax.tree_util.keystr
    return {keystr(path): x for path, x in jax.tree.leaves_with_path(tree)}


def _another_run(old: dict, new: dict) -> str:
    """In which settings two runs differ, three at most, and what to do."""
    names = [n for n in old.keys() | new.keys() if old.get(n) != new.get(n)]
    names.sort(key=lambda name: (name != "stage", name))
    changes = {n: f"{n} was {old.get(n)!r}, now {new.get(n)!r}" for n in names}
    changes["data"] = "its pictures have changed"
    changes["unreadable"] = "it left out unreadable pictures, see --skip-unreadable"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    remedy = "or give the settings and pictures it was started with"
    if names == ["run.steps"] and old["run.steps"] < new["run.steps"]:
        remedy = f"or set optim.decay_end={old['run.steps']} to go on at the last rate"
    return (
        f"holds another run ({', '.join(changes[n] for n in names[:3])}{more}); choose "
        f"another --workdir (from its weights: --from OLD --workdir NEW), {remedy}"
    )


def _checksum(record: dict) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _reason(error: BaseException, place: Path) -> str:
    """Why something failed, in the system's words where tensorstore wraps them."""
    words = map(os.strerror, errno.errorcode)
    known = next((OSError(word) for word in words if word in str(error)), error)
    return brief(known, place)


def _not_orbax(record: logging.LogRecord) -> bool:
    """False for what orbax's threads log: it is told in a line, or not necessary."""
    return "orbax" not in record.pathname


class Workdir(AbstractContextManager):
    """A run's folder: `run.json`, `metrics.jsonl` and `checkpoints/`.

    `identity` is what makes this run this run (recipe and data); `extends(old, done)`
    says whether one of another identity may go on as this one. The last `keep`
    checkpoints stay. All processes of a run use one shared folder, and the first writes
    what is not an array. Leaving it as a context closes it. Raises `UserError` for
    checkpoints of another identity, a folder that cannot be written and a full disk.
    """

    def __init__(
        self,
        path: str | Path,
        identity: dict[str, Any],
        *,
        keep: int = 2,
        extends: Callable[[dict[str, Any], int], bool] = lambda old, done: False,
    ):
        self.path, self._extends = Path(path).absolute(), extends
        self.metrics_path = self.path / "metrics.jsonl"
        self._checkpoints = self.path / "checkpoints"
        self._failed = ""
        with ExitStack() as self._opened:
            on_first(lambda: self._identify(json.loads(json.dumps(identity))))
            logging.getLogger("absl").addFilter(_not_orbax)
            self._opened.callback(logging.getLogger("absl").removeFilter, _not_orbax)
            options = ocp.CheckpointManagerOptions(max_to_keep=keep)
            self._manager = ocp.CheckpointManager(self._checkpoints, options=options)
            self._opened.callback(self._manager.close)
            self._opened = self._opened.pop_all()  # until the end

    def _identify(self, identity: dict[str, Any]) -> None:
        self._opened.enter_context(claim(self.path))
        # What a kill left half written. Orbax would remove it in a thread of its own,
        # which nobody waits for where a run ends before its first checkpoint.
        for part in self._checkpoints.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
            shutil.rmtree(part, ignore_errors=True)
        file, steps = self.path / "run.json", self._checkpoints
        # Orbax would wait for ever at a pipe, and not write over what is no folder.
        for place in (self.metrics_path, steps, *steps.rglob("*")):
            wants = place == steps or place.parent == steps and place.name.isdecimal()
            pipe = place.exists() and not place.is_file()
            if not place.is_dir() and (os.path.lexists(place) if wants else pipe):
                told = f"{place} is no {'folder' if wants else 'regular file'}"
                raise UserError(f"{told}; delete it and run the same command")
            if place.name == "_CHECKPOINT_METADATA" and place.is_file():
                try:
                    read_json(place)
                except ValueError:
                    place.unlink()  # Orbax does without it, not with this one.
        if self.new or not file.exists():
            write_json(file, identity)
            return
        kinds = ValueError, TypeError, KeyError
        with explained(f"{file} is damaged", "choose another --workdir", kinds):
            old = read_json(file)
            # A run may leave out more pictures than when it began, but not fewer.
            if set(old.get("unreadable", ())) < set(identity.get("unreadable", ())):
                old["unreadable"] = identity["unreadable"]
            done = max(kept_steps(self._checkpoints), default=0)
            if old != identity and not (done and self._extends(old, done)):
                raise UserError(f"{self.path} {_another_run(old, identity)}")
        write_json(file, identity)

    @property
    def new(self) -> bool:
        """Whether nothing of a run is saved."""
        return not [*self._checkpoints.glob("[0-9]*"), *self.path.glob("*.safetensors")]

    def save(self, state: TrainState, data: dict[str, Any]) -> None:
        """Start to write `state` and the data position under the state's step.

        On return the arrays may be given away. Waits for the checkpoint before; `wait`
        tells of a write that failed.
        """
        self.wait()
        record = json.loads(json.dumps({"data": data, "digests": digests(state)}))
        sealed = ocp.args.JsonSave(record | {"seal": _checksum(record)})
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=sealed)
        self._try(lambda: self._manager.save(int(state.step), args=args, force=True))

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except Exception as error:  # of a thread of orbax, whatever it met
            self._failed = (
                f"cannot write a checkpoint to {self.path} ({_reason(error, self.path)}"
                "); free the disk and run the same command, which goes on from the one "
                "before"
            )

    def settle(self) -> None:
        """Wait for what is being written, in this process alone; raises nothing."""
        self._try(self._manager.wait_until_finished)

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk, or raise its `UserError`."""
        self.settle()
        failed, self._failed = agreed(self._failed), ""
        require(not failed, failed)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint that can be read, or None where there is none.

        Arrays come back with the shardings of `like`, whatever those were that saved
        them. Damaged checkpoints are moved aside with a warning, and `metrics.jsonl` is
        cut back to the step. Raises `UserError` if all checkpoints are damaged.
        """
        self.wait()
        steps = sorted(self._manager.all_steps(), reverse=True)
        steps = json.loads(agreed(json.dumps(steps)))  # those that the first sees
        used, found, bad = 0, None, {}
        if steps:
            remedy = f"choose another --workdir, or delete {self.path} to start anew"
            used, *found, bad = _newest(self._checkpoints, steps, like, agreed, remedy)
        on_first(lambda: self._return_to(used, bad))
        self._manager.reload()
        return tuple(found) if found else None

    def _return_to(self, used: int, damaged: dict[int, str]) -> None:
        """Move damaged checkpoints aside and cut the metrics back to the step used."""
        for step, why in damaged.items():
            old, aside = self._checkpoints / str(step), self.path / f"damaged-{step}"
            remedy = "delete it and run the same command"
            with explained(f"{old} is damaged and cannot be moved", remedy, OSError):
                shutil.rmtree(aside, ignore_errors=True)
                old.rename(aside)
            told = f"minivim: warning: the checkpoint of step {step} is damaged ({why})"
            now = f"and now lies in {aside}; going on from step {used}"
            print(told, now, file=sys.stderr)
        if self.metrics_path.exists():
            rows = [row for row in read_metrics(self.path) if row["step"] <= used]
            write(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows))

    def log(self, row: Row) -> None:
        """Append one line to `metrics.jsonl`, in the first process."""
        if jax.process_index() == 0:
            with self.metrics_path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Wait for the last checkpoint, or raise its `UserError`; used no more."""
        self.__exit__(None)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self._opened:
            self.settle() if kind else self.wait()


def _read(
    place: Path, step: int, like: TrainState, agree: Callable[[str], str]
) -> tuple[Any, Any, str]:
    """State and data position of one checkpoint, and why it is damaged, or "".

    What `like` has not, such as the optimizer, is not read.
    """
    # Without waiting for other processes, any of which may fail.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"read{me}"
    )
    handler = ocp.CompositeCheckpointHandler()
    reader = ocp.Checkpointer(handler, multiprocessing_options=alone)
    shapes: Any = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    shapes = {k: x for k, x in shapes._asdict().items() if jax.tree.leaves(x)}
    how = ocp.checkpoint_utils.construct_restore_args(shapes)
    arrays: Any = ocp.args.PyTreeRestore(shapes, restore_args=how, partial_restore=True)
    args = ocp.args.Composite(state=arrays, data=ocp.args.JsonRestore())
    state, record, why = like, {}, ""
    # Where several arrays fail, all but the first print a traceback, and again when
    # what is left of them is collected.
    with redirect_stderr(io.StringIO()):
        try:
            for file in (place / str(step)).rglob("*"):
                if file.exists() and not file.is_dir():
                    regular(file)  # Orbax would wait for ever at a pipe.
            found = reader.restore(place / str(step), args=args)
            state, record = like._replace(**found["state"]), dict(found["data"])
            if record.pop("seal", None) != _checksum(record):
                why = "the data position is not what was saved"
            elif int(state.step) != step:
                why = "it is of another step"
            elif lacks := sorted(_names(like).keys() - record["digests"].keys()):
                why = f"it has no {lacks[0]}"
        except Exception as error:  # what orbax raises depends on the file
            why = _reason(error, place.parent)
        if why:
            gc.collect()
    if not (why := agree(why)):
        was = record["digests"]
        wrong = [name for name, x in digests(state).items() if was.get(name) != x]
        if wrong:
            why = f"the numbers of {wrong[0]} are not those that were saved"
    return state, record.get("data"), why


def _newest(
    place: Path, steps: list[int], like: TrainState, agree: Any, remedy: str
) -> tuple[int, Any, Any, dict[int, str]]:
    """The first of some checkpoints that is whole, and why those before it are not."""
    damaged: dict[int, str] = {}
    for step in steps:
        state, data, why = _read(place, step, like, agree)
        if not why:
            return step, state, data, damaged
        damaged[step] = why
    told = "".join(f" (step {step}: {why})" for step, why in [*damaged.items()][:1])
    raise UserError(f"no checkpoint in {place} can be read{told}; {remedy}")


def kept_steps(place: Path) -> list[int]:
    """The steps of the checkpoints in a folder."""
    names = [path.name for path in place.glob("[0-9]*")]
    return sorted(int(n) for n in names if n.isdecimal() and str(int(n)) == n)


def peek(
    workdir: str | Path, variables: nnx.State, step: int | None = None, average=False
) -> tuple[int, nnx.State]:
    """Step and variables of a checkpoint, by default of the newest that is whole.

    Or its `average`. `variables` may be abstract. A run may be going on in the folder.
    Raises `UserError` for a step that is not kept and for damage.
    """
    place, kinds = Path(workdir).absolute() / "checkpoints", (nnx.Param, nnx.BatchStat)
    here = SingleDeviceSharding(jax.local_devices()[0])
    params, stats = (nnx.filter_state(variables, kind) for kind in kinds)
    read: Any = {"params": {}, "average": params} if average else {"params": params}
    now = jax.eval_shape(jnp.int32, 0)
    like = TrainState(step=now, optimizer=None, stats=stats, **read)
    like = jax.tree.map(lambda x: x.update(sharding=here), like)
    kept = kept_steps(place)
    require(bool(kept), f"{workdir} keeps no checkpoint; train it further")
    known = " or ".join(map(str, kept))
    told = f"{workdir} keeps no checkpoint of step {step}; use {known}"
    require(step in (None, *kept), told)
    asked = kept[::-1] if step is None else [step]
    remedy = "use another step, or train it further"
    now, state, _, damaged = _newest(place, asked, like, str, remedy)
    for passed, why in damaged.items():
        note(f"the checkpoint of step {passed} in {place} is damaged ({why})")
    return now, state.variables


def read_metrics(workdir: str | Path) -> list[Row]:
    """Rows of a run's `metrics.jsonl`; a line that is none, or was cut, is left out."""
    rows = []
    text = (Path(workdir) / "metrics.jsonl").read_text(errors="replace")
    for line in text.splitlines():
        with suppress(ValueError, RecursionError, AttributeError):
            row = json.loads(line, parse_int=lambda x: int(x) if len(x) < 18 else nan)
            figures = {type(value) for value in row.values()} <= {int, float, list}
            rows += [row] if figures and type(row.get("step")) is int else []
    return rows


def so_far(workdir: str | Path, step: int | float = inf) -> dict[str, Any]:
    """What a card says of a run's metrics up to a step: figures and seconds."""
    # A run that was stopped at its first steps has written none.
    begun = Path(workdir, "metrics.jsonl").exists()
    rows = [r for r in (read_metrics(workdir) if begun else []) if r["step"] <= step]
    last = [{}, *rows][-1]
    figures = {k: v for k, v in last.items() if k != "step" and not isinstance(v, list)}
    return {"figures": figures, "train_seconds": round(train_seconds(rows), 1)}


def train_seconds(rows: list[Row]) -> float:
    """Seconds spent in steps, over all the parts of a run that was interrupted."""
    steps = [0.0, *(row["step"] for row in rows)]
    paces = [row.get("steps_per_second") for row in rows]
    known = [x if isinstance(x, int | float) and x > 0 else inf for x in paces]
    return float(sum(np.diff(steps) / known))
