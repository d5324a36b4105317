"""Every train step on eight devices and in two processes equals one device."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from minivim.training import read_metrics
from tests import tiny

MESHES = {
    "data": "data=8",
    "fsdp": "data=1,fsdp=8",
    "tensor": "data=1,tensor=8",
    "mixed": "data=2,fsdp=2,tensor=2",
}
# tests/sharding/compare.py says what they are.
QUICK = ("adversarial", "fly")
REST = ("tokenizer", "statistics", "perceptual", "cnn", "prior", "parts", "classifier")
TOLERANCE = {"64": 1e-10, "32": 1e-4}


def check(bits, meshes, names):
    done = subprocess.run(
        [sys.executable, "-m", "tests.sharding.compare", bits,
         "/".join(MESHES[mesh] for mesh in meshes), *names],
        capture_output=True, text=True, check=False,
        # Dozens of programs that run twenty times: most of the time is compiling.
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    expected = {(name, MESHES[mesh]) for name in names for mesh in meshes}
    assert {(row["name"], row["mesh"]) for row in found} == expected
    for row in found:
        assert row["type"] == f"float{bits}"
        assert row["moved"] > 0.01, row  # else equality would show nothing
        # A classifier of convolutions alone has nothing that tensor parallelism splits.
        whole = MESHES["data"], *([MESHES["tensor"]] * (row["name"] == "classifier"))
        assert (row["split"] > 0) == (row["mesh"] not in whole), row
        assert row["state"] < TOLERANCE[bits], row
        assert row["metrics"] < TOLERANCE[bits], row


def test_two_steps_on_a_mixed_mesh():
    check("64", ["mixed"], QUICK)


def test_a_kernel_of_attention_on_eight_devices_trains_as_the_written_form():
    check("32", ["mixed"], ["kernel"])


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "meshes"), [("64", [*MESHES]), ("32", ["mixed"])])
def test_every_step_on_every_mesh(bits, meshes):
    check(bits, meshes, QUICK + REST)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_two_processes_equal_one(tmp_path):
    """The command itself: a batch read in two halves, parameters split over both."""
    pictures = tiny.pictures(tmp_path / "pictures")
    quiet = {"JAX_PLATFORMS": "cpu", "MINIVIM_RESTARTED": "1"}

    def start(folder, *options, **variables):
        return subprocess.Popen(
            [sys.executable, "-m", "minivim", "train", "tokenizer", "shapes", "--quiet",
             "--data", str(pictures), "--workdir", str(tmp_path / folder), *options,
             "--set", *tiny.TOKENIZER_SETTINGS, "flip=true"],
            env={**os.environ, **quiet, **variables},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    address = f"127.0.0.1:{free_port()}"
    pair = [
        start(
            "pair", "--distributed", "--mesh", "fsdp=2",
            JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=i,
        )
        for i in "01"
    ]  # fmt: skip
    output = [process.communicate()[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], output
    assert "weights:" in output[0] and "weights:" not in output[1]
    one = start("one")
    text, _ = one.communicate()
    assert one.returncode == 0, text
    rows, again = (read_metrics(tmp_path / name) for name in ("one", "pair"))
    assert [row["step"] for row in rows] == [row["step"] for row in again]
    for row, other in zip(rows, again, strict=True):
        for name in row.keys() - {"steps_per_second"}:
            np.testing.assert_allclose(row[name], other[name], rtol=1e-4, atol=1e-5)
    weights, others = (
        load_file(tmp_path / name / "model.safetensors") for name in ("one", "pair")
    )
    for name, value in weights.items():
        # Six steps of at most 1e-3; a key's bias has no gradient but rounding.
        limit = 1e-2 if name.endswith("qkv.bias") else 1e-4
        np.testing.assert_allclose(others[name], value, atol=limit, err_msg=name)
