"""Studies: resumed, measured once, and pages that say what their figures say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from minivim import recipes, reproduce
from minivim.config import with_overrides
from minivim.reproduce import COLUMNS, STUDIES, Row, markdown, table, verdict
from tests import tiny

RESULTS = Path(__file__).parents[1] / "book" / "results"
ONE, OTHER = Row(name="one", recipe="shapes"), Row(name="other", recipe="shapes")
STUDY = reproduce.Study(
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
        recipe = reproduce.recipe_of(row, study, 1)
        assert (recipe.run.steps, recipe.run.seed) == (study.steps, 1)
    folders = [reproduce.folder_of(row, study, 0, Path("x")) for row in study.rows]
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
    monkeypatch.setattr(reproduce, "recipe_of", lambda *_: small)
    monkeypatch.setattr(
        reproduce, "measured", lambda folder, *_, **__: {"psnr": 20.0, "n": 1}
    )
    one = reproduce.run_row(ONE, study, 0, spec="shapes", out=tmp_path, quiet=True)
    assert one["row"] == "one" and one["psnr"] == 20
    monkeypatch.delattr(reproduce, "train")
    again = reproduce.run_row(ONE, study, 0, spec="shapes", out=tmp_path)
    assert again == json.loads(json.dumps(one))


def test_a_row_that_is_not_there_is_explained(capsys):
    assert reproduce.main(["losses", "--only", "LPIPS"]) == 2
    assert "no row holds 'LPIPS'; there are L2, full loss" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda p: p.stem)
def test_pages_say_what_the_figures_say(path):
    """The committed text is what the committed figures give."""
    found = json.loads(path.read_text("utf-8"))
    assert path.with_suffix(".md").read_text("utf-8") == markdown(path.stem, found)
    assert path.with_suffix(".png").exists()
    rows = {row.name for row in STUDIES[path.stem].rows}
    assert {f["row"] for f in found} <= rows
    assert all(set(COLUMNS) - {"images_per_second"} <= f.keys() for f in found)
