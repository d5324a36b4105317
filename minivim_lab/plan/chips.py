"""Chips by their data sheets, and slices of them that only the compiler knows."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from minivim.errors import UserError

NO_LIBTPU = (
    "the TPU compiler is not installed; pip install -c constraints.txt -e '.[plan]' "
    "gets libtpu, which has terms of use of its own"
)


@dataclass(frozen=True, kw_only=True)
class Chip:
    """Public figures of one chip, from Google Cloud's TPU pages; none measured here."""

    name: str
    # FLOP/s of bfloat16 products with float32 sums.
    flops: float
    # Bytes/s between the chip and its memory.
    hbm_bandwidth: float
    # Bytes/s that it sends over all its links together.
    ici_bandwidth: float
    axes: int = 3
    options: dict[str, Any] = field(default_factory=dict)


# "megacore": both cores of a chip run one program, which is how JAX uses them.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4", flops=275e12, hbm_bandwidth=1228e9,
            ici_bandwidth=300e9, options={"chip_config_name": "megacore"},
        ),
        Chip(
            name="v5p", flops=459e12, hbm_bandwidth=2765e9,
            ici_bandwidth=600e9, options={"chip_config_name": "megacore"},
        ),
        Chip(
            name="v5e", flops=197e12, hbm_bandwidth=819e9,
            ici_bandwidth=200e9, axes=2,
        ),
        Chip(
            name="v6e", flops=918e12, hbm_bandwidth=1640e9,
            ici_bandwidth=448e9, axes=2,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Chips of one kind in a grid, as `v4:4x4x4` names them."""

    name: str
    chip: Chip
    sizes: tuple[int, ...]

    @property
    def chips(self) -> int:
        return int(np.prod(self.sizes))

    @classmethod
    def parse(cls, text: str) -> Slice:
        """Raises `UserError` for an unknown chip or a grid of other axes."""
        match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", text)
        chip = CHIPS.get(match[1]) if match else None
        if match is None or chip is None:
            raise UserError(
                f"--topology {text} is unknown; write chip:grid, such as v4:4x4x4, "
                f"with a chip of {', '.join(CHIPS)}"
            )
        sizes = tuple(map(int, match[2].split("x")))
        if len(sizes) != chip.axes or 0 in sizes:
            example = "x".join("4" * chip.axes)
            raise UserError(
                f"--topology {text}: chips of {chip.name} lie in a grid of "
                f"{chip.axes} axes; write {chip.name}:{example}"
            )
        return cls(name=text, chip=chip, sizes=sizes)

    def devices(self) -> list[Any]:
        """One device a chip, for the compiler alone; raises `UserError` without it."""
        prepare()
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(NO_LIBTPU)
        try:
            found = topologies.get_topology_desc(
                platform="tpu", topology_name=self.name, **self.chip.options
            )
        except jax.errors.JaxRuntimeError as error:
            raise UserError(
                f"the compiler refuses --topology {self.name}: {first_line(error)}; "
                f"write a whole grid of hosts, such as "
                f"{self.chip.name}:{'x'.join('4' * self.chip.axes)}"
            ) from error
        return list(found.devices)


def prepare() -> None:
    """Keep JAX on the CPU and libtpu from looking for a machine that is not there."""
    for name, value in {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v4-128",
        "TPU_WORKER_HOSTNAMES": "localhost",
        # Compiling holds no chip, so that several may do it at once.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        os.environ.setdefault(name, value)
    # JAX read its own variable when it was imported.
    jax.config.update("jax_platforms", "cpu")


UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# What the compiler says before it lays memory out, and after.
_REFUSALS = (
    r"memory required for HLO temporaries \(([\d.]+)([KMGT]?)B?\) exceeds available "
    r"HBM \(([\d.]+)([KMGT]?)B?\)",
    r"Used ([\d.]+)([KMGT]?)B? of ([\d.]+)([KMGT]?)B? hbm",
)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A program that does not fit: bytes it needs, bytes a chip has, the words."""

    needed: int
    available: int
    words: str


def refusal(error: BaseException) -> Refusal | None:
    """The figures of the compiler's "out of memory"; None for any other error."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        return None
    for pattern in _REFUSALS:
        if match := re.search(pattern, text):
            line = next(one for one in text.splitlines() if match[0] in one)
            needed, available = (
                round(float(match[i]) * UNITS[match[i + 1]]) for i in (1, 3)
            )
            words = line.removeprefix("RESOURCE_EXHAUSTED: ").strip()
            return Refusal(needed=needed, available=available, words=words)
    return None


def first_line(error: BaseException) -> str:
    """What an error says, in one line without its code."""
    line = str(error).strip().splitlines()[0]
    return re.sub(r"^[A-Z_]+: ", "", line)


def available_bytes(devices: list[Any]) -> int:
    """Memory that the compiler gives a program on one chip, by asking for too much."""
    mesh = Mesh(np.array(devices[:1]), ("one",))
    where = NamedSharding(mesh, PartitionSpec())
    huge = jax.ShapeDtypeStruct((2**30, 1024), jnp.float32, sharding=where)
    try:
        jax.jit(jnp.sum).lower(huge).compile()
    except jax.errors.JaxRuntimeError as error:
        if (found := refusal(error)) is not None:
            return found.available
        raise
    raise ValueError("a chip with more than 4 TiB of memory is no chip we know")
