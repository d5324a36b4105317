"""What counts as images, labels, codes and keys, and the source over arrays."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Int

from minivim.config.checks import require
from minivim.data.base import Batch, Source, hash_of
from minivim.errors import UserError, explained

TOLERANCE = 0.01  # by which images may leave [0, 1]: bfloat16 rounds 1 to 1.008
WANTED = "give uint8, or floats from 0 to 1: divide by the largest possible value, "
WANTED += "255 of 8 bits, 65535 of 16, 1 of booleans"
BYTES = np.arange(256, dtype=np.float32) / 255
# How images come to lie between 0 and 1 whose values lie between two others.
REMEDIES = [
    (-0.25, 1.25, "clip what a resize has overshot: images.clip(0, 1)"),
    (-1.25, 1.25, "halve and add 0.5: images / 2 + 0.5"),
    (0, 320, "divide by 255"),
    (-9, 9, "undo how they were scaled, such as images * std + mean"),
    (-80, 320, "divide by 255"),
    (-1e38, 1e38, "divide by the largest possible value"),
]
Shape = tuple[int, ...] | None  # the only [H, W, C] that fits


def array_of(values: Any, name: str, remedy: str) -> Any:
    """Arrays of JAX as they are, others as NumPy's; `UserError` for ragged lists."""
    if isinstance(values, jax.Array):
        return values
    with explained(f"{name} make no array", remedy):
        return np.asarray(values)


def at_hand(array: Any) -> bool:
    """Whether values are known: not under `jit` or if other processes hold a part."""
    traced = isinstance(array, Tracer)
    return not traced and getattr(array, "is_fully_addressable", True)


def whole(array: Any) -> bool:
    """Whether an array is of whole numbers."""
    return jnp.issubdtype(array.dtype, jnp.integer)


def unit_images(images: Any, *, shape: Shape = None, keep_bytes: bool = False) -> Any:
    """Images [B, H, W, C] as floats in [0, 1]: `x / 255` for uint8, else `x`.

    Arrays of JAX stay where they are, others become NumPy's, of float32. What rounding
    leaves outside, 0.01 at most, is clipped. Values under `jit` or held by other
    processes are not looked at. Raises `UserError` for all that is something else.
    """
    host = not isinstance(images, jax.Array)
    images = array_of(images, "images", f"are they of one size? {WANTED}")
    kind, floats = images.dtype, jnp.issubdtype(images.dtype, jnp.floating)
    told = f"images of type {kind} have no known range"
    require(floats or kind == np.uint8, f"{told}; {WANTED}")
    problem = _misshapen(images.shape, shape)
    require(not problem, f"images of shape {images.shape} {problem}")
    if not floats and not keep_bytes:
        # What XLA divides differs from this in the last bit.
        return images.astype(np.float32) / 255 if host else jnp.asarray(BYTES)[images]
    if not floats:
        return images
    wide = np.float32 if host else jnp.promote_types(kind, np.float32)
    images = images.astype(wide, copy=False)
    if not at_hand(images):
        return images
    low, high = images.min(), images.max()
    # The extremes even of a constant are tracers in a compiled function.
    if isinstance(low, Tracer) or (low >= 0 and high <= 1):
        return images
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return images.clip(0, 1)
    remedies = [says for least, most, says in REMEDIES if least <= low and high <= most]
    remedy = [*remedies, "leave out those that hold NaN or infinity"][0]
    raise UserError(f"images run from {low:.3g} to {high:.3g}, not 0 to 1; {remedy}")


def unit_pair(a: Any, b: Any) -> tuple[jax.Array, jax.Array]:
    """Two batches to compare, image by image."""
    x, y = jnp.asarray(unit_images(a)), jnp.asarray(unit_images(b))
    require(x.shape == y.shape, f"give images in pairs, not {x.shape} and {y.shape}")
    return x, y


