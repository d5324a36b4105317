"""Recipes as plain dictionaries and as `key=value` texts."""

import dataclasses
import difflib
from typing import Any, get_args

from minivim.config.checks import require, type_hints
from minivim.errors import UserError


def leaves(config: Any, prefix: str = "") -> dict[str, object]:
    """Every settable field by its dotted name."""
    found: dict[str, object] = {}
    for name, value in vars(config).items():
        below = dataclasses.is_dataclass(value)
        found |= leaves(value, f"{prefix}{name}.") if below else {prefix + name: value}
    return found


def as_dict(config: Any) -> dict[str, Any]:
    """Nested plain dictionary, ready for JSON.

    Where a field may hold several classes and the keys mean another one, such as with a
    quantizer of your own, the name of the class is added as "class".
    """
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    for name, value in values.items():
        if dataclasses.is_dataclass(value):
            values[name] = as_dict(value)
            meant = _class_of(type_hints(type(config))[name], values[name])
            if meant is not type(value):
                values[name]["class"] = type(value).__name__
    return values


def from_dict(kind: type, values: dict) -> Any:
    """Inverse of `as_dict`; raises `UserError` for a key that `kind` has not."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - {*fields, "class"})
    problem = f"{kind.__name__} has no {', '.join(unknown)}"
    remedy = "the file was written by another version of minivim, so install that one"
    require(not unknown, f"{problem}; {remedy}")
    found = {}
    for name in (name for name in values if name in fields and fields[name].init):
        value = values[name]
        if isinstance(value, dict):
            value = from_dict(_class_of(type_hints(kind)[name], value), value)
        found[name] = tuple(value) if isinstance(value, list) else value
    return kind(**found)


def _class_of(hint: Any, values: dict) -> Any:
    """The class of a field's plain values: as they name it, or the first with the keys.

    Subclasses of what the type hint names count, each after its base.
    """
    kinds: list[Any] = [k for h in get_args(hint) or (hint,) for k in _family(h)]
    kinds = [k for k in kinds if dataclasses.is_dataclass(k)]
    named = [k for k in kinds if k.__name__ == values.get("class")]
    fits = [k for k in kinds if set(values) <= {f.name for f in dataclasses.fields(k)}]
    return (named or fits or kinds)[0]


def _family(kind: Any) -> list[Any]:
    """A class and all that inherit from it."""
    return [kind, *(k for inner in kind.__subclasses__() for k in _family(inner))]


def with_overrides(recipe: Any, settings: list[str]) -> Any:
    """Apply `key=value` texts, by a last name if unique; `UserError` for any other."""
    known, changes = leaves(recipe), {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        require(bool(equals), f"--set {setting}: write it as key=value")
        found = [key] if key in known else [n for n in known if n.endswith(f".{key}")]
        one_of = f"write one of {', '.join(found)}"
        require(len(found) < 2, f"{key!r} is ambiguous; {one_of}")
        if not found:
            words = [*known, *(name.rpartition(".")[2] for name in known)]
            close = ", ".join(difflib.get_close_matches(key, words, 3, 0.5))
            hint = f"did you mean {close}?" if close else "see minivim recipes"
            raise UserError(f"{known['name']} has no setting {key!r}; {hint}")
        changes[found[0]] = _parsed(found[0], text, known[found[0]])
    return _replaced(recipe, changes)


def _replaced(config: Any, changes: dict[str, Any], prefix: str = "") -> Any:
    """The config with changes by dotted name, checked once all of them are made."""
    found = {}
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            found[name] = _replaced(value, changes, f"{prefix}{name}.")
        elif f"{prefix}{name}" in changes:
            found[name] = changes[prefix + name]
    return dataclasses.replace(config, **found)


def _parsed(key: str, text: str, old: Any) -> object:
    """`text` as a value of the type that the setting has."""
    if isinstance(old, tuple):
        words = text.strip("()[] ").split(",")
        return tuple(_parsed(key, word.strip(), 0) for word in words if word.strip())
    kind = type(old)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        words = {bool: "true or false", int: "a whole number", float: "a number"}
        raise UserError(f"{key}={text} is not {words[kind]}") from None
