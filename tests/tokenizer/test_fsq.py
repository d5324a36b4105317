"""Another quantizer by its settings, a module and one line: FSQ as the example."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from minivim.config import as_dict, from_dict, with_overrides
from minivim.describe import build_abstract, count_parameters, describe_recipe
from minivim.errors import UserError
from minivim.tokenizer.quantizer import straight_through
from tests import tiny
from tests.tokenizer.fsq import FSQ, FSQConfig

CONFIG = FSQConfig(levels=(4, 3, 3))
RECIPE = replace(
    tiny.TOKENIZER_RECIPE,
    model=replace(tiny.TOKENIZER, quantizer=CONFIG),
    run=replace(tiny.RUN, steps=20, log_every=4, eval_every=20),
)
IMAGES = jnp.asarray(tiny.images(4), jnp.float32) / 255


def quantizer(config=CONFIG, in_width=5) -> FSQ:
    return FSQ(config, in_width=in_width, out_width=6, rngs=nnx.Rngs(0))


def on_code_vectors(*levels: int) -> FSQ:
    """Its input is the vector before the tanh."""
    q = quantizer(FSQConfig(levels=levels), in_width=len(levels))
    q.down.kernel[...] = jnp.eye(len(levels))
    return q


@cache
def shell(levels: tuple[int, ...]) -> FSQ:
    """Without parameters that would have to be made."""
    return nnx.eval_shape(lambda: quantizer(FSQConfig(levels=levels)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.data())
def test_codes_and_levels_are_one_to_one(levels, data):
    q, size = shell(tuple(levels)), int(np.prod(levels))
    codes = jnp.array([data.draw(st.integers(0, size - 1)) for _ in range(4)])
    digits = q.digits(codes)
    assert bool((digits >= 0).all()) and bool((digits < jnp.array(levels)).all())
    np.testing.assert_array_equal(q.codes(digits), codes)


@pytest.mark.parametrize("levels", [(2,), (4, 3, 3), (2, 5, 3)])
def test_every_code_has_its_own_vector(levels):
    q = quantizer(FSQConfig(levels=levels))
    assert q.config.num_codes == np.prod(levels)
    codes = jnp.arange(q.config.num_codes)
    vectors = np.asarray(q._spread(q.digits(codes)))
    assert len(np.unique(vectors, axis=0)) == len(codes)
    assert vectors.min() == -1 and vectors.max() == 1


def test_the_nearest_level_is_taken():
    q = on_code_vectors(3, 2)
    # tanh 0.4 = 0.38 is nearest to level 1 of (-1, 0, 1), tanh 2 = 0.96 to level 2.
    x = jnp.array([[[0.4, 0.1], [2.0, -0.1], [-9.0, -9.0], [9.0, 9.0]]])
    codes = q(x)[1]["codes"]
    np.testing.assert_array_equal(codes, [[1 + 3, 2 + 0, 0, 5]])


def slope(step) -> np.ndarray:
    x = jnp.linspace(-1, 1, 6).reshape(1, 2, 3)
    return np.asarray(jax.grad(lambda x: jnp.sum(step(x)))(x))


def test_the_gradient_is_that_of_the_bound_alone():
    q = on_code_vectors(4, 3, 3)
    q.up.kernel[...] = jnp.eye(3, 6)
    np.testing.assert_allclose(slope(lambda x: q(x)[0]), slope(jnp.tanh), rtol=1e-6)


def test_rounding_without_straight_through_is_caught():
    def rounded(x):
        return jnp.round(jnp.tanh(x))

    assert not slope(rounded).any()
    assert slope(lambda x: straight_through(jnp.tanh(x), rounded(x))).all()


def test_encode_and_decode_round_trip():
    tok = tiny.tokenizer(quantizer=CONFIG)
    recon, aux = tiny.call(tok, IMAGES)
    codes = tok.encode(IMAGES)
    assert codes.dtype == jnp.int32 and codes.shape == (4, 4)
    assert set(np.unique(codes)) <= set(range(36))
    assert len(np.unique(codes)) > 2
    np.testing.assert_array_equal(codes, aux["codes"])
    np.testing.assert_allclose(tok.decode(codes), recon, atol=1e-5)


def test_there_is_no_codebook_and_parameters_are_counted():
    names = [path for path, _ in nnx.to_flat_state(nnx.state(build_abstract(RECIPE)))]
    of_quantizer = {path[1] for path in names if path[0] == "quantizer"}
    assert of_quantizer == {"down", "up"}
    assert count_parameters(build_abstract(RECIPE)) == RECIPE.model.parameters


def test_a_few_steps_lower_the_loss():
    """By the recipe alone: training, logging and evaluation know nothing of FSQ."""
    tok, rows = tiny.ready(RECIPE).run()
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert rows[-1]["vq"] == 0
    assert 0 < rows[-1]["usage"] <= 1 and rows[-1]["eval_perplexity"] <= 36
    assert tok.decode(tok.encode(IMAGES)).shape == IMAGES.shape


def test_settings_are_read_and_changed_like_others():
    assert from_dict(type(RECIPE), as_dict(RECIPE)) == RECIPE
    changed = with_overrides(RECIPE, ["levels=8,5,5"])
    assert changed.model.quantizer == FSQConfig(levels=(8, 5, 5))
    assert changed.model.quantizer.num_codes == 200
    assert "model.quantizer.levels = (8, 5, 5)" in describe_recipe(changed)
    with pytest.raises(UserError, match="two values or more"):
        with_overrides(RECIPE, ["levels=8,1"])
