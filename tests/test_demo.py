"""The demo from end to end, with models that train in seconds."""

import pytest

from minivim_lab import demo
from tests import tiny

SIZES = ["image_size=32", "patch_size=16", "num_codes=24", "code_dim=4"]
RUN = ["steps=2", "batch_size=8", "log_every=1", "eval_every=2", "checkpoint_every=2"]


@pytest.mark.slow
def test_demo_trains_everything_and_reports(tmp_path, monkeypatch, capsys):
    sides = [f"{side}.{size}" for side in ("encoder", "decoder") for size in tiny.SIZES]
    monkeypatch.setattr(demo, "TOKENIZER", [*SIZES, *sides, *RUN, "eval_size=8"])
    prior = ["num_codes=24", "grid=2", *tiny.SIZES, *RUN, "eval_size=8"]
    monkeypatch.setattr(demo, "PRIOR", prior)
    monkeypatch.setattr(demo, "STEPS", dict.fromkeys(demo.STEPS, 2))
    path = demo.demo(tmp_path, seed=1)
    assert path == tmp_path / "report.html"
    page = path.read_text()
    assert "4 of 4" in capsys.readouterr().out
    for words in ("probe, chosen block", "<td>31.77</td>", "Samples", "seed 1"):
        assert words in page
    assert page.count("<img ") == 5
    assert len(page) < 5_000_000  # it can be mailed and opened at once
