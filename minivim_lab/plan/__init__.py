"""What a recipe would cost on a slice of TPUs, as the TPU's compiler says.

The real train step is compiled for chips that are not there, and its text is read:
memory, FLOPs, traffic, communication. Nothing is run and nothing is measured.
"""

from minivim_lab.plan.answer import Plan, plan, table
from minivim_lab.plan.chips import CHIPS, Chip, Slice
from minivim_lab.plan.hlo import Costs, Traffic, costs
from minivim_lab.plan.products import product_flops
from minivim_lab.plan.program import abstract, trainable
