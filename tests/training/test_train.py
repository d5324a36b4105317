"""A trained model carries its card, as a loaded one does."""

from dataclasses import replace

import datasets
import pytest
from flax import nnx
from PIL import Image

from minivim import trainer, weights
from minivim.config import DiscriminatorConfig, LossConfig
from minivim.errors import UserError
from tests import tiny

RUN = replace(tiny.RUN, steps=2, checkpoint_every=2, eval_every=2)


def test_what_refuses_a_loaded_model_refuses_a_trained_one(tmp_path):
    spec = str(tiny.pictures(tmp_path / "pictures"))
    first = replace(tiny.TOKENIZER_RECIPE, run=RUN)
    second = replace(tiny.PRIOR_RECIPE, run=RUN, tokenizer=str(tmp_path / "tok"))
    models = {}
    for name, recipe in (("tok", first), ("prior", second)):
        models[name], _ = trainer.train(
            recipe, data=spec, workdir=tmp_path / name, quiet=True
        )
        card = models[name].card
        assert card.path == str(tmp_path / name)
        assert card.values == weights.load(tmp_path / name).card.values
    # What the probe asks for its guard.
    assert models["tok"].card.labels_seen == ""
    weights.load(tmp_path / "prior", tokenizer=models["tok"])
    with pytest.raises(UserError, match="prior was trained on the codes of another"):
        weights.load(tmp_path / "prior", tokenizer=tiny.tokenizer(seed=3))


@pytest.mark.parametrize("kind", ["source", "dataset", "splits"])
def test_data_of_ones_own_with_resume_and_card(tmp_path, kind, capsys):
    source = tiny.source(30)
    images = [Image.fromarray(image) for image in source.arrays["image"]]
    rows = {"image": images, "label": source.labels}
    table = datasets.Dataset.from_dict(rows)
    spec = {
        "source": source,
        "dataset": table,
        "splits": {"train": table, "test": table.select(range(9))},
    }[kind]
    recipe = replace(tiny.TOKENIZER_RECIPE, run=replace(tiny.RUN, steps=4))
    how = {"workdir": tmp_path / "run", "quiet": True}
    model, rows = trainer.train(recipe, data=spec, **how)
    assert rows
    card = weights.load(tmp_path / "run").card
    held = "30 train, 9 test" if kind == "splits" else "27 train, 3 held out to test"
    assert held in card["data_read"] and held in capsys.readouterr().err
    again, rows = trainer.train(recipe, data=spec, **how)
    assert rows == []
    assert weights.weights_hash(again) == weights.weights_hash(model)
    other = {"train": source, "test": tiny.source(30, seed=2)}
    with pytest.raises(UserError, match="its pictures have changed"):
        trainer.train(recipe, data=tiny.source(30, seed=1), **how)
    trainer.train(recipe, data=other, workdir=tmp_path / "both", quiet=True)


@pytest.mark.parametrize(("gamma", "every"), [(0.0, 0), (10.0, 3)])
def test_without_r1_no_step_is_another_program(gamma, every):
    critic = DiscriminatorConfig(width=4, max_width=8, r1_interval=3, r1_gamma=gamma)
    recipe = replace(
        tiny.TOKENIZER_RECIPE, loss=LossConfig(adversarial=0.1), discriminator=critic
    )
    model = nnx.eval_shape(lambda: trainer.build(recipe))
    assert trainer.setup(recipe, model).lazy_every == every
