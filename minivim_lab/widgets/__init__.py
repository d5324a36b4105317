"""Pictures that move: explorers and the token editor, and the curves of the studies."""

from minivim_lab.widgets.compare import bands, curves, dots, seeds
from minivim_lab.widgets.editor import TokenEditor
from minivim_lab.widgets.explorer import Explorer, Live, live
from minivim_lab.widgets.generator import generator
