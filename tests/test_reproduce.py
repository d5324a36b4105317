"""Studies: resumed, measured once, and pages that say what their figures say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from minivim import cli, recipes, show, weights
from minivim.config import with_overrides
from minivim.reproduce import optimiser, shipped, tokenizers
from minivim.reproduce.tokenizers import (
    COLUMNS,
    STUDIES,
    Row,
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
    folders = [tokenizers.folder_of(row, study, 0, Path("x")) for row in study.rows]
    assert len(set(folders)) == len(study.rows)


def test_a_table_has_mean_and_spread():
    lines = table(STUDY, FOUND).splitlines()
    assert lines[2].startswith("| one | 2 | 1.00 M | 21.00 (20.00 to 22.00) | 0.250 (")
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "| other | 1 |" in table(STUDY, FOUND[:3])


def test_a_verdict_needs_seeds_that_do_not_overlap():
    text = verdict(FOUND, ONE, OTHER)
    assert "PSNR, dB: not decided" in text
    assert "judge distance: one" in text  # less is better
    swapped = [f | {"judge_distance": 1 - f["judge_distance"]} for f in FOUND]
    assert "judge distance: other" in verdict(swapped, ONE, OTHER)


def test_a_row_is_trained_and_measured_once(tmp_path, monkeypatch):
    study = replace(STUDY, rows=(ONE,))
    small = with_overrides(
        recipes.recipe("tokenizer", "shapes"),
        [*tiny.TOKENIZER_SETTINGS, "image_size=16"],
    )
    monkeypatch.setattr(tokenizers, "recipe_of", lambda *_: small)
    monkeypatch.setattr(
        tokenizers, "measured", lambda folder, *_, **__: {"psnr": 20.0, "n": 1}
    )
    one = tokenizers.run_row(ONE, study, 0, spec="shapes", out=tmp_path, quiet=True)
    assert one["row"] == "one" and one["psnr"] == 20
    monkeypatch.delattr(tokenizers, "train")
    again = tokenizers.run_row(ONE, study, 0, spec="shapes", out=tmp_path)
    assert again == json.loads(json.dumps(one))


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
    assert drift[0]["vim_large_gib"] == pytest.approx(13.77, abs=0.01)
    assert drift[3]["vim_large_gib"] == pytest.approx(1.74, abs=0.01)


def test_table_and_picture_of_the_drift(drift, tmp_path):
    lines = optimiser.table(drift).splitlines()
    assert len(lines) == 7 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| Adam | 8.") and lines[2].endswith("| - | - |")
    assert lines[6].startswith("| Adam, other batches | 8.") and "| - | " in lines[6]
    optimiser.write_page(drift, page=tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".png"}
    text = (tmp_path / "optimiser.md").read_text()
    assert "20 steps of the `shapes` prior from seed 0" in text
    assert "factored, int8" in text.split("![")[1]


def test_the_drift_is_computed_once(drift, tmp_path, monkeypatch):
    monkeypatch.setattr(optimiser, "compared", lambda *_, **__: drift)
    monkeypatch.setattr(weights, "load", lambda _: tiny.tokenizer())
    one = optimiser.run(spec="shapes", out=tmp_path, quiet=True)
    monkeypatch.delattr(optimiser, "compared")
    assert optimiser.run(spec="never read", out=tmp_path) == one == drift


def test_options_of_other_studies_are_refused(capsys):
    assert cli.main(["reproduce", "optimiser", "--seeds", "1", "2"]) == 2
    assert "leave out --only, --seeds and --speed" in capsys.readouterr().err
