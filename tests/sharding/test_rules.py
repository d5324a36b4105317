"""The mesh and its rules: what is split how, and what cannot be."""

import re
from functools import cache

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from minivim import recipes
from minivim.config import with_overrides
from minivim.errors import UserError
from minivim.prior import Prior
from minivim.sharding import (
    RULES,
    MeshShape,
    check_batch,
    make_mesh,
    rows_here,
    spec_of,
)
from minivim.training.step import abstract_state
from minivim_lab.plan import abstract
from tests import tiny

MESH = AbstractMesh((2, 4, 2), ("data", "fsdp", "tensor"))
PAPER = [("tokenizer", "vit-vqgan-sl"), ("prior", "vim-large-class")]


@cache
def paths_of(stage, name):
    """Path and shape of all state of a recipe's training."""
    recipe = recipes.recipe(stage, name)
    objective, _ = abstract(recipe)
    state = abstract_state(objective.model, objective.optim, steps=9)
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]


@pytest.mark.parametrize(("stage", "name"), PAPER)
def test_almost_all_of_the_state_is_split(stage, name):
    """Of the paper's models what stays whole is less than a hundredth."""
    whole = total = 0
    for path, shape in paths_of(stage, name):
        size = int(np.prod(shape))
        total += size
        whole += size * all(axis is None for axis in spec_of(path, shape, MESH))
    assert whole < 0.01 * total


def test_every_rule_finds_something_in_the_papers_models():
    paths = [path for key in PAPER for path, _ in paths_of(*key)]
    for rule, _ in RULES:
        assert any(re.search(rule, path) for path in paths), rule


@pytest.mark.parametrize(("stage", "name"), PAPER)
def test_the_optimiser_lies_like_its_parameters(stage, name):
    specs = {path: (spec_of(path, s, MESH), s) for path, s in paths_of(stage, name)}
    params = {
        path.removeprefix("params."): spec
        for path, spec in specs.items()
        if path.startswith("params.")
    }
    found = 0
    for path, (spec, shape) in specs.items():
        if not path.startswith("optimizer.") or not shape:
            continue
        name = max((p for p in params if p.removesuffix(".value") in path), key=len)
        like, full = params[name]
        # Sums over an axis leave it with length one, which cannot be split.
        expected = [
            a if n == m else None for a, n, m in zip(like, shape, full, strict=True)
        ]
        assert list(spec) == expected, path
        found += 1
    assert found >= len(params)


def test_known_places():
    assert spec_of("stack.blocks.qkv.kernel.value", (9, 64, 192), MESH) == P(
        None, "fsdp", "tensor"
    )
    assert spec_of("stack.blocks.ffn_down.kernel.value", (9, 64, 16), MESH) == P(
        None, "tensor", "fsdp"
    )
    assert spec_of("stack.blocks.ffn_down.bias.value", (9, 64), MESH) == P(None, None)
    assert spec_of("quantizer.down.kernel.value", (64, 8), MESH) == P("fsdp", "tensor")
    assert spec_of("convs.0.kernel.value", (3, 3, 8, 16), MESH) == P(
        None, None, None, "fsdp"
    )
    assert spec_of("codes.value", (8192, 64), MESH) == P("tensor", "fsdp")


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_what_a_mesh_does_not_divide_stays_whole(shape):
    spec = spec_of("x.kernel", shape, MESH)
    for axis, size in zip(spec, shape, strict=True):
        assert axis is None or size % MESH.shape[axis] == 0


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))
def test_a_mesh_fills_its_devices(data, fsdp, tensor):
    count = data * fsdp * tensor
    text = f"fsdp={fsdp},tensor={tensor}"
    assert MeshShape.parse(text).over(count) == (data, fsdp, tensor)
    assert MeshShape.parse(f"data={data},{text}").over(count) == (data, fsdp, tensor)
    assert MeshShape.parse(str(MeshShape.parse(text))) == MeshShape.parse(text)
    with pytest.raises(UserError, match="does not fill"):
        MeshShape.parse(f"data={data + 1},{text}").over(count)


def test_fsdp_may_be_the_rest():
    assert MeshShape.parse("fsdp=-1").over(8) == (1, 8, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model=2", "--mesh model=2: write axis=number for some of data, fsdp, tensor"),
        ("data=two", "write axis=number"),
        ("data=2,data=2", "write axis=number"),
        ("", "write axis=number"),
        ("fsdp=0", "a whole number above zero"),
        ("data=-1,fsdp=-1", "one of them may be -1"),
    ],
)
def test_a_mesh_that_cannot_be_is_explained(text, message):
    with pytest.raises(UserError, match=message):
        MeshShape.parse(text)


def test_a_batch_that_cannot_be_split_is_explained():
    with pytest.raises(UserError, match=r"batch_size=12 cannot .* 8 devices.* of 8,"):
        check_batch(MESH, batch_size=12, accumulate=1)
    with pytest.raises(UserError, match=r"in 2 parts .*multiple of 16"):
        check_batch(MESH, batch_size=24, accumulate=2)
    check_batch(MESH, batch_size=32, accumulate=2)


def test_batches_of_one_process_are_whole():
    assert rows_here(make_mesh(), 8).tolist() == list(range(8))


def test_rules_of_a_tiny_model_are_those_of_a_large_one():
    """A pattern names layers, never sizes."""
    large = {path for path, _ in paths_of("prior", "vim-large")}
    recipe = with_overrides(
        recipes.recipe("prior", "vim-large"), tiny.SIZES + ["grid=2", "num_codes=24"]
    )
    model = nnx.eval_shape(lambda: Prior(recipe.model, rngs=nnx.Rngs(0)))
    state = abstract_state(model, recipe.optim, steps=9)
    small = {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree_util.tree_leaves_with_path(state)
    }
    assert small == large
