"""Images: the embedded shapes, your own, and batches of either."""

from minivim.data.arrays import ArraySource, unit_images
from minivim.data.base import Batch, Source
from minivim.data.check import checked
from minivim.data.codes import CodesCard, CodeSource, is_codes, open_codes, write_codes
from minivim.data.loader import BatchIterator, batches, in_order, padded, stack
from minivim.data.pixels import pixel_rule
from minivim.data.sources import (
    DataSpec,
    announce,
    open_source,
    open_stream,
    require_labels,
)
from minivim.data.streams import CAVEAT, Stream, StreamIterator
