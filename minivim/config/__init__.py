"""Every setting of a run as frozen dataclasses, checked before anything compiles.

Where the paper is silent, the field's comment says what was chosen and why.
"""

from minivim.config.models import (
    AnyQuantizerConfig,
    ClassifierConfig,
    CNNConfig,
    DiscriminatorConfig,
    PaletteConfig,
    PriorConfig,
    QuantizerConfig,
    StackConfig,
    TokenizerConfig,
)
from minivim.config.runs import (
    ClassifierRecipe,
    LossConfig,
    OptimConfig,
    PaletteRecipe,
    PriorRecipe,
    ProbeRecipe,
    Recipe,
    RunConfig,
    TokenizerRecipe,
)
from minivim.config.settings import as_dict, from_dict, leaves, with_overrides
