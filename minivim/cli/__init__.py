"""The command line: parses, calls, prints. A user's mistake is one line and exit 2."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Each module declares its commands, which --help lists in this order.
from minivim.cli import models, drawing  # noqa: F401  # isort: skip
from minivim.cli.arguments import COMMANDS, Parser, command
from minivim.errors import Stopped, UserError, brief
from minivim.plugins import import_modules
from minivim.runtime import environment, settle
from minivim.start import ended

IMPORT: dict[str, Any] = {
    "dest": "modules", "action": "append", "default": [], "metavar": "MODULE",
    "help": "import a module that registers quantizers or recipes",
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Writes of orbax that fail are told by `Workdir`, and here again at the end.
    logging.getLogger("asyncio").disabled = True
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")
    warnings.filterwarnings("ignore", "Error .*persistent compilation cache")
    try:
        options = parser().parse_args(arguments)
        if options.command != "lab":
            settle(alone=not getattr(options, "distributed", False))
        import_modules(options.modules)
        return options.run(options) or 0
    except UserError as error:
        code, says = 2, f"error: {error}"
    except OSError as error:
        says = f"error: cannot read or write ({brief(error)}); free the disk or choose"
        code, says = 2, f"{says} another place, then run the same command"
    except Stopped as stopped:
        # As a shell says of a command that it ended.
        code, says = 128 + stopped.number, str(stopped)
    except KeyboardInterrupt:
        code = 130
        says = ended(sys.argv[1:] if arguments is None else arguments)
    print("minivim:", *says.split(), file=sys.stderr)
    return code


def parser() -> Parser:
    """All commands."""
    top = Parser(prog="minivim", description="ViT-VQGAN and VIM, small enough to read.")
    commands = top.add_subparsers(dest="command", required=True)
    for name, (run, options) in COMMANDS.items():
        one = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        one.set_defaults(run=run)
        one.add_argument("--import", **IMPORT)
        for flags, settings in options:
            one.add_argument(*flags, **settings)
    return top


@command()
def _lab(options: argparse.Namespace) -> None:
    """Open the notebooks in JupyterLab."""
    folder = Path(__file__).parents[2] / "notebooks"
    if not folder.is_dir():
        raise UserError("the notebooks are not installed; clone the repository")
    if find_spec("jupyterlab") is None:
        raise UserError("JupyterLab is not installed; run pip install -e '.[book]'")
    os.environ.update(environment())
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(folder)])
