"""Files that a stranger made or an accident left, given to `minivim convert`."""

import argparse
import json
import os
import pickle
import random
import sys
import time
import types
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from minivim import cli
from minivim.errors import UserError
from minivim_lab.convert import read_state_dict, tokenizer_from_torch
from tests.tiny import message
from tests.tokenizer.test_convert import random_state

ONE = torch.ones(2, 2)
EMBED, BOOK = "encoder.to_patch_embedding.0.weight", "quantizer.embedding.weight"


class Shell:
    """Runs a command where a file is read as a pickle."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def holding(content, **how):
    """Content, or what makes it, as `torch.save` writes it."""

    def write(path):
        made = content() if isinstance(content, types.FunctionType) else content
        torch.save(made, path, **how)

    return write


def with_state(change):
    """A whole model, changed."""

    def write(path):
        state = random_state()
        change(state)
        torch.save(state, path)

    return write


def put(name, make):
    return with_state(lambda state: state.update({name: make(state[name])}))


def archive(pickled, compression=zipfile.ZIP_STORED, extra=0):
    def write(path):
        with zipfile.ZipFile(path, "w", compression) as file:
            file.writestr("a/data.pkl", pickled)
            file.writestr("a/version", "3\n")
            for i in range(extra):
                file.writestr(f"a/data/{i}", "")

    return write


def header(text, claims=None):
    def write(path):
        data = text.encode()
        path.write_bytes((claims or len(data)).to_bytes(8, "little") + data)

    return write


def loop():
    inner = {}
    inner["state_dict"] = inner
    return inner


MANY = dict.fromkeys(map(str, range(10**6)), 0)


def many_in_the_old_format(path):
    start = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in (*start, MANY)))


def cut(path):
    holding(random_state())(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def legacy(change):
    """The format before 2020, changed."""

    def write(path):
        torch.save({"a": ONE}, path, _use_new_zipfile_serialization=False)
        path.write_bytes(change(path.read_bytes()))

    return write


HEADER = '{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, %s]}}'
CASES = {
    "integer keys": (holding({3: ONE}), "3 of type Tensor, not arrays by name"),
    "tuples as keys": (holding({(1, 2): ONE}), "(1, 2) of type Tensor, not arrays"),
    "a long name": (holding({"a" * 10**5: ONE}), "aaa of type Tensor, not arrays"),
    "lines in a name": (holding({"a\nb": ONE}), r"'a\nb' is in no known layout"),
    "numbers": (holding({"a": 1}), "'a' of type int, not arrays by name"),
    "a list": (holding([ONE]), "no arrays by name"),
    "nested": (holding({"model": {"a": {"b": ONE}}}), "'a' of type dict"),
    "itself": (holding(loop()), "'state_dict' of type dict"),
    "nothing": (holding({}), "'no encoder' is in no known layout"),
    "sparse": (holding({"a": ONE.to_sparse()}), "holds 'a', no dense array"),
    "csr": (holding(lambda: {"a": ONE.to_sparse_csr()}), "no dense array"),
    "quantised": (
        holding(lambda: {"a": torch.quantize_per_tensor(ONE, 0.1, 0, torch.qint8)}),
        "holds 'a', no dense array",
    ),
    "meta": (holding({"a": torch.ones(2, device="meta")}), "no dense array"),
    "parts": (holding(lambda: {"a": torch.nested.nested_tensor([ONE])}), "no dense"),
    "complex": (put(EMBED, lambda x: x * 1j), f"'{EMBED}' holds complex64, not"),
    "integers": (put(EMBED, lambda x: x.long()), f"'{EMBED}' holds int64, not"),
    "booleans": (put("pre_quant.bias", lambda x: x > 0), "bias' holds bool, not"),
    "NaN": (put(EMBED, lambda x: x * np.nan), f"'{EMBED}' has NaN or infinity"),
    "infinity": (put(EMBED, lambda x: x / 0), f"'{EMBED}' has NaN or infinity"),
    "overflow": (put(EMBED, lambda x: x.double() * 1e300), "has NaN or infinity"),
    "no number": (put("pre_quant.bias", lambda x: x[:0]), "has shape 0, not 8"),
    "one number": (put(EMBED, lambda x: x.sum()), "has shape (), not ?x?x?x?"),
    "of other rank": (put("decoder.transformer.layers.0.1.fn.net.0.bias", torch.sum),
                      "has shape (), not ?"),
    "besides": (with_state(lambda s: s.update(more=ONE)), "such as 'more'"),
    "missing": (with_state(lambda s: s.pop("post_quant.bias")), "no 'post_quant.bias'"),
    "a module": (holding(torch.nn.Linear(2, 2)), "linear.Linear, which"),
    "a shell": (holding({"a": ONE, "b": Shell()}), "it could run posix.system"),
    "an old shell": (holding(Shell(), _use_new_zipfile_serialization=False),
                     "posix.system, which weights_only=True refuses"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps(Shell(), 2)),
                 "it could run posix.system"),
    "NumPy": (holding({"a": np.ones(2)}), "_reconstruct, which"),
    "expanded": (holding({"a": torch.ones(1).expand(10**6, 10**6)}),
                 "more numbers are claimed than"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "garbage": (lambda path: path.write_bytes(random.Random(0).randbytes(9999)),
                "cannot be read"),
    "cut": (cut, "cannot be read"),
    "an old file, cut": (legacy(lambda b: b[:-9]), "cannot be read"),
    "an old file that claims": (
        legacy(lambda b: b.replace(b"K\x04N", b"\x8a\x05\0\0\0\0\x10N")),
        "cannot be read",
    ),
    "deep": (archive(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."),
             "no arrays by name"),
    "bytes, 2 GB": (
        archive(b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."),
        "it holds more than arrays",
    ),
    "text of 4 GB": (archive(b"\x80\x02X\xff\xff\xff\xffa."), "cannot be read"),
    "a zip bomb": (archive(bytes(10**8), zipfile.ZIP_DEFLATED), "is compressed"),
    "a large pickle": (archive(bytes(10**7)), "more names than any model"),
    "many files": (archive(b"\x80\x02}.", extra=40_000), "more names than any model"),
    "many names": (lambda p: archive(pickle.dumps(MANY, 2))(p), "more names than"),
    "many names, old": (many_in_the_old_format, "more names than any model"),
    "another zip": (archive(b""), "cannot be read"),
}  # fmt: skip
SAFE = {
    "cut": (lambda p: save_file({"a": ONE}, p) or p.write_bytes(p.read_bytes()[:-1]),
            "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "a torch file": (holding({"a": ONE}), "cannot be read"),
    "a header of 10^18": (header("{}", 10**18), "more names than any model"),
    "a size of 10^12": (header(HEADER % (10**12, 4 * 10**12)), "cannot be read"),
    "a size below 0": (header(HEADER % (-1, 4)), "cannot be read"),
    "no JSON": (header("{" * 1000), "cannot be read"),
    "many names": (lambda p: header(json.dumps(MANY))(p), "more names than any model"),
    "integers": (lambda p: save_file({EMBED: ONE, BOOK: ONE.int()}, p), "holds int32"),
    "a matrix": (lambda p: save_file({EMBED: ONE, BOOK: -ONE}, p), "has shape 2x2"),
    "no array": (lambda p: save_file({}, p), "'no encoder' is in"),
}  # fmt: skip
BOTH = [(case, "weights.pt") for case in CASES]
BOTH += [(case, "weights.safetensors") for case in SAFE]


@pytest.mark.parametrize(("case", "name"), BOTH, ids=lambda text: text)
def test_one_line_and_no_more(case, name, tmp_path, monkeypatch, capsys):
    write, words = (CASES if name.endswith("pt") else SAFE)[case]
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(action="ignore"):
        write(tmp_path / name)
    began = time.process_time()
    assert cli.main(["convert", "vit-vqgan", name, "--out", "out"]) == 2
    assert time.process_time() - began < 5
    shown = capsys.readouterr()
    assert not shown.out and shown.err.count("\n") == 1 and len(shown.err) < 1000
    assert words in shown.err
    assert {path.name for path in tmp_path.iterdir()} == {name}


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_what_is_no_file(name, tmp_path):
    """Neither of these may be waited for, nor read to an end that never comes."""
    path = tmp_path / name
    os.mkfifo(path)
    assert "it is no regular file" in message(lambda: read_state_dict(path))
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "it is no regular file" in message(lambda: read_state_dict(path))
    path.unlink()
    path.mkdir()
    assert "it is no regular file" in message(lambda: read_state_dict(path))
    path.rmdir()
    path.symlink_to(path)
    assert "there is no file" in message(lambda: read_state_dict(path))


class ModelCheckpoint:
    """What Lightning names as a key of its checkpoints."""


@pytest.mark.parametrize("old", [False, True])
def test_what_public_checkpoints_hold_besides(old, tmp_path, monkeypatch):
    """Two classes by name; they are not imported, nor is anything of theirs run."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = ModelCheckpoint
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    ModelCheckpoint.__module__ = module.__name__
    whole = {
        "callbacks": {ModelCheckpoint: {"best": torch.tensor(1.0)}},
        "args": argparse.Namespace(lr=1e-4),
        "state_dict": {"a": ONE, "count": torch.tensor(3)},
    }
    torch.save(whole, tmp_path / "a.ckpt", _use_new_zipfile_serialization=not old)
    monkeypatch.undo()
    found = read_state_dict(tmp_path / "a.ckpt")
    assert found["a"].dtype == np.float32 and found["count"].dtype == np.int64


