"""The quantizer: nearest code, straight-through readings, and who moves whom."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minivim.config import QuantizerConfig
from minivim.tokenizer import quantizer as module
from minivim.tokenizer.quantizer import (
    Quantizer,
    l2_normalise,
    nearest_code,
    straight_through,
    vq_terms,
)
from tests import tiny

FEATURES = jax.random.normal(jax.random.key(1), (2, 6, 10))


def quantizer(in_width: int = 10, **changes) -> Quantizer:
    config = QuantizerConfig(**{"num_codes": 12, "code_dim": 4, **changes})
    return Quantizer(config, in_width=in_width, out_width=8, rngs=nnx.Rngs(0))


def beta_scales_only_the_encoder(vq_loss) -> bool:
    """C1: with beta doubled the codebook moves as before, the encoder twice as far.

    `vq_loss(aux, beta)` is the loss under test.
    """
    codebook, encoder = (
        np.stack([
            tiny.gradients(
                lambda q, beta=beta: vq_loss(q(FEATURES)[1], beta), quantizer(beta=beta)
            )[name]
            for beta in (0.25, 0.5)
        ])
        for name in ("codebook", "down.kernel")
    )  # fmt: skip
    return bool(
        np.allclose(codebook[0], codebook[1], rtol=1e-5)
        and np.allclose(2 * encoder[0], encoder[1], rtol=1e-5)
    )


def who_moves(terms) -> dict[str, set[str]]:
    """Which of codebook and encoder each half of the loss has a gradient for.

    `terms(z_e, z_q)` are both halves, under test.
    """
    q = quantizer()
    graph, params = nnx.split(q)

    def both(params):
        q = nnx.merge(graph, params)
        z_e = l2_normalise(q.down(FEATURES))
        embeddings = q.embeddings()
        found = terms(z_e, embeddings[nearest_code(z_e, embeddings)])
        return dict(zip(("codebook_loss", "commitment_loss"), found, strict=True))

    return {
        name: {
            path[0]
            for path, g in nnx.to_flat_state(row)
            if np.abs(g[...]).max() > 1e-5  # less is rounding
        }
        for name, row in jax.jit(jax.jacrev(both))(params).items()
    }


def ours(z_e, z_q):
    return vq_terms(z_e=z_e, z_q=z_q, reduction="sum")


DISJOINT = {"codebook_loss": {"codebook"}, "commitment_loss": {"down"}}


@pytest.mark.paper("L_VQ, a codebook term and a commitment term")
def test_the_two_terms_move_disjoint_parameters():
    assert who_moves(ours) == DISJOINT
    for name, parts in DISJOINT.items():  # and so in the module
        found = tiny.gradients(lambda q, n=name: q(FEATURES)[1][n], quantizer())
        moved = {key.split(".")[0] for key, g in found.items() if np.any(g)}
        assert moved == parts


def test_exchanged_terms_are_caught():
    assert who_moves(lambda z_e, z_q: ours(z_e, z_q)[::-1]) != DISJOINT


def test_a_detached_input_is_caught():
    """The encoder would hear nothing of the commitment."""
    found = who_moves(lambda z_e, z_q: ours(jax.lax.stop_gradient(z_e), z_q))
    assert found == {"codebook_loss": {"codebook"}, "commitment_loss": set()}


def test_a_commitment_to_the_quantised_vector_is_caught():
    """Measured after the straight-through step: zero, whatever the encoder does."""
    found = who_moves(lambda z_e, z_q: ours(straight_through(z_e, z_q), z_q))
    assert found["commitment_loss"] == set()


@pytest.mark.paper("beta, 0.25, on the commitment term")
def test_beta_scales_only_the_encoder():
    assert beta_scales_only_the_encoder(lambda aux, beta: aux["vq_loss"])


@pytest.mark.paper("beta, 0.25, on the commitment term")
def test_beta_on_the_wrong_term_is_caught():
    def swapped(aux, beta):
        return beta * aux["codebook_loss"] + aux["commitment_loss"]

    assert not beta_scales_only_the_encoder(swapped)


def radial_share(quantise) -> float:
    """C2: the largest radial part of dL/dz relative to the gradient, z before l2."""
    weights = jax.random.normal(jax.random.key(2), (2, 6, 8))
    z = 3 * FEATURES[..., :4]
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(weights * quantise(z))))(z)
    radial = jnp.sum(gradient * z, axis=-1) / jnp.linalg.norm(z, axis=-1)
    return float(jnp.abs(radial).max() / jnp.abs(gradient).max())


def on_code_vectors(reading: str) -> Quantizer:
    """A quantizer whose input already is the vector before normalisation."""
    q = quantizer(in_width=4, straight_through=reading)
    q.down.kernel[...] = jnp.eye(4)
    return q


@pytest.mark.paper("normalise before the straight-through, or inside it")
def test_radial_gradient_vanishes_under_project_only():
    shares = {
        reading: radial_share(lambda z, r=reading: on_code_vectors(r)(z)[0])
        for reading in ("project", "raw")
    }
    assert shares["project"] < 1e-5
    assert shares["raw"] > 1e-1


def test_straight_through_around_the_raw_vector_is_caught():
    q = on_code_vectors("project")

    def mutated(z):
        z_q = q.embeddings()[nearest_code(l2_normalise(z), q.embeddings())]
        return q.up(straight_through(z, z_q))

    assert radial_share(mutated) > 1e-1


def sum_over_mean(terms) -> list[float]:
    """C3: how much larger each half is as a sum over `d` than as a mean."""
    z_e, z_q = FEATURES[..., :4], FEATURES[..., 4:8]
    by_sum, by_mean = (terms(z_e=z_e, z_q=z_q, reduction=r) for r in ("sum", "mean"))
    return [float(a / b) for a, b in zip(by_sum, by_mean, strict=True)]


@pytest.mark.paper("L_VQ as a sum or a mean over dimensions")
def test_sum_is_d_times_the_mean():
    assert sum_over_mean(vq_terms) == pytest.approx([4, 4], rel=1e-6)


def test_one_reduction_under_both_names_is_caught():
    def mutated(*, z_e, z_q, reduction):
        return vq_terms(z_e=z_e, z_q=z_q, reduction="mean")

    assert sum_over_mean(mutated) != pytest.approx([4, 4], rel=1e-6)


def test_the_module_reduces_as_its_settings_say():
    for name in ("codebook_loss", "commitment_loss"):
        by_sum, by_mean = (
            float(quantizer(reduction=r)(FEATURES)[1][name]) for r in ("sum", "mean")
        )
        assert by_sum == pytest.approx(4 * by_mean, rel=1e-6)


def test_the_numeric_example_in_the_docstring_holds():
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder(recurse=False).find(
        vq_terms, "vq_terms", globs=vars(module).copy()
    ):
        runner.run(example)
    assert runner.summarize(verbose=False) == (0, 3)


@pytest.mark.paper("L_VQ, a codebook term and a commitment term")
def test_loss_is_a_mean_over_tokens():
    once = quantizer()(FEATURES)[1]["vq_loss"]
    twice = quantizer()(jnp.concatenate([FEATURES, FEATURES]))[1]["vq_loss"]
    assert float(once) == pytest.approx(float(twice), rel=1e-6)


# Small whole numbers, so that both computations are exact and ties are common.
whole = st.integers(-4, 4).map(float)


@settings(max_examples=40, deadline=None)
@given(
    z=hnp.arrays(np.float32, (5, 3), elements=whole),
    codebook=hnp.arrays(np.float32, (7, 3), elements=whole),
)
@pytest.mark.paper("the nearest code, on the sphere the largest cosine")
def test_nearest_code_is_the_lowest_argmin(z, codebook):
    distances = ((z[:, None] - codebook) ** 2).sum(-1)
    found = nearest_code(jnp.asarray(z), jnp.asarray(codebook))
    np.testing.assert_array_equal(found, distances.argmin(-1))


def test_ties_go_to_the_lowest_index():
    codebook = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert int(nearest_code(jnp.array([1.0, 0.0]), codebook)) == 1
    assert int(nearest_code(jnp.zeros(2), codebook)) == 0


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        (3, 5),
        elements=st.floats(-1e3, 1e3, width=32).filter(
            lambda x: x == 0 or abs(x) > 1e-3
        ),
    )
)
@pytest.mark.paper("vectors and codes on the unit sphere")
def test_normalised_vectors_have_length_one(x):
    lengths = np.linalg.norm(l2_normalise(jnp.asarray(x)), axis=-1)
    expected = np.linalg.norm(x, axis=-1) > 0
    np.testing.assert_allclose(lengths, expected, atol=1e-5)


def test_gradient_of_normalisation_is_finite_at_zero():
    for value in (0.0, 1e-30, 1e-15):
        x = jnp.full((2, 3), value)
        gradient = jax.grad(lambda x: l2_normalise(x)[0, 0])(x)
        assert jnp.isfinite(gradient).all()


@pytest.mark.paper("the straight-through gradient")
def test_straight_through_has_one_value_and_the_other_gradient():
    z, z_q = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, -1.0]])
    np.testing.assert_allclose(straight_through(z, z_q), z_q)
    for argument, expected in ((0, 5.0), (1, 0.0)):
        gradient = jax.grad(
            lambda z, z_q: 5 * straight_through(z, z_q).sum(), argnums=argument
        )(z, z_q)
        np.testing.assert_array_equal(gradient, np.full((1, 2), expected))


@pytest.mark.paper("factorised codes, looked up in few dimensions")
def test_codes_embeddings_and_embed_agree():
    q = quantizer()
    out, aux = q(FEATURES)
    np.testing.assert_allclose(out, q.embed(aux["codes"]), atol=1e-6)
    np.testing.assert_array_equal(aux["z_q"], q.embeddings()[aux["codes"]])
    np.testing.assert_allclose(np.linalg.norm(aux["z_e"], axis=-1), 1, atol=1e-6)
    assert aux["codes"].dtype == jnp.int32


@pytest.mark.paper("codes without l2 normalisation")
def test_without_normalisation_lengths_are_kept():
    q = quantizer(l2_normalise=False)
    aux = q(FEATURES)[1]
    np.testing.assert_array_equal(q.embeddings(), q.codebook[...])
    assert np.ptp(np.linalg.norm(aux["z_e"], axis=-1)) > 0.1


@pytest.mark.paper("a codebook that starts from a normal distribution")
def test_the_codebook_starts_normal():
    book = np.asarray(quantizer(num_codes=400, code_dim=8).codebook[...])
    assert abs(book.mean()) < 0.1
    assert abs(book.std() - 1) < 0.05
    # Three values of a thousand lie outside three deviations; of a uniform law none.
    assert 0 < (np.abs(book) > 3).mean() < 0.01
