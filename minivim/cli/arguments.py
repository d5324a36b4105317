"""How a command is declared, and the options that several commands take."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from minivim import weights
from minivim.config.checks import require
from minivim.data import DataSpec
from minivim.errors import UserError, explained, one_line
from minivim.files import beside
from minivim.prior.model import class_names
from minivim.tokenizer import Tokenizer

Run = Callable[[argparse.Namespace], int | None]
Option = tuple[tuple[str, ...], dict[str, Any]]
# By name: what a command runs, and its options.
COMMANDS: dict[str, tuple[Run, tuple[Option, ...]]] = {}


class Parser(argparse.ArgumentParser):
    """argparse with the error in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def path(text: str) -> Path:
    """Reads a path, or any other text that may not be empty."""
    return Path(filled(text))


def filled(text: str) -> str:
    """Reads text that may not be blank: an empty path would be the folder at hand."""
    if text.strip():
        return text
    raise argparse.ArgumentTypeError("it is empty; give a name, or . for this folder")


def option(*flags: str, **settings: Any) -> Option:
    """An option, or an argument where the name has no dashes; text is not blank."""
    # One with the default "" takes it from a user as well.
    if not settings.keys() & {"type", "choices"} and settings.get("default") != "":
        plain = settings.get("action", "extend") == "extend"
        settings |= {"type": filled} if plain else {}
    return flags, settings


def command(*options: Option) -> Callable[[Run], Run]:
    """Make a function the command of its name, its docstring the line of help."""

    def register(run: Run) -> Run:
        COMMANDS[run.__name__.strip("_")] = run, options
        return run

    return register


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Some of the options, to be passed on under their own names."""
    return {name: getattr(options, name) for name in names}


def data_of(options: argparse.Namespace, spec: str | None = None) -> DataSpec:
    """The data that a command is given, by default --data."""
    names = ("image_column", "label_column", "check", "skip_unreadable", "quiet")
    return DataSpec(options.data if spec is None else spec, **given(options, *names))


def number(kind: type, fits: Callable[[Any], bool], says: str) -> Any:
    """Reads a number that fits, and else says what it must be."""

    def parse(text: str) -> Any:
        with suppress(ValueError):
            if fits(kind(text)):
                return kind(text)
        raise argparse.ArgumentTypeError(f"{text} must be {says}")

    return parse


positive = number(int, lambda n: 0 < n < 2**63, "a whole number above zero")
natural = number(int, lambda n: 0 <= n < 2**63, "a whole number of 0 or above")
seed = number(  # as JAX's keys take it
    int, lambda n: 0 <= n < 2**32, "a whole number of 0 or above; use less than 2^32"
)
share = number(float, lambda x: 0 < x <= 1, "above 0 and at most 1")


def count(default: int | None, text: str = "the first N images") -> Option:
    """--count."""
    return option("--count", type=positive, default=default, metavar="N", help=text)


READING = (
    option("--label-column", default="", metavar="NAME", help="of tables"),
    option("--image-column", default="", metavar="NAME", help="of tables"),
    option("--check", action="store_true", help="decode all pictures beforehand"),
    option("--skip-unreadable", action="store_true", help="leave broken pictures out"),
)
DATA = (
    option("--data", required=True, help="shapes, a folder, tables or a hub name"),
    *READING,
)
SPLIT = option("--split", default="test", choices=("train", "test"))

PICTURES = """a .png figure, or the pictures: an .npz (arr_0, labels in arr_1) or a
folder/ of PNGs with index.csv, classes in turn"""
OUT = option("--out", required=True, help=PICTURES)
JSON = option("--json", help="also write the figures to this file")
QUIET = option("--quiet", action="store_true", help="no progress bar")
TOKENIZER = option("--tokenizer", help="of a prior (default: the one its card names)")
STEP = option("--step", type=natural, metavar="N", help="of a run's checkpoints")
SEED = option("--seed", type=seed, default=0, help="of all that is drawn at random")
DRAWN = (option("--temperature", type=float, default=1.0), option("--top-k", type=int))
DRAWN += (option("--top-p", type=float), option("--guidance", type=float))
SAMPLED = ("temperature", "top_k", "top_p", "guidance")
SET = option("--set", nargs="+", action="extend", default=[], metavar="key=value")
WORKERS = option("--workers", type=natural, default=0, help="processes that decode")
STAGES = ("tokenizer", "prior", "probe", "classifier")


def show_classes(model: Any) -> list[str]:
    """Print the numbers of a model's classes and their names, which are returned."""
    names = class_names(model)
    shown = [f"{number} {name}" for number, name in enumerate(names[:20])]
    shown += [f"and {len(names) - 20} more"] * (len(names) > 20)
    if names:
        print(one_line(f"classes: {'; '.join(shown)}", 4_000))
    return names


def open_tokenizer(options: argparse.Namespace) -> Any:
    """The tokenizer of a command; raises `UserError` for another model."""
    model = weights.load(options.tokenizer, step=options.step)
    told = f"{options.tokenizer} is a {model.card['kind']}, not a tokenizer; name one"
    require(isinstance(model, Tokenizer), told)
    return model


def place(out: str) -> tuple[Path, str]:
    """Where pictures go, and as what: ".png", ".npz" or "" for a folder."""
    kind = "" if out.endswith(("/", os.sep)) else Path(out).suffix.lower()
    told = f"{out} must end in .png for a figure, .npz, or / for a folder of pictures"
    require(kind in (".png", ".npz", ""), told)
    return writable(out, kind) if kind else Path(out), kind


def writable(path: str, suffix: str) -> Path:
    """A path to write to, its folder made; raises `UserError` early."""
    file = Path(path)
    require(file.suffix.lower() == suffix, f"{path} must end in {suffix}")
    require(not file.is_dir(), f"{path} is a folder; give the name of a file in it")
    with explained(f"cannot write {path}", "choose another place", OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Whoever is refused later for something else keeps no empty file.
        beside(file).touch()
        beside(file).unlink()
        if file.exists():
            file.touch()
    return file
