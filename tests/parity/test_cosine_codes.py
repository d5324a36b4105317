"""Our quantisers against vector-quantize-pytorch, from the same codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional as F
from vector_quantize_pytorch import FSQ as TorchFSQ
from vector_quantize_pytorch import VectorQuantize

from minivim.config import QuantizerConfig
from minivim.tokenizer.quantizer import EPS, Quantizer
from tests.tokenizer.fsq import FSQ, FSQConfig

CODES, DIM = 64, 8
RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((4, 25, DIM), np.float32)
CODEBOOK = RNG.standard_normal((CODES, DIM), np.float32)


@pytest.fixture(scope="module", autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def quantizer(**changes) -> Quantizer:
    config = QuantizerConfig(num_codes=CODES, code_dim=DIM, factorised=False, **changes)
    q = Quantizer(config, in_width=DIM, out_width=DIM, rngs=nnx.Rngs(0))
    q.codebook[...] = jnp.asarray(CODEBOOK)
    return q


def theirs(**options) -> VectorQuantize:
    """In training mode, for the loss is zero in evaluation."""
    vq = VectorQuantize(
        dim=DIM, codebook_size=CODES, rotation_trick=False, **options
    ).train()
    with torch.no_grad():
        codes = torch.tensor(CODEBOOK)
        if options.get("use_cosine_sim"):
            codes = F.normalize(codes, dim=-1)
        vq._codebook.embed.copy_(codes[None])
    return vq


def test_cosine_codes_commitment_and_gradient():
    vq = theirs(use_cosine_sim=True, freeze_codebook=True)
    x = torch.tensor(FEATURES, requires_grad=True)
    out, codes, commitment = vq(x)
    want = float(commitment.detach())
    weights = RNG.standard_normal(FEATURES.shape).astype(np.float32)
    ((out * torch.tensor(weights)).sum() + commitment.sum()).backward()
    q = quantizer(reduction="mean", straight_through="project")

    @jax.jit
    def run(x):
        def loss(x):
            out, aux = q(x)
            return jnp.sum(out * weights) + aux["commitment_loss"], (out, aux)

        return jax.grad(loss, has_aux=True)(x)

    gradient, (ours, aux) = run(jnp.asarray(FEATURES))
    np.testing.assert_array_equal(aux["codes"], codes)
    assert len(np.unique(codes)) > 20
    assert float(aux["commitment_loss"]) == pytest.approx(want, rel=1e-6)
    np.testing.assert_allclose(ours, out.detach(), atol=1e-6)
    np.testing.assert_allclose(gradient, x.grad, atol=1e-5)


def test_plain_codes_and_commitment():
    vq = theirs(freeze_codebook=True)
    _, codes, commitment = vq(torch.tensor(FEATURES))
    _, aux = quantizer(l2_normalise=False)(jnp.asarray(FEATURES))
    np.testing.assert_array_equal(aux["codes"], codes)
    assert float(aux["commitment_loss"]) == pytest.approx(commitment.item(), rel=1e-6)


def test_five_updates_of_an_ema_codebook():
    """Their statistics start at one vector a code; ours at none, as in the paper."""
    vq = theirs(decay=0.8, eps=EPS)
    vq._codebook.cluster_size.zero_()
    vq._codebook.embed_avg.zero_()
    q = quantizer(l2_normalise=False, codebook="ema", ema_decay=0.8)
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal((4, 60, DIM), np.float32)
        vq(torch.tensor(x))
        q(jnp.asarray(x), key=jax.random.key(seed))
        known = np.asarray(q.counts[...]) > EPS
        assert known.sum() > 40
        theirs_now = vq._codebook.embed[0].numpy()
        np.testing.assert_allclose(
            q.codebook[...][known], theirs_now[known], rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            q.counts[...], vq._codebook.cluster_size[0], rtol=1e-6
        )
        # Where they part: a code that nothing chose is drawn to the origin there.
        vq._codebook.embed[0, ~torch.tensor(known)] = torch.tensor(CODEBOOK)[~known]


@pytest.mark.parametrize("levels", [(5, 5, 3), (7,)])
def test_fsq_of_odd_levels(levels):
    """Of even ones theirs is the same up to a shift of the input."""
    x = 2 * RNG.standard_normal((4, 30, len(levels))).astype(np.float32)
    fsq = TorchFSQ(list(levels))
    _, codes = fsq(torch.tensor(x))
    q = FSQ(
        FSQConfig(levels=levels),
        in_width=len(levels),
        out_width=4,
        rngs=nnx.Rngs(0),
    )
    q.down.kernel[...] = jnp.eye(len(levels))
    np.testing.assert_array_equal(q(jnp.asarray(x))[1]["codes"], codes)
    assert len(np.unique(codes)) > 5
