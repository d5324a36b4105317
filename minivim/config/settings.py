"""Recipes as plain dictionaries and as `key=value` texts."""

import dataclasses
import difflib
from typing import Any, get_args

from minivim.config.checks import KINDS, require, type_hints
from minivim.config.models import AnyQuantizerConfig, QuantizerConfig
from minivim.errors import UserError

# Settings of one's own by the name on cards; `minivim.register` adds to them.
REGISTERED: dict[str, type] = {}


def leaves(config: Any, prefix: str = "") -> dict[str, object]:
    """Every settable field by its dotted name."""
    found: dict[str, object] = {}
    for name, value in vars(config).items():
        below = dataclasses.is_dataclass(value)
        found |= leaves(value, f"{prefix}{name}.") if below else {prefix + name: value}
    return found


def as_dict(config: Any) -> dict[str, Any]:
    """Nested plain dictionary, ready for JSON.

    Settings of one's own carry the name they are registered by as "class".
    """
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    for name, value in values.items():
        if dataclasses.is_dataclass(value):
            values[name] = as_dict(value)
            if type(value) is not _built_in(type_hints(type(config))[name], value):
                values[name]["class"] = registered_name(type(value))
    return values


def from_dict(kind: type, values: dict) -> Any:
    """Inverse of `as_dict`; raises `UserError` for a key that `kind` has not."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - {*fields, "class"})
    problem = f"{kind.__name__} has no {', '.join(unknown[:3])}"
    remedy = "the file was written by another version of minivim, so install that one"
    require(not unknown, f"{problem}; {remedy}")
    found = {}
    for name in (name for name in values if name in fields and fields[name].init):
        value = values[name]
        if isinstance(value, dict) and (of := _class_of(type_hints(kind)[name], value)):
            value = from_dict(of, value)
        found[name] = tuple(value) if isinstance(value, list) else value
    return kind(**found)


def registered_name(kind: type) -> str:
    """The name on cards of settings of one's own; raises `UserError` if it has none."""
    names = [name for name, known in REGISTERED.items() if known is kind]
    remedy = f"call minivim.register(NAME, {kind.__name__}, MODULE) after defining it"
    require(names, f"{kind.__name__} is not registered, or was replaced; {remedy}")
    return names[0]


def registered_names(config: Any) -> list[str]:
    """The names of all settings of one's own within a config."""
    if not dataclasses.is_dataclass(config):
        return []
    own = [name for name, kind in REGISTERED.items() if kind is type(config)]
    return own + [n for part in vars(config).values() for n in registered_names(part)]


def _class_of(hint: Any, values: dict) -> Any:
    """The class of a field's plain values: the one they name, or a built-in one."""
    if (name := values.get("class")) is None:
        return _built_in(hint, values)
    told = f"{name!r} is registered by no module that was imported"
    remedy = "import the module that registers it, on the command line by --import"
    require(name in REGISTERED, f"{told}; {remedy}")
    return REGISTERED[name]


def _built_in(hint: Any, values: Any) -> Any:
    """Of the classes a field is declared to hold, the one with these keys or fields."""
    declared = get_args(hint) or (hint,)
    kinds = [QuantizerConfig if k is AnyQuantizerConfig else k for k in declared]
    kinds = [k for k in kinds if dataclasses.is_dataclass(k)]
    keys = set(values if isinstance(values, dict) else vars(values))
    fits = [k for k in kinds if keys <= {f.name for f in dataclasses.fields(k)}]
    return next(iter(fits or kinds), None)


def with_overrides(recipe: Any, settings: list[str]) -> Any:
    """Apply `key=value` texts, by a last name if unique; `UserError` for any other."""
    known, changes = leaves(recipe), {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        require(equals, f"--set {setting}: write it as key=value")
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
        raise UserError(f"{key}={text} {KINDS[kind].says}") from None
