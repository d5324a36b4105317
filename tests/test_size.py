"""How large the package may be, and which way its imports go.

A budget for the whole is what keeps a package small enough to read: a limit for each
function or module alone only makes more of them.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in ("minivim", "minivim_lab")
    for path in sorted((ROOT / package).rglob("*.py"))
}
LINES = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}

# What the chapters explain line by line. A package stands for all of its modules.
CORE = [
    "minivim.transformer",
    "minivim.sharding",
    "minivim.prior",
    "minivim.probe",
    "minivim.metrics.codebook",
    *(f"minivim.tokenizer.{name}" for name in ("quantizer", "vit", "cnn", "model")),
    *(f"minivim.tokenizer.{name}" for name in ("losses", "discriminator")),
    *(f"minivim.tokenizer.{name}" for name in ("perceptual", "objective")),
    *(f"minivim.training.{name}" for name in ("optim", "factored", "step")),
]

# Lines at most: of the package, its core, both packages together, and any module.
# Raising one needs a reason in the commit.
PACKAGE, READ, ALL, MODULE = 11_900, 3_300, 16_750, 450

STAGES = {"tokenizer", "prior", "probe", "classifier"}
ABOVE = {"show", "cli", "trainer", "encode", "evaluate"}
# Part of the package -> parts that it may not import, not even within a function.
FORBIDDEN = {
    # The classifier serves both: a perceptual loss looks through it, rejection asks it.
    "tokenizer": ABOVE | {"prior", "probe"},
    "prior": ABOVE | {"probe"},
    "probe": ABOVE | {"tokenizer", "classifier"},
    "classifier": ABOVE | {"tokenizer", "prior", "probe"},
    "training": ABOVE | STAGES,
    # LPIPS is the perceptual loss as a figure.
    "metrics": ABOVE | STAGES - {"tokenizer"},
    "data": ABOVE | STAGES,
    "config": ABOVE | STAGES | {"data", "training", "metrics", "weights"},
    "recipes": ABOVE | STAGES | {"data", "training", "metrics", "weights"},
    "transformer": ABOVE | STAGES,
    "sharding": ABOVE | STAGES,
    "show": {"cli", "trainer", "encode", "evaluate"},
}


def imports(name: str, *, inside: bool = False) -> set[str]:
    """Our modules that a module imports; with `inside` those that functions do too."""
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside:
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(MODULES[name].read_text()))
    return {module for text in found if (module := module_of(text))} - {name}


def module_of(name: str) -> str:
    """The module that a dotted name leads to, as MODULES has it; "" if not ours."""
    for module in (name, f"{name}.__init__"):
        if module in MODULES:
            return module
    return module_of(name.rpartition(".")[0]) if "." in name else ""


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def test_the_package_can_be_read():
    ours = sum(n for name, n in LINES.items() if within(name, "minivim"))
    assert ours <= PACKAGE
    assert sum(LINES.values()) <= ALL


def test_the_core_can_be_read():
    core = {part: [m for m in MODULES if within(m, part)] for part in CORE}
    assert all(core.values()), core
    assert sum(LINES[m] for modules in core.values() for m in modules) <= READ


def test_a_module_fits_the_mind():
    assert {name: n for name, n in LINES.items() if n > MODULE} == {}


@pytest.mark.parametrize("inside", [False, True])
def test_imports_make_no_circle(inside):
    """Not even where a function imports: that hides a circle and does not end it."""
    ours = [name for name in MODULES if not inside or within(name, "minivim")]
    needs = {name: imports(name, inside=inside) & set(ours) for name in ours}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_go_one_way(part):
    wrong = {
        (name, other)
        for name in MODULES
        if within(name, f"minivim.{part}")
        for other in imports(name, inside=True)
        if other.split(".")[0] == "minivim" and other.split(".")[1] in FORBIDDEN[part]
    }
    assert not wrong


def test_the_package_does_not_need_the_lab():
    needed = {
        (name, other)
        for name in MODULES
        if within(name, "minivim")
        for other in imports(name)
        if within(other, "minivim_lab")
    }
    assert not needed
