"""From the command to the model's `__call__` in few functions and few files."""

import sys
from pathlib import Path

import pytest

import minivim
from minivim import cli, weights
from minivim.prior import Prior
from minivim.tokenizer import Tokenizer
from tests import tiny

HOME = str(Path(minivim.__file__).parent)
FUNCTIONS, FILES = 10, 6


def way_to(model: type, command: list[str]) -> list[tuple[str, str]]:
    """Our functions on the stack when a model's `__call__` first runs."""
    file = sys.modules[model.__module__].__file__
    way: list[tuple[str, str]] = []

    def look(frame, event, argument):
        code = frame.f_code
        if event != "call" or code.co_name != "__call__":
            return
        if code.co_filename != file:
            return
        sys.setprofile(None)
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(HOME):
                way.append((code.co_filename.removeprefix(HOME), code.co_qualname))
            frame = frame.f_back

    sys.setprofile(look)
    try:
        assert cli.main(command) == 0
    finally:
        sys.setprofile(None)
    return list(dict.fromkeys(reversed(way)))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    tiny.pictures(folder / "pictures", each=4)
    weights.save(folder / "tokenizer", tiny.tokenizer(), card={})
    return folder


@pytest.mark.parametrize(
    ("stage", "model", "settings"),
    [
        ("tokenizer", Tokenizer, tiny.TOKENIZER_SETTINGS),
        ("prior", Prior, tiny.PRIOR_SETTINGS),
    ],
)
def test_a_step_is_a_few_functions_away(home, stage, model, settings):
    command = ["train", stage, "shapes", "--data", str(home / "pictures"), "--quiet"]
    command += ["--workdir", str(home / stage)]
    if stage == "prior":
        settings = [*settings, f"tokenizer={home / 'tokenizer'}"]
    for setting in [*settings, "steps=1"]:
        command += ["--set", setting]
    way = way_to(model, command)
    assert [name for _, name in way][-1].endswith(".__call__"), way
    # `main` parses and reports; the way begins where the command's own function does.
    way = [step for step in way if step[1] != "main"]
    assert len(way) <= FUNCTIONS, way
    assert len({file for file, _ in way}) <= FILES, way
