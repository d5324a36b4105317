"""The source over arrays in memory."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from minivim.data.base import Batch, Source, hash_of
from minivim.errors import UserError


class ArraySource(Source):
    """Arrays in memory that share their first axis, which must not be empty."""

    in_memory = True

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        *,
        class_names: Sequence[str] = (),
        description: str = "arrays",
    ):
        self.arrays = {name: np.asarray(array) for name, array in arrays.items()}
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise UserError(f"arrays must be of one length, at least 1: got {lengths}")
        self.class_names, self.description = tuple(class_names), description
        self.labels = self.arrays.get("label")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def take(self, indices: Int[np.ndarray, " n"]) -> Batch:
        return {name: array[indices] for name, array in self.arrays.items()}

    @functools.cached_property
    def fingerprint(self) -> str:
        parts: list[Any] = [self.class_names]
        for name, array in sorted(self.arrays.items()):
            digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
            parts.append((name, str(array.dtype), array.shape, digest))
        return hash_of(parts)
