"""The TPU's own compiler, where it is installed."""

import jax
import jax.numpy as jnp
import pytest

from minivim.config import with_overrides
from minivim.errors import UserError
from minivim.sharding import MeshShape
from minivim_lab import plan
from minivim_lab.plan.chips import CHIPS, Slice, refusal
from minivim_lab.plan.paper import exchanged
from tests.plan.test_products import PRIOR

pytest.importorskip("libtpu")
pytestmark = pytest.mark.slow
WIDE = with_overrides(
    PRIOR, ["width=256", "hidden=1024", "blocks=3", "grid=8", "batch_size=64"]
)


@pytest.mark.parametrize("name", CHIPS)
def test_slices_that_the_compiler_knows(name):
    grid = "x".join("4" * CHIPS[name].axes)
    where = Slice(f"{name}:{grid}")
    devices = where.devices()
    assert len(devices) == where.chips
    # What a program has is what the compiler says of one that needs too much.
    over = jax.sharding.Mesh(devices[:1], ("one",))
    place = jax.sharding.NamedSharding(over, jax.sharding.PartitionSpec())
    huge = jax.ShapeDtypeStruct((2**30, 1024), jnp.float32, sharding=place)
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.jit(jnp.sum).lower(huge).compile()
    found = refusal(caught.value)
    assert found is not None and f"({CHIPS[name].memory:.2f}G)" in found[1]


def test_a_grid_of_no_hosts_is_refused_in_one_line():
    with pytest.raises(UserError, match="refuses --topology v4:3x4x4 .*v4:4x4x4$"):
        Slice("v4:3x4x4").devices()


@pytest.mark.parametrize("mesh", ["data=-1", "fsdp=-1"])
def test_a_small_prior_on_a_slice(mesh):
    found = plan.plan(WIDE, topology="v4:2x2x4", mesh=MeshShape.parse(mesh))
    assert found.fits
    [one] = found.programs
    assert one.unknown_loops == 0
    # Both counts of the FLOPs; remat computes the blocks' forward pass again.
    assert found.model_flops < found.flops < 4 / 3 * found.model_flops
    moved = exchanged(found)
    assert moved["gradients"] == pytest.approx(4 * found.parameters, rel=0.1)
    assert bool(moved["parameters"]) == ("fsdp" in mesh)


def test_what_does_not_fit_is_said_with_the_compilers_figures():
    huge = with_overrides(WIDE, ["width=16384", "hidden=65536", "heads=64"])
    found = plan.plan(huge, topology="v4:2x2x1")
    assert not found.fits
    assert found.needed_bytes > found.available_bytes > 30 * 2**30
    first, second = plan.table(found).splitlines()
    assert first.startswith("does not fit: the step needs ")
    assert "exceeds available HBM (30.75G)" in second


def test_attention_in_a_kernel_moves_fewer_bytes(monkeypatch):
    recipe = with_overrides(WIDE, ["grid=16", "width=512", "heads=8", "batch_size=16"])
    found = {}
    for choice in ("auto", "written"):
        monkeypatch.setenv("MINIVIM_ATTENTION", choice)
        found[choice] = plan.plan(recipe, topology="v4:2x2x1", quick=True)
        [one] = found[choice].programs
        assert one.unknown_kernels == one.unknown_loops == 0
    kernel, written = found.values()
    assert kernel.hbm_bytes < 0.9 * written.hbm_bytes
    assert kernel.needed_bytes <= written.needed_bytes
    # Backward it multiplies queries and keys once more.
    assert written.flops < kernel.flops < 1.1 * written.flops
    assert any("transformer.py" in place for place in kernel.places)
