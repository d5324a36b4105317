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


def _whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and math.isfinite(value)


def _wholes(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_whole, value))


# What a type hint asks for by itself; NumPy's numbers count.
KINDS: dict[Any, Rule] = {
    int: Rule(_whole, "is not a whole number"),
    float: Rule(_finite, "is not a finite number"),
    bool: Rule(lambda x: isinstance(x, bool), "is not true or false"),
    str: Rule(lambda x: isinstance(x, str), "is not text"),
    tuple[int, ...]: Rule(_wholes, "is not a list of whole numbers"),
}


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
            for rule in (KINDS[kind], *rules) if kind in KINDS else rules:
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
            if wanted := [k for k in kinds if issubclass(k, Config)]:
                told = f"{said} is no {wanted[0].__name__}; give one"
                require(isinstance(value, tuple(wanted)), told)


@cache
def type_hints(kind: type) -> dict[str, Any]:
    """Type hints of a class by field, rules included."""
    return typing.get_type_hints(kind, include_extras=True)