def _misshapen(found: tuple[int, ...], wanted: Shape) -> str:
    """What is wrong with a shape, "" if nothing."""
    axes, channels = len(found), wanted[2:] if wanted else (1, 3)
    size = f"[B, {', '.join(map(str, wanted or 'HWC'))}]"
    if 0 in found or axes not in (3, 4):
        return f"are no images; give one or more, {size}"
    last, use = found[-1] in channels, "use np.asarray(images)"
    if found[-3] in channels and not last:
        order = "(0, 2, 3, 1)" if axes == 4 else "(1, 2, 0)[None]"
        return f"have their channels first; {use}.transpose{order}"
    if axes == 3:
        name, key = ("batch", "None") if last else ("channel", "..., None")
        return f"have no {name} axis; {use}[{key}]"
    fits = wanted in (None, found[1:])
    return "" if fits else f"do not fit this model; resize or convert them to {size}"


def whole_labels(labels: Any, count: int, least: int = 0) -> Any:
    """Labels [n] from `least` to `count - 1` as int32; others raise `UserError`.

    Values under `jit` are not looked at.
    """
    remedy = "give one whole number for each image"
    labels = array_of(labels, "labels", remedy)
    told = f"labels of type {labels.dtype} and shape {labels.shape} are invalid"
    require(labels.ndim == 1 and whole(labels), f"{told}; {remedy}")
    if not at_hand(labels):
        return labels.astype(np.int32)
    labels = np.asarray(labels)
    for label in np.unique(labels).tolist():
        told = f"label {label} is out of range; use {least} to {count - 1}"
        require(least <= label < count, told)
    return labels.astype(np.int32)


def whole_codes(
    codes: Any, count: int, tokens: int, what: str = "tokenizer", part: bool = False
) -> Any:
    """Codes [B, tokens] from 0 to `count - 1` as an array; others raise `UserError`.

    As a `part` any number of tokens, and one beyond. Values under `jit` are not known.
    """
    remedy = f"give whole numbers from 0 to {count - 1}, [B, {tokens}] in raster order"
    codes = array_of(codes, "codes", remedy)
    fits = codes.ndim == 2 and 0 not in codes.shape
    fits = fits and (codes.shape[1] == tokens or part and codes.shape[1] <= tokens + 1)
    why = f"codes of shape {codes.shape}, type {codes.dtype} do not fit; {remedy}"
    require(fits and whole(codes), why)
    values = np.asarray(codes) if at_hand(codes) else np.zeros(0)
    for code in values[(values < 0) | (values >= count)][:1]:
        why = f"code {code} is out of range; this {what} has 0 to {count - 1}"
        raise UserError(why)
    # XLA knows no numbers of 64 bits.
    return codes if isinstance(codes, jax.Array) else codes.astype(np.int32)


def check_key(key: Any) -> Any:
    """The key; raises `UserError` unless it is one for random numbers of JAX."""
    fits = isinstance(key, jax.Array | np.ndarray)
    new = fits and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0
    old = fits and key.dtype == np.uint32 and key.ndim == 1
    said = type(key).__name__ + (f" of shape {key.shape}" if fits else "")
    require(new or old, f"a key is no {said}; give one, such as jax.random.key(0)")
    return key


class ArraySource(Source):
    """Arrays in memory that share their first axis, which must not be empty.

    "image" is what `unit_images` takes, "label" [n] the number of a class, -1 for none.
    """

    in_memory = True

    def __init__(
        self,
        arrays: Mapping[str, Any],
        *,
        class_names: Sequence[str] = (),
        description: str = "arrays",
    ):
        self.class_names = tuple(map(str, class_names))
        self.description = description
        # Without names nobody knows how many classes there are.
        labels = partial(whole_labels, count=self.num_classes or 2**31, least=-1)
        check = {"image": partial(unit_images, keep_bytes=True), "label": labels}
        found = ((name, check.get(name, np.asarray)(x)) for name, x in arrays.items())
        self.arrays = {name: np.asarray(array) for name, array in found}
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise UserError(f"arrays must be of one length, at least 1: got {lengths}")
        self.labels = self.arrays.get("label")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def take(self, indices: Int[np.ndarray, " n"]) -> Batch:
        return {name: array[indices] for name, array in self.arrays.items()}

    @cached_property
    def fingerprint(self) -> str:
        parts: list[Any] = [self.class_names]
        for name, array in sorted(self.arrays.items()):
            digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
            parts.append((name, str(array.dtype), array.shape, digest))
        return hash_of(parts)
