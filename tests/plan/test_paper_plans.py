"""The page of all plans, without compiling one."""

import json
import subprocess
from pathlib import Path

import pytest

from minivim import recipes
from minivim.config import with_overrides
from minivim.errors import UserError
from minivim.sharding import MeshShape
from minivim_lab.plan import Plan, Slice, trainable
from minivim_lab.plan import table as words_of
from minivim_lab.plan.hlo import Traffic
from minivim_lab.plan.paper import (
    ROWS,
    SCALING,
    exchanged,
    main,
    markdown,
    planned,
    rules_of,
)
from tests.plan.made import REFUSED, a_plan, a_program

PAGE = Path(__file__).parents[2] / "book" / "results"


def test_figures_by_hand():
    found = a_plan()
    assert found.limits == {"arithmetic": 8 / 12, "memory": 1.0, "links": 2.0}
    assert found.bound == "links"
    assert found.seconds == 2.0
    assert found.days == 2.0
    assert found.chip_hours == 2 * 24 * 64
    fast = a_plan(ici_bandwidth=1e12, hbm_bandwidth=1e12)
    # 6e12 of 12e12 at one half.
    assert fast.seconds == 1.0


def test_a_plan_is_the_same_after_json():
    for found in (a_plan(settings=("remat=full",)), a_plan(a_program(**REFUSED))):
        again = Plan.from_dict(json.loads(json.dumps(found.as_dict())))
        assert again == found


def test_where_most_bytes_move_is_a_mean_over_the_programs():
    places = {f"fusion at here.py:{i}": 10**9 * i for i in range(1, 6)}
    found = a_plan(
        a_program(share=0.75, places=places, unknown_kernels=2),
        a_program("step with R1", share=0.25, places={"copy at there.py:9": 10**10}),
    )
    assert [size for _, size in found.places.most_common(3)] == [3.75e9, 3e9, 2.5e9]
    words = words_of(found)
    assert "  most of it, 1 " in words and "3.8 GB, fusion at here.py:5\n" in words
    assert "2.5 GB, copy at there.py:9" in words and "here.py:1" not in words
    assert "2 that plan does not know" in words
    assert Plan.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_a_refusal_in_two_lines():
    assert words_of(a_plan(a_program(**REFUSED))).splitlines() == [
        "does not fit: the step needs 40.00 GiB of 30.00 GiB on each chip, state "
        "11.18 GiB",
        "compiler: Ran out of memory on HBM",
    ]
    found = a_plan(
        a_program(share=0.5), a_program("step with R1", share=0.5, **REFUSED)
    )
    assert not found.fits
    assert "the step with R1 needs 40.00 GiB" in words_of(found)


def test_rows_are_plans_that_can_be_asked_for():
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        recipe = with_overrides(trainable(row.recipe), list(row.settings))
        chips = Slice(row.topology).chips
        assert MeshShape.parse(row.mesh).over(chips)
        assert recipe.run.batch_size % chips == 0
    for small, large in zip(SCALING[::2], SCALING[1::2], strict=True):
        chips = [Slice(row.topology).chips for row in (small, large)]
        batches = [
            with_overrides(trainable(row.recipe), list(row.settings)).run.batch_size
            for row in (small, large)
        ]
        assert chips[1] / chips[0] == batches[1] / batches[0] == 2


def test_rules_for_vim_large():
    data = rules_of(a_plan())
    count = recipes.recipe("prior", "vim-large").model.parameters
    assert data == {"gradients": 4 * count, "parameters": 0}
    # Gradients of bfloat16 products travel in bfloat16.
    half = rules_of(a_plan(precision="bfloat16"))["gradients"]
    assert half == pytest.approx(2 * count, rel=0.03)
    fsdp = rules_of(a_plan(mesh="data=1,fsdp=64,tensor=1"))
    assert fsdp["gradients"] == 4 * count
    # Nearly all parameters are the blocks' matrices: gathered twice in two bytes.
    assert fsdp["parameters"] == pytest.approx(4 * count, rel=0.02)
    assert rules_of(a_plan(mesh="data=32,fsdp=1,tensor=2")) == {}


def test_what_was_exchanged():
    kinds = {
        "all-reduce": Traffic(count=1, bytes=10, wire=20.0),
        "reduce-scatter": Traffic(count=1, bytes=3, wire=3.0),
        "all-gather": Traffic(count=1, bytes=5, wire=5.0),
        "all-to-all": Traffic(count=1, bytes=7, wire=7.0),
    }
    found = a_plan(
        a_program(share=0.5, collectives=kinds), a_program("step with R1", share=0.5)
    )
    assert exchanged(found) == {"gradients": 6.5, "parameters": 2.5}


class Process:
    """In the place of a `minivim plan`."""

    def __init__(self, code=0, stderr="", plan=None):
        self.returncode, self.stderr, self.plan = code, stderr, plan
        self.calls = []

    def __call__(self, command, **options):
        self.calls.append(command)
        if self.plan:
            file = Path(command[command.index("--json") + 1])
            file.write_text(json.dumps(self.plan.as_dict()))
        return self


@pytest.mark.parametrize("code", [0, 3])
def test_a_row_is_planned_once(code, monkeypatch, tmp_path):
    process = Process(code, plan=a_plan())
    monkeypatch.setattr(subprocess, "run", process)
    row = ROWS[-1]
    for _ in range(2):
        assert planned(row, out=tmp_path, limit=5) == a_plan()
    [command] = process.calls
    assert command[2:-2] == ["minivim", *row.command]
    assert row.command[:2] == ["plan", row.recipe]


def test_rows_that_fail_leave_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(
        subprocess, "run", Process(2, "compiling\nminivim: error: no libtpu\n")
    )
    with pytest.raises(UserError, match=f"^{ROWS[0].name}: no libtpu$"):
        planned(ROWS[0], out=tmp_path, limit=5)

    def slow(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", slow)
    with pytest.raises(UserError, match="took more than 5 s; use --limit 10"):
        planned(ROWS[0], out=tmp_path, limit=5)
    assert not list(tmp_path.iterdir())


def test_the_page_has_the_rows_that_are_there(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(subprocess, "run", Process(plan=a_plan()))
    page = tmp_path / "page"
    only = ["--only", "vim-large-data-paper", "--out", str(tmp_path / "out")]
    assert main([*only, "--page", str(page)]) == 0
    found = json.loads((page / "plan.json").read_text())
    assert set(found) == {
        "vim-large-data-paper-float32",
        "vim-large-data-paper-bfloat16",
        "vim-large-data-paper-float32-128",
    }
    text = (page / "plan.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert (
        "| vim-large | 1,000 M | tokenizer 55 M | 11.18 GiB | 1.00 GiB, fits |" in text
    )
    assert "**2.000**" in text
    assert "| vit-vqgan-ss | not compiled |" in text


def test_refused_rows_have_no_time():
    text = markdown({"vim-large-data-adamw-float32": a_plan(a_program(**REFUSED))})
    [line] = [one for one in text.splitlines() if "**refused**" in one]
    assert "| - | - | - |" in line


@pytest.mark.skipif(not (PAGE / "plan.json").exists(), reason="not planned yet")
def test_the_committed_page_is_what_its_figures_say():
    kept = json.loads((PAGE / "plan.json").read_text())
    found = {name: Plan.from_dict(one) for name, one in kept.items()}
    assert (PAGE / "plan.md").read_text() == markdown(found) + "\n"
    assert words_of(next(iter(found.values())))
