"""A folder of codes: what is written is read, all of it or nothing."""

import dataclasses
import json
import pickle
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import datasets
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import RecordBatchStreamWriter as ArrowStream

from minivim import trainer, weights
from minivim.context import Context
from minivim.data import (
    ArraySource,
    CodesCard,
    batches,
    is_codes,
    open_codes,
    open_source,
    stack,
    write_codes,
)
from minivim.data.augment import augment
from minivim.encode import Views, encode_batches, encode_folder, encode_source
from minivim.errors import Stopped, UserError
from minivim.prior import Prior
from tests import tiny

CARD = CodesCard(
    tokenizer="runs/tok", tokenizer_hash="abc", num_codes=24, grid=2, data="pictures",
    fingerprint="f00",
)  # fmt: skip


def rows(codes, labels, size=4):
    parts = [slice(i, i + size) for i in range(0, len(codes), size)]
    return [{"codes": codes[p], "label": labels[p]} for p in parts]


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 20),
    views=st.integers(1, 3),
    large=st.booleans(),
    named=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_is_written_is_read(tmp_path_factory, count, views, large, named, seed):
    folder = tmp_path_factory.mktemp("codes") / "below" / "out"
    card = dataclasses.replace(
        CARD, views=views, flip=views > 1, num_codes=70_000 if large else 2**15
    )
    rng = np.random.default_rng(seed)
    shape = (count, views, 4) if views > 1 else (count, 4)
    codes = rng.integers(card.num_codes - 9, card.num_codes, shape, np.int32)
    labels = rng.integers(-1, 2, count, np.int32)
    names = ("no", "yes") if named else ()
    write_codes(folder, {"train": (rows(codes, labels), names)}, card)
    source = open_codes(folder)
    assert source.card == card and source.class_names == names
    assert len(source) == count
    some = rng.integers(0, count, 7)
    for taken, expected in (
        (stack(source), (codes, labels)),
        (source.take(some), (codes[some], labels[some])),
        (pickle.loads(pickle.dumps(source)).take(some), (codes[some], labels[some])),
    ):
        for name, array in zip(("codes", "label"), expected, strict=True):
            assert taken[name].dtype == np.int32
            np.testing.assert_array_equal(taken[name], array)
    # It is a data set for everybody else.
    table = datasets.load_from_disk(str(folder))["train"]
    np.testing.assert_array_equal(table["codes"], codes)
    assert isinstance(table.features["label"], datasets.ClassLabel) == named


def written(folder, **changes):
    codes = np.arange(96, dtype=np.int32).reshape(24, 4) % 24
    found = rows(codes, np.arange(24, dtype=np.int32)), ()
    write_codes(folder, {"train": found}, dataclasses.replace(CARD, **changes))
    return open_codes(folder)


def test_batches_of_a_folder_are_those_of_memory(tmp_path):
    source = written(tmp_path / "codes")
    memory = ArraySource(stack(source))
    one, other = (batches(s, batch_size=5, seed=2) for s in (source, memory))
    other.set_state({"batch": 3})
    one.set_state({"batch": 3})
    for _ in range(4):
        tiny.assert_same(next(one), next(other))
    one.close()


def test_the_fingerprint_is_that_of_the_tokenizer_and_the_images(tmp_path):
    changes = [
        {}, {"tokenizer_hash": "abd"}, {"fingerprint": "f01"}, {"seed": 1},
        {"flip": True},
    ]  # fmt: skip
    prints = [
        written(tmp_path / str(number), **change).fingerprint
        for number, change in enumerate(changes)
    ]
    assert len(set(prints)) == len(changes)
    assert prints[0] == open_codes(tmp_path / "0").fingerprint


def test_nothing_is_left_of_what_failed(tmp_path):
    def breaks():
        yield rows(np.zeros((8, 4), np.int32), np.zeros(8, np.int32))[0]
        raise UserError("image 9 is not readable: remove it")

    with pytest.raises(UserError, match="image 9"):
        write_codes(tmp_path / "out", {"train": (breaks(), ())}, CARD)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_what_was_stopped(tmp_path):
    """Asked twice to stop, as by a timeout that is in a hurry."""

    def asked():
        batch = rows(np.zeros((8, 4), np.int32), np.zeros(8, np.int32))[0]
        yield batch
        assert list(tmp_path.iterdir())
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        yield batch
        pytest.fail("it went on")

    def mine(*_):
        raise AssertionError("SIGTERM was not handled")

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with pytest.raises(Stopped, match="nothing is kept of .*out; the same command"):
            write_codes(tmp_path / "out", {"train": (asked(), ())}, CARD)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(tmp_path.iterdir())


