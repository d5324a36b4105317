"""Studies: resumed, measured once, and pages that say what their figures say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from minivim import cli, recipes, show, weights
from minivim.config import with_overrides
from minivim.errors import UserError
from minivim_lab import reproduce
from minivim_lab.reproduce import optimiser, shipped, stored, tokenizers
from minivim_lab.reproduce.grid import Row
from minivim_lab.reproduce.stored import Options
from minivim_lab.reproduce.tokenizers import (
    COLUMNS,
    STUDIES,
    markdown,
    table,
    verdict,
)
from tests import tiny

RESULTS = Path(__file__).parents[1] / "book" / "results"
ONE, OTHER = Row(name="one", recipe="shapes"), Row(name="other", recipe="shapes")
STUDY = tokenizers.Study(
    title="A study", family="shapes", steps=6, seeds=(0, 1), rows=(ONE, OTHER)
)


def figures(row: str, seed: int, **values: float) -> dict:
    plain = {"psnr": 20.0, "judge_distance": 0.5, "usage_256": 0.5, "perplexity": 9.0}
    return {"row": row, "seed": seed, "parameters": 1_000_000, **plain, **values}


FOUND = [
    figures("one", 0, psnr=20.0, judge_distance=0.2),
    figures("one", 1, psnr=22.0, judge_distance=0.3),
    figures("other", 0, psnr=21.0, judge_distance=0.4),
    figures("other", 1, psnr=23.0, judge_distance=0.5),
]


@pytest.mark.parametrize("name", STUDIES)
def test_every_row_is_a_recipe_that_can_be(name):
    study = STUDIES[name]
    for row in study.rows:
        recipe = tokenizers.recipe_of(row, study, 1)
        assert (recipe.run.steps, recipe.run.seed) == (study.steps, 1)
    here = Options(data="shapes", out=Path("x")).of(study.family)
    folders = [tokenizers.folder_of(row, study, 0, here) for row in study.rows]
    assert len(set(folders)) == len(study.rows)


def test_a_table_has_mean_and_spread():
    lines = table(FOUND).splitlines()
    assert lines[2].startswith("| one | 2 | 1.00 M | 21.00 (20.00 to 22.00) | 0.250 (")
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "| other | 1 |" in table(FOUND[:3])


def test_a_verdict_needs_seeds_that_do_not_overlap():
    text = verdict(FOUND, ONE, OTHER)
    assert "PSNR, dB: not decided" in text
    assert "judge distance: one" in text  # less is better
    swapped = [f | {"judge_distance": 1 - f["judge_distance"]} for f in FOUND]
    assert "judge distance: other" in verdict(swapped, ONE, OTHER)


@pytest.fixture
def quick(monkeypatch):
    """Tiny networks with figures that are made up; settings of their recipe."""
    settings = [*tiny.TOKENIZER_SETTINGS, "image_size=16"]

    def recipe_of(row, study, seed):
        recipe = recipes.recipe("tokenizer", "shapes")
        return with_overrides(recipe, [*settings, f"seed={seed}"])

    monkeypatch.setattr(tokenizers, "recipe_of", recipe_of)
    made_up = {k: v for k, v in figures("", 0).items() if k not in ("row", "seed")}
    monkeypatch.setattr(
        tokenizers, "measured", lambda *_, **__: {**made_up, "images": 9}
    )
    return settings


def untrained(recipe, data, workdir, *, quiet):
    """In place of `train`, for its folder alone."""
    tokenizer = tiny.tokenizer(image_size=16, patch_size=8)
    weights.save(workdir, tokenizer, card={})


def test_a_row_is_trained_and_measured_once(tmp_path, monkeypatch, quick):
    def run(spec):
        here = Options(data=spec, out=tmp_path, quiet=True).of("shapes")
        return tokenizers.run_row(ONE, STUDY, 0, here)

    trained = []

    def train(recipe, data, workdir, *, quiet):
        trained.append((recipe, data))
        untrained(recipe, data, workdir, quiet=quiet)

    monkeypatch.setattr(stored, "train", train)
    one = run("shapes")
    assert one["row"] == "one" and one["psnr"] == 20
    assert trained.pop()[1] == "shapes"
    assert run("shapes") == json.loads(json.dumps(one)) and not trained
    # Other data and another recipe are other runs, with figures of their own.
    with pytest.raises(UserError, match="/nowhere/at/all does not exist"):
        run("/nowhere/at/all")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in range(12):
        Image.new("RGB", (16, 16), (name, 0, 0)).save(pictures / f"{name}.png")
    run(str(pictures))
    assert [spec for _, spec in trained] == [str(pictures)]
    quick.append("peak_lr=0.5")
    run("shapes")
    assert len(trained) == 2 and trained[1][0].optim.peak_lr == 0.5


def test_figures_are_measured_again_by_another_judge(tmp_path, monkeypatch, quick):
    monkeypatch.setattr(stored, "train", untrained)

    def run():
        here = Options(out=tmp_path, quiet=True).of("shapes")
        return tokenizers.run_row(ONE, STUDY, 0, here)

    assert run()["psnr"] == 20
    monkeypatch.setattr(tokenizers, "measured", lambda *_, **__: {"psnr": 30.0})
    assert run()["psnr"] == 20
    monkeypatch.setattr(stored, "network_hash", lambda ref: f"another {ref}")
    assert run()["psnr"] == 30


@pytest.mark.parametrize("only", [["--only", "L2"], []])
def test_a_page_of_one_row_or_one_seed_has_no_verdict(
    tmp_path, monkeypatch, quick, only, capsys
):
    monkeypatch.setattr(stored, "train", untrained)
    page = tmp_path / "page"
    command = ["reproduce", "losses", "--seeds", "5", *only, "--quiet"]
    paths = ["--out", str(tmp_path / "runs"), "--page", str(page)]
    assert cli.main([*command, *paths]) == 0, capsys.readouterr().err
    text = (page / "losses.md").read_text()
    assert "from seed 5" in text and "Better in every seed" not in text
    with Image.open(page / "losses.png") as drawn:
        assert min(drawn.size) > 16


def test_a_verdict_needs_two_seeds_of_both_rows():
    assert verdict(FOUND, ONE, OTHER)
    for some in (FOUND[:3], FOUND[1:], FOUND[::2], FOUND[:2]):
        assert verdict(some, ONE, OTHER) == ""


def test_a_row_that_is_not_there_is_explained(capsys):
    assert cli.main(["reproduce", "losses", "--only", "LPIPS"]) == 2
    assert "no row holds 'LPIPS'; there are L2, full loss" in capsys.readouterr().err


STUDY_PAGES = [path for path in sorted(RESULTS.glob("*.json")) if path.stem in STUDIES]


@pytest.mark.parametrize("path", STUDY_PAGES, ids=lambda p: p.stem)
def test_pages_say_what_the_figures_say(path):
    """The committed text is what the committed figures give."""
    found = json.loads(path.read_text("utf-8"))
    assert path.with_suffix(".md").read_text("utf-8") == markdown(path.stem, found)
    assert path.with_suffix(".png").exists()
    rows = {row.name for row in STUDIES[path.stem].rows}
    assert {f["row"] for f in found} <= rows
    assert all(set(COLUMNS) - {"images_per_second"} <= f.keys() for f in found)


# --- the optimiser -----------------------------------------------------------------


def test_the_optimiser_s_page_says_what_the_figures_say():
    path = RESULTS / "optimiser.json"
    found = json.loads(path.read_text("utf-8"))
    assert path.with_suffix(".md").read_text("utf-8") == optimiser.markdown(found)
    drawn = show.to_png(optimiser.picture(found))
    assert len(drawn) == pytest.approx(path.with_suffix(".png").stat().st_size, rel=0.1)
    assert [row["row"] for row in found] == list(optimiser.MOMENTS)
    # The others have tests of their own.
    pages = {page.stem for page in RESULTS.glob("*.json")}
    others = {"grid", "shipped", "faults", "plan", "constants", "chapters"}
    others |= {"strangers", "planted", "speed"}
    assert pages == {*STUDIES, "optimiser", *others}


# --- what is shipped ----------------------------------------------------------------


def test_the_page_of_what_is_shipped_says_what_the_figures_say():
    found = json.loads((RESULTS / "shipped.json").read_text("utf-8"))
    assert (RESULTS / "shipped.md").read_text("utf-8") == shipped.markdown(found)
    assert [family["origin"]["family"] for family in found] == list(weights.DATA)
    for family in found:
        of = family["origin"]["of"]
        assert of == {
            name: weights.weights_hash(
                weights.load(f"{family['origin']['family']}/{name}")
            )
            for name in shipped.WEIGHTS
        }


def test_all_data_are_opened_before_anything_is_measured(monkeypatch, tmp_path):
    def never(place):
        raise AssertionError(f"{place.family} is measured")

    monkeypatch.setattr(shipped, "run", never)
    options = reproduce.Options(data="/no/pictures", out=tmp_path)
    with pytest.raises(UserError, match="/no/pictures"):
        reproduce.main("shipped", options)


@pytest.fixture(scope="module")
def drift():
    """The study at the smallest size."""
    recipe = with_overrides(
        recipes.recipe("prior", "shapes"), [*tiny.PRIOR_SETTINGS, "steps=20"]
    )
    return optimiser.compared(
        recipe, tiny.tokenizer(), tiny.source(), tiny.source(seed=1), quiet=True
    )


def test_adam_is_at_no_distance_from_itself(drift):
    rows = {row["row"]: row for row in drift}
    assert list(rows) == list(optimiser.MOMENTS)
    adam, other = rows[optimiser.ADAM], rows[optimiser.OTHER]
    assert adam["update"] == adam["parameters"] == other["update"] == [0, 0]
    assert adam["steps"] == [10, 20]
    assert adam["held_out"] != other["held_out"]
    for row in drift[1:]:
        assert all(0 < value < 2 for value in row["parameters"])
        assert row["loss"][-1] == pytest.approx(adam["loss"][-1], rel=0.1)


def test_each_saving_adds_to_the_distance(drift):
    _, *approximate, _ = drift
    factored, bfloat16, int8 = ([*row["update"]] for row in approximate)
    assert 0.01 < factored[-1] < 0.9
    # Rounding the first moment to bfloat16 changes little beside factoring the second.
    assert bfloat16[-1] != factored[-1]
    assert bfloat16[-1] == pytest.approx(factored[-1], rel=0.05)
    assert int8[-1] > factored[-1]
    sizes = [row["bytes_per_weight"] for row in drift]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3]
    assert drift[0]["vim_large_gib"] == pytest.approx(13.76, abs=0.01)
    assert drift[3]["vim_large_gib"] == pytest.approx(1.74, abs=0.01)


def test_table_and_picture_of_the_drift(drift, tmp_path, monkeypatch):
    lines = optimiser.table(drift).splitlines()
    assert len(lines) == 7 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| Adam | 8.") and lines[2].endswith("| - | - |")
    assert lines[6].startswith("| Adam, other batches | 8.") and "| - | " in lines[6]
    monkeypatch.setattr(optimiser, "run", lambda _: drift)
    assert optimiser.table(drift) in optimiser.main(Options(page=tmp_path))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".png"}
    text = (tmp_path / "optimiser.md").read_text()
    assert "20 steps of the `shapes` prior from seed 0" in text
    assert "factored, int8" in text.split("![")[1]


def test_the_drift_is_computed_once(drift, tmp_path, monkeypatch):
    monkeypatch.setattr(optimiser, "compared", lambda *_, **__: drift)
    monkeypatch.setattr(weights, "load", lambda _: tiny.tokenizer())
    here = Options(out=tmp_path, quiet=True).of("shapes")
    one = optimiser.run(here)
    anew = [{"row": "measured anew"}]
    monkeypatch.setattr(optimiser, "compared", lambda *_, **__: anew)
    assert optimiser.run(here) == one == drift
    with pytest.raises(UserError, match="/nowhere/at/all does not exist"):
        optimiser.run(replace(here, data="/nowhere/at/all"))
    monkeypatch.setitem(optimiser.MOMENTS, "another", {"second_moment": "factored"})
    assert optimiser.run(here) == anew


def test_options_of_other_studies_are_refused(capsys):
    assert cli.main(["reproduce", "optimiser", "--seeds", "1", "2"]) == 2
    assert "leave out --only, --seeds and --speed" in capsys.readouterr().err
