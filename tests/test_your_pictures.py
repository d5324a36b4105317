"""The how-to for one's own pictures: its commands, executed in their order."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minivim import cli, weights

PAGE = Path(__file__).parents[1] / "book" / "your_pictures.md"
# What makes a run short and a network small; the page's own settings come first.
SHORT = ["steps=2", "batch_size=4", "eval_size=4", "warmup_steps=1"]
SMALL = {
    "tokenizer": [
        f"model.{part}.{setting}"
        for part in ("encoder", "decoder")
        for setting in ("blocks=1", "width=16", "hidden=32", "heads=2")
    ]
    + ["model.quantizer.num_codes=32"],
    "prior": [
        f"model.stack.{setting}"
        for setting in ("blocks=1", "width=16", "hidden=32", "heads=2")
    ]
    + ["model.num_codes=32", "views=1", "flip=false"],
    "classifier": ["model.width=8"],
}
OPTIONS = {"sample": ["--count", "2"]}


def commands() -> list[list[str]]:
    """Every command in a fenced block of the page, its lines joined."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines]


def shortened(command: list[str]) -> list[str]:
    if command[0] != "train":
        return command + OPTIONS.get(command[0], [])
    return [*command, "--quiet", "--set", *SHORT, *SMALL[command[1]]]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Wide and tall pictures of two kinds, in the formats that people have."""
    rng = np.random.default_rng(0)
    for kind, colour in (("cats", (220, 120, 60)), ("dogs", (60, 120, 220))):
        folder = tmp_path / "my" / "pictures" / kind
        folder.mkdir(parents=True)
        for i in range(12):
            size = (80, 70) if i % 2 else (70, 90)
            noise = rng.normal(0, 20, (*size, 3)) + colour
            suffix = ("jpg", "png", "webp")[i % 3]
            image = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
            image.save(folder / f"{i}.{suffix}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow  # tests/test_cli.py has a chain of the same commands
def test_the_page_s_commands_run_in_their_order(pictures, capsys):
    found = commands()
    assert [c[0] for c in found].count("train") == 3
    assert "minivim" in PAGE.read_text("utf-8")
    for command in found:
        assert cli.main(shortened(command)) == 0, (command, capsys.readouterr().err)
    tokenizer, prior = weights.load_pair("runs/my-prior")
    assert tokenizer.config.image_shape["image_size"] == 64
    assert prior.config.num_classes == 2
    for name in ("mine", "samples", "chosen", "completed"):
        with Image.open(pictures / "runs" / f"{name}.png") as image:
            assert min(image.size) >= 64