def test_in_another_thread_signals_are_left_alone(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(written, tmp_path / "codes").result()) == 24


def message(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_users_are_told(tmp_path, monkeypatch):
    source = written(tmp_path / "codes")
    assert is_codes(tmp_path / "codes") and not is_codes(tmp_path)
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path / "codes")
        assert is_codes(".") and not is_codes("")
    assert "is there already: remove it or choose another place" in message(
        lambda: written(tmp_path / "codes")
    )
    text = message(lambda: open_codes(tmp_path / "codes", "test"))
    assert "holds codes of the split train and not of test" in text
    text = message(lambda: open_source(tmp_path / "codes"))
    assert "holds codes" in text and "give the images here" in text
    (tmp_path / "file").write_text("")
    text = message(lambda: written(tmp_path / "file" / "out"))
    assert "choose another place" in text
    card = tmp_path / "codes" / "codes.json"
    values = json.loads(card.read_text())
    for damage in (card.read_text()[:-9], json.dumps(values | {"else": 1})):
        card.write_text(damage)
        assert "cannot be read as codes" in message(
            lambda: open_codes(tmp_path / "codes")
        )
    card.write_text(json.dumps(values))
    assert len(open_codes(tmp_path / "codes")) == len(source)
    (tmp_path / "codes" / "train" / "state.json").unlink()
    assert "encode them again" in message(lambda: open_codes(tmp_path / "codes"))


# --- encoding ----------------------------------------------------------------------


def test_encoding_a_source_is_encoding_its_images():
    tokenizer, source = tiny.tokenizer(), tiny.source()
    expected = np.asarray(tokenizer.encode(stack(source)["image"] / np.float32(255)))
    for size in (5, 24):
        found = encode_source(tokenizer, source, batch_size=size, quiet=True)
        tiny.assert_same(
            found.arrays, {"codes": expected, "label": stack(source)["label"]}
        )
        assert found.class_names == source.class_names
    parts = list(encode_batches(tokenizer, source, count=7, batch_size=5, quiet=True))
    assert [len(part["codes"]) for part in parts] == [5, 2]
    np.testing.assert_array_equal(parts[1]["codes"], expected[5:7])


@pytest.mark.parametrize("change", [{"flip": True}, {"crop": 0.3}])
def test_the_first_view_is_the_image_and_others_are_augmented(change):
    tokenizer, source = tiny.tokenizer(), tiny.source()

    def codes(seed=0, size=24):
        views = Views(count=4, seed=seed, **change)
        found = encode_source(
            tokenizer, source, views=views, batch_size=size, quiet=True
        )
        return found.arrays["codes"]

    plain = encode_source(tokenizer, source, batch_size=24, quiet=True).arrays["codes"]
    found = codes()
    assert found.shape == (24, 4, 4)
    np.testing.assert_array_equal(found[:, 0], plain)
    np.testing.assert_array_equal(found, codes())
    assert (found != codes(seed=1)).any(axis=(0, 2)).tolist() == [False, *[True] * 3]
    for view in range(1, 4):
        for other in range(view):
            assert (found[:, view] != found[:, other]).any()
    # A second batch is not augmented like the first.
    twice = ArraySource({k: np.concatenate([v, v]) for k, v in stack(source).items()})
    pair = encode_source(
        tokenizer, twice, views=Views(count=2, **change), batch_size=24, quiet=True
    )
    first, second = np.split(pair.arrays["codes"], 2)
    assert (first[:, 1] != second[:, 1]).any()
    if "flip" in change:
        image = stack(source)["image"] / np.float32(255)
        mirrored = np.asarray(tokenizer.encode(image[:, :, ::-1]))
        either = (found == plain[:, None]) | (found == mirrored[:, None])
        assert either.all()


