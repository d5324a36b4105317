"""Plans as answers: what fits, what does not, and what a user did wrong."""

import importlib.util
import json
from dataclasses import replace

import jax
import pytest

from minivim import cli, recipes
from minivim.config import with_overrides
from minivim.errors import UserError
from minivim.sharding import MeshShape, make_mesh
from minivim_lab import plan
from minivim_lab.plan import answer, chips, program
from minivim_lab.plan.chips import CHIPS, Slice, refusal
from minivim_lab.plan.hlo import Traffic
from tests import tiny
from tests.plan.made import a_plan, a_program, traced_once
from tests.plan.test_products import PRIOR, tiny_players

# Before memory is laid out, as libtpu 0.0.42 writes it, and after, as others report it.
EARLY = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (39.74G) exceeds available HBM (30.75G)."
)
LATE = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
    "space hbm. Used 36.50G of 30.75G hbm. Exceeded hbm capacity by 5.75G.\n\n"
    "Total hbm usage >= 37.75G:\n    reserved 1.25G\n"
)


def on_one_cpu(patch):
    """One CPU device in the place of a slice."""
    patch.setattr(Slice, "devices", lambda self: jax.devices()[:1])
    patch.setattr(answer, "Inputs", traced_once)
    patch.setattr(program, "Inputs", traced_once)


@pytest.fixture
def here(monkeypatch):
    on_one_cpu(monkeypatch)


@pytest.fixture
def refused(here, monkeypatch):
    def compile_(self, *arguments, **options):
        raise jax.errors.JaxRuntimeError(EARLY)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_)


@pytest.mark.parametrize(
    ("text", "needed"), [(EARLY, 39.74), (LATE, 36.5)], ids=["early", "late"]
)
def test_the_compilers_figures_are_read(text, needed):
    found, words = refusal(jax.errors.JaxRuntimeError(text))
    assert found == round(needed * 2**30)
    assert "\n" not in words
    assert f"{needed:.2f}G" in words


@pytest.mark.parametrize("quick", [False, True])
def test_quick_asks_the_compiler_for_less(here, monkeypatch, quick):
    asked = []

    def compile_(self, options=None):
        asked.append(options)
        raise jax.errors.JaxRuntimeError(EARLY)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_)
    found = plan.plan(PRIOR, topology="v4:4x4x4", quick=quick)
    assert found.quick == quick
    assert asked == [program.QUICK if quick else None]


