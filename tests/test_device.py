"""The script for an accelerator, on a CPU at the size of a toy."""

import json
import subprocess
import sys

import pytest

from tests import tiny


@pytest.mark.slow
def test_the_script_measures_steps_and_samples(tmp_path):
    out = tmp_path / "device.json"
    command = [
        sys.executable, "-m", "benchmarks.device", "--recipe", "shapes", "--batch", "4",
        "--samples", "2", "--repetitions", "1", "--out", str(out), "--set", *tiny.SIZES,
    ]  # fmt: skip
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    report = json.loads(out.read_text())
    kernel, written, drawn = report["rows"]
    assert kernel["seconds"] > 0 and written["temporaries_gb"] > 0
    assert drawn["tokens_per_second"] == 2 * 64 / drawn["seconds"]
    assert "attention written" in said and kernel["mfu"] is None
