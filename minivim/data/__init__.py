"""Images: the embedded shapes, your own, and batches of either."""

from minivim.data.loader import ArraySource, Batch, Source, batches, stack
from minivim.data.sources import open_source, require_labels

__all__ = [
    "ArraySource",
    "Batch",
    "Source",
    "batches",
    "open_source",
    "require_labels",
    "stack",
]
