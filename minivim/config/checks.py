"""Rules for settings, written into their type hints, and the one checker of them all.

Each failure is a `UserError` of one line with the remedy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    get_args,
    get_origin,
    get_type_hints,
)

from minivim.errors import UserError


def require(condition: bool, message: str) -> None:
    """Raise `UserError` with this message unless the condition holds."""
    if not condition:
        raise UserError(message)


class Rule(NamedTuple):
    """A condition on a value, its words, and a remedy for fields without a default."""

    holds: Callable[[Any], bool]
    says: str
    remedy: str


class Divides(NamedTuple):
    """The value divides that of another field."""

    other: str


def multiple_of(number: int) -> Rule:
    """The value is a multiple of this number."""
    return Rule(
        lambda x: x % number == 0, f"must be a multiple of {number}", f"{number}"
    )


Count = Annotated[int, Rule(lambda x: x > 0, "must be above zero", "N with N >= 1")]
Several = Annotated[int, Rule(lambda x: x >= 2, "is too few", "N with N >= 2")]
Natural = Annotated[int, Rule(lambda x: x >= 0, "must not be negative", "0")]
# JAX keeps the low 32 bits: two larger seeds could be one run.
Seed = Annotated[int, Rule(lambda x: 0 <= x < 2**32, f"is not in 0..{2**32 - 1}", "0")]
Positive = Annotated[float, Rule(lambda x: x > 0, "must be above zero", "1e-4")]
NotNegative = Annotated[float, Rule(lambda x: x >= 0, "must not be negative", "0")]
# Of dropout and of moving averages; a share of a whole.
Rate = Annotated[float, Rule(lambda x: 0 <= x < 1, "is not in [0, 1)", "0.1")]
Share = Annotated[float, Rule(lambda x: 0 < x <= 1, "is not in (0, 1]", "1")]


class Config:
    """Base of all settings; fields are checked by the rules in their type hints.

    A `Literal` lists the words that are allowed; `Annotated` carries rules.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            name, value = field.name, getattr(self, field.name)
            hint = type_hints(type(self))[name]
            if get_origin(hint) is Literal:
                words = " or ".join(get_args(hint))
                require(
                    value in get_args(hint),
                    f"{name}={value!r} is unknown; use {words}",
                )
            for rule in getattr(hint, "__metadata__", ()):
                if isinstance(rule, Divides):
                    whole = getattr(self, rule.other)
                    require(
                        whole % value == 0,
                        f"{name}={value} does not divide {rule.other}={whole}; "
                        f"choose {name} so that it does",
                    )
                else:
                    known = field.default is not dataclasses.MISSING
                    remedy = field.default if known else rule.remedy
                    require(
                        rule.holds(value),
                        f"{name}={value} {rule.says}; set {name}={remedy}",
                    )


@cache
def type_hints(kind: type) -> dict[str, Any]:
    """Type hints of a class by field, rules included."""
    return get_type_hints(kind, include_extras=True)
