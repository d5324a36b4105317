"""Codebooks that the paper does not use: no projections, moving averages, revival."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minivim.config import QuantizerConfig
from minivim.errors import UserError
from minivim.tokenizer import Tokenizer
from minivim.tokenizer.quantizer import EPS, Quantizer, l2_normalise
from minivim.training import Workdir, make_step, new_state
from minivim.training.step import TrainState
from tests import tiny

KEY = jax.random.key(7)
CODES, DIM = 6, 3


def quantizer(seed=0, **changes) -> Quantizer:
    """One whose input already is the vector that is looked up."""
    config = QuantizerConfig(
        **{"num_codes": CODES, "code_dim": DIM, "factorised": False, **changes}
    )
    return Quantizer(config, in_width=DIM, out_width=DIM, rngs=nnx.Rngs(seed))


def features(seed: int, tokens: int = 10) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (2, tokens, DIM))


def values(module: nnx.Module) -> dict[str, np.ndarray]:
    return {
        ".".join(map(str, path)): np.array(leaf[...])
        for path, leaf in nnx.to_flat_state(nnx.state(module))
    }


# --- no projections ----------------------------------------------------------------


@pytest.mark.paper("no projections, codes as wide as the networks")
def test_without_projections_the_decoder_receives_the_code_itself():
    q = quantizer(l2_normalise=False)
    assert set(values(q)) == {"codebook"}
    out, aux = q(features(1))
    np.testing.assert_array_equal(aux["z_e"], features(1))
    np.testing.assert_allclose(out, q.codebook[...][aux["codes"]], atol=1e-6)
    np.testing.assert_array_equal(q.embed(aux["codes"]), aux["z_q"])


def test_parameters_are_counted_with_and_without_projections():
    for config in (
        tiny.TOKENIZER,
        replace(
            tiny.TOKENIZER,
            quantizer=QuantizerConfig(num_codes=24, code_dim=16, factorised=False),
        ),
    ):
        model = nnx.eval_shape(lambda c=config: Tokenizer(c, rngs=nnx.Rngs(0)))
        counted = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
        assert counted == config.parameters


def test_codes_of_another_width_need_projections():
    with pytest.raises(UserError, match="code_dim=16 and equal widths"):
        replace(tiny.TOKENIZER, quantizer=QuantizerConfig(code_dim=8, factorised=False))


# --- moving averages ---------------------------------------------------------------


def ema_by_hand(codebook, batches, *, decay, l2):
    """The update token by token; a code that was never chosen stays."""

    def norm(x):
        x = np.asarray(x, np.float64)
        return x / np.linalg.norm(x, axis=-1, keepdims=True) if l2 else x

    codebook = np.array(codebook, np.float64)
    counts, sums = np.zeros(CODES), np.zeros((CODES, DIM))
    for batch in batches:
        z, table = norm(batch).reshape(-1, DIM), norm(codebook)
        counts, sums = decay * counts, decay * sums
        for vector in z:
            k = int(np.argmin(((table - vector) ** 2).sum(-1)))
            counts[k] += 1 - decay
            sums[k] += (1 - decay) * vector
        for k in range(CODES):
            share = (counts[k] + EPS) / (counts.sum() + CODES * EPS)
            if counts[k] > EPS:
                codebook[k] = sums[k] / (share * counts.sum())
    return codebook, counts, sums


@pytest.mark.parametrize("l2", [False, True])
@pytest.mark.paper("a codebook of moving averages")
def test_ema_equals_a_loop_over_tokens(l2):
    q = quantizer(codebook="ema", ema_decay=0.8, l2_normalise=l2)
    batches = [features(i) for i in range(5)]
    want = ema_by_hand(q.codebook[...], batches, decay=0.8, l2=l2)
    for batch in batches:
        tiny.call(q, batch, key=KEY)
    for name, expected in zip(("codebook", "counts", "sums"), want, strict=True):
        np.testing.assert_allclose(getattr(q, name)[...], expected, atol=2e-6)


def test_without_decay_each_code_is_the_mean_of_its_vectors():
    q = quantizer(codebook="ema", ema_decay=0.0)
    # Two codes face away from all vectors.
    q.codebook[...] = q.codebook[...].at[-2:].set(jnp.array([-1.0, 0, 0]))
    before = np.array(q.codebook[...])
    batch = features(1) + jnp.array([6.0, 0, 0])
    _, aux = q(batch, key=KEY)
    z, codes = aux["z_e"].reshape(-1, DIM), np.ravel(aux["codes"])
    assert 1 < len(set(codes)) < CODES
    for k in range(CODES):
        want = z[codes == k].mean(0) if k in codes else before[k]
        np.testing.assert_allclose(q.codebook[...][k], want, rtol=1e-4, atol=1e-6)


def test_the_batch_is_quantized_by_the_codes_before_the_update():
    q = quantizer(codebook="ema", ema_decay=0.0)
    out, aux = quantizer(codebook="ema")(features(1))
    out_training, aux_training = q(features(1), key=KEY)
    np.testing.assert_array_equal(out, out_training)
    for name in ("codes", "z_q", "vq_loss"):
        np.testing.assert_array_equal(aux[name], aux_training[name])


def test_a_code_out_of_use_stays_on_the_sphere():
    """By the formula alone it would sink to the origin once its count is spent."""
    q = quantizer(codebook="ema", ema_decay=0.1)
    away = jnp.array([-1.0, 0, 0])
    q.codebook[...] = q.codebook[...].at[0].set(away)
    batch = jnp.abs(features(1))
    q(jnp.broadcast_to(away, (1, 2, DIM)), key=KEY)  # it was in use once
    for _ in range(60):
        tiny.call(q, batch, key=KEY)
    np.testing.assert_allclose(q.embeddings()[0], away, atol=1e-6)
    assert float(q.counts[0]) < 1e-30
    sunk = q.sums[...][0] / (q.counts[0] + EPS)
    assert np.linalg.norm(l2_normalise(sunk)) < 0.5


def moved(**changes) -> dict[str, set[str]]:
    """Which parameters each loss term, and the output, has a gradient for."""
    q = Quantizer(
        QuantizerConfig(num_codes=CODES, code_dim=DIM, **changes),
        in_width=5, out_width=4, rngs=nnx.Rngs(0),
    )  # fmt: skip
    graph, params, rest = nnx.split(q, nnx.Param, ...)
    x = jax.random.normal(KEY, (2, 6, 5))

    def terms(params):
        out, aux = nnx.merge(graph, params, rest, copy=True)(x, key=KEY)
        return {n: aux[n] for n in ("vq_loss", "codebook_loss")} | {
            "output": jnp.sum(out**2)
        }

    return {
        name: {
            ".".join(map(str, path))
            for path, g in nnx.to_flat_state(row)
            if np.any(g[...])
        }
        for name, row in jax.jit(jax.jacrev(terms))(params).items()
    }


@pytest.mark.paper("a codebook of moving averages")
def test_no_gradient_reaches_an_ema_codebook():
    down, up = {"down.kernel", "down.bias"}, {"up.kernel", "up.bias"}
    found = moved(codebook="ema")
    assert found["vq_loss"] == down
    assert found["codebook_loss"] == set()
    assert found["output"] == down | up
    # With the paper's codebook the same test sees a gradient.
    found = moved()
    assert found["vq_loss"] == down | {"codebook"}
    assert found["codebook_loss"] == {"codebook"}


def test_the_loss_of_an_ema_codebook_is_the_commitment():
    _, aux = quantizer(codebook="ema", beta=0.5)(features(1))
    assert float(aux["vq_loss"]) == pytest.approx(0.5 * float(aux["commitment_loss"]))
    assert float(aux["codebook_loss"]) > 0


# --- revival -----------------------------------------------------------------------


@pytest.mark.parametrize("codebook", ["gradient", "ema"])
@pytest.mark.paper("unused codes moved onto vectors of the batch")
def test_a_dead_code_moves_onto_a_vector_after_exactly_so_many_steps(codebook):
    q = quantizer(revive_after=3, codebook=codebook)
    q.codebook[...] = q.codebook[...].at[0].set(jnp.array([-1.0, 0, 0]))
    batch = jnp.abs(features(1))
    for step in range(1, 4):
        before = values(q)
        _, aux = tiny.call(q, batch, key=jax.random.fold_in(KEY, step))
        codes = np.unique(aux["codes"])
        assert 0 not in codes
        unused = sorted(set(range(CODES)) - set(codes.tolist()))
        if step < 3:
            np.testing.assert_array_equal(q.codebook[0], before["codebook"][0])
            assert int(q.idle[0]) == step
    assert int(q.idle[0]) == 0
    distances = np.abs(aux["z_e"] - q.codebook[0]).max(-1)
    assert distances.min() == 0
    if codebook == "gradient":
        alive = [k for k in range(CODES) if k not in unused]
        assert alive
        np.testing.assert_array_equal(
            q.codebook[...][jnp.array(alive)], before["codebook"][alive]
        )
    else:
        # A new start: its first vectors place it, not the average of old ones.
        assert float(q.counts[0]) == 0 and not np.any(q.sums[0])
    assert 0 in np.asarray(q(batch)[1]["codes"])


def test_which_vector_is_drawn_depends_on_the_key_alone():
    def revived(key):
        q = quantizer(revive_after=1)
        q(features(1)[:, :1], key=key)
        return np.asarray(q.codebook[...])

    np.testing.assert_array_equal(revived(KEY), revived(KEY))
    assert (revived(KEY) != revived(jax.random.key(8))).any()


def test_revival_brings_codes_into_use():
    """Ten clusters and a codebook in a corner of the sphere: a toy of collapse."""
    centres = jax.random.normal(KEY, (10, DIM))
    noise = 0.01 * jax.random.normal(jax.random.key(1), (10, 30, DIM))
    batch = centres[:, None] + noise

    def in_use(**changes):
        q = quantizer(num_codes=10, codebook="ema", ema_decay=0.5, **changes)
        q.codebook[...] = jnp.array([1.0, 0, 0]) + 0.01 * q.codebook[...]
        for step in range(60):
            _, aux = tiny.call(q, batch, key=jax.random.fold_in(KEY, step))
        return len(np.unique(aux["codes"]))

    assert in_use(revive_after=2) == 10
    assert in_use() < 8


# --- in the training step ----------------------------------------------------------
# On a quantizer alone, which compiles fast; tests/training/test_resume.py has the whole
# tokenizer.

EMA = {"codebook": "ema", "ema_decay": 0.5}
BOTH = EMA | {"revive_after": 2}


def started(**changes):
    """A quantizer with projections, its training step and its first state."""
    config = QuantizerConfig(num_codes=CODES, code_dim=DIM, **changes)
    model = Quantizer(config, in_width=DIM, out_width=DIM, rngs=nnx.Rngs(0))

    def loss(model, batch, context, *, key):
        out, aux = model(batch["x"], key=key)
        return jnp.mean((out - batch["x"]) ** 2) + aux["vq_loss"], {}

    step = make_step(model, loss, tiny.OPTIM, steps=10, key=KEY)
    return model, step, new_state(model, tiny.OPTIM, steps=10)


def copied(state: TrainState) -> TrainState:
    """For a step that donates its input."""
    return jax.tree.map(jnp.copy, state)


def of_codebook(tree) -> list:
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return [leaf for path, leaf in pairs if "codebook" in str(path)]


def test_the_training_step_keeps_the_averages_and_adds_nothing():
    model, step, state = started(**EMA)
    batches, seen = [features(i) for i in range(4)], []
    start = np.array(model.codebook[...])
    for batch in batches:
        now = nnx.merge(nnx.graphdef(model), state.variables)
        seen.append(np.asarray(now(batch)[1]["z_e"]))
        state, _ = step(state, {"x": batch})
    want = ema_by_hand(start, seen, decay=0.5, l2=True)
    found = (state.params["codebook"], state.stats["counts"], state.stats["sums"])
    for leaf, expected in zip(found, want, strict=True):
        np.testing.assert_allclose(leaf[...], expected, atol=1e-5)
    assert np.abs(start - want[0]).max() > 0.1
    moments = of_codebook(state.optimizer)
    assert len(moments) == 2 and not any(np.any(m) for m in moments)
    # The same places are busy where the loss moves the codebook.
    _, step, state = started()
    state, _ = step(state, {"x": batches[0]})
    assert all(np.any(m) for m in of_codebook(state.optimizer))


def test_calls_without_a_key_change_nothing():
    q = quantizer(**BOTH)
    q(features(1), key=KEY)
    before = values(q)
    assert set(before) == {"codebook", "sums", "counts", "idle"}
    for i in range(3):
        q(features(i))
    tiny.assert_same(before, values(q))


@pytest.mark.parametrize("changes", [{}, BOTH], ids=["empty", "full"])
def test_checkpoints_hold_statistics_and_their_absence(tmp_path, changes):
    """Two steps, a file, two steps: as four steps."""
    _, step, start = started(**changes)
    assert len(jax.tree.leaves(start.stats)) == (3 if changes else 0)
    whole = copied(start)
    for i in range(4):
        whole, _ = step(whole, {"x": features(i)})
    half = copied(start)
    for i in range(2):
        half, _ = step(half, {"x": features(i)})
    workdir = Workdir(tmp_path, {"name": "codebooks"})
    workdir.save(half, {"at": 2})
    restored, position = workdir.restore(start)
    workdir.close()
    tiny.assert_same(half, restored)
    assert position == {"at": 2}
    for i in range(2, 4):
        restored, _ = step(restored, {"x": features(i)})
    tiny.assert_same(whole, restored)


def test_a_plain_empty_dictionary_of_statistics_comes_back(tmp_path):
    state = TrainState(jnp.int32(3), {"w": jnp.ones(2)}, {"m": jnp.zeros(2)})
    assert state.stats == {}
    workdir = Workdir(tmp_path, {})
    workdir.save(state, {})
    restored, _ = workdir.restore(state)
    workdir.close()
    tiny.assert_same(state, restored)
