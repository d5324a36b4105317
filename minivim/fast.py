"""Operations in the form that one kind of device runs faster, all in one place.

Models need not ask where they run: on a platform not in `OURS` each is the library's.
"""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import repeat
from jax.core import Tracer
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh
from jaxtyping import Array, Float, Int

from minivim.config import StackConfig
from minivim.config.checks import require
from minivim.sharding import over_heads, split_over_batch

# They were written for a CPU; on a TPU they cost memory traffic.
OURS = ("cpu",)
Maps = Float[Array, "B _H _W _C"]
Size = Any  # of a batch: an int, or what `jax.export` has for any number
Heads = Float[Array, "B heads N d"]


def device() -> Any:
    """A device that the program being traced is for, with its platform and kind.

    The mesh says for which, since `minivim plan` compiles for a TPU on a CPU.
    """
    return jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]


def ours() -> bool:
    """Whether the program being traced is for a platform in `OURS`."""
    return device().platform in OURS


def traced_for(platforms: Sequence[str]) -> AbstractContextManager:
    """Inside, programs are traced for several platforms: ours if all are in `OURS`."""
    device = AbstractDevice("", None, min(platforms, key=OURS.__contains__))
    return use_abstract_mesh(AbstractMesh((), (), abstract_device=device))


# For every device: recomputed in the backward pass, which is cheaper than to keep its
# tanh in memory and to read it again.
gelu = jax.checkpoint(lambda x: jax.nn.gelu(x, approximate=True))
# For every device: random bits are kept in memory. XLA would draw them again in every
# product that reads them, which on a TPU takes most of the time to compile.
materialize = jax.lax.optimization_barrier


def attention(q: Heads, k: Heads, v: Heads, *, causal: bool) -> Heads | None:
    """Attention in a kernel whose scores never lie in memory; None where there is none.

    TPU: JAX's splash attention, for whole blocks of tokens. GPU of NVIDIA: cuDNN's, in
    bfloat16. With a mesh every device does so for its own images and heads.
    MINIVIM_ATTENTION=written does without; raises `UserError` for other words.
    """
    choice, kernel = os.environ.get("MINIVIM_ATTENTION", "auto"), None
    told = f"MINIVIM_ATTENTION={choice} is unknown"
    require(choice in ("auto", "written"), f"{told}; set it to auto or written")
    # A program for several platforms is for no kind of device.
    kind, (_, _, tokens, width) = device().device_kind, q.shape
    if "TPU" in kind and tokens % 128 == 0:
        kernel = partial(splash, causal=causal)
    elif "NVIDIA" in kind and q.dtype == jnp.bfloat16 and width in range(8, 129, 8):
        kernel = partial(cudnn, causal=causal)
    if kernel is None or choice == "written":
        return None
    return over_heads(kernel, q, k, v)


def splash(q: Heads, k: Heads, v: Heads, *, causal: bool, interpret=False) -> Heads:
    """JAX's kernel for a TPU; `interpret` runs it, slowly, on any device.

    A TPU rounds to bfloat16 what it multiplies, unless JAX is told otherwise.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    given, (_, heads, tokens, width) = q.dtype, q.shape
    told = jax.config.values["jax_default_matmul_precision"]
    half = jnp.bfloat16 if told is None and not interpret else given
    # Of up to 1,024 tokens keys and values are read once; a TPUv4 holds no more scores.
    inner, outer = math.gcd(tokens, 512), math.gcd(tokens, 1024)
    names = ("block_q", "block_kv_compute", "block_q_dkv", "block_kv_dkv_compute")
    sizes: Any = dict.fromkeys(names, inner) | {"use_fused_bwd_kernel": True}
    # Heads are narrower than a TPU's rows: with tokens along them XLA copies less.
    layouts = ("q_layout", "k_layout", "v_layout")
    sizes |= dict.fromkeys(layouts, library.QKVLayout.SEQ_MINOR)
    sizes = library.BlockSizes(block_kv=outer, block_kv_dkv=outer, **sizes)
    mask = (library.CausalMask if causal else library.FullMask)((tokens, tokens))
    kernel = library.make_splash_mha_single_device(
        library.MultiHeadMask([mask] * heads), block_sizes=sizes, interpret=interpret
    )
    many: Any = jax.vmap(kernel)
    return many(*(x.astype(half) for x in (q * width**-0.5, k, v))).astype(given)


def cudnn(q: Heads, k: Heads, v: Heads, *, causal: bool) -> Heads:
    """NVIDIA's kernel."""
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    how: Any = {"is_causal": causal, "implementation": "cudnn"}
    return jnp.swapaxes(jax.nn.dot_product_attention(q, k, v, **how), 1, 2)


