"""The command line: parses, calls, prints. A user's mistake is one line and exit 2."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Each module declares its commands, which --help lists in this order.
from minivim.cli import training, drawing, measuring  # noqa: F401  # isort: skip
from minivim.cli.arguments import COMMANDS, Parser, command
from minivim.errors import Stopped, UserError


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        options = parser().parse_args(arguments)
        if arguments is None:
            from minivim.runtime import restart_with_environment

            restart_with_environment()
        return options.run(options) or 0
    except UserError as error:
        return _fail(str(error))
    except BrokenPipeError:
        return 0
    except OSError as error:
        place = error.filename or "a file"
        return _fail(
            f"cannot read or write {place} ({error.strerror or error}); free the disk "
            "or choose another place, then run the same command"
        )
    except Stopped as stopped:
        print(f"minivim: {stopped}", file=sys.stderr)
        return 128 + stopped.number  # as a shell says of a command that it ended
    except KeyboardInterrupt:
        print("minivim: stopped; the same command goes on", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"minivim: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def parser() -> Parser:
    """All commands."""
    top = Parser(prog="minivim", description="ViT-VQGAN and VIM, small enough to read.")
    commands = top.add_subparsers(dest="command", required=True, parser_class=Parser)
    for name, (run, text, options) in COMMANDS.items():
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(run=run)
        for flags, settings in options:
            one.add_argument(*flags, **settings)
    return top


@command("open the notebooks in JupyterLab")
def _lab(options: argparse.Namespace) -> None:
    import importlib.util

    from minivim.runtime import environment

    folder = Path(__file__).parents[2] / "notebooks"
    if not folder.is_dir():
        raise UserError("the notebooks are not installed; clone the repository")
    if importlib.util.find_spec("jupyterlab") is None:
        raise UserError("JupyterLab is not installed; run pip install -e '.[book]'")
    os.environ.update(environment())
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(folder)])
