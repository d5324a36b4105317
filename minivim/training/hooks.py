"""What a run may have besides its recipe: losses of one's own, ramps, loggers."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minivim.config.checks import KINDS, require
from minivim.context import LOSSES, Context
from minivim.errors import UserError
from minivim.training.checkpoint import Row
from minivim.training.step import Loss


def added(
    recipe: Any, losses: Mapping[str, float], ramps: Mapping[str, int], average: float
) -> dict[str, Any]:
    """What run and card say of losses, ramps and an average, where there are any.

    Raises `UserError` for unknown names and impossible numbers.
    """
    for name, weight in losses.items():
        told = f"no loss is registered as {name!r}; call minivim.register({name!r}, "
        require(name in LOSSES, f"{told}loss=FUNCTION), in a module of --import")
        told = f"the weight {weight!r} of the loss {name} {KINDS[float].says}"
        require(KINDS[float].holds(weight), f"{told}; give one")
    known = vars(recipe.loss) if hasattr(recipe, "loss") else {}
    known = [name for name, weight in {**known, **losses}.items() if weight]
    for name, steps in ramps.items():
        told = f"no term called {name!r} has a weight that a ramp could lead to"
        require(name in known, f"{told}; use {' or '.join(known) or 'no ramp'}")
        told = f"the ramp {name}={steps!r} must be a whole number of steps above zero"
        require(KINDS[int].holds(steps) and steps > 0, f"{told}; give one")
    told = f"average={average} is not in [0, 1); use 0.999, or 0 for none"
    require(KINDS[float].holds(average) and 0 <= average < 1, told)
    said: dict[str, Any] = {"losses": {k: float(x) for k, x in losses.items()}}
    said |= {"ramps": {k: int(n) for k, n in ramps.items()}, "average": float(average)}
    return {name: value for name, value in said.items() if value}


def with_terms(
    loss: Loss, said: Mapping[str, Any], model: Any, batch: Any, context: Context, **how
) -> Any:
    """The loss of a batch with the terms and ramps that `added` gave, if any."""
    own, ramps = said.get("losses", {}), said.get("ramps", {})
    return loss(model, batch, context._replace(own=own, ramps=ramps), **how)


def tensorboard(folder: str | Path) -> Callable[[Row], None]:
    """A `log` that writes the numbers of each row into a folder for TensorBoard.

    Rows that a run repeats after it was interrupted replace those of before.
    """
    try:
        from tensorboardX.event_file_writer import EventsWriter  # type: ignore
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore
        from tensorboardX.proto.summary_pb2 import Summary  # type: ignore
    except ImportError:
        told = "tensorboardX is not installed; run pip install -e '.[tensorboard]'"
        raise UserError(told) from None
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    writer: Any = None

    def log(row: Row) -> None:
        nonlocal writer
        now = {"step": row["step"], "wall_time": time.time()}
        if writer is None:
            writer = EventsWriter(str(place / "events"))
            start = SessionLog(status=SessionLog.START)  # hides what is later
            writer.write_event(Event(session_log=start, **now))
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if isinstance(value, int | float) and name != "step"
        ]
        writer.write_event(Event(summary=Summary(value=values), **now))
        writer.flush()

    return log
