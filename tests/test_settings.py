"""The table of settings: every value is that of the recipes, every field has a row."""

import importlib
import inspect
import math
import re
from dataclasses import dataclass, fields
from functools import cache, reduce
from pathlib import Path
from typing import Any

import pytest

from minivim import config, recipes
from minivim.config import StackConfig

PAGE = Path(__file__).parents[1] / "book" / "settings.md"
TABLE = re.compile(r"^\{\.settings(?: \.(\w+))?\}\n((?:\|.*\n)+)", re.MULTILINE)
# What a place in the paper may be called, or why there is none.
SOURCE = re.compile(
    r"(sections?|Tables?|appendix) [\dA-C]|not stated(: | for stage 1: | \()|added"
)
QUOTED = re.compile(r"`([^`]*)`")
PAPER = {
    key: make()
    for key, make in recipes.RECIPES.items()
    if inspect.getmodule(make) is recipes.paper
}
PROBE = {("probe", "shapes"): recipes.recipe("probe", "shapes")}
CLASSIFIERS = {
    ("classifier", name): recipes.recipe("classifier", name)
    for name in ("shapes", "shapes-judge")
}
# Recipes that a table speaks of, by its second class.
SPOKEN = {
    "": PAPER,
    "tokenizer": {k: v for k, v in PAPER.items() if k[0] == "tokenizer"},
    "prior": {k: v for k, v in PAPER.items() if k[0] == "prior"},
    "probe": PROBE,
    "classifier": CLASSIFIERS,
}
SIZE = ("blocks", "width", "heads", "hidden")
ALL = PAPER | PROBE | CLASSIFIERS


@dataclass(frozen=True)
class Row:
    kind: str
    setting: str
    value: str
    source: str
    where: list[str]


@cache
def tables(text: str) -> list[tuple[str, list[list[str]]]]:
    """Second class and cells of every table, without its head."""
    return [
        (kind, [[c.strip() for c in line.split("|")[1:-1]] for line in lines[2:]])
        for kind, body in TABLE.findall(text)
        for lines in [body.splitlines()]
    ]


@cache
def rows(text: str) -> list[Row]:
    """All rows but those of sizes."""
    return [
        Row(kind, setting, value, source, QUOTED.findall(where))
        for kind, lines in tables(text)
        if kind != "sizes"
        for setting, value, source, where in lines
    ]


def field(recipe: Any, name: str) -> Any:
    """A field of a recipe or of its model; None where it has no such field."""
    for start in (recipe, getattr(recipe, "model", None)):
        try:
            return reduce(getattr, name.split("."), start)
        except AttributeError:
            continue
    return None


def parsed(text: str, known: Any) -> Any:
    """`text` as a value of the kind that is known."""
    if isinstance(known, tuple):
        return tuple(type(known[0])(part) for part in text.split(","))
    if isinstance(known, bool):
        return {"true": True, "false": False}[text]
    if isinstance(known, int | float):
        log = re.fullmatch(r"ln\((\d+)/(\d+)\)", text)
        plain = text.replace(",", "")
        return math.log(int(log[1]) / int(log[2])) if log else type(known)(plain)
    return None if text == "None" else text


def said(row: Row, name: str) -> list[str]:
    """The values that a row gives for a recipe, one for each field or one for all."""
    first, *others = row.value.replace("nothing", "``").split("; ")
    for part in others:
        value, _, names = part.partition(" in ")
        if name in names.split(", "):
            return QUOTED.findall(value)
    return QUOTED.findall(first)


@cache
def in_code(path: str) -> Any:
    """What a dotted path names, or the default of an argument in brackets."""
    path, _, argument = path.removesuffix(")").partition("(")
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        found = reduce(getattr, parts[count:], found)
        taken = inspect.signature(found).parameters if argument else {}
        return taken[argument].default if argument else found
    raise AttributeError(path)


def differences(text: str, spoken: dict = ALL) -> list[str]:
    """Where a row and a recipe, or a row and the code, are not the same."""
    found = []
    for row in rows(text):
        for place, path in enumerate(row.where):
            if path.startswith("minivim"):
                value = in_code(path)
                if isinstance(value, int | float | tuple) or value is None:
                    values = QUOTED.findall(row.value)
                    same = values and parsed(values[0], value) == value
                    found += [] if same else [f"{row.setting}: {path}={value}"]
                continue
            for key in spoken.keys() & SPOKEN[row.kind].keys():
                if (value := field(spoken[key], path)) is not None:
                    values = said(row, key[1])
                    if parsed(values[place if len(values) > 1 else 0], value) != value:
                        found.append(f"{row.setting}: {path}={value} in {key[1]}")
    return found + sizes(text, spoken)


def sizes(text: str, spoken: dict) -> list[str]:
    """Networks whose blocks, widths and heads no row of the sizes gives."""
    [lines] = [lines for kind, lines in tables(text) if kind == "sizes"]
    found = []
    for (_, name), recipe in spoken.items():
        for part, column in (("encoder", 5), ("decoder", 6), ("stack", 7)):
            stack = field(recipe, part)
            if isinstance(stack, StackConfig):
                mine = [x for x in lines if name in x[column].split(", ")]
                given = [[int(QUOTED.findall(c)[0]) for c in x[1:5]] for x in mine]
                if given != [[getattr(stack, size) for size in SIZE]]:
                    found.append(f"sizes: {part} of {name}")
    return found


def missing(text: str) -> list[str]:
    """Fields of recipes without a row of their kind."""
    known = rows(text)
    found = set()
    for kind in ("tokenizer", "prior", "probe"):
        places = {p for row in known if row.kind in ("", kind) for p in row.where}
        for recipe in SPOKEN[kind].values():
            for name in config.leaves(recipe):
                name = name.removeprefix("model.")
                sized = name.rpartition(".")[2] in SIZE and name.count(".") == 1
                if sized and name.split(".")[0] in ("encoder", "decoder", "stack"):
                    continue
                if name not in places | {"name", "stage"}:
                    found.add(f"{kind}: {name}")
    return sorted(found)


