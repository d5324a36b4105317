"""Checks that a setting is possible; each failure is a line with the remedy."""

from __future__ import annotations

from minivim.errors import UserError


def require(condition: bool, message: str) -> None:
    """Raise `UserError` with this message unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_in(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """The value must be one of these words."""
    require(
        value in allowed, f"{name}={value!r} is unknown; use {' or '.join(allowed)}"
    )


def require_positive(config: object, *names: str) -> None:
    """These fields must be above zero."""
    for name in names:
        value = getattr(config, name)
        require(
            value > 0, f"{name}={value} must be above zero; set {name}=N with N >= 1"
        )


def require_not_negative(config: object, *names: str) -> None:
    """These fields must be zero or above."""
    for name in names:
        value = getattr(config, name)
        require(value >= 0, f"{name}={value} must not be negative; set {name}=0")


def require_share(config: object, *names: str) -> None:
    """These fields must be above zero and at most one."""
    for name in names:
        value = getattr(config, name)
        require(0 < value <= 1, f"{name}={value} is not in (0, 1]; use 1 for all")
