"""Our models against their PyTorch twins, from the same weights."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minivim.config import (
    LossConfig,
    OptimConfig,
    PriorConfig,
    QuantizerConfig,
    StackConfig,
    TokenizerConfig,
)
from minivim.prior import Prior, generate, prior_loss
from minivim.tokenizer import Tokenizer, tokenizer_loss
from minivim.training import learning_rate, make_step, new_state
from minivim.transformer import Block

torch = pytest.importorskip("torch")
from benchmarks import twins  # noqa: E402
from benchmarks.__main__ import table  # noqa: E402

STACK = StackConfig(blocks=2, heads=2, width=16, hidden=32)
DEEPER = StackConfig(blocks=3, heads=4, width=24, hidden=40)
# A large eps, since the bias of the keys has a gradient that is rounding alone.
OPTIM = OptimConfig(
    peak_lr=1e-2, warmup_steps=2, final_lr=1e-3, weight_decay=0.1, eps=1e-4
)
RNG = np.random.default_rng(0)
IMAGES = RNG.random((4, 12, 12, 3), dtype=np.float32)
CODES = RNG.integers(0, 20, (5, 16)).astype(np.int32)
LABELS = np.array([0, 1, 2, 3, 1], np.int32)
WEIGHTS = LossConfig(vq=0.5, l2=2.0)


def tokenizer_pair(reduction="sum", straight_through="project"):
    quantizer = QuantizerConfig(
        num_codes=24,
        code_dim=4,
        reduction=reduction,
        straight_through=straight_through,
    )
    config = TokenizerConfig(
        image_size=12, patch_size=3, encoder=STACK, decoder=DEEPER, quantizer=quantizer
    )
    return pair(partial(Tokenizer, config), twins.Tokenizer(config))


def prior_pair():
    config = PriorConfig(num_codes=20, grid=4, stack=DEEPER, num_classes=3)
    return pair(partial(Prior, config), twins.Prior(config))


def pair(build, twin):
    """Both with the same random weights; ours is built without computing its own."""
    graph, params = nnx.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(1)
    values = jax.tree.map(
        lambda p: jnp.asarray(0.4 * rng.standard_normal(p.shape, np.float32)), params
    )
    ours = nnx.merge(graph, values)
    twins.copy_weights(ours, twin)
    return ours, twin


def close(ours, twin, tolerance):
    """Largest difference over the largest value, with names where there are many."""
    if not isinstance(twin, dict):
        ours, twin = {"": ours}, {"": twin}
    assert ours.keys() == twin.keys()
    for name in twin:
        want = twin[name].detach().numpy()
        error = np.abs(np.asarray(ours[name]) - want).max() / np.abs(want).max()
        assert error < tolerance, f"{name} {error}"


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


def run(model, loss, batch, *inputs):
    """`model(*inputs)`, the loss, its metrics and its gradients, compiled as one."""
    graph, params = nnx.split(model)

    @jax.jit
    def compiled(params):
        def objective(params):
            return loss(nnx.merge(graph, params), batch, key=jax.random.key(0))

        outputs = nnx.merge(graph, params)(*inputs)
        return outputs, *jax.value_and_grad(objective, has_aux=True)(params)

    outputs, (value, metrics), grads = compiled(params)
    return outputs, value, metrics, twins.named_arrays(grads)


@pytest.fixture(scope="module", autouse=True)
def exact_products():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with jax.default_matmul_precision("highest"):
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("reduction", "straight_through"),
    [("sum", "project"), ("mean", "project"), ("sum", "raw")],
)
def test_tokenizer(reduction, straight_through):
    """Codes, reconstruction, every loss term and every gradient."""
    ours, twin = tokenizer_pair(reduction, straight_through)
    images = torch.tensor(IMAGES)
    loss = partial(tokenizer_loss, weights=WEIGHTS)
    (recon, aux), value, terms, grads = run(
        ours, loss, {"image": jnp.asarray(IMAGES)}, jnp.asarray(IMAGES)
    )
    np.testing.assert_array_equal(aux["codes"], twin.encode(images))
    assert len(np.unique(aux["codes"])) > 3
    np.testing.assert_allclose(recon, twin(images)[0].detach(), atol=1e-5)
    want, want_terms = twins.tokenizer_loss(twin, images, WEIGHTS)
    want.backward()
    close(value, want, 1e-5)
    for name in ("vq", "l2", "l1"):
        close(terms[name], want_terms[name], 1e-5)
    close(grads, gradients(twin), 1e-4)


def test_prior_logits_loss_and_gradients():
    ours, twin = prior_pair()
    batch = {"codes": jnp.asarray(CODES), "label": jnp.asarray(LABELS)}
    (logits, _), value, terms, grads = run(
        ours, prior_loss, batch, batch["codes"], batch["label"]
    )
    codes, labels = torch.tensor(CODES).long(), torch.tensor(LABELS)
    np.testing.assert_allclose(logits, twin(codes, labels).detach(), atol=1e-4)
    loss, want = twins.prior_loss(twin, codes, labels)
    loss.backward()
    close(value, want["nll"], 1e-5)
    assert float(terms["accuracy"]) == pytest.approx(float(want["accuracy"]))
    close(grads, gradients(twin), 1e-4)


def test_three_steps_of_adamw():
    """The first has rate zero; weight decay must reach the matrices only."""
    ours, twin = prior_pair()
    rate = learning_rate(OPTIM, steps=10)
    step = make_step(ours, prior_loss, OPTIM, steps=10, key=jax.random.key(0))
    state = new_state(ours, OPTIM, steps=10)
    optimizer = twins.adamw(twin, OPTIM)
    codes, labels = torch.tensor(CODES).long(), torch.tensor(LABELS)
    before = twins.named_arrays(state.params)
    for i in range(3):
        state, metrics = step(state, {"codes": CODES, "label": LABELS})
        loss, _ = twins.prior_loss(twin, codes, labels)
        norm = twins.train_step(loss, optimizer, rate=float(rate(i)))
        close(metrics["loss"], loss, 1e-5)
        close(metrics["grad_norm"], norm, 1e-5)
    after = twins.named_arrays(state.params)
    assert np.abs(after["head.weight"] - before["head.weight"]).max() > 5e-3
    close(after, dict(twin.named_parameters()), 2e-5)


def test_cached_decoding():
    ours, twin = prior_pair()
    codes, logits = generate(
        ours,
        labels=jnp.asarray(LABELS),
        codes=jnp.asarray(CODES),
        known=jnp.int32(16),
        key=jax.random.key(0),
        temperature=jnp.float32(1),
        keep_logits=True,
    )
    labels, given = torch.tensor(LABELS), torch.tensor(CODES).long()
    want_codes, want = twin.sample(labels, given)
    np.testing.assert_array_equal(codes, want_codes)
    np.testing.assert_allclose(logits.swapaxes(0, 1), want, atol=1e-4)
    np.testing.assert_allclose(want, twin(given, labels).detach(), atol=1e-4)
    drawn, _ = twin.sample(labels)
    assert drawn.shape == CODES.shape and drawn.min() >= 0 and drawn.max() < 20


@pytest.mark.parametrize(
    ("activation", "causal"), [("gelu", False), ("relu", True), ("tanh", False)]
)
@pytest.mark.paper("LayerNorm before attention and before the FFN")
def test_block_against_torch_layers(causal, activation):
    """LayerNorm, MultiheadAttention and GELU of torch.nn, put together by hand."""
    config = StackConfig(blocks=1, heads=2, width=16, hidden=32, activation=activation)
    block, shell = pair(partial(Block, config), twins.Block(config))
    x = RNG.standard_normal((3, 10, 16)).astype(np.float32)
    attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    attention.load_state_dict(
        {
            "in_proj_weight": shell.qkv.weight,
            "in_proj_bias": shell.qkv.bias,
            "out_proj.weight": shell.attention_out.weight,
            "out_proj.bias": shell.attention_out.bias,
        }
    )
    activate = {"gelu": torch.nn.GELU("tanh"), "relu": torch.relu, "tanh": torch.tanh}
    mask = torch.nn.Transformer.generate_square_subsequent_mask(10) if causal else None
    with torch.no_grad():
        y = torch.tensor(x)
        normed = shell.attention_norm(y)
        y = y + attention(normed, normed, normed, attn_mask=mask)[0]
        hidden = activate[activation](shell.ffn_up(shell.ffn_norm(y)))
        y = y + shell.ffn_down(hidden)
    mixed = nnx.jit(lambda block, x: block(x, causal=causal))(block, x)
    np.testing.assert_allclose(mixed, y, atol=1e-5)


def test_the_page_on_speed_says_what_was_measured():
    folder = Path(__file__).parents[2] / "book/results"
    report = json.loads((folder / "speed.json").read_text("utf-8"))
    page = (folder / "speed.md").read_text("utf-8")
    assert page.endswith(table(report) + "\n") and len(report["rows"]) == 23
    for row in report["rows"].values():
        assert row["ratio"] == pytest.approx(row["twin"]["ms"] / row["ours"]["ms"], 0.1)
