"""Rules for settings, written into type hints, and the one checker of them all."""

import dataclasses
import math
import numbers
import typing
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, NamedTuple

from minivim.errors import UserError, one_line


def require(condition: object, message: str) -> None:
    """Raise `UserError` with this message unless the condition holds."""
    if not condition:
        raise UserError(message)


class Rule(NamedTuple):
    """A condition on a value, and the words for it."""

    holds: Callable[[Any], bool]
    says: str


class Divides(NamedTuple):
    """The value divides that of another field."""

    other: str


def multiple_of(number: int) -> Rule:
    """The value is a multiple of this number."""
    return Rule(lambda x: x % number == 0, f"must be a multiple of {number}")


Count = Annotated[int, Rule(lambda x: x > 0, "must be above zero")]
Counts = Annotated[
    tuple[int, ...],
    Rule(lambda x: bool(x) and min(x) > 0, "must be whole numbers above zero"),
]
Several = Annotated[int, Rule(lambda x: x >= 2, "must be 2 or more")]
Natural = Annotated[int, Rule(lambda x: x >= 0, "must not be negative")]
Naturals = Annotated[
    tuple[int, ...], Rule(lambda x: min(x, default=0) >= 0, "must not be negative")
]
# JAX keeps the low 32 bits: two larger seeds could be one run.
Seed = Annotated[int, Rule(lambda x: 0 <= x < 2**32, f"is not in 0..{2**32 - 1}")]
Positive = Annotated[float, Rule(lambda x: x > 0, "must be above zero")]
NotNegative = Annotated[float, Rule(lambda x: x >= 0, "must not be negative")]
Rate = Annotated[float, Rule(lambda x: 0 <= x < 1, "is not in [0, 1)")]
Part = Annotated[float, Rule(lambda x: 0 < x < 1, "is not in (0, 1)")]
Share = Annotated[float, Rule(lambda x: 0 < x <= 1, "is not in (0, 1]")]
NOT_HALF = Rule(lambda x: x != "float16", "overflows in the l2 norms and losses")


WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    tuple[int, ...]: "a list of whole numbers",
}


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of one of the types of `WORDS`; NumPy's numbers count."""
    if kind == tuple[int, ...]:
        return isinstance(value, tuple) and all(_is(x, int) for x in value)
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    return isinstance(value, numbers.Integral if kind is int else kind)


class Config:
    """Base of all settings: type hints have the words (`Literal`) or rules to obey."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            name, value, known = field.name, getattr(self, field.name), field.default
            hint, said = type_hints(type(self))[name], one_line(f"{name}={value}", 200)
            rules = getattr(hint, "__metadata__", ())
            # As `--set` takes it.
            known = ",".join(map(str, known)) if isinstance(known, tuple) else known
            default = "" if known is dataclasses.MISSING else f"; set {name}={known}"
            kind = hint.__origin__ if rules else hint
            if (words := WORDS.get(kind)) is not None:
                require(_is(value, kind), f"{said} is not {words}{default}")
            for rule in rules:
                if isinstance(rule, Rule):
                    require(rule.holds(value), f"{said} {rule.says}{default}")
                    continue
                whole = getattr(self, rule.other)
                why = f"{said} does not divide {rule.other}={whole}"
                require(whole % value == 0, f"{why}; choose {name} so that it does")
            if typing.get_origin(kind) is typing.Literal:
                words = typing.get_args(kind)
                require(value in words, f"{said} is unknown; use {' or '.join(words)}")
            kinds = [k for k in typing.get_args(kind) or (kind,) if isinstance(k, type)]
            if (wanted := [k for k in kinds if issubclass(k, Config)]) != []:
                told = f"{said} is no {wanted[0].__name__}; give one"
                require(isinstance(value, tuple(wanted)), told)


@cache
def type_hints(kind: type) -> dict[str, Any]:
    """Type hints of a class by field, rules included."""
    return typing.get_type_hints(kind, include_extras=True)
