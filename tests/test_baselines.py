"""The paper's rivals of stage 1, each from training to pictures of a prior on top."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import minivim
from minivim import recipes, weights
from minivim.config import LossConfig
from minivim.encode import decode_all
from tests import tiny

RUN = replace(tiny.RUN, steps=4, eval_every=4)


def vq_vae():
    """Wide codes, moving averages."""
    recipe = recipes.as_vq_vae(tiny.TOKENIZER_RECIPE, name="tiny-vq-vae")
    return replace(recipe, run=RUN)


def cnn_gan():
    """VQGAN's networks with a discriminator."""
    model = replace(tiny.TOKENIZER, encoder=tiny.CNN, decoder=tiny.CNN)
    loss = LossConfig(adversarial=0.1)
    critic = replace(tiny.TOKENIZER_RECIPE.discriminator, width=4, max_width=4)
    return replace(
        tiny.TOKENIZER_RECIPE, model=model, loss=loss, discriminator=critic, run=RUN
    )


SLOW = pytest.param(cnn_gan, marks=pytest.mark.slow)


@pytest.mark.parametrize("recipe", [vq_vae, SLOW])
def test_a_rival_tokenizer_carries_a_prior(recipe, tmp_path):
    stage_1, source = recipe(), tiny.source()
    trained, _ = tiny.ready(stage_1, source).run()
    weights.save(tmp_path / "tok", trained, card={})
    tokenizer = weights.load(tmp_path / "tok")

    stage_2 = replace(tiny.PRIOR_RECIPE, run=RUN, tokenizer=str(tmp_path / "tok"))
    prior, _ = tiny.ready(stage_2, source, network=tokenizer).run()
    card = {"tokenizer": stage_2.tokenizer}
    weights.save(tmp_path / "prior", prior, card=card)
    tokenizer, prior = minivim.load_pair(tmp_path / "prior")
    codes = minivim.sample(prior, key=jax.random.key(0), labels=[0, 1, 2])
    images = decode_all(tokenizer, np.asarray(codes), batch_size=4)
    assert images.shape == (3, 8, 8, 3)
    assert 0 <= images.min() < images.max() <= 1
    # What the file keeps is what was trained: the codes of both are the same.
    some = tiny.images(4).astype(np.float32) / 255
    np.testing.assert_array_equal(tokenizer.encode(some), trained.encode(some))
