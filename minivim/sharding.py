"""One program for every number of devices: a mesh, and rules for what lies where.

A mesh has three axes. `data`: the batch is sharded, everything else is replicated.
`fsdp`: the batch is sharded, and so are parameters and optimizer, which XLA gathers
where a product needs them. `tensor`: single layers are sharded. A single device is the
mesh 1 x 1 x 1 of the same code, and XLA (GSPMD) writes the communication.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int

from minivim.config.checks import require
from minivim.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # along which the rows of a batch are split

# From the path of a parameter to the axes of its last dimensions. The first pattern
# found in the path decides (an optimizer's state has its parameter's name in its path);
# without any the array is replicated. `tensor` shards the inner width of attention and
# MLP, so that each needs one sum over devices (arXiv 1909.08053).
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"\b(qkv|ffn_up|hidden|embed|down)\.kernel", ("fsdp", "tensor")),
    (r"\b(qkv|ffn_up|hidden)\.bias", ("tensor",)),
    (r"\b(attention_out|ffn_down|out|up)\.kernel", ("tensor", "fsdp")),
    # The prior's softmax and its table, by codes.
    (r"\bhead\.kernel", ("fsdp", "tensor")),
    (r"\bhead\.bias", ("tensor",)),
    (r"\bcodes\b", ("tensor", "fsdp")),
    (r"\b(classes|rows|columns|table)\b", (None, "fsdp")),
    # The codebook is small and every token is compared with all of it.
    (r"\bcodebook\b", (None, None)),
    # Convolutions by the maps they write.
    (r"\bkernel\b", ("fsdp",)),
)


@dataclass(frozen=True, kw_only=True)
class MeshShape:
    """How many devices lie along each axis; -1, at one axis, is all that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.tensor)
        fits = sizes.count(-1) < 2 and all(size > 0 or size == -1 for size in sizes)
        rule = "give every axis a whole number above zero, one of them may be -1"
        require(fits, f"mesh {self}: {rule} for all devices that are left")

    def __str__(self) -> str:
        return ",".join(f"{axis}={getattr(self, axis)}" for axis in AXES)

    @classmethod
    def parse(cls, text: str) -> "MeshShape":
        """`fsdp=4,tensor=2`; data is the rest unless another axis is -1."""
        found: dict[str, int] = {}
        for part in text.split(","):
            axis, _, size = part.strip().partition("=")
            if axis not in AXES or not re.fullmatch(r"-?\d+", size) or axis in found:
                rule = f"write axis=number for some of {', '.join(AXES)}"
                raise UserError(f"--mesh {text}: {rule}, such as data=4,fsdp=2")
            found[axis] = int(size)
        return cls(**{"data": 1 if -1 in found.values() else -1, **found})

    def over(self, count: int) -> tuple[int, int, int]:
        """The sizes on `count` devices; raises `UserError` where they do not fit."""
        sizes = self.data, self.fsdp, self.tensor
        rest = count // abs(math.prod(sizes))
        data, fsdp, tensor = (rest if size == -1 else size for size in sizes)
        remedy = f"choose sizes whose product is {count}, or -1 for one of them"
        told = f"mesh {self} does not fill {count} devices; {remedy}"
        require(data * fsdp * tensor == count, told)
        return data, fsdp, tensor


def make_mesh(shape: MeshShape | None = None, devices: Sequence | None = None) -> Mesh:
    """A mesh over `devices`, by default all there are, all along `data`."""
    devices = jax.devices() if devices is None else devices
    sizes = (shape or MeshShape()).over(len(devices))
    return jax.make_mesh(sizes, AXES, (AxisType.Auto,) * 3, devices=devices)


def one_device() -> Mesh:
    """The mesh of this process' first device alone."""
    return make_mesh(devices=jax.local_devices()[:1])


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """Parts into which the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(mesh: Mesh | AbstractMesh, *, batch_size: int, accumulate: int) -> None:
    """Raise `UserError` unless every device gets as many rows of every pass."""
    shards, passes = batch_shards(mesh), f" in {accumulate} parts" * (accumulate > 1)
    told = f"batch_size={batch_size}{passes} cannot be split over {shards} devices"
    remedy = f"choose a multiple of {shards * accumulate}, or another --mesh"
    require(batch_size % (shards * accumulate) == 0, f"{told}; {remedy}")


def spec_of(path: str, shape: Sequence[int], mesh: Mesh | AbstractMesh) -> P:
    """Axes of an array by its path's first rule, whole where the mesh does not fit."""
    axes = next((axes for rule, axes in RULES if re.search(rule, path)), ())
    last = ((None,) * len(shape) + axes)[len(axes) :]
    pairs = zip(last, shape, strict=True)
    return P(*(a if a and size % mesh.shape[a] == 0 else None for a, size in pairs))


def shardings_of(tree: Any, mesh: Mesh) -> Any:
    """How `RULES` shard every array of a tree."""

    def one(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return NamedSharding(mesh, spec_of(name, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(one, tree)


def by_rows(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices of the batch."""
    return NamedSharding(mesh, P(BATCH_AXES))


def rows_here(mesh: Mesh, batch_size: int) -> Int[np.ndarray, " rows"]:
    """Which rows of a batch the devices of this process hold, in order."""
    places = by_rows(mesh).addressable_devices_indices_map((batch_size,))
    every = np.arange(batch_size)
    return np.unique(np.concatenate([every[i] for i in places.values() if i]))


def place(tree: Any, shardings: Any) -> Any:
    """Shard arrays, abstract ones too, of which every process has the whole."""

    def one(array: Any, sharding: NamedSharding) -> Any:
        if isinstance(array, jax.ShapeDtypeStruct):
            return array.update(sharding=sharding)
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])

    return jax.tree.map(one, tree, shardings)


def split_over_batch(x: jax.Array) -> jax.Array:
    """Pin activations to the batch's devices, where the program has a mesh.

    Without it XLA may gather activations instead of the parameters split by `fsdp`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[0] % batch_shards(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH_AXES))


def over_heads(function: Callable[..., Any], *arrays: jax.Array) -> jax.Array | None:
    """A function of `[B, heads, ...]` on every device's part; None without whole ones.

    XLA cannot split a kernel, and would gather all of its operands.
    """
    mesh, (batch, heads) = jax.sharding.get_abstract_mesh(), arrays[0].shape[:2]
    if mesh.empty:
        return function(*arrays)
    if batch % batch_shards(mesh) or heads % mesh.shape["tensor"]:
        return None
    spec = P(BATCH_AXES, "tensor")
    how: Any = {"in_specs": spec, "out_specs": spec, "check_vma": False}
    return jax.shard_map(function, **how)(*arrays)


def fetch(tree: Any) -> Any:
    """Arrays on the host, gathered from all processes; all of them must call it."""

    def one(array: Any) -> np.ndarray:
        if not isinstance(array, jax.Array) or array.is_fully_addressable:
            return np.asarray(array)
        if array.is_fully_replicated:
            return np.asarray(array.addressable_data(0))
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))

    return jax.tree.map(one, tree)