def test_another_error_is_no_refusal():
    assert refusal(jax.errors.JaxRuntimeError("INTERNAL: broken")) is None
    assert refusal(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no disk")) is None


@pytest.fixture(scope="module")
def fitting():
    """One plan of a tiny prior, compiled once, and what was said meanwhile."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        on_one_cpu(patch)
        found = plan.plan(PRIOR, topology="v4:4x4x4", mfu=0.25, say=said.append)
    return found, said


def test_a_plan_of_what_fits(fitting):
    found, said = fitting
    assert found.fits
    [one] = found.programs
    assert said[0] == "compiling the step of tiny for 64 x v4:4x4x4"
    assert found.chips == 1
    assert found.mesh == "data=1,fsdp=1,tensor=1"
    # Three copies of the parameters, and two counters of the optimiser and the step.
    assert found.state_bytes == 12 * found.parameters + 12
    assert found.argument_bytes > found.state_bytes
    assert found.temporaries == found.needed_bytes - found.argument_bytes > 0
    assert found.frozen == {}
    assert one.flops > found.model_flops > 0
    peak = CHIPS["v4"].flops
    limits = {
        "arithmetic": one.flops / peak,
        "memory": one.hbm_bytes / CHIPS["v4"].hbm_bandwidth,
        "links": 0.0,
    }
    assert found.limits == pytest.approx(limits)
    assert found.bound == "memory"
    # Slower by its traffic than by the assumed utilisation.
    assert found.seconds == limits["memory"] > found.model_flops / (0.25 * peak)
    assert found.days == pytest.approx(12 * found.seconds / 86400)
    assert found.chip_hours == pytest.approx(found.days * 24)


def test_the_stated_utilisation_decides_where_no_limit_does(fitting):
    found, _ = fitting
    slow = replace(found, mfu=1e-9)
    assert slow.seconds == pytest.approx(found.model_flops / (1e-9 * found.peak_flops))


def test_a_step_with_lazy_terms_is_two_programs(here, monkeypatch):
    """The networks are traced, and nothing is compiled."""
    monkeypatch.setattr(
        answer,
        "compiled",
        lambda given, name, *, due, share, quick: a_program(
            name,
            share=share,
            needed=(3 if due else 1) * 2**30,
            flops=5e12 if due else 1e12,
            hbm_bytes=(4 if due else 0) * 10**9,
            collectives={"all-reduce": Traffic(count=4, bytes=8 * 10**9, wire=1e9)}
            if due
            else {},
        ),
    )
    found = plan.plan(tiny_players(), topology="v5p:4x4x4")
    assert [one.share for one in found.programs] == [0.75, 0.25]
    assert found.flops == 2e12
    assert found.hbm_bytes == 10**9
    assert found.wire_bytes == 0.25e9
    assert found.needed_bytes == 3 * 2**30
    text = plan.table(found)
    assert "memory, step with R1  3.00 GiB needed" in text
    assert "all-reduce            1 of 2.00 GB together" in text


def test_frozen_networks_are_named(here, monkeypatch):
    monkeypatch.setattr(
        answer,
        "compiled",
        lambda given, name, *, due, share, quick: a_program(name, share=share),
    )
    recipe = replace(recipes.recipe("prior", "shapes"), codes="fly", run=tiny.RUN)
    found = plan.plan(recipe, topology="v4:4x4x4")
    assert list(found.frozen) == ["tokenizer"]
    assert f"tokenizer ({found.frozen['tokenizer'] / 1e6:.1f} M)" in plan.table(found)


def test_the_table_says_every_figure(fitting):
    text = plan.table(fitting[0])
    for words in ("v4:4x4x4", "state", "beside state and batch", "FLOPs",
                  "computed again", "memory traffic", "memory binds",
                  "at 25% utilisation", "chip-hours",
                  "compiled in", "nothing", "AdamW", "float32, full"):  # fmt: skip
        assert words in text


def test_small_recipes_have_small_units():
    """A zero for whatever is less than a hundredth of a GiB or a ms says nothing."""
    small = a_program(needed=9 * 2**20, flops=6e7, hbm_bytes=3_400_000)
    text = plan.table(
        a_plan(
            small, model_flops=5e7, hbm_bandwidth=1.2e12, steps=2_500,
            state_bytes=3 * 2**20, argument_bytes=4 * 2**20,
        )
    )  # fmt: skip
    for words in ("3.00 MiB", "9.00 MiB needed of 30.00 GiB, 5.00 MiB of them",
                  "memory traffic      3.4 MB", "arithmetic 5.0 us, memory 2.8 us",
                  "8.3 us a step, 0.021 s"):  # fmt: skip
        assert words in text, text
    large = plan.table(a_plan())
    for words in ("11.18 GiB", "1.0 GB", "2000.0 ms a step, 2.00 days"):
        assert words in large, large


def test_optimisers_in_words():
    adam = tiny.OPTIM
    paper = replace(adam, first_moment="int8", second_moment="factored")
    assert answer.optimiser_words(adam) == "AdamW"
    words = "AdamW, int8 first and factored second moment"
    assert answer.optimiser_words(paper) == words


def test_out_of_memory_is_an_answer(refused, capsys, tmp_path):
    out = tmp_path / "plan.json"
    command = ["plan", "shapes", "--stage", "prior", "--json", str(out), "--set",
               *tiny.PRIOR_SETTINGS]  # fmt: skip
    assert cli.main(command) == 3
    shown = capsys.readouterr()
    first, second = shown.out.splitlines()
    assert first.startswith("does not fit: the step needs 39.74 GiB of 30.75 GiB")
    assert second == f"compiler: {EARLY.removeprefix('RESOURCE_EXHAUSTED: ')}"
    assert "refused in" in shown.err
    found = json.loads(out.read_text())
    assert found["fits"] is False
    assert found["days"] is None
    assert found["programs"][0]["flops"] > 0


def test_the_command_prints_a_table_and_writes_json(
    here, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        answer,
        "compiled",
        lambda given, name, *, due, share, quick: a_program(name, share=share),
    )
    out = tmp_path / "plan.json"
    command = ["plan", "shapes", "--stage", "prior", "--mesh", "fsdp=-1", "--json",
               str(out), "--mfu", "0.4", "--set", *tiny.PRIOR_SETTINGS]  # fmt: skip
    assert cli.main(command) == 0
    shown = capsys.readouterr()
    assert "prior shapes on 1 x TPU v4:4x4x4" in shown.out
    assert "at 40% utilisation" in shown.out
    found = json.loads(out.read_text())
    assert found["fits"] is True
    assert found["settings"] == tiny.PRIOR_SETTINGS
    assert found["limits"]["arithmetic"] > 0


def test_another_refusal_of_the_compiler_is_one_line(here, monkeypatch):
    def compile_(self, *arguments, **options):
        raise jax.errors.JaxRuntimeError("INTERNAL: Mosaic failed\nat line 3")

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_)
    with pytest.raises(
        UserError, match="refuses the step .INTERNAL: Mosaic failed.; try another"
    ):
        plan.plan(PRIOR, topology="v4:4x4x4")


def without_libtpu(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        chips.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "libtpu" else found(name, *rest),
    )


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["vim-larg"], ["no recipe 'vim-larg'", "vim-large"]),
        (["shapes"], ["several recipes", "--stage tokenizer or prior or classifier"]),
        (["shapes", "--stage", "probe"], ["a probe", "no train step"]),
        (["vim-large", "--topology", "v9:4x4"], ["--topology v9:4x4", "v4, v5p"]),
        (["vim-large", "--topology", "v4"], ["chip:grid", "v4:4x4x4"]),
        (["vim-large", "--topology", "v4:8x8"], ["3 axes", "v4:4x4x4"]),
        (["vim-large", "--topology", "v5e:4x4x4"], ["2 axes", "v5e:4x4"]),
        (["vim-large", "--topology", "v4:4x4x0"], ["v4:4x4x4"]),
        (["vim-large", "--mfu", "1.5"], ["--mfu 1.5", "use 0.5"]),
        (["vim-large", "--mesh", "batch=4"], ["--mesh batch=4", "data, fsdp, tensor"]),
        (["vim-large", "--set", "widht=3"], ["'widht'", "width"]),
        (["vim-large", "--json", "plan.txt"], [".json"]),
        (["vim-large"], ["TPU compiler is not installed",
                         "pip install -c constraints.txt -e '.[plan]'", "terms"]),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(options, parts, capsys, monkeypatch):
    without_libtpu(monkeypatch)
    assert cli.main(["plan", *options]) == 2
    shown = capsys.readouterr()
    [line] = shown.err.strip().splitlines()
    assert line.startswith("minivim: error: ")
    for part in parts:
        assert part in line


def test_a_batch_that_no_mesh_splits_is_refused(here):
    recipe = with_overrides(PRIOR, ["batch_size=6", "accumulate=1"])
    mesh = make_mesh(devices=jax.devices()[:1])
    assert program.Inputs(recipe, mesh)
    with pytest.raises(UserError, match="does not fill 1 devices"):
        plan.plan(PRIOR, topology="v4:4x4x4", mesh=MeshShape(data=2))


def test_memory_on_one_device_is_that_of_its_part():
    mesh = make_mesh(devices=jax.devices()[:1])
    found = program.Inputs(PRIOR, mesh)
    leaves = jax.tree.leaves(found.state)
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    assert found.state_bytes == whole
    batch = tiny.RUN.batch_size * (tiny.PRIOR.num_tokens + 1) * 4
    assert found.argument_bytes == whole + batch
