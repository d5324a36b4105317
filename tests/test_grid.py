"""The paper's grid in miniature: its data, its runs, its verdicts, its page."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from minivim import cli, weights
from minivim.config import TokenizerRecipe, with_overrides
from minivim.describe import build_abstract, count_parameters
from minivim.errors import UserError
from minivim.prior import Prior
from minivim.tokenizer import Tokenizer
from minivim_lab import reproduce, widgets
from minivim_lab.reproduce import grid, page, runs, stored, tokenizers, verdicts
from minivim_lab.reproduce.claims import CLAIMS
from minivim_lab.reproduce.grid import FAMILIES, ROWS, row_named
from minivim_lab.reproduce.runs import Run
from minivim_lab.reproduce.stored import Options
from minivim_lab.reproduce.verdicts import FIGURES, OPPOSITE, SAME, UNDECIDED, WEAK
from tests import tiny

RESULTS = Path(__file__).parents[1] / "book" / "results"
NAMES = {row.name for row in ROWS}
SMALL = grid.StackConfig(blocks=1, width=16, heads=2, hidden=32)
TINY = replace(
    FAMILIES["shapes"],
    sizes=dict.fromkeys("SBL", SMALL),
    priors=dict.fromkeys("SBL", SMALL),
    tokenizer=("num_codes=24", *tiny.RUN_SETTINGS),
    prior=tuple(tiny.RUN_SETTINGS),
    image_size=16,
    samples=16,
    images=256,
    probe=(20, 8),
)
LARGE = replace(TINY, image_size=32)  # enough for PatchGAN


def place(out: Path, *, spec: str = "shapes") -> Options:
    return Options(
        family="shapes", data=spec, out=out, judge="shapes/judge",
        classifier="shapes/classifier", quiet=True,
    )  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    """The sizes of `shapes` as small as can be."""
    monkeypatch.setitem(FAMILIES, "shapes", TINY)


# --- rows and claims as data -------------------------------------------------------


def test_rows_and_claims_are_enough_and_named_once():
    assert len(ROWS) == len(NAMES) == 21
    assert len({claim.statement for claim in CLAIMS}) == len(CLAIMS) == 33
    compared = {name for claim in CLAIMS for name in (claim.better, claim.worse)}
    assert compared <= NAMES
    assert {name for claim in CLAIMS for name in claim.figures} <= FIGURES.keys()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_recipe_can_be_built(row, family):
    first = grid.tokenizer_recipe(row, family, 1, classifier="none")
    assert first.model.patch_size == (family.coarse if row.coarse else 4)
    if isinstance(first, TokenizerRecipe):
        assert first.run.seed == 1
        assert bool(first.loss.adversarial) == row.full_loss
    if row.prior:
        second = grid.prior_recipe(row, family, 1, tokenizer=first, folder="x")
        assert second.model.grid == first.model.grid
        assert bool(second.model.num_classes) == row.labels
        assert second.label_dropout == 0 and second.run.seed == 1


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_networks_of_both_kinds_have_as_many_parameters(family):
    vit, cnn = (
        grid.tokenizer_recipe(row_named(name), family, 0, classifier="")
        for name in ("BB", "CNN")
    )
    counted = count_parameters(build_abstract(cnn))
    assert counted == pytest.approx(vit.model.parameters, rel=0.05)


# --- stages ------------------------------------------------------------------------


def keys(name: str, seed: int = 0) -> list[str]:
    return [stage.key for stage in Run(row_named(name), seed, place(Path("x"))).stages]


def test_rows_share_their_stages_and_no_others():
    base = keys("BB")
    for name in ("conditional prior", "unconditional prior", "large prior"):
        assert keys(name)[:1] == base
    seconds = [keys(row.name)[1] for row in ROWS if row.prior and row.acceptance == 1]
    firsts = {keys(row.name)[0] for row in ROWS}
    assert len(set(seconds)) == len(seconds)
    plain = [row for row in ROWS if row.prior is None]
    assert len(firsts) == len(plain) + 1  # iGPT's palette has no row of its own
    assert keys("rejection at 0.5") == keys("conditional prior")
    assert keys("BB", seed=1) != base
    # A prior over another tokenizer is another run, whatever its own recipe.
    one, other = keys("unconditional prior"), keys("prior over CNN codes")
    assert one[1] != other[1]


def test_a_hash_is_of_what_makes_the_weights():
    recipe = grid.tokenizer_recipe(row_named("BB"), TINY, 0, classifier="")
    key = stored.recipe_hash(recipe, data="a")
    assert key == stored.recipe_hash(replace(recipe, name="other"), data="a")
    assert key != stored.recipe_hash(recipe, data="b")
    for setting in ("l2=2", "peak_lr=1", "encoder.heads=4", "beta=0.5", "seed=3"):
        changed = with_overrides(recipe, [setting])
        assert key != stored.recipe_hash(changed, data="a"), setting


def test_a_perceptual_network_counts_by_its_weights(tmp_path, monkeypatch):
    recipe = grid.tokenizer_recipe(
        row_named("StyleGAN2, full loss"), TINY, 0, classifier="shapes/classifier"
    )
    key = stored.recipe_hash(recipe, data="a")
    copied = str(shutil.copytree(weights.find("shapes/classifier"), tmp_path / "mine"))
    moved = replace(recipe, perceptual_net=copied)
    assert stored.recipe_hash(moved, data="a") == key
    monkeypatch.setattr(stored, "network_hash", lambda ref: "other weights")
    assert stored.recipe_hash(recipe, data="a") != key


def test_a_setting_of_a_later_version_changes_no_hash():
    """At its default it is what was there before."""
    plain = stored._changed(tiny.TOKENIZER_RECIPE)
    assert "flip" not in plain and "crop" not in plain
    assert plain["model"]["quantizer"] == {
        "": "QuantizerConfig", "num_codes": 24, "code_dim": 4
    }  # fmt: skip
    assert "flip" in stored._changed(replace(tiny.TOKENIZER_RECIPE, flip=True))


FITTED = SimpleNamespace(
    accuracy=0.5, block_accuracy=(0.4, 0.5, 0.3),
    baselines={"pixels": (0.3, 0.2)},
)  # fmt: skip


@pytest.mark.slow
def test_a_tiny_row_from_end_to_end(tmp_path, monkeypatch, small):
    monkeypatch.setitem(FAMILIES, "shapes", LARGE)
    pictures = str(tiny.pictures(tmp_path / "pictures"))
    here = place(tmp_path / "runs", spec=pictures)
    run = Run(row_named("unconditional prior"), 0, here)
    # tests/test_probe.py fits real ones.
    monkeypatch.setattr(stored, "probed", lambda *_: FITTED)
    record = run.finish()
    figures = record["figures"]
    assert figures["samples"] == 16 and figures["sample_distance"] > 0
    assert figures["nll_per_image"] == pytest.approx(64 * figures["nll"])
    assert record["command"] == (
        "minivim reproduce grid --only 'unconditional prior' --seeds 0 "
        f"--data {pictures}"
    )
    folders = {f.name for f in here.out.iterdir()}
    assert folders == {f"tokenizer-{run.stages[0].key}", f"prior-{record['hash']}"}
    # The tokenizer of this row is the row BB's: only its figures are missing.
    monkeypatch.delattr(stored, "train")
    base = Run(row_named("BB"), 0, here).finish()
    assert base["hash"] == run.stages[0].key
    assert 2 <= base["figures"]["images"] <= 30 and base["figures"]["psnr"] > 0
    drawn = page.samples_picture(here)
    assert drawn is not None
    assert "unconditional prior" in drawn.alt and "rejection" not in drawn.alt


def test_what_is_there_is_not_computed_again(tmp_path, monkeypatch, small):
    run, done = Run(row_named("unconditional prior"), 0, place(tmp_path)), []

    def untrained(recipe, data: str, workdir: Path, *, quiet: bool) -> None:
        done.append((recipe.stage, Path(data).name))
        kind = Prior if recipe.stage == "prior" else Tokenizer
        model = tiny.build(kind, recipe.model)
        card = {"machine": "one", "tokenizer": getattr(recipe, "tokenizer", "")}
        weights.save(workdir, model, card=card)

    def count(name: str, found: dict, owner=Run) -> None:
        monkeypatch.setattr(owner, name, lambda *_, **__: done.append(name) or found)

    monkeypatch.setattr(stored, "train", untrained)
    monkeypatch.setattr(stored, "probed", lambda *_: FITTED)
    count("encode_folder", {}, runs)
    count("_prior_figures", {"nll": 2.0, "parameters": 10})
    count("_sample_figures", {"sample_distance": 3.0})
    assert run.read() is None
    record = run.finish()
    assert done == [
        ("tokenizer", "shapes"), "encode_folder", ("prior", "codes"),
        "_prior_figures", "_sample_figures",
    ]  # fmt: skip
    figures = record["figures"]
    assert (figures["nll"], figures["sample_distance"]) == (2.0, 3.0)
    assert figures["probe_blocks"] == [0.4, 0.5, 0.3]
    assert (figures["probe_middle"], figures["probe_last"]) == (0.5, 0.3)
    assert figures["probe_pixels"] == 0.2
    assert run.finish() == run.read() == record
    assert len(done) == 5
    # Another way to sample shares both runs: only its samples are new.
    replace(run, row=replace(run.row, acceptance=0.5)).finish()
    assert done[5:] == ["_sample_figures"]


def test_figures_of_other_networks_or_sizes_are_measured_again(
    tmp_path, monkeypatch, small
):
    row = replace(row_named("rejection at 0.5"), labels=False)
    run, done = Run(row, 0, place(tmp_path)), []
    for name in ("_prior_figures", "_sample_figures", "_probe_figures"):

        def measure(self, name=name):
            done.append(name)
            return {"parameters": 1}

        monkeypatch.setattr(Run, name, measure)
    monkeypatch.setattr(stored, "network_hash", lambda ref: f"weights of {ref}")
    for stage in run.stages:
        stage.folder.mkdir()
        card = {"kind": "prior", "machine": "one"}
        (stage.folder / weights.CARD).write_text(json.dumps(card))

    def measured(**changes) -> list[str]:
        """What is measured where these are other than at first."""
        sizes = {k: v for k, v in changes.items() if hasattr(TINY, k)}
        others = {k: v for k, v in changes.items() if k not in sizes}
        run.finish()
        now = replace(run, options=replace(run.options, **others))
        with monkeypatch.context() as patch:
            patch.setitem(FAMILIES, "shapes", replace(TINY, **sizes))
            assert now.read() is None or not changes
            done.clear()
            now.finish()
            return [*done]

    assert measured() == []
    assert measured(judge="other") == ["_sample_figures"]
    assert measured(classifier="other") == ["_sample_figures"]
    assert measured(samples=17) == ["_sample_figures"]
    assert measured(images=99) == ["_prior_figures"]
    assert measured(probe=(20, 9)) == ["_probe_figures"]
    # Figures as an earlier version left them, without what they depend on.
    run.finish()
    (run.folder / stored.FIGURES).write_text('{"nll": 1}')
    assert run.read() is None
    # Of a tokenizer the judge counts, and the images do.
    [(_, of, _)] = replace(run, row=row_named("BB")).measures()
    assert of == {"images": 256, "judge": "weights of shapes/judge"}


def test_speeds_are_measured_in_turns_of_all_timed_rows(tmp_path, monkeypatch, small):
    monkeypatch.setitem(FAMILIES, "shapes", LARGE)
    timed = [row.name for row in ROWS if row.timed]
    here, turns, trained = place(tmp_path), [], []

    def clock(recipe, source, *, timer):
        assert timer is time.process_time
        return lambda: turns.append(recipe.name.removeprefix("grid ")) or 0.5

    def finish(run):
        trained.append((run.row.name, len(turns)))
        return {"seconds": 1}

    monkeypatch.setattr(tokenizers, "step_clock", clock)
    monkeypatch.setattr(Run, "finish", finish)
    monkeypatch.setattr(Run, "measures", lambda _: [])  # no other figures
    monkeypatch.setattr(weights, "read_card", lambda folder: {"machine": "one"})
    rows = [row_named(name) for name in ("BB", "code dim 4")]
    found = runs.run_rows(rows, [0], here)
    # After training, one step of each row, then again.
    assert trained == [("BB", 0), ("code dim 4", 0)]
    assert turns == timed * tokenizers.TURNS
    assert [record["figures"] for record in found] == [
        {"images_per_second": 8 / 0.5, "pace": runs.PACE}, {}
    ]  # fmt: skip
    runs.run_rows(rows, [0], here)
    assert len(turns) == len(timed) * tokenizers.TURNS  # read, not measured
    other = replace(LARGE, tokenizer=(*TINY.tokenizer, "l2=2"))
    monkeypatch.setitem(FAMILIES, "shapes", other)
    again = Run(rows[0], 0, here).read()
    assert again is not None and "images_per_second" not in again["figures"]
    runs.run_rows(rows[1:], [0], here)  # none of these is timed
    assert len(turns) == len(timed) * tokenizers.TURNS


def test_processor_seconds_add_up_when_a_run_is_stopped(tmp_path, monkeypatch):
    clock = iter([10.0, 12.0, 100.0, 103.0])
    monkeypatch.setattr(stored.time, "process_time", lambda: next(clock))
    with pytest.raises(UserError), stored.metered(tmp_path / "f" / "seconds"):
        raise UserError("stopped")
    with stored.metered(tmp_path / "f" / "seconds"):
        pass
    assert float((tmp_path / "f" / "seconds").read_text()) == 5


def test_data_of_ones_own_takes_the_sizes_of_cifar10(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        runs, "run_rows", lambda rows, seeds, where: seen.update(where=where) or []
    )
    options = reproduce.Options(data="some/parquet", out=tmp_path, judge="mine")
    monkeypatch.setattr(runs, "check_networks", lambda options: None)
    reproduce.main("grid", options)
    where = seen["where"]
    assert where.family == "cifar10" and where.judge == "mine"
    assert where.classifier == "cifar10/classifier"
    assert (
        Run(ROWS[0], 2, where)
        .command()
        .endswith("--seeds 2 --data some/parquet --judge mine")
    )


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ({"judge": "mine"}, "no weights at 'mine'"),
        ({"judge": "shapes/classifier"}, "a classifier that methods may use"),
        ({"judge": "shapes/tokenizer"}, "is a tokenizer; give a classifier of kind=re"),
        ({"classifier": "shapes/judge"}, "a judge, which alone reports figures"),
        ({"classifier": "shapes/prior"}, "is a prior; give a classifier of kind=cnn"),
    ],
)
def test_networks_are_refused_before_training(tmp_path, monkeypatch, networks, message):
    monkeypatch.setattr(runs, "run_rows", lambda *_: pytest.fail("trained"))
    with pytest.raises(UserError, match=message):
        reproduce.main("grid", reproduce.Options(out=tmp_path, **networks))


def test_networks_must_know_the_classes_of_the_data(tmp_path, monkeypatch):
    here = place(tmp_path)
    runs.check_networks(here)
    ten = SimpleNamespace(num_classes=10)
    monkeypatch.setattr(Options, "source", lambda *_, **__: ten)
    with pytest.raises(UserError, match="the judge knows 8 classes and the data have"):
        runs.check_networks(here)


def test_rows_are_chosen_by_name_or_by_part(capsys, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        runs, "run_rows",
        lambda rows, seeds, _: seen.append(([r.name for r in rows], seeds)) or [],
    )  # fmt: skip
    assert cli.main(["reproduce", "grid", "--only", "CNN", "--seeds", "1"]) == 0
    assert cli.main(["reproduce", "grid", "--only", "code dim 3", "l2"]) == 0
    assert seen == [(["CNN"], (1,)), (["code dim 32", "without l2"], (0, 1, 2))]
    assert cli.main(["reproduce", "grid", "--only", "CNN", "none such"]) == 2
    assert "no row holds 'none such'; there are BB, " in capsys.readouterr().err
    assert cli.main(["reproduce", "grids"]) == 2
    assert "there is no study 'grids'; there are grid, " in capsys.readouterr().err
    assert cli.main(["reproduce", "losses", "--judge", "x"]) == 2
    assert "leave out --judge" in capsys.readouterr().err


# --- verdicts ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("better", "worse", "paired", "expected"),
    [
        ([3.0, 4.0, 5.0], [0.0, 1.0, 2.0], False, (SAME, "ranges")),
        ([0.0, 1.0, 2.0], [3.0, 4.0, 5.0], False, (OPPOSITE, "ranges")),
        ([3.0, 4.0, 5.0], [0.0, 1.0, 3.0], False, (UNDECIDED, "")),
        ([1.0, 2.0, 9.0], [0.0, 1.0, 8.0], True, (SAME, "pairs")),
        ([0.0, 1.0, 8.0], [1.0, 2.0, 9.0], True, (OPPOSITE, "pairs")),
        ([1.0, 2.0, 8.0], [0.0, 1.0, 9.0], True, (UNDECIDED, "")),
        ([1.0, 2.0, 9.0], [0.0, 1.0, 8.0], False, (UNDECIDED, "")),
        ([5.0, 5.0], [0.0, 0.0], True, (UNDECIDED, "")),
        ([], [], False, (UNDECIDED, "")),
    ],
)
def test_verdicts(better, worse, paired, expected):
    assert verdicts.decided(better, worse, more=True, paired=paired) == expected
    # Less is better: the mirror image.
    negative = [-v for v in better], [-v for v in worse]
    assert verdicts.decided(*negative, more=False, paired=paired) == expected


def record(name: str, seed: int, **figures: float) -> dict:
    return {
        "name": name, "kind": row_named(name).about, "seed": seed,
        "hash": "0" * 12,
        "command": f"minivim reproduce grid --only {name} --seeds {seed}",
        "figures": {"parameters": 1000, **figures}, "machine": "one", "seconds": 3,
    }  # fmt: skip


FOUND = [
    *(record("BB", s, judge_distance=1.0 + s / 10, psnr=25.0) for s in range(3)),
    *(record("SS", s, judge_distance=4.0 + s / 10, psnr=22.0) for s in range(3)),
]
CLAIM = next(c for c in CLAIMS if (c.better, c.worse) == ("BB", "SS"))


def test_a_claim_beside_our_figures():
    found = verdicts.judged(CLAIM, FOUND)
    assert list(found) == ["statement", "where", "paper", "ours", "verdict", "note"]
    assert found["verdict"] == SAME
    assert found["ours"] == (
        "judge distance: 1.10 (1.00 to 1.20) for BB against 4.10 (4.00 to 4.20) for SS"
    )
    assert all(1.7 < value < 2.1 for value in verdicts.gain(CLAIM, FOUND))
    # A mutation: with the rows exchanged, or less taken for more, it turns round.
    swapped = replace(CLAIM, better=CLAIM.worse, worse=CLAIM.better)
    assert verdicts.judged(swapped, FOUND)["verdict"] == OPPOSITE
    assert all(value < 0 for value in verdicts.gain(swapped, FOUND))
    assert verdicts.judged(CLAIM, FOUND[:5])["verdict"] == UNDECIDED
    assert verdicts.judged(CLAIM, FOUND[:5])["ours"].endswith("(2 seeds)")
    assert verdicts.judged(CLAIM, [])["ours"] == "not run"


def test_agreement_is_weak_where_the_paper_s_figures_hardly_differ():
    weak = replace(CLAIM, weak="a hair's breadth")
    found = verdicts.judged(weak, FOUND)
    assert (found["verdict"], found["note"]) == (WEAK, "a hair's breadth")
    # Only agreement is weak.
    swapped = replace(weak, better=CLAIM.worse, worse=CLAIM.better)
    assert verdicts.judged(swapped, FOUND)["verdict"] == OPPOSITE
    assert verdicts.judged(weak, FOUND[:5])["verdict"] == UNDECIDED
    # Marked are the claims whose figures of the paper are within 3 %, and no others.
    near = set()
    for claim in CLAIMS:
        plain = re.sub(r"\([^)]*\)|in 1e-3", "", claim.paper)
        figures = [float(number) for number in re.findall(r"[\d.]+(?= |%)", plain)]
        if len(figures) > 1 and abs(figures[0] / figures[-1] - 1) < 0.03:
            near.add(claim.statement)
    assert {claim.statement for claim in CLAIMS if claim.weak} == near
    assert len(near) == 2


def test_three_decibels_are_one_doubling():
    claim = replace(CLAIM, figure="psnr")
    assert verdicts.gain(claim, FOUND) == pytest.approx([1, 1, 1], abs=0.01)


def test_pairs_are_of_one_tokenizer():
    def paired(better: str, worse: str) -> bool:
        return replace(CLAIM, better=better, worse=worse).paired

    assert paired("large prior", "conditional prior")
    assert paired("unconditional prior", "unconditional prior")
    assert not paired("unconditional prior", "prior over CNN codes")
    assert not paired("conditional prior", "prior over the short grid")
    assert not paired("BB", "SS") and not paired("BB", "CNN")


# --- the page ----------------------------------------------------------------------


def test_the_page_says_what_the_figures_say():
    """The committed text is what the committed figures give."""
    whole = json.loads((RESULTS / "grid.json").read_text("utf-8"))
    assert (RESULTS / "grid.md").read_text("utf-8") == page.markdown(whole)
    assert whole["claims"] == page.as_json(whole["rows"])["claims"]
    ran = [(row["name"], row["seed"]) for row in whole["rows"]]
    assert ran == [(row.name, seed) for row in ROWS for seed in grid.SEEDS]
    assert whole["pictures"] == ["grid", "grid-blocks", "grid-samples"]
    for name in whole["pictures"]:
        assert (RESULTS / f"{name}.png").exists()
    for row in whole["rows"]:
        key = keys(row["name"], row["seed"])[-1]
        assert row["hash"] == key, "the row's recipe is no longer what was run"


def test_tables_and_pictures_of_a_part(tmp_path):
    text = page.markdown(page.as_json(FOUND))
    assert f"Of {len(CLAIMS)} statements 2 point the same way here, 0 do so " in text
    lines = [line for line in text.splitlines() if line.startswith("| BB |")]
    assert lines == [
        "| BB | 3 | 1 k | 25.00 | 1.10 (1.00 to 1.20) | "
        "`minivim reproduce grid --only BB` |"
    ]
    assert "](./grid" not in text and "The rows of stage 2" not in text
    text = page.tables([*FOUND[:2], *FOUND[3:]])["tokenizer"]
    assert "--only BB --seeds 0 1` |" in text
    drawn = page.claims_picture(FOUND)
    assert drawn is not None
    assert (
        f"Base networks reconstruct better than small ones: 1.9 ({SAME})" in drawn.alt
    )
    assert page.blocks_picture(FOUND) is None
    curves = [
        record("unconditional prior", s, probe_blocks=[0.2, 0.5, 0.3]) for s in (0, 1)
    ]
    with pytest.raises(ValueError, match="no row to draw"):
        widgets.dots({}, x="", limit=1.0, colours={})
    with pytest.raises(ValueError, match="no curve to draw"):
        widgets.bands({}, x="", y="")
    drawn = page.blocks_picture(curves)
    assert drawn is not None and "20, 50, 30" in drawn.alt


def test_a_page_of_little(tmp_path, monkeypatch):
    def main(finished, seeds):
        monkeypatch.setattr(
            Run, "read", lambda run: finished(run) and record(run.row.name, run.seed)
        )
        reproduce.main("grid", Options(seeds=seeds, page=tmp_path))
        return json.loads((tmp_path / "grid.json").read_text())["rows"]

    (tmp_path / "grid.png").write_bytes(b"of an earlier page")
    monkeypatch.setattr(runs, "run_rows", lambda *_: [])
    monkeypatch.setattr(page, "samples_picture", lambda *_: None)
    assert len(main(lambda run: run.row.name == "code dim 2", (1,))) == 1
    assert {file.name for file in tmp_path.iterdir()} == {"grid.json", "grid.md"}
    assert ".png" not in (tmp_path / "grid.md").read_text("utf-8")
    # The seeds asked for are those of the page.
    found = main(lambda run: run.seed, (0, 4))
    assert [r["seed"] for r in found] == [4] * len(ROWS)


def test_the_ladder_counts_as_the_page_does():
    whole = json.loads((RESULTS / "grid.json").read_text("utf-8"))
    count = [
        sum(claim["verdict"] == verdict for claim in whole["claims"])
        for verdict in (SAME, OPPOSITE, UNDECIDED)
    ]
    words = (
        "of {} statements of the paper {} point the same way, {} the opposite way, "
        "{} are not decidable"
    )
    ladder = (RESULTS.parent / "commands.md").read_text("utf-8")
    assert words.format(len(CLAIMS), *count) in ladder
    short = "{} statements of the paper: {} point the same way, {} the opposite way, {}"
    readme = (RESULTS.parents[1] / "README.md").read_text("utf-8")
    assert short.format(len(CLAIMS), *count) in readme


def test_a_row_s_command_is_one_that_there_is():
    for row in ROWS:
        words = Run(row, 1, place(Path("x"))).command()
        options = cli.parser().parse_args(shlex.split(words)[1:])
        assert (options.only, options.seeds) == ([row.name], [1])


pytestmark = pytest.mark.usefixtures("few_images")

# Threads of XLA's pool when a study is run.
THREADS = """
import glob
from minivim import cli
from minivim_lab import reproduce

def main(study, options):
    import jax
    jax.jit(lambda x: x @ x)(jax.numpy.ones((512, 512))).block_until_ready()
    names = [open(f).read().strip() for f in glob.glob("/proc/self/task/*/comm")]
    return names.count("tf_XLAEigen")
reproduce.main = main
cli.main(["reproduce", "{}"])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core is one thread")
def test_a_row_is_computed_by_one_thread():
    """On two, sums round otherwise, and a short run ends elsewhere."""
    bare = {k: v for k, v in os.environ.items() if k != "NPROC"}
    found = {}
    for study in ("grid", "losses"):
        done = subprocess.run(
            [sys.executable, "-c", THREADS.replace("{}", study)],
            capture_output=True, text=True, check=True, env=bare,
        )  # fmt: skip
        found[study] = int(done.stdout)
    assert found["grid"] == 1 < found["losses"]
