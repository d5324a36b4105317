"""Batches: permutations, exact resume, pass-through of other columns."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivim.data import ArraySource, Source, batches, in_order, stack
from minivim.errors import UserError


def numbered(rows: int) -> ArraySource:
    return ArraySource(
        {
            "image": np.zeros((rows, 2, 2, 3), np.uint8),
            "label": np.arange(rows, dtype=np.int32),
        }
    )


class Slow(Source):
    """A source that is read in threads."""

    def __init__(self, rows=37):
        self.rows = rows

    def __len__(self):
        return self.rows

    def take(self, indices):
        time.sleep(0.001 * (indices[0] % 3))
        return {"label": indices.astype(np.int32)}


def labels(iterator, count):
    return np.concatenate([next(iterator)["label"] for _ in range(count)])


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_epoch_is_a_permutation(rows, batch_size, seed):
    iterator = batches(numbered(rows), batch_size=batch_size, seed=seed)
    seen = labels(iterator, -(-3 * rows // batch_size))[: 3 * rows].reshape(3, rows)
    np.testing.assert_array_equal(
        np.sort(seen, axis=1), np.tile(np.arange(rows), (3, 1))
    )


def test_orders_differ_between_epochs_and_seeds_and_repeat_for_a_seed():
    def epochs(seed):
        return labels(batches(numbered(64), batch_size=64, seed=seed), 2).reshape(2, 64)

    one, again, other = epochs(1), epochs(1), epochs(2)
    np.testing.assert_array_equal(one, again)
    assert (one[0] != one[1]).any()
    assert (one[0] != other[0]).any()
    assert (one[0] != np.arange(64)).any()


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 30),
    batch_size=st.integers(1, 12),
    before=st.integers(0, 20),
    strayed=st.integers(0, 5),
)
def test_resume_at_any_position_equals_undisturbed(rows, batch_size, before, strayed):
    whole = labels(batches(numbered(rows), batch_size=batch_size), before + 6)
    iterator = batches(numbered(rows), batch_size=batch_size)
    for _ in range(before):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    fresh = batches(numbered(rows), batch_size=batch_size)
    for _ in range(strayed):
        next(fresh)
    fresh.set_state(state)
    np.testing.assert_array_equal(labels(fresh, 6), whole[before * batch_size :])


def test_resume_with_reading_threads_ignores_what_was_read_ahead():
    whole = labels(batches(Slow(), batch_size=5), 20)
    iterator = batches(Slow(), batch_size=5)
    labels(iterator, 7)
    fresh = batches(Slow(), batch_size=5)
    next(fresh)
    fresh.set_state(iterator.get_state())
    np.testing.assert_array_equal(labels(fresh, 13), whole[35:])


@pytest.mark.parametrize(
    ("count", "lengths"), [(None, [4, 4, 2]), (8, [4, 4]), (9, [4, 4, 1])]
)
@pytest.mark.parametrize("source", [numbered(10), Slow(10)])
def test_one_pass_in_order(source, count, lengths):
    once = list(in_order(source, count=count, batch_size=4))
    assert [len(batch["label"]) for batch in once] == lengths
    seen = np.concatenate([batch["label"] for batch in once])
    np.testing.assert_array_equal(seen, np.arange(sum(lengths)))


def test_images_become_floats_and_other_columns_pass():
    arrays = {
        "image": np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1),
        "label": np.array([2, 1, 0], np.int32),
        "codes": np.arange(6, dtype=np.int32).reshape(3, 2),
    }
    batch = next(batches(ArraySource(arrays), batch_size=3, shuffle=False))
    assert batch["image"].dtype == np.float32
    np.testing.assert_allclose(batch["image"].ravel(), [0, 0.2, 1])
    np.testing.assert_array_equal(batch["codes"], arrays["codes"])
    assert batch["codes"].dtype == np.int32
    assert ArraySource(arrays)[-1]["label"] == 0
    with pytest.raises(IndexError):
        ArraySource(arrays)[3]
    assert stack(ArraySource(arrays), 2)["image"].dtype == np.uint8
    assert len(stack(ArraySource(arrays), 9)["label"]) == 3


def test_fingerprint_follows_the_content():
    base = {"codes": np.zeros((3, 2), np.int32)}
    changed = {"codes": np.eye(3, 2, dtype=np.int32)}
    wide = {"codes": np.zeros((3, 2), np.int64)}
    prints = [ArraySource(a).fingerprint for a in (base, changed, wide)]
    assert len(set(prints)) == 3
    assert ArraySource(base).fingerprint == prints[0] == "cc837668e5c62809"


def test_impossible_batches_and_arrays_are_refused():
    with pytest.raises(UserError, match="batch_size 0 is impossible: choose 1 or more"):
        batches(numbered(5), batch_size=0)
    with pytest.raises(UserError, match="one length"):
        ArraySource({"a": np.zeros(2), "b": np.zeros(3)})
    with pytest.raises(UserError, match="at least 1"):
        ArraySource({"a": np.zeros(0)})


def test_a_batch_from_memory_costs_little():
    arrays = {
        "image": np.zeros((16_384, 32, 32, 3), np.uint8),
        "label": np.zeros(16_384, np.int32),
    }
    iterator = batches(ArraySource(arrays), batch_size=64)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        next(iterator)
        times.append(time.perf_counter() - start)
    assert np.median(times) < 0.005  # 0.4 ms on an idle core
