"""The tokenizer and the prior once more, in PyTorch: the yardstick of `make bench`.

Written as one would write them for PyTorch: `nn.Module`, fused attention, fused AdamW,
a preallocated key/value cache read through growing slices. Names of modules and
parameters are those of `minivim`, so that `copy_weights` needs no table.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import Tensor, nn

from minivim.config import (
    LossConfig,
    OptimConfig,
    PriorConfig,
    QuantizerConfig,
    StackConfig,
    TokenizerConfig,
)

ACTIVATIONS = {
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
}
Cache = list[tuple[Tensor, Tensor]]


class Block(nn.Module):
    def __init__(self, c: StackConfig):
        super().__init__()
        self.num_heads, self.activation = c.heads, ACTIVATIONS[c.activation]
        self.attention_norm = nn.LayerNorm(c.width, eps=c.norm_eps)
        self.qkv = nn.Linear(c.width, 3 * c.width)
        self.attention_out = nn.Linear(c.width, c.width)
        self.ffn_norm = nn.LayerNorm(c.width, eps=c.norm_eps)
        self.ffn_up = nn.Linear(c.width, c.hidden)
        self.ffn_down = nn.Linear(c.hidden, c.width)
        self.dropout = nn.Dropout(c.dropout)

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values `[B, heads, N, head_dim]`."""
        b, n, d = x.shape
        qkv = self.qkv(self.attention_norm(x))
        split = qkv.view(b, n, 3, self.num_heads, d // self.num_heads)
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def ffn(self, x: Tensor) -> Tensor:
        h = self.dropout(self.activation(self.ffn_up(self.ffn_norm(x))))
        return self.dropout(self.ffn_down(h))

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        q, k, v = self.heads(x)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        mixed = mixed.transpose(1, 2).reshape(x.shape)
        x = x + self.dropout(self.attention_out(mixed))
        return x + self.ffn(x)

    def step(self, x: Tensor, keys: Tensor, values: Tensor, position: int) -> Tensor:
        """One token `[B, 1, D]`; writes its key and value into the cache."""
        q, k, v = self.heads(x)
        keys[:, :, position], values[:, :, position] = k[:, :, 0], v[:, :, 0]
        seen = slice(0, position + 1)
        mixed = F.scaled_dot_product_attention(q, keys[:, :, seen], values[:, :, seen])
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(x.shape))
        return x + self.ffn(x)


class Stack(nn.Module):
    def __init__(self, c: StackConfig):
        super().__init__()
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.blocks))
        self.norm = nn.LayerNorm(c.width, eps=c.norm_eps)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        for block in self.blocks:
            x = block(x, causal)
        return self.norm(x)

    def step(self, x: Tensor, cache: Cache, position: int) -> Tensor:
        for block, (keys, values) in zip(self.blocks, cache, strict=True):
            x = block.step(x, keys, values, position)  # type: ignore[operator]
        return self.norm(x)


class TanhHead(nn.Module):
    def __init__(self, width: int, hidden: int, outputs: int):
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(x)))