def test_every_value_is_that_of_the_recipes():
    assert differences(PAGE.read_text("utf-8")) == []


def test_every_field_has_a_row_and_every_row_a_source():
    text = PAGE.read_text("utf-8")
    assert missing(text) == []
    for row in rows(text):
        assert SOURCE.match(row.source), row
        assert row.where, row
        for path in row.where:
            known = (field(r, path) for r in SPOKEN[row.kind].values())
            assert path.startswith("minivim") or {*map(type, known)} != {type(None)}
    # A row is named once in its table.
    for _, lines in tables(text):
        names = [cells[0] for cells in lines]
        assert sorted(set(names)) == sorted(names)
    assert text.count("\n{.settings") == len(tables(text))


def changed(recipe: Any, path: str) -> Any:
    """The recipe with another value in one field, without its checks."""
    head, _, rest = path.partition(".")
    value = getattr(recipe, head)
    if rest:
        other = changed(value, rest)
    elif isinstance(value, bool):
        other = not value
    elif isinstance(value, int | float):
        other = value + 1
    else:
        other = (*value, 1) if isinstance(value, tuple) else f"{value}x"
    copy = object.__new__(type(recipe))
    for f in fields(recipe):
        object.__setattr__(copy, f.name, getattr(recipe, f.name))
    object.__setattr__(copy, head, other)
    return copy


@pytest.mark.parametrize("key", PAPER, ids="-".join)
def test_a_changed_recipe_is_noticed(key):
    """Mutations: each field of each recipe, one at a time."""
    text = PAGE.read_text("utf-8")
    for path in config.leaves(PAPER[key]):
        if path not in ("name", "stage"):
            found = differences(text, {key: changed(PAPER[key], path)})
            assert any(key[1] in line for line in found), path


def test_a_changed_page_is_noticed():
    """Mutations: values of the page, and rows that are not there."""
    text = PAGE.read_text("utf-8")
    for old, new in (
        ("`4.5e-4`", "`4.5e-3`"),
        ("`0.1`; `0` in vim-large-probe", "`0.1`; `0` in vim-base-probe"),
        ("`ln(4/255)`", "`ln(2/255)`"),
        ("| `12` | `768` |", "| `12` | `512` |"),
        ("`cnn`; `residual` in shapes-judge", "`cnn`"),
        ("| share kept by rejection | `0.5` |", "| share kept by rejection | `0.25` |"),
    ):
        assert old in text
        assert differences(text.replace(old, new)), old
    line = next(x for x in text.splitlines() if "`discriminator.r1_gamma`" in x)
    assert missing(text.replace(f"{line}\n", "")) == [
        "tokenizer: discriminator.r1_gamma"
    ]


# What the paper states: its place, and the rows that have it.
STATED = """
section 3.1: patch size; tokens of an image; tanh network; last activation
section 3.2: codes; dimensions of a code; projections; l2 normalisation; first codes
section 3.2: choice of a code; weight of the commitment term (beta); how codes learn
section 3.3: weight of L_VQ; weight of L2; weight of logit-laplace; kind
section 3.3: weight of the adversarial loss; network of the perceptual loss
section 4: type; vocabulary; codes along a side; embedding of codes; loss
section 4: positions in stage 2; dropout in stage 2; where dropout acts; last LayerNorm
section 4.1: class token; order of drawing; classes
section 4.2: feature; layer
section 5.1: image size; data; steps; images in a batch; optimiser; betas; its betas
section 5.1: learning rate, peak; warm-up; schedule; learning rate, last; weight decay
section 5.1: machine
section 5.2: steps; images in a batch; optimiser; betas; moments of Adam; data
section 5.2: learning rate, peak; warm-up; schedule; first step of the decay
section 5.2: learning rate, last; sharding; precision; classifier of rejection
section 5.3: block; tokenizer; prior
sections: weight of the perceptual loss; temperature; top-k; top-p; tokenizer
section 1: where codes come from
Table: share kept by rejection; images of rFID; dropout in stage 1
Table: images in a batch of usage
"""
# What it leaves open or says in part.
OPEN = """
tanh network; width of the tanh network; positions in stage 1; activation of the FFN
what the decoder receives; sum or mean over dimensions; gradient through the lookup
logit-laplace; how pixels keep off 0 and 1; least scale, ln b; order in a block
numbers that the decoder gives a patch; reconstruction in the other terms; biases
form of the loss; R1, gamma; R1 on every n-th step, times n; first adversarial step
layers; network of the perceptual loss; first codes; first weights of linear layers
mirror images; least share of a random crop; weight decay; clipping; averaged weights
recomputing in the encoder; positions in stage 2; start without a class; output
where dropout acts; scale of int8; last step of the decay; score of rejection
samples of FID; reference of FID; images before Inception; weights of Inception
optimiser; scaling of features; strengths of L2 tried; augmentation; block; machine
"""


def test_what_the_paper_states_and_leaves_open_has_a_row():
    sources: dict[str, list[str]] = {}
    for row in rows(PAGE.read_text("utf-8")):
        sources.setdefault(row.setting, []).append(row.source)
    for line in STATED.split("\n")[1:-1]:
        place, _, settings = line.partition(": ")
        for setting in settings.split("; "):
            found = sources[setting]
            assert any(re.match(rf"{place}\b", said) for said in found), line
    for setting in re.split("; |\n", OPEN.strip()):
        found = " ".join(sources[setting])
        assert re.search("not stated|our reading|implied", found), setting
