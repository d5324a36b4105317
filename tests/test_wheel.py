"""A wheel is enough: its metadata, its files, and what chapters ask of it anywhere."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
# Words of a path into the repository, which nobody has who installed a wheel.
PLACES = re.compile(r"__file__|__path__|\.\./|\bopen\(|read_text|book/|getcwd")
PYTHONS = ["3.11", "3.12", "3.13"]


def code(chapter: Path) -> list[str]:
    """The code cells of a chapter."""
    cells = json.loads(chapter.read_text("utf-8"))["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The files of a wheel, built from what git would have of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("minivim", "minivim_lab", "book/results"):
        shutil.copytree(ROOT / name, folder / "src" / name, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-prose"):
        shutil.copy(ROOT / name, folder / "src")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "-q"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), "."]
    subprocess.run(command, cwd=folder / "src", check=True)
    [wheel] = folder.glob("*.whl")
    assert wheel.stat().st_size < 14e6
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def run(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A process in an empty folder that finds minivim in the wheel alone."""
    environment = {**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    words = (sys.executable, *words)
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True
    )


def test_every_package_is_named():
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for name in ("minivim", "minivim_lab")
        for path in (ROOT / name).rglob("*.py")
    }
    names = TOOL["setuptools"]["packages"]
    assert sorted(names) == sorted({*found, "minivim_lab.results"})


def test_files(installed):
    inside = {str(p.relative_to(installed)) for p in installed.rglob("*.*")}
    known = {
        str(path.relative_to(ROOT))
        for name in ("minivim", "minivim_lab")
        for path in (ROOT / name).rglob("*.*")
        if path.suffix in (".py", ".json", ".safetensors")
    }
    results = (ROOT / "book" / "results").glob("*.json")
    known |= {f"minivim_lab/results/{path.name}" for path in results}
    assert len(known) > 100 and not known - inside
    tops = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert tops == {"minivim", "minivim_lab"}


def test_metadata_names_the_versions_that_are_tested(installed):
    [file] = installed.glob("*.dist-info/METADATA")
    told = message_from_bytes(file.read_bytes())
    start = "Programming Language :: Python :: "
    named = [c for c in told.get_all("Classifier") if c.startswith(start)]
    assert [name.removeprefix(start) for name in named] == PYTHONS
    assert told["Requires-Python"] == f">={PYTHONS[0]}"
    flow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text("utf-8"))
    assert flow["jobs"]["test"]["strategy"]["matrix"]["python"] == PYTHONS


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_no_cell_names_a_place_in_the_repository(chapter):
    lines = [line for source in code(chapter) for line in source.splitlines()]
    assert not [line for line in lines if PLACES.search(line)]


def test_what_chapters_import_and_read_is_in_the_wheel(installed, tmp_path):
    lines, read = {"import minivim": None}, []
    for tree in (ast.parse(source) for path in CHAPTERS for source in code(path)):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                lines[ast.unparse(node)] = None
            text = ast.unparse(node) if isinstance(node, ast.Call) else ""
            if text.startswith("recorded("):
                read.append(f"assert {text}")
    assert len(read) >= 4
    check = f"assert minivim.__file__.startswith({str(installed)!r}), minivim.__file__"
    script = "\n".join([*lines, check, *read])
    done = run(installed, tmp_path, "-c", script)
    assert done.returncode == 0, done.stderr
    # A study that is nowhere is one line, not a path.
    done = run(installed, tmp_path, "-c", "import minivim_lab as m; m.recorded('no')")
    assert "UserError: no figures of 'no' are here" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_commands_work_anywhere(installed, tmp_path):
    for words in (["--help"], ["recipes"], ["recipes", "vim-large"]):
        done = run(installed, tmp_path, "-m", "minivim", *words)
        assert done.returncode == 0 and done.stdout, done.stderr
    words = ["sample", "shapes/prior", "--out", "a.png"]
    done = run(installed, tmp_path, "-m", "minivim", *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    done = run(installed, tmp_path, "-m", "minivim", "lab")
    assert done.returncode == 2 and "clone the repository" in done.stderr
