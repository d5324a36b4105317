"""C16: a run that was stopped ends as the undisturbed one, bit for bit."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from minivim.config import DiscriminatorConfig, LossConfig
from minivim.training import Workdir, read_metrics
from tests import tiny

DROPOUT = replace(tiny.PRIOR, stack=replace(tiny.STACK, blocks=1, dropout=0.1))
CACHED = replace(tiny.PRIOR_RECIPE, model=DROPOUT, label_dropout=0.3)
# Codes move by what the forward pass writes, and by the step's key.
FOLLOWING = replace(
    tiny.TOKENIZER,
    quantizer=replace(tiny.TOKENIZER.quantizer, codebook="ema", revive_after=2),
)
RECIPES = {
    "tokenizer": replace(tiny.TOKENIZER_RECIPE, flip=True),
    "tokenizer-statistics": replace(tiny.TOKENIZER_RECIPE, model=FOLLOWING),
    "tokenizer-adversarial": replace(
        tiny.TOKENIZER_RECIPE,
        flip=True,
        loss=LossConfig(adversarial=0.1),
        discriminator=DiscriminatorConfig(width=4, max_width=8, r1_interval=3),
        # int8 and parts of a state that are missing, through a checkpoint.
        optim=replace(tiny.OPTIM, first_moment="int8", second_moment="factored"),
    ),
    "prior-cached": CACHED,
    "prior-fly": replace(CACHED, codes="fly", flip=True),
}
KILLED_AT = 8  # after its row was written, three steps behind the checkpoint


class Killed(BaseException):
    """Stands for kill -9: nothing tidies up on the way out."""


class DyingWorkdir(Workdir):
    def log(self, row):
        super().log(row)
        if row["step"] == KILLED_AT:
            raise Killed


def start(recipe, folder, kind=Workdir):
    """One process' worth of training: everything is made anew."""
    data, held_out = tiny.source(), tiny.source(seed=1)
    network = tiny.tokenizer() if recipe.stage == "prior" else None
    ready = tiny.ready(recipe, data, held_out, network=network)
    with kind(folder, {"stage": recipe.stage}) as workdir:
        _, rows = ready.run(workdir)
        state, position = workdir.restore(ready.state())
    return state, position, rows


def without_times(rows):
    return [{k: v for k, v in r.items() if k != "steps_per_second"} for r in rows]


# The loop and the checkpoint are the same with two networks, only much more to compile.
PARAMS = [
    pytest.param(name, marks=pytest.mark.slow) if "adversarial" in name else name
    for name in RECIPES
]


@pytest.fixture(scope="module", params=PARAMS)
def runs(request, tmp_path_factory):
    recipe, folder = RECIPES[request.param], tmp_path_factory.mktemp("runs")
    whole = start(recipe, folder / "whole")
    with pytest.raises(Killed):
        start(recipe, folder / "killed", DyingWorkdir)
    assert [row["step"] for row in read_metrics(folder / "killed")][-1] == KILLED_AT
    resumed = start(recipe, folder / "killed")
    return recipe, folder, whole, resumed


def test_state_and_data_position_are_the_same(runs):
    recipe, _, (state, position, _), (other, other_position, _) = runs
    assert int(state.step) == recipe.run.steps
    tiny.assert_same(state, other)
    assert position == other_position
    floats = [x.dtype for x in jax.tree.leaves(state) if x.dtype.kind == "f"]
    assert set(floats) == {np.dtype("float32")}


def test_statistics_are_part_of_the_state(runs):
    recipe, _, (state, _, _), _ = runs
    names = {path[-1] for path, _ in nnx.to_flat_state(state.stats)}
    following = recipe.model == FOLLOWING
    assert names == ({"sums", "counts", "idle"} if following else set())
    assert all(np.any(leaf) for leaf in jax.tree.leaves(state.stats))


def test_metrics_are_the_same(runs):
    _, folder, (_, _, rows), (_, _, later) = runs
    whole, killed = (read_metrics(folder / name) for name in ("whole", "killed"))
    assert [row["step"] for row in whole] == [2, 4, 5, 6, 8, 10, 12]
    assert without_times(whole) == without_times(killed)
    assert whole == rows
    assert [row["step"] for row in later] == [6, 8, 10, 12]


def test_the_seed_matters_to_every_number(runs):
    # Else the comparison above would show nothing.
    losses = [row["loss"] for row in runs[2][2]]
    assert len(set(losses)) == len(losses)


def test_usage_and_perplexity_are_logged_while_the_tokenizer_trains(runs):
    recipe, _, (_, _, rows), _ = runs
    if recipe.stage != "tokenizer":
        assert all("accuracy" in row for row in rows)
        assert [row["step"] for row in rows if "eval_nll" in row] == [4, 8, 12]
        return
    codes = recipe.model.quantizer.num_codes
    for row in rows:
        assert 0 < row["usage"] <= 1
        assert 1 <= row["perplexity"] <= codes
    evaluated = [row for row in rows if row["step"] in (4, 8, 12)]
    assert all({"eval_psnr", "eval_usage"} <= set(row) for row in evaluated)


def test_data_goes_on_where_it_stopped():
    """Batches after `set_state` are those an undisturbed iterator gives."""
    from minivim import data

    one = data.batches(tiny.source(), batch_size=5, seed=3)
    first = [next(one)["label"] for _ in range(7)]
    position = one.get_state()
    expected = [next(one)["image"] for _ in range(7)]
    other = data.batches(tiny.source(), batch_size=5, seed=3)
    other.set_state(position)
    for image in expected:
        np.testing.assert_array_equal(next(other)["image"], image)
    assert len({tuple(labels) for labels in first}) > 1