def test_views_that_cannot_be():
    for bad in ({"count": 2}, {"flip": True}, {"crop": 0.5}):
        assert "choose views=1 alone" in message(lambda bad=bad: Views(**bad))
    for bad in ({"count": 2, "crop": 0.0}, {"count": 2, "crop": 1.5}):
        assert "set crop=1.0" in message(lambda bad=bad: Views(**bad))
    assert "set count=1" in message(lambda: Views(count=0))


def test_a_folder_says_where_its_codes_come_from(tmp_path):
    tokenizer = tiny.tokenizer()
    sources = {"train": tiny.source(), "test": tiny.source(6, seed=1)}
    folder = encode_folder(
        tokenizer, tmp_path / "codes", sources, name="runs/tok",
        views=Views(count=3, flip=True, seed=5), batch_size=24, quiet=True,
    )  # fmt: skip
    coded, test = open_codes(folder), open_codes(folder, "test")
    assert coded.card == test.card
    assert dataclasses.asdict(coded.card) == {
        "tokenizer": "runs/tok",
        "tokenizer_hash": weights.weights_hash(tokenizer),
        "num_codes": 24,
        "grid": 2,
        "data": "arrays",
        "fingerprint": sources["train"].fingerprint,
        "views": 3,
        "flip": True,
        "crop": 1.0,
        "seed": 5,
    }
    assert stack(coded)["codes"].shape == (24, 3, 4)
    plain = encode_source(tokenizer, sources["test"], batch_size=24, quiet=True)
    np.testing.assert_array_equal(stack(test)["codes"], plain.arrays["codes"])
    assert coded.class_names == sources["train"].class_names


# --- folders that hold something else -----------------------------------------------

LIST = datasets.Sequence(datasets.Value("int16"), length=4)
LABEL = datasets.ClassLabel(names=["a", "b"])
GOOD = np.arange(12).reshape(3, 4).tolist()
OTHERS = {
    "a code too high": ([*GOOD, [0, 0, 24, 0]], [0, 1, 0, 1], LIST, LABEL),
    "a code below zero": ([*GOOD, [0, -1, 0, 0]], [0, 1, 0, 1], LIST, LABEL),
    "a code that is missing": ([*GOOD, [0, None, 0, 0]], [0, 1, 0, 1], LIST, LABEL),
    "a row that is missing": ([*GOOD, None], [0, 1, 0, 1], LIST, LABEL),
    "fractions": (
        [[0.0, 1.5, 2.0, float("nan")]] * 2, [0, 1],
        datasets.Sequence(datasets.Value("float32"), length=4), LABEL,
    ),
    "fewer codes": (
        [[0, 1, 2]] * 2, [0, 1],
        datasets.Sequence(datasets.Value("int16"), length=3), LABEL,
    ),
    "rows of any length": (
        [[0, 1], [2]], [0, 1], datasets.Sequence(datasets.Value("int16")), LABEL
    ),
    "text": ([["0", "1", "2", "3"]], [0],
             datasets.Sequence(datasets.Value("string"), length=4), LABEL),
    "codes without a list": ([0, 1], [0, 1], datasets.Value("int16"), LABEL),
    "a label below none": (GOOD, [0, 1, -2], LIST, datasets.Value("int32")),
    "a label that is missing": (GOOD, [0, 1, None], LIST, LABEL),
    "a label that is a fraction": (GOOD, [0, 1, 0.5], LIST, datasets.Value("float32")),
    "no rows": ([], [], LIST, LABEL),
}  # fmt: skip


def put(folder, codes, labels, kind, label, split="train", card=CARD):
    kinds = datasets.Features({"codes": kind, "label": label})
    table = datasets.Dataset.from_dict({"codes": codes, "label": labels}, kinds)
    datasets.DatasetDict({split: table}).save_to_disk(str(folder))
    (folder / "codes.json").write_text(json.dumps(dataclasses.asdict(card)))


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_columns_that_hold_something_else(tmp_path, what, split):
    put(tmp_path, *OTHERS[what], split=split)
    told = message(lambda: open_codes(tmp_path, split))
    assert told.endswith(": encode them again") or told.startswith("label")


