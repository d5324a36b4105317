"""Chips by their data sheets, and slices of them that only the compiler knows."""

import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from minivim.errors import UserError, explained


@dataclass(frozen=True)
class Chip:
    """Public figures of one chip, from Google Cloud's TPU pages; none measured here."""

    name: str
    flops: float  # FLOP/s of bfloat16 products with float32 sums
    hbm_bandwidth: float  # bytes/s between the chip and its memory
    ici_bandwidth: float  # bytes/s that it sends over all its links together
    memory: float  # GiB that a program may use, by the compiler's own words
    axes: int  # of the grid in which chips of this kind are wired
    options: dict[str, str]


# Keeps JAX on the CPU and libtpu from looking for a machine. Compiling holds no chip,
# so that several processes may do it at once.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v4-128",
    "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}  # fmt: skip
# JAX runs one program on both cores of a chip of these kinds.
MEGACORE = {"chip_config_name": "megacore"}
CHIPS = {
    "v4": Chip("v4", 275e12, 1228e9, 300e9, 30.75, 3, MEGACORE),
    "v5p": Chip("v5p", 459e12, 2765e9, 600e9, 95.74, 3, MEGACORE),
    "v5e": Chip("v5e", 197e12, 819e9, 200e9, 15.75, 2, {}),
    "v6e": Chip("v6e", 918e12, 1640e9, 448e9, 31.25, 2, {}),
}


class Slice:
    """Chips of one kind in a grid, as `v4:4x4x4` names them; `UserError` for others."""

    def __init__(self, name: str):
        match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
        chip = CHIPS.get(match[1]) if match else None
        if match is None or chip is None:
            problem = f"--topology {name} is unknown; write chip:grid, such as v4:4x4x4"
            raise UserError(f"{problem}, with a chip of {', '.join(CHIPS)}")
        sizes = [int(size) for size in match[2].split("x")]
        self.name, self.chip, self.chips = name, chip, math.prod(sizes)
        if len(sizes) != chip.axes or 0 in sizes:
            rule = f"chips of {chip.name} lie in a grid of {chip.axes} axes"
            raise UserError(f"--topology {name}: {rule}; write {self.example}")

    @property
    def example(self) -> str:
        return f"{self.chip.name}:{'x'.join('4' * self.chip.axes)}"

    def devices(self) -> list[Any]:
        """One device a chip, for the compiler alone; raises `UserError` without it."""
        os.environ.update(ENVIRONMENT | os.environ)
        # JAX read its own variable when it was imported.
        jax.config.update("jax_platforms", "cpu")
        # Programs for a chip that is not there would be kept and never found again.
        jax.config.update("jax_enable_compilation_cache", False)
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(
                "the TPU compiler is not installed; pip install -c constraints.txt -e "
                "'.[plan]' gets libtpu, which has terms of use of its own"
            )
        problem = f"the compiler refuses --topology {self.name}"
        remedy = f"write a whole grid of hosts, such as {self.example}"
        with explained(problem, remedy, jax.errors.JaxRuntimeError):
            found = topologies.get_topology_desc(
                platform="tpu", topology_name=self.name, **self.chip.options
            )
        return list(found.devices)


# What the compiler says before it lays memory out, or after.
_REFUSAL = re.compile(
    r"(?:HLO temporaries|Used) \(?([\d.]+)([KMGT]?)B?\)? (?:exceeds available HBM|of) "
)


def refusal(error: BaseException) -> tuple[int, str] | None:
    """Bytes needed and the words of an "out of memory"; None for any other error."""
    text = str(error)
    match = _REFUSAL.search(text)
    if match is None or "RESOURCE_EXHAUSTED" not in text:
        return None
    [line] = [line for line in text.splitlines() if match[0] in line][:1]
    needed = round(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))
    return needed, line.removeprefix("RESOURCE_EXHAUSTED: ").strip()
