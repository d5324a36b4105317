"""Classes by name: in Python, on the command line, and in what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from minivim import classifier, cli, show, weights
from minivim.card import Card
from minivim.config import ClassifierConfig
from minivim.errors import UserError
from minivim.prior import check_labels, complete, reject, sample
from minivim.prior.model import class_names
from tests import tiny

KEY = jax.random.key(0)
NAMES = ["cat", "golden retriever", "owl, great horned"]


def prior(names=NAMES, count=3):
    model = tiny.prior(num_classes=count)
    model.card = Card("", {"class_names": names})
    return model


def numbers(labels, *args, **options):
    return check_labels(prior(*args, **options), labels).tolist()


@pytest.mark.parametrize(
    "labels",
    [
        ["golden retriever", "cat", "golden retriever"],
        ("golden retriever", 0, 1),
        np.array(["golden retriever", "cat", "golden retriever"]),
        ["1", "cat", np.int64(1)],
        np.array(["golden retriever", 0, "1"], object),
        jnp.array([1, 0, 1]),
        [1, 0, 1],
    ],
)
def test_names_and_numbers_in_any_form(labels):
    assert numbers(labels) == [1, 0, 1]


def test_one_name_alone_is_one_label():
    assert numbers("owl, great horned") == [2]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("catt", r"no class 'catt'; did you mean cat\? \(this prior knows 3: cat, gol"),
        ("Cat", r"did you mean cat\?"),
        ("GOLDEN RETREIVER", r"did you mean golden retriever\?"),
        ("retriever", r"did you mean golden retriever\?"),
        ("zebra", r"no class 'zebra' \(this prior knows 3: .*, owl, great horned\)"),
        ("", "no class ''"),
        ("1.0", "no class '1.0'"),
        ("3", "label 3 is out of range; use 0 to 2"),
        ("-1", "label -1 is out of range"),
    ],
)
def test_other_names_are_refused_with_the_nearest(label, message):
    with pytest.raises(UserError, match=message) as refused:
        numbers(["cat", label])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("labels", [[0.0], [True], [None], [["cat", "cat"]], [0, 1.5]])
def test_labels_of_other_types_are_refused(labels):
    with pytest.raises(UserError, match="whole number for each image"):
        numbers(labels)


def test_names_that_are_numbers_come_first():
    names = ["0", "10", "20"]
    assert numbers(["10", "20", "0"], names) == [1, 2, 0]
    assert numbers([1, 2, 0], names) == [1, 2, 0]
    # Whether "1" is the class 10 nobody knows; as a number it is.
    with pytest.raises(UserError, match=r"no class '1'.*knows 3: 0, 10, 20"):
        numbers(["1"], names)
    with pytest.raises(UserError, match="label 10 is out of range"):
        numbers([10], names)
    assert numbers(["2", "1", "0"], ["2", "0", "1"]) == [0, 2, 1]


def test_composed_and_decomposed_letters_are_one_name():
    assert numbers(["cafe\u0301", "caf\u00e9"], ["caf\u00e9", "b", "c"]) == [0, 0]
    with pytest.raises(UserError, match="several classes are called caf"):
        numbers(["caf\u00e9"], ["cafe\u0301", "caf\u00e9", "c"])


def test_names_in_no_known_encoding_can_be_asked_for_and_shown():
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert numbers([name], [name, "b", "c"]) == [0]
    assert class_names(prior([name, "b", "c"])) == [r"caf\xe9", "b", "c"]


@pytest.mark.parametrize(
    ("card", "names"),
    [
        (None, ["0", "1", "2"]),
        ({}, ["0", "1", "2"]),
        ({"class_names": None}, ["0", "1", "2"]),
        ({"class_names": ["a"]}, ["a", "1", "2"]),
        ({"class_names": list("abcde")}, ["a", "b", "c"]),
    ],
)
def test_cards_with_fewer_names_or_none(card, names):
    model = tiny.prior()
    model.card = Card("", card or {})
    assert class_names(model) == names
    assert check_labels(model, names).tolist() == [0, 1, 2]
    assert class_names(tiny.prior(num_classes=0)) == class_names(tiny.tokenizer()) == []


@example(["0", "0", "\x00"])  # NumPy's own strings drop the NUL
@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=4), min_size=3, max_size=3))
def test_every_printed_name_is_understood(names):
    model = prior(names)
    shown = class_names(model)
    for number, name in enumerate(shown):
        if shown.count(name) == 1:
            assert check_labels(model, [name]).tolist() == [number]


def test_sample_reject_and_complete_take_names():
    model, tokenizer = prior(), tiny.tokenizer()
    by_name = sample(model, key=KEY, labels=["owl, great horned", "cat"])
    np.testing.assert_array_equal(by_name, sample(model, key=KEY, labels=[2, 0]))
    images = tiny.images(2)
    found, same = (
        complete(model, tokenizer, images, key=KEY, labels=labels, count=2)
        for labels in (["golden retriever", "cat"], [1, 0])
    )
    np.testing.assert_array_equal(found.codes, same.codes)
    config = ClassifierConfig(kind="cnn", num_classes=3, width=4)
    network = tiny.build(classifier.build, config)
    found = reject(model, tokenizer, network, key=KEY, labels=["cat"], quiet=True)
    assert found.labels.tolist() == [0, 0]
    with pytest.raises(UserError, match="no class token"):
        sample(tiny.prior(num_classes=0), key=KEY, labels=["cat"])


# --- the command line ----------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A tokenizer and priors of several names, and what is drawn of them."""
    weights.save(tmp_path / "tok", tiny.tokenizer(), card={})
    card = {"tokenizer": str(tmp_path / "tok")}
    kinds = {"named": NAMES, "digits": ["0", "10", "20"], "few": ["$a$ or $b"]}
    kinds["accents"] = ["\u00e9te\u0301, hiver", "\u00e9", "a"]
    for name, names in kinds.items():
        given = card | {"class_names": names}
        weights.save(tmp_path / name, tiny.prior(), card=given)
    weights.save(tmp_path / "bare", tiny.prior(), card=card)
    bare = tiny.prior(num_classes=0)
    weights.save(tmp_path / "unlabelled", bare, card=card)
    Image.fromarray(tiny.images(1)[0]).save(tmp_path / "a.png")
    return tmp_path