def argmax(x: Float[Array, "*b K"]) -> Int[Array, "*b"]:
    """Index of the largest value of the last axis, the lowest on a tie.

    CPU: two plain reductions, which XLA vectorizes, are several times faster than the
    library's; where all values are NaN they give the last index.
    """
    if not ours():
        return jnp.argmax(x, axis=-1).astype(jnp.int32)
    index = jnp.arange(x.shape[-1], dtype=jnp.int32)
    largest = jnp.max(x, axis=-1, keepdims=True)
    return jnp.min(jnp.where(x == largest, index, x.shape[-1] - 1), axis=-1)


def parts(batch: int, *arrays: Any) -> int:
    """How many equal parts of a batch run beside each other, each in one thread.

    CPU: one for each core, if a part has four rows or more and those of `arrays` that
    are JAX's are concrete and on one device; else all as one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    arrays = tuple(x for x in arrays if isinstance(x, jax.Array))
    if batch % cores or batch < 4 * cores or not jax.sharding.get_abstract_mesh().empty:
        return 1
    if any(isinstance(x, Tracer) for x in arrays):
        return 1
    devices = {device for x in arrays for device in x.devices()}
    return cores if [device.platform for device in devices] == ["cpu"] else 1


def rows(x: Float[Array, "B N D"]) -> Array:
    """Tokens as rows `[B * N, D]`, for the layers of a Transformer block.

    CPU: a weight gradient that contracts two leading axes takes 2.5 times as long.
    """
    return x.reshape(-1, x.shape[-1]) if ours() else x


def tokens(x: Array, batch: Size) -> Float[Array, "B N D"]:
    """Inverse of `rows`."""
    return x.reshape(batch, -1, x.shape[-1])


def blur(x: Maps, taps: Sequence[int], padding: tuple[int, int]) -> Maps:
    """Each channel convolved with `taps x taps`, scaled to sum to 1.

    CPU: sums of shifted maps; a grouped convolution takes fifty times as long, and its
    second derivative, which R1 needs, longer still.
    """
    if not ours():
        square = np.outer(taps, taps) / sum(taps) ** 2
        kernel = repeat(jnp.asarray(square, x.dtype), "p q -> p q 1 c", c=x.shape[-1])
        return conv(x, kernel, padding=padding, groups=x.shape[-1])
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    for axis in (1, 2):
        length = x.shape[axis] - len(taps) + 1
        shifted = (
            tap / sum(taps) * jax.lax.slice_in_dim(x, i, i + length, axis=axis)
            for i, tap in enumerate(taps)
        )
        x = sum(shifted, start=jnp.zeros((), x.dtype))
    return x


def conv(x: Maps, kernel: Array, *, stride=1, padding=(0, 0), groups=1) -> Maps:
    """A convolution with a kernel `[k, k, C, O]`, after margins of zeros.

    CPU: one product of gathered rows where the library's takes longer: two to three
    times with a stride, eighty times on maps smaller than the kernel.
    """
    size, _, _, outputs = kernel.shape
    if not ours() or (stride == 1 and min(x.shape[1:3]) >= size):
        form = (stride,) * 2, (padding,) * 2, None, None, ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, *form, groups)
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    high, wide = ((n - size) // stride * stride + 1 for n in x.shape[1:3])
    at = range(size)
    parts = [x[:, i : i + high : stride, j : j + wide : stride] for i in at for j in at]
    x, kernel = jnp.concatenate(parts, axis=-1), kernel.reshape(-1, outputs)
    # As `rows`, for the weight gradient; the kernels over small maps are frozen.
    flat = x if stride == 1 else x.reshape(-1, x.shape[-1])
    return (flat @ kernel).reshape(*x.shape[:-1], outputs)


# Values kept for the backward pass of a block; all others are computed again.
REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def scan_blocks(
    block: Callable[[Array, Any], Array], x: Array, params: Any, config: StackConfig
) -> tuple[Array, Array]:
    """`block(x, params[i])` for every `i` in one compiled loop; the outputs of all.

    For every device: activations stay split over the batch. Before the loop as well,
    since with parameters split along two axes of a mesh XLA 0.10 computes a wrong
    result from a carry whose layout it chooses itself.
    """

    def body(x: Array, params: Any) -> tuple[Array, Array]:
        x = split_over_batch(block(x, params))
        return x, x

    if config.remat != "none":
        body = jax.checkpoint(body, policy=REMAT[config.remat])
    return jax.lax.scan(body, split_over_batch(x), params, unroll=config.unroll)
