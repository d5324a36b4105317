"""The record of the fault test: what the book says is what was found."""

import json
from pathlib import Path

from benchmarks import faults

RECORD = Path(__file__).parents[1] / "book" / "results" / "faults.json"


def test_the_page_says_what_was_found():
    found = json.loads(RECORD.read_text("utf-8"))
    page = RECORD.with_suffix(".md").read_text("utf-8")
    assert page == faults.markdown(found)
    assert "DIFFERENT" not in page


def test_twenty_kills_some_of_them_during_a_write_changed_nothing():
    found = json.loads(RECORD.read_text("utf-8"))
    kills = [faults.Kill(**kill) for kill in found["kills"]]
    assert len(kills) == found["plan"]["kills"] == 20
    assert 10 <= sum(kill.writing for kill in kills) < 20
    assert len({kill.step for kill in kills}) > 10
    assert all(kill.checkpoint <= kill.step + 1 for kill in kills)
    assert found["weights_identical"] and found["rows_identical"]


def test_twenty_races_had_one_winner_each():
    found = json.loads(RECORD.read_text("utf-8"))
    races = [faults.Race(**race) for race in found["races"]]
    assert len(races) == 20 and all(race.identical for race in races)
    assert {race.winner for race in races} == {0, 1}
    assert all("is in use by another command" in race.refused for race in races)


def test_a_difference_is_called_one():
    plan = {"steps": 4, "checkpoint_every": 2, "log_every": 1, "kills": 1, "seed": 0}
    found = {
        "plan": plan, "kills": [{"step": 3, "checkpoint": 2, "writing": True}],
        "weights_identical": False, "rows": 4, "rows_identical": True,
    }  # fmt: skip
    page = faults.markdown(found)
    assert "| bytes of `model.safetensors` | DIFFERENT |" in page
    assert "| 4 rows of metrics, less the speed | identical |" in page
    assert "| 1 | 3 | 2 | yes |" in page


def test_what_is_compared_has_no_times_in_it(tmp_path):
    def written(name, speed, loss):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        row = {"step": 1, "loss": loss, "steps_per_second": speed}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        return faults.outcome(folder)

    first = written("one", 1.0, 0.5)
    assert first == written("two", 2.0, 0.5)
    assert first != written("three", 1.0, 0.25)