@pytest.mark.parametrize("kind", ["safetensors", "zip", "old"])
def test_changed_bytes_are_read_or_refused(kind, tmp_path):
    """500 files with a few bytes changed, removed or added, most where names are."""
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pt")
    state = {EMBED: torch.ones(4, 3, 2, 2), "b": torch.ones(3, dtype=torch.int64)}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            change = rng.randrange(4)
            if change == 0:
                data[at : at + rng.randint(1, 40)] = b""
            elif change == 1:
                data[at:at] = rng.randbytes(rng.randint(1, 9))
            else:
                data[at] = rng.randrange(256)
        path.write_bytes(data)
        try:
            tokenizer_from_torch(read_state_dict(path))
        except UserError as error:
            refused += "\n" not in " ".join(str(error).split())
    assert refused == 500


def test_changed_models_are_refused_or_converted():
    """Arrays of other shapes, types, values or names: no other exception."""
    rng, state = random.Random(0), {k: v.numpy() for k, v in random_state().items()}
    changes = [
        lambda x: x[:-1], lambda x: x[..., :0], lambda x: x[None], lambda x: x.T,
        lambda x: x.ravel(), lambda x: x.sum(), lambda x: x.astype(int),
        lambda x: x * np.nan, lambda x: x * 1e30, lambda x: np.zeros((0,) * x.ndim),
        lambda x: np.concatenate([x, x]), lambda x: x[..., :1],
    ]  # fmt: skip
    for _ in range(30):
        changed = dict(state)
        for name in rng.sample(list(state), rng.randint(1, 2)):
            changed[name] = np.asarray(rng.choice(changes)(changed[name]))
            if rng.random() < 0.1:
                changed[rng.choice([name.upper(), name + ".0"])] = changed.pop(name)
        with warnings.catch_warnings(action="ignore"):
            try:
                tokenizer_from_torch(changed)
            except UserError:
                continue
