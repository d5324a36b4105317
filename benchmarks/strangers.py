"""`python -m benchmarks.strangers --cases 50000 --seed 0`: what others left, mutated.

Cards, weights, records of codes and runs, tables of labels, parquet files and saved
datasets are changed at random: keys dropped and renamed, values of other types and of
extreme sizes, bytes flipped, ends cut off. Each has to become a working model or data
set or a `UserError` of one line, within 5 s of processor time and 1 GB of memory.
Processes do it, so that one that dies or hangs is noticed; what went wrong is kept in
`--keep`. Every case has a number, from which it can be made again (`--case`).
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from flax import nnx
from PIL import Image

from benchmarks.pictures import FORK, LATE, supervised
from minivim import data, weights
from minivim.config import ClassifierConfig, QuantizerConfig, as_dict
from minivim.errors import UserError
from minivim.prior.model import class_names, knows_null
from minivim.tokenizer.perceptual import PerceptualConfig
from minivim.training import Workdir, read_metrics, train_seconds
from minivim_lab.tables import markdown_table
from tests import tiny
from tests.tokenizer.fsq import FSQConfig

OUTCOMES = ("untried", "works", "refused", "WRONG", "DIED", "TOO LONG", "TOO LARGE")
WORKS, REFUSED, WRONG, LARGE = 1, 2, 3, 6
BAD = OUTCOMES[WRONG:]
SECONDS, HANGS = 5, 60  # of the processor, on the clock: the machine may be busy
MEMORY, ROOM = 1 << 30, 4 << 30  # that a case may add, and addresses it may ask for
LONGEST = 4_000  # characters of a message
DEEP = [json.loads("[" * levels + "]" * levels) for levels in (300, 800)]
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 4, 7, 64, 255, 2**15, 2**31 - 1, 2**31, 10**9,
    2**62, 2**64, 10**30, -(10**9), 10**400, 2.0, 0.5, -0.0, 1e-320, 1e-30, 1e30, 1e308,
    float("nan"), float("inf"), float("-inf"), "", "3", "train", "tokenizer", "a/b",
    "\0", "a\nb", "\x1b[31m\r", "a\u2028b\x85c", "\ud800", "naïve 漢字", "x" * 5_000,
    "../" * 20, "/dev/zero", "~", [], {}, [[]], [1, 2, 3], [None], ["a", 1], *DEEP,
    [2] * 3_000, {"a": {"b": [{}]}}, {"class": "fsq"}, {"class": "StackConfig"},
)  # fmt: skip
DTYPES = ("F16", "BF16", "F32", "F64", "I8", "BOOL", "U64", "F8_E4M3", "F4", "C64", "")
CELLS: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63 - 1, -(2**63), 0.5, 2.0, 1e308, float("nan"), "",
    "a\nb", "\0", "x" * 200_000, "0.png", "../0.png", "/dev/zero", b"", b"\xff\xfe",
    b"GIF89a", [1], [], ["a"], {"bytes": None, "path": None}, {"path": "/etc/passwd"},
    {"bytes": b"no", "path": "a"}, {"name": "a"}, {"a": [{"b": None}]}, [[0.5]],
)  # fmt: skip


# What is not mutated


def made(folder: Path) -> None:
    """The undamaged seeds, a folder each."""
    rng = np.random.default_rng(0)
    models(folder)
    pixels = rng.integers(0, 256, (24, 8, 8, 3), np.uint8)
    names = [f"{i}.png" for i in range(24)]
    for name in ("csv", "tsv", "jsonl", "txt", "parquet"):
        (folder / f"labels-{name}").mkdir()
        for file, image in zip(names, pixels, strict=True):
            Image.fromarray(image).save(folder / f"labels-{name}" / file)
    rows = [(file, "cat" if i % 3 else "dog") for i, file in enumerate(names)]
    for name, mark in (("csv", ","), ("tsv", "\t"), ("txt", " ")):
        lines = [mark.join(row) for row in [("file_name", "label"), *rows]]
        file = folder / f"labels-{name}" / f"metadata.{name}"
        file.write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"file_name": file, "label": label}) for file, label in rows]
    (folder / "labels-jsonl" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    tables(folder, rows)
    records(folder)


def models(folder: Path) -> None:
    """The smallest model of each kind, with parameters from NumPy."""
    judge = partial(ClassifierConfig, num_classes=3, width=4)
    ema = QuantizerConfig(num_codes=24, code_dim=4, codebook="ema", revive_after=3)
    cnn = tiny.replace(tiny.TOKENIZER, encoder=tiny.CNN, decoder=tiny.CNN)
    fsq = tiny.replace(tiny.TOKENIZER, quantizer=FSQConfig(levels=(3, 4)))
    plan: dict[str, tuple[str, Any]] = {
        "vit": ("tokenizer", tiny.TOKENIZER),
        "ema": ("tokenizer", tiny.replace(tiny.TOKENIZER, quantizer=ema)),
        "fsq": ("tokenizer", fsq),
        "cnn": ("tokenizer", cnn),
        "prior": ("prior", tiny.PRIOR),
        "unlabelled": ("prior", tiny.replace(tiny.PRIOR, num_classes=0)),
        "classifier": ("classifier", judge(kind="cnn")),
        "judge": ("classifier", judge(kind="residual")),
        "palette": ("palette", tiny.PALETTE),
        "perceptual": ("perceptual", PerceptualConfig(widths=(4, 8), convs=(1, 1))),
    }  # fmt: skip
    recipe = {"label_dropout": 0.1, "loss": {"perceptual": 0.0}, "image_size": 8}
    card = {"class_names": ["a", "b", "c"], "recipe": recipe, "figures": {"nll": 0.5}}
    for name, (kind, config) in plan.items():
        graph, state = nnx.split(weights.abstract(kind, config))
        rng = np.random.default_rng(0)
        leaves = [
            (path, leaf.replace(rng.normal(size=leaf.shape).astype(leaf.dtype)))
            for path, leaf in nnx.to_flat_state(state)
        ]
        model = nnx.merge(graph, nnx.from_flat_state(leaves))
        told = dict(card)
        if kind == "prior":
            known = weights.weights_hash(weights.load(folder / "vit"))
            told |= {"tokenizer": str(folder / "vit"), "tokenizer_hash": known}
        weights.save(folder / name, model, card=told)


def tables(folder: Path, rows: list[tuple[str, str]]) -> None:
    """Pictures in parquet files and in saved datasets, labels in a parquet file."""
    import datasets

    names, labels = zip(*rows, strict=True)
    table = pa.table({"file_name": names, "label": labels})
    pq.write_table(table, folder / "labels-parquet" / "metadata.parquet")
    pictures = [
        {"bytes": (folder / "labels-csv" / name).read_bytes(), "path": name}
        for name in names
    ]
    for name in ("parquet", "parquet-classes"):
        (folder / name).mkdir()
    kinds: Any = {"image": datasets.Image()}
    texts = datasets.Features(kinds | {"label": datasets.Value("string")})
    classes = datasets.ClassLabel(names=["cat", "dog"])
    known = datasets.Features(kinds | {"label": classes})
    made = datasets.Dataset.from_dict({"image": pictures, "label": labels}, texts)
    made.to_parquet(folder / "parquet" / "train.parquet")
    made = made.cast(known)
    made.to_parquet(folder / "parquet-classes" / "train.parquet")
    made.save_to_disk(folder / "saved")
    parts = {"train": made, "test": made.select(range(6))}
    datasets.DatasetDict(parts.items()).save_to_disk(folder / "saved-splits")


def records(folder: Path) -> None:
    """Codes, and what a run's folder holds before its first checkpoint."""
    card: dict[str, Any] = {
        "tokenizer": "x", "tokenizer_hash": "y", "num_codes": 24, "grid": 2,
        "data": "d", "fingerprint": "f",
    }  # fmt: skip
    rng = np.random.default_rng(0)
    for name, shape in (("codes", (24, 4)), ("codes-views", (24, 2, 4))):
        own = data.CodesCard(**card, views=len(shape) - 1)
        codes = rng.integers(0, 24, shape, np.int32)
        batch = {"codes": codes, "label": np.arange(24, dtype=np.int32) % 3}
        splits = {split: ([batch], ("a", "b", "c")) for split in ("train", "test")}
        data.write_codes(folder / name, splits, own)
    row = {"loss": 1.5, "usage": 0.5, "counts": [1, 2], "lr": 1e-3}
    lines = [
        json.dumps({"step": step, **row, "steps_per_second": 12.5})
        for step in range(2, 22, 2)
    ]
    for name in ("run", "metrics"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").touch()  # It has finished.
        (folder / name / "run.json").write_text(json.dumps(IDENTITY))
        (folder / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")


IDENTITY: dict[str, Any] = {
    "stage": "tokenizer", "data": "abc", "model.image_size": 8, "run.steps": 20,
    "optim.peak_lr": 0.003, "flip": False, "unreadable": ["a.png"],
}  # fmt: skip


# How it is mutated


def pick(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def fresh(rng: np.random.Generator) -> Any:
    """One of `VALUES`, of its own, since it may be changed."""
    return json.loads(json.dumps(pick(rng, VALUES)))


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths of all that is in a value of JSON, itself not counted."""
    if len(path) > 6:
        return []
    inner = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    return [p for k, v in inner for p in ((*path, k), *places(v, (*path, k)))]


def changed(value: Any, rng: np.random.Generator) -> Any:
    """A value of JSON with one thing in it dropped, renamed, swapped or replaced."""
    found = places(value)
    if not found or rng.random() < 0.02:
        return fresh(rng)
    # What decides is in a part of its own, beside much that is only told.
    weighty = [p for p in found if p[0] == "model"]
    found = weighty if weighty and rng.random() < 0.6 else found

    def holder(path: tuple) -> Any:
        inner = value
        for key in path[:-1]:
            inner = inner[key]
        return inner

    path = pick(rng, found)
    parent, key = holder(path), path[-1]
    way = rng.choice(6, p=[0.12, 0.1, 0.1, 0.08, 0.15, 0.45])
    if way == 0:
        del parent[key]
    elif way == 1 and isinstance(parent, dict):
        names = [p[-1] for p in found if isinstance(p[-1], str)]
        texts = [v for v in VALUES if isinstance(v, str)]
        parent[pick(rng, names if rng.random() < 0.5 else texts)] = parent.pop(key)
    elif way == 2:
        parent[key] = json.loads(
            json.dumps(holder(other := pick(rng, found))[other[-1]])
        )
    elif way == 3 and isinstance(parent, dict):
        parent[pick(rng, ("class", "extra", "a\nb"))] = fresh(rng)
    elif way == 4 and isinstance(parent[key], int | float) and abs(parent[key]) < 1e9:
        old = parent[key]
        parent[key] = pick(rng, (old + 1, -old, 2 * old, old / 2, f"{old}", [old]))
    else:
        parent[key] = fresh(rng)
    return value


def json_of(value: Any, rng: np.random.Generator) -> bytes:
    text = json.dumps(value, ensure_ascii=bool(rng.random() < 0.5))
    if rng.random() < 0.05 and text.startswith("{") and isinstance(value, dict):
        again = {pick(rng, [*value, "a"]): fresh(rng)}
        text = json.dumps(again)[:-1] + ", " + text[1:]  # A key twice.
    return text.encode("utf-8", "surrogatepass")


def json_mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A document, changed in its values or, seldom, in its bytes."""
    if rng.random() < 0.1:
        return bytes_mutated(data, rng)
    with suppress(ValueError, RecursionError):  # A line may be none by now.
        value = json.loads(data)
        for _ in range(pick(rng, (1, 1, 2, 3))):
            value = changed(value, rng)
        return json_of(value, rng)
    return bytes_mutated(data, rng)


def lines_mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Some documents of one line each."""
    if rng.random() < 0.1:
        return bytes_mutated(data, rng)
    lines = data.splitlines()
    for _ in range(rng.integers(1, 4)):
        row = int(rng.integers(len(lines)))
        lines[row] = json_mutated(lines[row], rng)
    return b"\n".join(lines) + b"\n"


def bytes_mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped, the end cut off, bytes put in, lengths overwritten."""
    found = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        way, at = rng.integers(5), int(rng.integers(len(found) + 1))
        if way == 0:
            for place in rng.integers(0, max(1, len(found)), rng.integers(1, 9)):
                if found:
                    found[place] ^= 1 << rng.integers(8)
        elif way == 1 and rng.random() < 0.5:
            found = found[:at]
        elif way == 2:
            found[at:at] = pick(
                rng, (b"\0", b"\n", b'"', b"\xff" * 9, found[at : at + 9])
            )
        else:
            width = int(rng.choice([1, 4, 8]))
            value = pick(rng, (0, 1, 0x7F, 0x7FFFFFFF, 2**31, 2**63 - 1, 2**64 - 1))
            new = (value % (1 << 8 * width)).to_bytes(width, "little")
            found[at : at + width] = new
    return bytes(found)


def weights_mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A file of weights, mostly in its header."""
    if rng.random() < 0.15:
        return bytes_mutated(data, rng)
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    way = rng.integers(6)
    name = pick(rng, [k for k in header if k != "__metadata__"])
    if way == 0:
        header[name]["dtype"] = pick(rng, DTYPES)
    elif way == 1:
        shape = header[name]["shape"]
        options = ([], [0], shape[::-1], [*shape, 1], [2**40] * 2, [2**62], [-1], [2.0])
        header[name]["shape"] = pick(rng, options)
    elif way == 2:
        begin, end = header[name]["data_offsets"]
        options = ([0, 4], [end, begin], [-4, 4], [begin, end + 4], [begin, 2**63])
        header[name]["data_offsets"] = pick(rng, (*options, [0], [begin, end, end]))
    elif way == 3:
        header["__metadata__"] = pick(rng, ({"a": 1}, {"a": "b\n" * 99}, fresh(rng)))
    elif way == 4:
        with suppress(RecursionError):
            header = changed(header, rng)
    else:
        values = np.frombuffer(body[: len(body) // 4 * 4], np.uint32).copy()
        odd = (0x7F800000, 0x7FC00000, 0xFF800000, 0x7F7FFFFF, 1)
        values[rng.integers(0, len(values), 3)] = pick(rng, odd)
        body = values.tobytes()
    if isinstance(header, dict) and rng.random() < 0.1:
        header |= {
            f"extra{i}": header.get(name) for i in range(int(rng.integers(2000)))
        }
    text = b"["
    with suppress(RecursionError):
        text = json_of(header, rng)
    return len(text).to_bytes(8, "little") + text + body


def text_mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A table as text: cells, marks and codings."""
    if rng.random() < 0.2:
        return bytes_mutated(data, rng)
    text = data.decode()
    if rng.random() < 0.1:
        return text.encode(pick(rng, ("utf-16", "utf-8-sig", "utf-32")))
    mark = next((m for m in "\t, " if m in text), ",")
    lines = [line.split(mark) for line in text.splitlines()]
    odd = (
        "", '"', "\0", "x" * 200_000, "a\nb", '"a\nb"', mark, "漢", "\x1b[0m", "-1",
        "1e9", "0.5", "nan", "../0.png", "/dev/zero", "0", "label", "predictionstring",
        "\u2028",
    )  # fmt: skip
    for _ in range(rng.integers(1, 6)):
        row = 0 if rng.random() < 0.3 else int(rng.integers(len(lines)))
        way, line = rng.integers(4), lines[row]
        if way == 0:
            lines[row] = line[:-1] if rng.random() < 0.5 else [*line, pick(rng, odd)]
        elif line:
            line[int(rng.integers(len(line)))] = pick(rng, odd)
    return "\n".join(map(mark.join, lines)).encode()


def cells_mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A parquet file: its bytes, or other cells, types and names of columns."""
    if rng.random() < 0.4:
        return bytes_mutated(data, rng)
    table = pq.read_table(io.BytesIO(data))
    columns = {name: table[name].to_pylist() for name in table.column_names}
    name, value = pick(rng, list(columns)), pick(rng, CELLS)
    if rng.random() < 0.4:
        columns[name] = [value] * len(table)
    else:
        columns[name][int(rng.integers(len(table)))] = value
    if rng.random() < 0.2:
        names = ("", "a\nb", "image", "label", "x" * 300, "file_name", "\0")
        columns[pick(rng, names)] = columns.pop(name)
    if rng.random() < 0.1:
        columns = {key: [] for key in columns}
    file = io.BytesIO()
    try:
        told = table.schema.metadata if rng.random() < 0.6 else None
        pq.write_table(pa.table(columns).replace_schema_metadata(told), file)
    except (pa.ArrowException, UnicodeError):
        return bytes_mutated(data, rng)
    return file.getvalue()


# What is done with it


def model_used(folder: Path, rng: np.random.Generator, whole: Path) -> None:
    """Load weights, ask their card, and run them on one picture where that is quick."""
    model = weights.load(folder)
    assert isinstance(model.card.labels_seen, str)
    assert all(isinstance(name, str) for name in class_names(model))
    weights.identity(model)
    kind, known = model.card["kind"], json.loads((whole / "card.json").read_text())
    if kind == "prior":
        knows_null(model)
        if rng.random() < 0.1:
            tokenizer, _ = weights.load_pair(folder)
            assert tokenizer.card["kind"] in ("tokenizer", "palette")
    same = as_dict(model.config) == known["model"]
    if not same and rng.random() > 0.05:
        return  # Each other model would be compiled anew.
    jax.block_until_ready(forward(kind, model))


def forward(kind: str, model: Any) -> Any:
    """The model on one picture; codes have to be codes of its."""
    c = model.config
    if kind == "prior":
        return run(model, np.zeros((1, c.num_tokens), np.int32))
    channels = getattr(c, "channels", 3)
    size = getattr(c, "image_size", 16)
    if size > 512:
        return None
    image = np.full((1, size, size, channels), 99, np.uint8)
    if kind not in ("tokenizer", "palette"):
        return run(model, image / np.float32(255))
    codes = np.asarray(model.encode(image))
    assert codes.shape == (1, c.num_tokens), codes.shape
    assert 0 <= codes.min() <= codes.max() < c.quantizer.num_codes
    return model.decode(codes)


@nnx.jit
def run(model: Any, x: Any) -> Any:
    twice = model.__class__.__name__ == "LPIPS"
    return model(recon=x, target=x) if twice else model(x)[0]


def codes_used(folder: Path, rng: np.random.Generator, whole: Path) -> None:
    source = data.open_codes(folder)
    for first in range(0, min(len(source), 64), 8):
        rows = np.arange(first, min(first + 8, len(source)))
        batch = source.take(rows)
        card = source.card
        assert batch["codes"].shape[-1] == card.grid**2, "not as many codes"
        assert batch["codes"].shape[0] == batch["label"].shape[0] == len(rows)
        assert 0 <= batch["codes"].min() <= batch["codes"].max() < card.num_codes
        assert batch["label"].min() >= -1
        # Without names of classes no prior uses labels, whatever they are.
        assert not source.num_classes or batch["label"].max() < source.num_classes


def run_used(folder: Path, rng: np.random.Generator, whole: Path) -> None:
    with Workdir(folder, IDENTITY) as opened:
        opened._return_to(10, {})
    rows_used(folder, rng, whole)


def rows_used(folder: Path, rng: np.random.Generator, whole: Path) -> None:
    rows = read_metrics(folder)
    assert all(isinstance(row["step"], int) for row in rows)
    train_seconds(rows)
    for value in [{}, *rows][-1].values():
        assert isinstance(value, list) or f"{value:.5g}"


def pictures_used(folder: Path, rng: np.random.Generator, whole: Path) -> None:
    columns = rng.random() < 0.2
    spec = data.DataSpec(folder, label_column="label" if columns else "")
    split = "train" if rng.random() < 0.8 else "test"
    if whole.name == "saved-splits" and rng.random() < 0.3:
        rows = data.open_stream(spec, split=split, image_size=8)
        batches = data.batches(rows, batch_size=2)
        try:
            assert next(batches)["image"].shape == (2, 8, 8, 3)
        finally:
            batches.close()
        return
    source = data.open_source(spec, split=split, image_size=8)
    if rng.random() < 0.3:
        data.checked(source, headers=True, skip=bool(rng.random() < 0.5))
    batch = source.take(np.arange(min(len(source), 8)))
    assert batch["image"].shape[1:] == (8, 8, 3)
    assert batch["label"].min() >= -1
    assert batch["label"].max() < max(1, source.num_classes)


# For each kind of case its part of all, the seeds, the files to be mutated, and what is
# done then.
PLAN: dict[str, tuple[float, tuple[str, ...], tuple[str, ...], Any]] = {
    "card": (
        0.40,
        ("prior", "unlabelled", "vit", "prior", "unlabelled", "ema", "fsq", "cnn",
         "prior", "classifier", "judge", "palette", "perceptual", "perceptual"),
        ("card.json",), model_used,
    ),
    "weights": (
        0.24,
        ("prior", "unlabelled", "classifier", "palette", "prior", "perceptual", "vit"),
        ("model.safetensors",), model_used,
    ),
    "codes": (0.06, ("codes", "codes-views"), ("codes.json", "*.json", "*.arrow"),
              codes_used),
    "run": (0.06, ("run",), ("run.json",), run_used),
    "metrics": (0.06, ("metrics",), ("metrics.jsonl",), rows_used),
    "labels": (
        0.08,
        ("labels-csv", "labels-tsv", "labels-jsonl", "labels-txt", "labels-parquet"),
        ("metadata.*",), pictures_used,
    ),
    "parquet": (0.05, ("parquet", "parquet-classes"), ("*.parquet",), pictures_used),
    "saved": (0.05, ("saved", "saved-splits"), ("*.json", "*.arrow"), pictures_used),
}  # fmt: skip
SHARES = [share for share, *_ in PLAN.values()]
# How a file is mutated that is no table as text.
MUTATED: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    ".json": json_mutated, ".jsonl": lines_mutated, ".arrow": bytes_mutated,
    ".parquet": cells_mutated, ".safetensors": weights_mutated,
}  # fmt: skip


def rng_of(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, number])


def kind_of(seed: int, number: int) -> str:
    return str(rng_of(seed, number).choice([*PLAN], p=SHARES))


def case(seed: int, number: int, seeds: Path, folder: Path) -> Callable[[], None]:
    """Write a case to a folder; returns what is to be done with it."""
    kind, rng = kind_of(seed, number), rng_of(seed, number)
    rng.random(8)
    _, names, patterns, use = PLAN[kind]
    whole = seeds / pick(rng, names)
    shutil.copytree(whole, folder)
    found = sorted(folder.rglob(pick(rng, patterns)))
    file = found[int(rng.integers(len(found)))]
    mutate = MUTATED.get(file.suffix, text_mutated)
    file.write_bytes(mutate(file.read_bytes(), rng))
    return partial(use, folder, rng, whole)


def outcome(act: Callable[[], Any]) -> tuple[int, str]:
    """What becomes of it, and what was said."""
    try:
        act()
        return WORKS, ""
    except UserError as error:
        text, inner = str(error), error
        while inner := inner.__cause__ or inner.__context__:
            if isinstance(inner, MemoryError):
                return LARGE, text
        plain = all(c >= " " and not "\ud800" <= c <= "\udfff" for c in text)
        told = plain and len(text.splitlines()) == 1 and len(text) <= LONGEST
        return REFUSED if told else WRONG, text
    except MemoryError:
        return LARGE, traceback.format_exc()
    except KeyboardInterrupt:
        raise
    except BaseException:  # A panic of Rust is no `Exception`.
        return WRONG, traceback.format_exc()


def peak(reset: bool = False) -> int:
    """Largest resident memory since the last reset, in bytes (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1:2] for line in lines}
    return int(found["VmHWM"][0]) << 10


def ready(seeds: Path, place: Path) -> None:
    """Use each seed as it is, so that a case pays for no import and no compilation."""
    for number, (name, (_, names, _, use)) in enumerate(PLAN.items()):
        for seed in sorted(set(names)):
            folder = place / f"{number}-{seed}"
            shutil.copytree(seeds / seed, folder)
            found = outcome(partial(use, folder, rng_of(0, 0), seeds / seed))
            assert found[0] == WORKS, (name, seed, found)
            shutil.rmtree(folder)


def quiet() -> None:
    """All imports, with no network, no progress bars and no warnings of decoders."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    jax.config.update("jax_platforms", "cpu")
    warnings.simplefilter("ignore")
    import datasets

    import minivim_lab.igpt  # noqa: F401

    datasets.disable_progress_bars()
    logging.disable(logging.CRITICAL)


def work(options: Any, seeds: Path, shared: Any, at: Any, step: int) -> None:
    """Try every `step`-th case from `at`, which tells the parent how far it is."""
    outcomes, seconds, memory = shared
    with tempfile.TemporaryDirectory(dir=seeds.parent) as own:
        from datasets import config as settings

        settings.HF_DATASETS_CACHE = Path(own, "cache")
        # Settings that came before have shown how long they take.
        weights.abstract = lru_cache(64)(weights.abstract)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        started = at.value
        at.value = -1 - started  # Below zero: it is not at a case yet.
        ready(seeds, Path(own))
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        status = Path("/proc/self/statm").read_text().split()
        most = int(status[0]) * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        for number in range(started, options.cases, step):
            at.value = number
            folder = Path(own, str(number))
            act = case(options.seed, number, seeds, folder)
            before, began = peak(reset=True), time.process_time()
            found, text = outcome(act)
            seconds[number] = spent = time.process_time() - began
            memory[number] = grown = max(0, peak() - before)
            if found in (WORKS, REFUSED):
                found = LATE if spent > SECONDS else found
                found = LARGE if grown > MEMORY else found
            if found not in (WORKS, REFUSED):
                keep(options, number, folder, text)
            outcomes[number] = found
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(f"{own}/cache", ignore_errors=True)
        at.value = options.cases


def keep(options: Any, number: int, folder: Path, text: str) -> None:
    place = options.keep / f"{options.seed}-{number}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    (options.keep / f"{options.seed}-{number}.txt").write_text(text, errors="replace")


def tried(options: Any, seeds: Path) -> tuple[Any, Any, Any]:
    """Outcome, seconds and memory of every case."""
    shared = tuple(FORK.Array(kind, options.cases, lock=False) for kind in "bdq")

    def lost(number: int, found: int) -> None:
        assert number >= 0, "the seeds do not work"
        shared[0][number] = found
        with tempfile.TemporaryDirectory() as folder:
            again = Path(folder, "case")
            case(options.seed, number, seeds, again)
            keep(options, number, again, OUTCOMES[found])

    part = partial(work, options, seeds, shared)
    supervised(part, options.cases, options.processes, patience=HANGS, lost=lost)
    return shared


def summary(options: Any, shared: Any) -> dict[str, Any]:
    """What the page shows, by kind of case."""
    rows: dict[str, Any] = {}
    for kind in PLAN:
        own = [n for n in range(options.cases) if kind_of(options.seed, n) == kind]
        ways = Counter(OUTCOMES[shared[0][n]] for n in own)
        rows[kind] = {
            "cases": len(own),
            **{way: ways[way] for way in OUTCOMES[1:]},
            "seconds": round(max((shared[1][n] for n in own), default=0), 2),
            "megabytes": max((shared[2][n] for n in own), default=0) >> 20,
        }
    return {"cases": options.cases, "seed": options.seed, "rows": rows}


def markdown(found: dict[str, Any]) -> str:
    """A section of the book."""
    ways, rows = OUTCOMES[1:], []
    for kind, row in found["rows"].items():
        counts = [f"{row[way]:,}" for way in ("cases", *ways)]
        rows.append([kind, *counts, f"{row['seconds']:.1f}", f"{row['megabytes']:,}"])
    titles = "what was changed", "cases", *ways, "slowest, s", "memory, MB"
    return (
        "## Files of strangers\n\n"
        f"{found['cases']:,} cards, files of weights, records and tables, changed at "
        f"random: `python -m benchmarks.strangers --cases {found['cases']} --seed "
        f"{found['seed']}`. Each is to work or to be refused in one line, within "
        f"{SECONDS} s of processor time and {MEMORY >> 30} GB.\n\n"
        f"{markdown_table(titles, rows)}\n"
    )


def one(options: Any, seeds: Path) -> int:
    """Try a single case in its folder of `--keep`, and show what it says."""
    folder = options.keep / f"{options.seed}-{options.case}"
    shutil.rmtree(folder, ignore_errors=True)
    found, text = outcome(case(options.seed, options.case, seeds, folder))
    print(kind_of(options.seed, options.case), OUTCOMES[found], text)
    return int(found not in (WORKS, REFUSED))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.strangers", description=__doc__
    )
    parser.add_argument("--cases", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, default=Path("runs/strangers"))
    parser.add_argument("--out", type=Path, help="write the page and its figures")
    parser.add_argument("--case", type=int, help="try this one alone")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    quiet()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        seeds = Path(place, "seeds")
        seeds.mkdir()
        # By a process of its own: this one forks, and must not have started JAX.
        maker = FORK.Process(target=made, args=(seeds,))
        maker.start()
        maker.join()
        assert maker.exitcode == 0, "the seeds cannot be made"
        if options.case is not None:
            return one(options, seeds)
        found = summary(options, tried(options, seeds))
    page = markdown(found)
    print(f"{page}\n{time.monotonic() - began:.0f} s, kept in {options.keep}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(page)
    return int(any(row[way] for row in found["rows"].values() for way in BAD))


if __name__ == "__main__":
    sys.exit(main())