def test_a_class_without_a_name(tmp_path):
    """9 of 2; `datasets` itself would not write it."""
    put(tmp_path, GOOD, [0, 9, 1], LIST, datasets.Value("int64"))
    assert open_codes(tmp_path).num_classes == 0
    [info] = tmp_path.glob("train/dataset_info.json")
    parts = json.loads(info.read_text())
    parts["features"]["label"] = {"names": ["a", "b"], "_type": "ClassLabel"}
    info.write_text(json.dumps(parts))
    [file] = tmp_path.glob("train/*.arrow")
    table = pa.ipc.open_stream(file.read_bytes()).read_all().replace_schema_metadata()
    with ArrowStream(str(file), table.schema) as stream:
        stream.write_table(table)
    told = message(lambda: open_codes(tmp_path))
    assert told == "label 9 is out of range; use -1 to 1"


def test_a_great_many_codes_are_checked_in_little_memory(tmp_path):
    count = 400_000  # 51 MB of codes, the last of them too high
    part = np.random.default_rng(0).integers(0, 24, (50_000, 64), np.int16)
    batches = [
        {"codes": part, "label": np.zeros(len(part), np.int32)}
        for _ in range(count // len(part))
    ]
    batches[-1] = {**batches[-1], "codes": part.copy()}
    batches[-1]["codes"][-1, -1] = 24
    card = dataclasses.replace(CARD, grid=8)
    write_codes(tmp_path / "codes", {"train": (batches, ("a", "b"))}, card)
    before = pa.total_allocated_bytes()
    began = time.process_time()
    told = message(lambda: open_codes(tmp_path / "codes"))
    assert "are not 64 numbers from 0 to 23: encode them again" in told
    assert time.process_time() - began < 4
    assert pa.total_allocated_bytes() - before < 2**23


# --- the prior ---------------------------------------------------------------------


@pytest.fixture
def prior(monkeypatch):
    """A prior whose initialisers are not compiled."""
    tiny.prior()  # built before its class is changed

    def init(self, config, *, rngs):
        vars(self).update(vars(tiny.build(Prior, config)))

    monkeypatch.setattr(Prior, "__init__", init)


def test_a_prior_draws_the_same_views_from_a_folder_and_from_memory(tmp_path, prior):
    """One cache in memory and one on disk are two ways to the same batches."""
    recipe = dataclasses.replace(tiny.PRIOR_RECIPE, flip=True, crop=0.5, views=3)
    tokenizer, source, test = tiny.tokenizer(), tiny.source(), tiny.source(seed=1)
    cached = tiny.ready(recipe, source, test, network=tokenizer)
    views = Views(count=3, flip=True, crop=0.5, seed=recipe.run.seed)
    folder = encode_folder(
        tokenizer, tmp_path / "codes", {"train": source, "test": test}, name="none",
        views=views, batch_size=4 * recipe.run.batch_size, quiet=True,
    )  # fmt: skip
    read = tiny.ready(recipe, open_codes(folder), open_codes(folder, "test"))
    assert read.parts.frozen is None
    for _ in range(4):
        one, other = next(cached.batches), next(read.batches)
        tiny.assert_same(one, other)
        assert one["codes"].shape == (8, 4)
    tiny.assert_same({name: cached.test[name] for name in read.test}, read.test)
    read.batches.close()


@pytest.mark.paper("stage 2 encodes augmented images on the fly")
def test_views_on_the_fly_are_of_the_same_kind_as_cached_ones(monkeypatch, prior):
    """What the step encodes is what `augment` makes of the batch."""
    recipe = dataclasses.replace(
        tiny.PRIOR_RECIPE, codes="fly", flip=True, crop=0.5, label_dropout=0.0
    )
    ready = tiny.ready(recipe, network=tiny.tokenizer())
    seen = {}

    def record(model, batch, context, **options):
        seen.update(batch)
        return 0.0, {}

    monkeypatch.setattr(trainer, "prior_loss", record)
    batch, key = next(ready.batches), jax.random.key(3)
    batch = jax.tree.map(jnp.asarray, batch)
    context = Context(frozen=ready.parts.frozen)
    ready.parts.loss(ready.parts.model, batch, context, key=key)
    flip_key, _ = jax.random.split(key)
    images = augment(batch["image"], flip=True, crop=0.5, key=flip_key)
    expected = np.asarray(tiny.tokenizer().encode(images))
    np.testing.assert_array_equal(seen["codes"], expected)
    plain = np.asarray(tiny.tokenizer().encode(batch["image"]))
    assert (expected != plain).any()
