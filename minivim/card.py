"""What is known of a set of weights, kept beside a model and not in it.

What a module holds beside its arrays belongs to the program that `jit` compiles: with
the card in there, every model that is loaded would compile everything anew.
"""

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from flax import nnx


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


class Carded(nnx.Module):
    """A module that has a card, an empty one unless it was loaded; copies have none."""

    @property
    def card(self) -> Card:
        return _CARDS.get(self, Card("", {}))

    @card.setter
    def card(self, card: Any) -> None:
        _CARDS[self] = card
