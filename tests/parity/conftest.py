"""What lpips and pytorch-fid need where torchvision does not fit its torch."""

import importlib
import sys

import pytest


@pytest.fixture(scope="session")
def torchvision():
    """The package, its compiled operators declared if they are not there.

    They are missing where torch and torchvision come from different builds; lpips and
    pytorch-fid import the package and use none of them.
    """
    torch = pytest.importorskip("torch")
    try:
        yield importlib.import_module("torchvision")
        return
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(
            f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    yield pytest.importorskip("torchvision")
    del operators
