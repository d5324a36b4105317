"""Recipes as plain dictionaries and as `key=value` texts."""

from __future__ import annotations

import dataclasses
import difflib
import typing

from minivim.config.checks import require
from minivim.config.runs import Recipe
from minivim.errors import UserError


def leaves(config: object, prefix: str = "") -> dict[str, object]:
    """Every settable field by its dotted name."""
    found: dict[str, object] = {}
    for item in dataclasses.fields(config):  # type: ignore[arg-type]
        value, name = getattr(config, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            found |= leaves(value, f"{name}.")
        elif item.init:
            found[name] = value
    return found


def as_dict(config: object) -> dict[str, object]:
    """Nested plain dictionary, ready for JSON."""
    return dataclasses.asdict(config)  # type: ignore[call-overload]


def from_dict(kind: type, values: dict) -> object:
    """Inverse of `as_dict`; raises `UserError` for a key that `kind` has not."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    require(
        not unknown,
        f"{kind.__name__} has no {', '.join(unknown)}; the file was written by another "
        "version of minivim, so install that one",
    )
    return kind(
        **{
            name: _from_plain(hints[name], value)
            for name, value in values.items()
            if fields[name].init
        }
    )


def _from_plain(hint: typing.Any, value: typing.Any) -> object:
    """A field's value from JSON: a dataclass, one of several, or a tuple from a list.

    Of several dataclasses, subclasses among them, it is the first that has all keys.
    """
    if isinstance(value, list):
        return tuple(value)
    hints = [h for h in typing.get_args(hint) or (hint,) if isinstance(h, type)]
    kinds = [k for h in hints for k in (h, *type.__subclasses__(h))]
    kinds = [k for k in kinds if dataclasses.is_dataclass(k)]
    if not kinds or not isinstance(value, dict):
        return value
    fits = [k for k in kinds if set(value) <= {f.name for f in dataclasses.fields(k)}]
    return from_dict((fits or kinds)[0], value)  # type: ignore[arg-type]


def with_overrides(recipe: Recipe, settings: list[str]) -> Recipe:
    """Apply `key=value` texts; a bare last name will do where it is unique.

    Raises `UserError` for an unknown or ambiguous key or a value of the wrong type.
    """
    known = leaves(recipe)
    values = as_dict(recipe)
    for setting in settings:
        key, equals, text = setting.partition("=")
        require(bool(equals), f"--set {setting}: write it as key=value")
        matches = [n for n in known if n == key or n.endswith(f".{key}")]
        matches = [key] if key in known else matches
        if not matches:
            close = difflib.get_close_matches(key, [*known, *_last(known)], 3, 0.5)
            hint = (
                f"did you mean {', '.join(close)}?" if close else "see minivim recipes"
            )
            raise UserError(f"{recipe.name} has no setting {key!r}; {hint}")
        require(
            len(matches) == 1,
            f"{key!r} is ambiguous; write one of {', '.join(matches)}",
        )
        *path, last = matches[0].split(".")
        inner: typing.Any = values
        for name in path:
            inner = inner[name]
        inner[last] = _parsed(matches[0], text, known[matches[0]])
    return from_dict(type(recipe), values)  # type: ignore[return-value]


def _last(names: typing.Iterable[str]) -> list[str]:
    return [name.rsplit(".", 1)[-1] for name in names]


def _parsed(key: str, text: str, old: object) -> object:
    """`text` as a value of the type that the setting has."""
    if isinstance(old, bool):
        require(text.lower() in ("true", "false"), f"{key}={text}: write true or false")
        return text.lower() == "true"
    if isinstance(old, tuple):
        words = text.strip("()[] ").split(",")
        return tuple(_parsed(key, word.strip(), 0) for word in words if word.strip())
    for kind, words in ((int, "a whole number"), (float, "a number")):
        if isinstance(old, kind):
            try:
                return kind(text)
            except ValueError:
                raise UserError(f"{key}={text} is not {words}") from None
    return text
