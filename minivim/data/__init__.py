"""Images: the embedded shapes, your own, and batches of either."""

from minivim.data.codes import (
    CodeRows,
    CodesCard,
    CodeSource,
    is_codes,
    open_codes,
    write_codes,
)
from minivim.data.loader import (
    ArraySource,
    Batch,
    BatchIterator,
    Source,
    batches,
    in_order,
    padded,
    stack,
)
from minivim.data.pixels import pixel_rule
from minivim.data.sources import open_source, open_stream, require_labels
from minivim.data.streams import CAVEAT, Stream, StreamIterator

__all__ = [
    "CAVEAT",
    "ArraySource",
    "Batch",
    "BatchIterator",
    "CodeRows",
    "CodeSource",
    "CodesCard",
    "Source",
    "Stream",
    "StreamIterator",
    "batches",
    "in_order",
    "is_codes",
    "open_codes",
    "open_source",
    "open_stream",
    "padded",
    "pixel_rule",
    "require_labels",
    "stack",
    "write_codes",
]
