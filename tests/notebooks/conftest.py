"""The runner of the chapters, which is a script beside them and in no package."""

import importlib.util
from pathlib import Path

import pytest

from book import colab

ADDRESS = colab.address()
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


@pytest.fixture(scope="session")
def runner():
    """The module notebooks/run.py."""
    spec = importlib.util.spec_from_file_location("run", NOTEBOOKS / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def without_address(monkeypatch):
    """Chapters of tests have no cell for Colab, whether ours have one or not."""
    monkeypatch.setattr(colab, "address", lambda: "")
