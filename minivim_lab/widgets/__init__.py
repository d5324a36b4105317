"""Pictures that move: explorers and the token editor, and the curves of the studies."""

from minivim_lab.widgets.compare import bands, dots, seeds
from minivim_lab.widgets.curves import curves
from minivim_lab.widgets.editor import TokenEditor
from minivim_lab.widgets.explorer import Explorer, Live, live

__all__ = [
    "Explorer",
    "Live",
    "TokenEditor",
    "bands",
    "curves",
    "dots",
    "live",
    "seeds",
]
