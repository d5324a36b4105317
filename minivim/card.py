"""What is known of a set of weights, kept beside a model and not in it.

What a module holds beside its arrays belongs to the program that `jit` compiles: with
the card in there, every model that is loaded would compile everything anew.
"""

import inspect
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from flax import nnx
from flax.nnx.module import ModuleMeta


@dataclass(frozen=True, eq=False)
class Card:
    """Where weights come from. Compared by identity, never by content."""

    path: str
    values: dict[str, Any] = field(repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    @property
    def labels_seen(self) -> str:
        """How labels took part in the training, "" if not; old cards tell by recipe."""
        loss = self.get("recipe", {}).get("loss")
        perceptual = isinstance(loss, dict) and loss.get("perceptual")
        return self.get("labels_seen", "a perceptual loss" if perceptual else "")


_CARDS: WeakKeyDictionary[nnx.Module, Card] = WeakKeyDictionary()


class Ours(ModuleMeta):
    """What `help` and `dir` show of a class: its own, and nothing of Flax's."""

    def __dir__(cls) -> list[str]:
        kinds = [vars(k) for k in cls.__mro__ if k.__module__.startswith("minivim")]
        shown = ("__init__", "__call__")
        return sorted({n for own in kinds for n in own if n[0] != "_" or n in shown})

    @property
    def __signature__(cls) -> inspect.Signature:
        first, *rest = inspect.signature(cls.__init__).parameters.values()
        return inspect.Signature(rest)


class Carded(nnx.Module, metaclass=Ours):
    """A module that has a card, an empty one unless it was loaded; copies have none."""

    @property
    def card(self) -> Card:
        return _CARDS.get(self, Card("", {}))

    @card.setter
    def card(self, card: Any) -> None:
        _CARDS[self] = card