class Positions(nn.Module):
    def __init__(self, tokens: int, width: int):
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn(tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


class Encoder(nn.Module):
    def __init__(self, c: TokenizerConfig):
        super().__init__()
        size = c.encoder
        assert isinstance(size, StackConfig)
        self.grid, self.patch = c.grid, c.patch_size
        self.embed = nn.Linear(c.patch_dim, size.width)
        self.positions = Positions(c.num_tokens, size.width)
        self.stack = Stack(size)
        self.head = TanhHead(size.width, size.hidden, size.width)

    def forward(self, images: Tensor) -> Tensor:
        g, p = self.grid, self.patch
        patches = images.view(-1, g, p, g, p, images.shape[-1]).transpose(2, 3)
        x = self.embed(2 * patches.reshape(len(images), g * g, -1) - 1)
        return self.head(self.stack(self.positions(x), causal=False))


class Decoder(nn.Module):
    def __init__(self, c: TokenizerConfig):
        super().__init__()
        size = c.decoder
        assert isinstance(size, StackConfig)
        self.grid, self.patch = c.grid, c.patch_size
        self.positions = Positions(c.num_tokens, size.width)
        self.stack = Stack(size)
        self.head = TanhHead(size.width, size.hidden, c.patch_dim)

    def forward(self, x: Tensor) -> Tensor:
        g, p = self.grid, self.patch
        rows = self.head(self.stack(self.positions(x), causal=False))
        pixels = rows.view(len(x), g, g, p, p, -1).transpose(2, 3)
        return torch.sigmoid(pixels.reshape(len(x), g * p, g * p, -1))


class Quantizer(nn.Module):
    def __init__(self, c: QuantizerConfig, in_width: int, out_width: int):
        super().__init__()
        self.config = c
        self.down = nn.Linear(in_width, c.code_dim)
        self.up = nn.Linear(c.code_dim, out_width)
        self.codebook = nn.Parameter(torch.randn(c.num_codes, c.code_dim))

    def nearest(self, z: Tensor, codes: Tensor) -> Tensor:
        with torch.no_grad():
            return (2 * z @ codes.T - codes.square().sum(-1)).argmax(-1)

    def forward(self, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.config
        raw, codes = self.down(features), self.codebook
        z_e = raw
        if c.l2_normalise:
            z_e, codes = F.normalize(raw, dim=-1), F.normalize(codes, dim=-1)
        index = self.nearest(z_e, codes)
        z_q = F.embedding(index, codes)
        scale = c.code_dim if c.reduction == "sum" else 1
        codebook_loss = scale * F.mse_loss(z_q, z_e.detach())
        commitment_loss = scale * F.mse_loss(z_e, z_q.detach())
        carrier = z_e if c.straight_through == "project" else raw
        embedded = self.up(carrier + (z_q - carrier).detach())
        vq_loss = codebook_loss + c.beta * commitment_loss
        return embedded, {"codes": index, "vq_loss": vq_loss}


class Tokenizer(nn.Module):
    """Twin of `minivim.Tokenizer`, with its defaults (tanh head, learnt positions)."""

    def __init__(self, c: TokenizerConfig):
        super().__init__()
        self.encoder = Encoder(c)
        assert isinstance(c.quantizer, QuantizerConfig)
        self.quantizer = Quantizer(c.quantizer, c.encoder.width, c.decoder.width)
        self.decoder = Decoder(c)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        embedded, aux = self.quantizer(self.encoder(images))
        return self.decoder(embedded), aux

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        quantizer = self.quantizer
        z, codes = quantizer.down(self.encoder(images)), quantizer.codebook
        if quantizer.config.l2_normalise:
            z, codes = F.normalize(z, dim=-1), F.normalize(codes, dim=-1)
        return quantizer.nearest(z, codes)


class Prior(nn.Module):
    """Twin of `minivim.Prior`."""

    def __init__(self, c: PriorConfig):
        super().__init__()

        def table(rows: int) -> nn.Parameter:
            return nn.Parameter(0.02 * torch.randn(rows, c.stack.width))

        self.config = c
        self.codes, self.classes = table(c.num_codes), table(c.num_classes + 1)
        self.rows, self.columns = table(c.grid), table(c.grid)
        self.stack = Stack(c.stack)
        self.head = nn.Linear(c.stack.width, c.num_codes)
        self.dropout = nn.Dropout(c.stack.dropout)

    def positions(self) -> Tensor:
        """Row plus column, `[N, D]` in raster order."""
        return (self.rows[:, None] + self.columns[None]).flatten(0, 1)

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        x = F.embedding(codes[:, :-1], self.codes) + self.positions()[:-1]
        start = F.embedding(labels, self.classes)
        x = self.dropout(torch.cat([start[:, None], x], dim=1))
        return self.head(self.stack(x, causal=True))

    def empty_cache(self, batch: int) -> Cache:
        c = self.config.stack
        shape = (batch, c.heads, self.config.num_tokens, c.width // c.heads)
        return [(torch.empty(shape), torch.empty(shape)) for _ in range(c.blocks)]

    def step(self, x: Tensor, cache: Cache, position: int) -> Tensor:
        """Logits `[B, K]` of the code at `position` from its input `[B, 1, D]`."""
        return self.head(self.stack.step(x, cache, position))[:, 0]

    @torch.inference_mode()
    def sample(self, labels: Tensor, given: Tensor | None = None) -> tuple[Tensor, ...]:
        """Codes `[B, N]` at temperature 1 and all logits; `given` codes are kept."""
        cache = self.empty_cache(len(labels))
        positions = self.positions()
        x = self.classes[labels][:, None]
        drawn, logits = [], []
        for i in range(self.config.num_tokens):
            logits.append(self.step(x, cache, i))
            if given is None:
                code = torch.multinomial(logits[-1].softmax(-1), 1)
            else:
                code = given[:, i, None]
            drawn.append(code)
            x = self.codes[code] + positions[i]
        return torch.cat(drawn, dim=1), torch.stack(logits, dim=1)


def tokenizer_loss(
    model: Tokenizer, images: Tensor, weights: LossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    recon, aux = model(images)
    terms = {
        "vq": aux["vq_loss"],
        "l2": F.mse_loss(recon, images),
        "l1": F.l1_loss(recon.detach(), images),
    }
    loss = weights.vq * terms["vq"] + weights.l2 * terms["l2"]
    return loss, terms | {"codes": aux["codes"]}


def prior_loss(
    model: Prior, codes: Tensor, labels: Tensor, *, label_dropout: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    if label_dropout:
        dropped = torch.rand(len(labels)) < label_dropout
        labels = torch.where(dropped, model.config.num_classes, labels)
    logits = model(codes, labels)
    nll = F.cross_entropy(logits.flatten(0, 1), codes.flatten())
    right = (logits.detach().argmax(-1) == codes).float().mean()
    return nll, {"nll": nll, "accuracy": right}


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """The recipe's AdamW: weight decay on the matrices of linear layers only."""
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    decay = [p for p in model.parameters() if id(p) in linear]
    rest = [p for p in model.parameters() if id(p) not in linear]
    groups = [
        {"params": decay, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=config.peak_lr,
        betas=(config.b1, config.b2),
        eps=config.eps,
        fused=True,
    )


def train_step(
    loss: Tensor, optimizer: torch.optim.Optimizer, *, rate: float
) -> Tensor:
    """Backward pass and update; returns the global gradient norm, as ours does."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return norm


def named_arrays(state: Any) -> dict[str, np.ndarray]:
    """Leaves of a JAX state (parameters, gradients) by their names in PyTorch."""
    found: dict[str, np.ndarray] = {}
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(state))
    for path, leaf in leaves:
        *names, last = (str(part.key) for part in path)
        array = np.asarray(leaf)
        if last == "kernel":
            array = array.swapaxes(-1, -2)
        last = {"kernel": "weight", "scale": "weight"}.get(last, last)
        if "blocks" in names:
            after = names.index("blocks") + 1
            for i, row in enumerate(array):
                found[".".join([*names[:after], str(i), *names[after:], last])] = row
        else:
            found[".".join([*names, last])] = array
    return found


def copy_weights(source: nnx.Module, target: nn.Module) -> None:
    """Give the twin the parameters of a model; every one must be there."""
    arrays = named_arrays(nnx.state(source, nnx.Param))
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    target.load_state_dict(tensors)
