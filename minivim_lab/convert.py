"""Weights of other implementations, read from their files into our modules.

Facts on names and shapes only; no code of others runs. torch is imported for files that
`torch.save` wrote and for nothing else.
"""

from __future__ import annotations

import importlib.util
import math
import pickle
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from safetensors import SafetensorError
from safetensors.flax import load_file

from minivim.config import QuantizerConfig, StackConfig, TokenizerConfig
from minivim.errors import UserError
from minivim.tokenizer.model import Tokenizer
from minivim.tokenizer.vit import sincos_positions

SAVE_AGAIN = (
    "save it again with torch.save({k: v for k, v in model.state_dict().items()}, "
    "'weights.pt')"
)
OTHER_LAYOUT = (
    "only the whole state of the public PyTorch ViT-VQGAN can be converted; if this "
    f"is one, {SAVE_AGAIN}"
)
HEAD_DIM = 64  # of every attention head in that layout, whatever the width

Weights = dict[str, np.ndarray]


def read_state_dict(path: str | Path) -> Weights:
    """The float32 arrays of a `.safetensors` file, else of one that `torch.save` wrote.

    The latter is read with `weights_only=True`, which runs nothing that the file says;
    a "state_dict" inside it is unwrapped. Raises `UserError` where there is no file,
    no torch to read it, or more in it than arrays by name.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}; give one with weights")
    if path.suffix == ".safetensors":
        try:
            return {k: np.asarray(v, np.float32) for k, v in load_file(path).items()}
        except SafetensorError as error:
            raise UserError(
                f"{path} is no safetensors file ({error}); fetch it again"
            ) from error
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            f"{path} needs torch to be read; run pip install -e '.[convert]', or save "
            "it as .safetensors"
        )
    import torch

    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise UserError(
            f"{path} is damaged or holds more than arrays ({type(error).__name__}); "
            + SAVE_AGAIN
        ) from error
    values = values.get("state_dict", values) if isinstance(values, dict) else values
    if not isinstance(values, dict) or not all(map(torch.is_tensor, values.values())):
        raise UserError(f"{path} holds no arrays by name; {SAVE_AGAIN}")
    return {k: v.detach().float().numpy() for k, v in values.items()}


def tokenizer_from_torch(state: Weights) -> Tokenizer:
    """A tokenizer with the weights of the public PyTorch ViT-VQGAN.

    Sizes are read from the shapes, and the options from what that code does: pixels
    without sigmoid, tanh in every FFN, fixed positions, LayerNorm eps 1e-5, no bias for
    queries, keys and values (here a zero one), normalised codes, gradients straight to
    the vector before normalisation. Its encoder reads pixels in [0, 1] where ours reads
    `2 x - 1`: `W x + b = (W / 2) (2 x - 1) + (b + W 1 / 2)`. Training state under
    `loss.` is left out. Not in the shapes, and assumed: no Gumbel, no residual codes.

    Raises `UserError` for names or shapes of another layout, trained positions, and
    widths that are not `64 heads`.
    """
    layout = _Layout({k: v for k, v in state.items() if not k.startswith("loss.")})
    patch = layout.take("encoder.to_patch_embedding.0.weight", None, None, None, None)
    width, channels, size, _ = patch.shape
    layout.put("encoder.embed.kernel", rearrange(patch, "d c p q -> (p q c) d") / 2)
    shift = patch.sum(axis=(1, 2, 3)) / 2
    bias = layout.take("encoder.to_patch_embedding.0.bias", width)
    layout.put("encoder.embed.bias", bias + shift)
    encoder, grid = _stack(layout, "encoder", "en_pos_embedding")
    decoder, _ = _stack(layout, "decoder", "de_pos_embedding")
    # A stride as long as the kernel: one dense map for each token, nothing to flip.
    pixels = layout.take(
        "decoder.to_pixel.conv_out.weight", decoder.width, channels, size, size
    )
    layout.put("decoder.head.kernel", rearrange(pixels, "d c p q -> d (p q c)"))
    bias = layout.take("decoder.to_pixel.conv_out.bias", channels)
    layout.put("decoder.head.bias", repeat(bias, "c -> (pq c)", pq=size * size))
    codes = layout.take("quantizer.embedding.weight", None, None)
    layout.put("quantizer.codebook", codes)
    num_codes, code_dim = codes.shape
    layout.linear("pre_quant", "quantizer.down", width, code_dim)
    layout.linear("post_quant", "quantizer.up", code_dim, decoder.width)
    layout.check_empty()
    config = TokenizerConfig(
        image_size=grid * size,
        patch_size=size,
        channels=channels,
        encoder=encoder,
        decoder=decoder,
        quantizer=QuantizerConfig(
            num_codes=num_codes, code_dim=code_dim, straight_through="raw"
        ),
        tanh="blocks",
        positions="sincos",
        output="linear",
    )
    return _filled(config, layout.ours)


class _Layout:
    """Weights by their names there, taken one by one and checked, and by ours."""

    def __init__(self, theirs: Weights):
        self.theirs = theirs
        self.ours: Weights = {}

    def take(self, name: str, *shape: int | None) -> np.ndarray:
        """The array of a name; None stands for any length."""
        if name not in self.theirs:
            raise UserError(f"there is no {name!r} among the weights; {OTHER_LAYOUT}")
        value = self.theirs.pop(name)
        fits = len(value.shape) == len(shape) and all(
            wanted in (None, length)
            for wanted, length in zip(shape, value.shape, strict=True)
        )
        if not fits:
            wanted = "x".join("?" if n is None else str(n) for n in shape)
            found = "x".join(map(str, value.shape))
            raise UserError(f"{name!r} has shape {found}, not {wanted}; {OTHER_LAYOUT}")
        return value

    def put(self, name: str, value: np.ndarray) -> None:
        self.ours[name] = value

    def linear(self, theirs: str, ours: str, inputs: int, outputs: int) -> None:
        self.put(f"{ours}.kernel", self.take(f"{theirs}.weight", outputs, inputs).T)
        self.put(f"{ours}.bias", self.take(f"{theirs}.bias", outputs))

    def norm(self, theirs: str, ours: str, width: int) -> None:
        self.put(f"{ours}.scale", self.take(f"{theirs}.weight", width))
        self.put(f"{ours}.bias", self.take(f"{theirs}.bias", width))

    def check_empty(self) -> None:
        if self.theirs:
            raise UserError(
                f"{len(self.theirs)} weights have no place here, such as "
                f"{min(self.theirs)!r}; {OTHER_LAYOUT}"
            )


def _stack(layout: _Layout, side: str, table: str) -> tuple[StackConfig, int]:
    """Blocks, final norm and positions of one side: its size, and tokens per side."""
    positions = layout.take(f"{side}.{table}", 1, None, None)[0]
    tokens, width = positions.shape
    grid = math.isqrt(tokens)
    if grid**2 != tokens or width % 4:
        raise UserError(f"{side}.{table} is of no square grid; {OTHER_LAYOUT}")
    if np.abs(positions - sincos_positions(grid, width)).max() > 1e-4:
        raise UserError(
            f"{side}.{table} differs from the fixed sin-cos table, as if it had been "
            "trained; only fixed positions can be converted"
        )
    layers = f"{side}.transformer.layers."
    names = {k.removeprefix(layers) for k in layout.theirs if k.startswith(layers)}
    blocks = len({name.split(".")[0] for name in names})
    below = [_block(layout, f"{layers}{i}", width) for i in range(blocks)]
    if not below:
        raise UserError(f"there is no {layers}0 among the weights; {OTHER_LAYOUT}")
    for name in below[0]:
        values = [block[name] for block in below]
        if len({value.shape for value in values}) > 1:
            raise UserError(f"the blocks of {side} differ in size; {OTHER_LAYOUT}")
        layout.put(f"{side}.stack.blocks.{name}", np.stack(values))
    layout.norm(f"{side}.norm", f"{side}.stack.norm", width)
    size = StackConfig(
        blocks=blocks,
        width=width,
        heads=width // HEAD_DIM,
        hidden=below[0]["ffn_up.kernel"].shape[1],
        activation="tanh",
        norm_eps=1e-5,
    )
    return size, grid


def _block(layout: _Layout, name: str, width: int) -> Weights:
    """Our weights of one block."""
    qkv = layout.take(f"{name}.0.fn.to_qkv.weight", None, width)
    if qkv.shape[0] != 3 * width or width % HEAD_DIM:
        raise UserError(
            f"{name} has attention of width {qkv.shape[0] // 3} in a model of width "
            f"{width}; only models whose heads of {HEAD_DIM} fill the width can be "
            "converted, such as those of width 512 and 768"
        )
    block = _Layout(layout.theirs)
    hidden = len(layout.theirs.get(f"{name}.1.fn.net.0.bias", ()))
    block.put("qkv.kernel", qkv.T)
    block.put("qkv.bias", np.zeros(3 * width, np.float32))
    block.norm(f"{name}.0.norm", "attention_norm", width)
    block.linear(f"{name}.0.fn.to_out", "attention_out", width, width)
    block.norm(f"{name}.1.norm", "ffn_norm", width)
    block.linear(f"{name}.1.fn.net.0", "ffn_up", width, hidden)
    block.linear(f"{name}.1.fn.net.2", "ffn_down", hidden, width)
    return block.ours


def _filled(config: TokenizerConfig, weights: Weights) -> Tokenizer:
    """A tokenizer with these parameters, all of them."""
    model = nnx.eval_shape(lambda: Tokenizer(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    flat = [
        (path, leaf.replace(jnp.asarray(weights.pop(".".join(map(str, path))))))
        for path, leaf in nnx.to_flat_state(state)
    ]
    assert not weights
    return nnx.merge(graph, nnx.from_flat_state(flat))
