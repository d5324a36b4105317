"""Every command that a text names is there and takes what the text gives it."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from minivim import cli
from minivim.errors import UserError

ROOT = Path(__file__).parents[1]
TEXTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "notebooks").glob("*.md"),
    *(ROOT / "book").glob("*.md"),
    *(ROOT / "minivim").rglob("*.py"),
]
# At the start of a line of code, or between backticks, perhaps over two lines.
COMMAND = re.compile(
    r"^ *((?:minivim|python -m|make) (?:[^\n]*\\\n)*[^\n]*)$"
    r"|(?<!`)`((?:minivim|python -m|make) [^`]*)`",
    re.MULTILINE,
)
FENCED = re.compile(
    r"^```(?:bash|text|console)?\n(.*?)^```|^((?: {4}.*\n)+)", re.M | re.S
)
TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)


def commands(text: str) -> list[str]:
    """What a Markdown text or a docstring tells a reader to type."""
    blocks = "\n".join(a or b for a, b in FENCED.findall(text))
    whole = [found for found, _ in COMMAND.findall(blocks) if found]
    return [*whole, *(found for _, found in COMMAND.findall(text) if found)]


def fault(command: str) -> str | None:
    """What is wrong with a command; a bare mention may leave arguments out."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    if words[0] == "make":
        return None if words[1] in TARGETS else f"no target {words[1]}"
    if words[0] == "python":
        module = words[2]
        try:
            spec = find_spec(module)
        except ModuleNotFoundError:
            spec = None
        if spec and spec.submodule_search_locations is not None:
            spec = find_spec(f"{module}.__main__")
        return None if spec else f"no program {module}"
    try:
        cli.parser().parse_args(words[1:])
    except UserError as error:
        mention = not re.search(r" --\S+ \S", command) and "required" in str(error)
        return None if mention else str(error)
    return None


FOUND = [
    (str(path.relative_to(ROOT)), command)
    for path in sorted(TEXTS)
    for command in commands(path.read_text("utf-8"))
    # Neither a template nor a text that goes on in the next line of Python.
    if not set(command) & set('{"')
]


@pytest.mark.parametrize(("place", "command"), FOUND)
def test_the_command_can_be_typed(place: str, command: str) -> None:
    assert fault(command) is None


def test_the_texts_are_read() -> None:
    places = {place for place, _ in FOUND}
    wanted = {"README.md", "book/your_pictures.md", "book/commands.md"}
    assert wanted | {"notebooks/09_scale.md"} <= places
    assert any("\\\n" in command for _, command in FOUND)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "python -m minivim_lab.reproduce optimiser",
            "no program minivim_lab.reproduce",
        ),
        ("python -m nowhere.at_all", "no program nowhere.at_all"),
        ("make coffee", "no target coffee"),
        ("minivim trian tokenizer", "invalid choice"),
        ("minivim reproduce grid --seed 0 --pace", "--pace"),
        ("minivim train prior --data here", "required"),
    ],
)
def test_a_wrong_command_is_found(command: str, message: str) -> None:
    assert message in (fault(command) or "")
