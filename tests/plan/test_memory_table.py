"""The memory of VIM-Large in chapter 9: every figure of its table, made again."""

import json
import re
from pathlib import Path

import pytest

from minivim.recipes import recipe

ROOT = Path(__file__).parents[2]
PLAN = json.loads((ROOT / "book" / "results" / "plan.json").read_text("utf-8"))
GIB = 2**30


def test_every_figure_of_the_table_is_made_again():
    large, plan = recipe("prior", "vim-large"), PLAN["vim-large-data-paper-float32"]
    s, codes = large.model.stack, large.model.num_codes
    assert (plan["remat"], plan["chips"], plan["accumulate"]) == (s.remat, 64, 1)
    tokens = large.run.batch_size // plan["chips"] * large.model.num_tokens
    state, values = plan["state_bytes"] / GIB, 4 * large.model.parameters / GIB
    kept = 4 * tokens * s.width * s.blocks / GIB
    block = 5 * s.width + s.hidden + s.heads * large.model.num_tokens
    work = 4 * tokens * (block + 2 * codes) / GIB
    needed = plan["needed_bytes"] / GIB
    beside = values + kept + work
    expected = {
        "state": [values, state - values, state, state],
        "gradients": [state + values, values],
        "activations": [kept],
        "work": [work],
        "all but the state": [beside, needed - state],
        "everything": [state + beside, needed],
        "what a chip leaves": [plan["available_bytes"] / GIB] * 2,
    }
    text = (ROOT / "notebooks" / "09_scale.md").read_text("utf-8")
    for name, figures in expected.items():
        [line] = re.findall(rf"^\| {name}.*", text, re.MULTILINE)
        found = [float(x) for x in re.findall(r"\d+\.\d+", line)]
        assert found == pytest.approx(figures, abs=0.006), line