@pytest.fixture
def titles(monkeypatch):
    seen, mosaic = [], show.plots._mosaic

    def spy(rows, **options):
        seen.append(options.get("names"))
        return mosaic(rows, **options)

    monkeypatch.setattr(show.plots, "_mosaic", spy)
    return seen


def run(home, command, model, *options):
    out = ["--out", str(home / "out.png"), "--count", "1", "--quiet"]
    more = [str(home / "a.png")] if command == "complete" else []
    return cli.main([command, str(home / model), *more, *out, *options])


@pytest.mark.parametrize(
    ("model", "words", "drawn"),
    [
        ("named", ["cat,golden retriever"], [0, 1]),
        ("named", ["golden retriever", "cat"], [0, 1]),
        ("named", ["owl, great horned"], [2]),
        ("named", ["owl, great horned", "cat , 1"], [0, 1, 2]),
        ("named", ["0,2"], [0, 2]),
        ("accents", ["e\u0301t\u00e9, hiver", "a,\u00e9"], [0, 1, 2]),
        ("digits", ["10"], [1]),
        ("digits", ["20,0"], [0, 2]),
        ("bare", ["2", "1"], [1, 2]),
    ],
)
def test_labels_by_name(home, titles, model, words, drawn):
    assert run(home, "sample", model, "--labels", *words) == 0
    names = class_names(weights.load(home / model))
    assert titles == [[names[number] for number in drawn]]


def test_the_names_are_shown(home, titles, capsys):
    assert run(home, "sample", "named") == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == "classes: 0 cat; 1 golden retriever; 2 owl, great horned"
    assert last.startswith("3 samples: ")
    assert run(home, "sample", "unlabelled") == 0
    assert "classes" not in capsys.readouterr().out
    # What matplotlib would take for a formula is a title like others.
    assert run(home, "sample", "few") == 0
    assert titles[-1] == ["$a$ or $b", "1", "2"]
    Image.open(home / "out.png").verify()


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("sample", ["--labels", "cat,dgo"], "there is no class 'dgo' (this prior"),
        ("sample", ["--labels", "owl"], "there is no class 'owl'"),
        ("sample", ["--labels", "golden", "retriever"], "did you mean golden retri"),
        ("sample", ["--labels", "-1"], "label -1 is out of range"),
        ("sample", ["--labels", "cat,"], "there is no class ''"),
        ("complete", ["--label", "Cat"], "there is no class 'Cat'; did you mean cat?"),
        ("complete", ["--label", "5"], "label 5 is out of range; use 0 to 2"),
    ],
)
def test_names_that_are_not_known(home, capsys, command, options, message):
    assert run(home, command, "named", *options) == 2
    assert message in capsys.readouterr().err


def test_complete_takes_a_name(home, monkeypatch):
    seen = []

    def spy(*args, labels, **options):
        seen.append(check_labels(args[0], labels).tolist())
        return complete(*args, labels=labels, **options)

    monkeypatch.setattr("minivim.prior.complete", spy)
    for label in ("owl, great horned", "2"):
        assert run(home, "complete", "named", "--label", label) == 0
    assert seen == [[2], [2]]
