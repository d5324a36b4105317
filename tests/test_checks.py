"""Checks for readers: each passes on our code, and says what is wrong with a bug."""

import inspect
import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import planted
from minivim import checks
from minivim.tokenizer import l2_normalise, nearest_code

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "book" / "results" / "planted.md"
RECORD = json.loads(PAGE.with_suffix(".json").read_text("utf-8"))
WITH_CHECK = [bug for bug in planted.PLANTED if bug.check]
NAMES = [
    name
    for name, f in inspect.getmembers(checks, inspect.isfunction)
    if not name.startswith("_") and f.__module__ == checks.__name__
]


@cache
def passes(name):
    assert planted.OURS[name]() is None
    return True


@pytest.mark.parametrize("bug", WITH_CHECK, ids=lambda bug: bug.what)
def test_a_bug_of_the_library_is_caught_with_a_sentence(bug):
    assert passes(bug.check)
    said = planted.complaint(bug)
    assert [said] == [one["said"] for one in RECORD if one["what"] == bug.what]
    assert said and "\n" not in said and len(said) < 150


def test_what_was_planted_is_gone_again():
    planted.complaint(WITH_CHECK[0])
    planted.OURS[WITH_CHECK[0].check]()


def test_a_bug_outside_of_any_function_is_refused():
    field = next(bug for bug in planted.PLANTED if bug.item == "C20")
    with pytest.raises(ValueError, match="no function of config/models.py has changed"):
        planted.complaint(field)


@pytest.mark.parametrize("name", NAMES)
def test_every_check_is_documented_and_has_a_bug(name):
    check = getattr(checks, name)
    first = check.__doc__.splitlines()[0]
    assert first.startswith("`") and first.endswith(".")
    assert name == "adaptive_weight" or name in {
        bug.check.split()[0] for bug in WITH_CHECK
    }


def test_every_item_of_the_list_has_a_bug():
    assert {f"C{i}" for i in range(1, 21)} <= {bug.item for bug in planted.PLANTED}


@pytest.mark.parametrize("bug", planted.PLANTED, ids=lambda bug: bug.what)
def test_bugs_can_be_planted_and_their_tests_and_cells_are_there(bug):
    text = bug.file(ROOT).read_text("utf-8")
    assert bug.changed(text) != text
    file, _, test = bug.test.partition("::")
    assert f"def {test.partition('[')[0]}" in (ROOT / file).read_text("utf-8")
    assert (ROOT / "notebooks" / f"{bug.chapter}.ipynb").exists()
    assert not bug.check or planted.cell_of(bug) is not None


def test_the_record_is_of_these_bugs():
    assert [one["what"] for one in RECORD] == [bug.what for bug in planted.PLANTED]
    assert all(one["failed"] for one in RECORD)
    assert PAGE.read_text("utf-8") == planted.markdown(RECORD)


# --- The library has no adaptive weight (the paper's is fixed), so here is one. ------


def ratio(pull, push):
    return jnp.linalg.norm(pull) / jnp.linalg.norm(push)


def stopped(pull, push):
    return jax.lax.stop_gradient(ratio(pull, push))


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (ratio, "a gradient goes through the weight: stop it"),
        (lambda pull, push: stopped(push, pull), "must be |pull| / |push| = 0.30"),
    ],
)
def test_an_adaptive_weight(weight, says):
    checks.adaptive_weight(stopped)
    with pytest.raises(AssertionError) as caught:
        checks.adaptive_weight(weight)
    assert says in str(caught.value)


# --- Bugs that the library's functions cannot be given in one line -------------------


def draws(change):
    def draw():
        codes, logits = planted.drawn()
        return codes, change(logits)

    return draw


def leaky(r, e):
    """The straight-through step with the stop in the wrong place."""
    z, e = l2_normalise(r), l2_normalise(e)
    return e[nearest_code(z, e)] + z - jax.lax.stop_gradient(z)


SAID = {
    "beta on both": (
        lambda: checks.beta(lambda z, e, beta: beta * planted.vq_loss(z, e, 1.0)),
        "beta weighs more than one term",
    ),
    "raw": (
        lambda: checks.quantise(planted.quantised("project"), "raw"),
        "the gradient must go to r as it is",
    ),
    "codes move": (lambda: checks.quantise(leaky), "must not move the codes"),
    "shifted twice": (
        lambda: checks.causal(
            lambda codes: planted.predicted(np.pad(codes, ((0, 0), (1, 0)))[:, :-1]),
            planted.SIZE,
        ),
        "the input is shifted too far",
    ),
    "not a number": (
        lambda: checks.teacher_forcing(
            draws(lambda logits: logits.at[:, 0].set(jnp.nan)),
            lambda codes: planted.predicted(codes, jnp.array([0, 1])),
        ),
        "wrong at 1 positions",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_other_bugs(name):
    check, says = SAID[name]
    with pytest.raises(AssertionError) as caught:
        check()
    assert says in str(caught.value)
