"""What several commands take: options, and what these open."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from minivim.errors import UserError
from minivim.files import beside

STAGES = ("tokenizer", "prior", "probe", "classifier")
# Of a name, what it runs and a line of help makes a command.
Command = Callable[[str, Any, str], argparse.ArgumentParser]


class Parser(argparse.ArgumentParser):
    """argparse with the error in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def positive(text: str) -> int:
    """A count on the command line."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number above zero")
    return int(text)


def natural(text: str) -> int:
    """A count that may be zero."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} must be a whole number, 0 or above")
    return int(text)


def share(text: str) -> float:
    """A share on the command line, above zero and at most one."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be above 0 and at most 1")
    return found


def add_seed(one: argparse.ArgumentParser, text: str | None = None) -> None:
    """--seed, of 32 bits as JAX's keys take it."""
    one.add_argument("--seed", type=_seed, default=0, help=text)


def _seed(text: str) -> int:
    found = natural(text)
    if found >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is too large; use less than 2^32")
    return found


def add_data(one: argparse.ArgumentParser) -> None:
    """--data."""
    one.add_argument(
        "--data",
        required=True,
        metavar="SPEC",
        help="shapes, a folder of images, parquet files, or a hub name",
    )


def add_workers(one: argparse.ArgumentParser) -> None:
    """--workers."""
    one.add_argument(
        "--workers", type=natural, default=0, metavar="N",
        help="decode images in N other processes",
    )  # fmt: skip


def add_subset(one: argparse.ArgumentParser, count: int | None = None) -> None:
    """--split and --count."""
    one.add_argument("--split", default="test", choices=("train", "test"))
    one.add_argument("--count", type=positive, default=count, help="the first N images")


def add_settings(one: argparse.ArgumentParser) -> None:
    """--set, which may be given several times."""
    one.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="key=value"
    )


def open_tokenizer(ref: str) -> Any:
    """The tokenizer that a reference names; raises `UserError` for another model."""
    from minivim import weights
    from minivim.tokenizer import Tokenizer

    model = weights.load(ref)
    if not isinstance(model, Tokenizer):
        raise UserError(f"{ref} is a {model.card['kind']}, not a tokenizer; name one")
    return model


def open_split(options: argparse.Namespace, tokenizer: Any) -> Any:
    """The images of --data and --split, as the tokenizer reads them."""
    from minivim import data

    return data.open_source(
        options.data, split=options.split, **tokenizer.config.image_shape
    )


def writable(path: str, suffix: str) -> Path:
    """A path to write to, its folder made; raises `UserError` early."""
    file = Path(path)
    if file.suffix.lower() != suffix:
        raise UserError(f"{path} must end in {suffix}")
    if file.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file in it")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Whoever is refused later for something else keeps no empty file.
        beside(file).touch()
        beside(file).unlink()
        if file.exists():
            file.touch()
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}); choose another place"
        ) from error
    return file
