"""Classes and splits from paths: the names people use, and classes that are called like splits."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dripgate.data import class_of, load, open_source
from dripgate.data.layout import Layout, side_of
from dripgate.errors import DataError


def found(path, reading="auto") -> set[tuple]:
    return {(f.split, f.label) for f in open_source(path, reading=reading).labelled()}


def files(*folders: str, n=2) -> dict[str, bytes]:
    return {f"{folder}/{i}.png": b"x" for folder in folders for i in range(n)}


@pytest.mark.parametrize(
    ("side", "names"),
    [
        ("train", "train Train TRAINING training_set Training-Set trainset train_data train2017"),
        ("train", "trainval train_val trn trainval_set validate validate_set"),
        ("test", "tst evaluate test-dev PublicTest private_test"),
        ("train", "val valid Validation validation_set dev Dev-Set valid_images"),
        ("test", "test TEST testing test_set test-images testset eval Evaluation holdout hold_out"),
        (
            None,
            "cat trained testament contest devil value data images set latest",
        ),
    ],
)
def test_split_folders_are_known_by_the_names_people_use(side, names):
    assert {name: side_of(name) for name in names.split()} == dict.fromkeys(names.split(), side)
    assert side_of("Training Set") == "train"


@given(
    st.sampled_from(["train", "validation", "test", "eval"]),
    st.sampled_from(["", "set", " set", "_data", "-images"]),
    st.booleans(),
)
def test_case_and_separators_make_no_difference(word, suffix, upper):
    name = word + suffix
    assert side_of(name.upper() if upper else name) == side_of(word)


def test_every_split_is_used_and_counted(tree, picture):
    """Case 07: what lies in dev/ is used, not lost."""
    data = load(tree({f"{side}/{label}/{i}.png": picture(len(side) * 100 + 10 * ord(label) + i)
                      for side in ("Training Set", "dev", "test") for label in "ab"
                      for i in range(5)}))  # fmt: skip
    assert (len(data.train), len(data.test)) == (20, 10)
    assert {folder: (s.side, s.files) for folder, s in data.found.splits.items()} == {
        "Training Set": ("train", 10), "dev": ("train", 10), "test": ("test", 10),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (("valid/may", "valid/june", "invalid/may", "invalid/june"), {"valid", "invalid"}),
        (("car/site1", "bus/site1", "train/site1", "train/site2"), {"car", "bus", "train"}),
        (("bus", "car", "train"), {"bus", "car", "train"}),
    ],
)
def test_classes_that_are_called_like_splits_are_classes_and_it_is_said(tree, folders, classes):
    """Case 08."""
    source = open_source(tree(files(*folders)))
    assert found(source.path) == {(None, label) for label in classes}
    (note,) = Layout.of(files(*folders), "set").notes
    assert "taken for a class, not a split" in note
    assert "--folders splits" in note


def test_splits_without_classes_are_refused(tree):
    """Case 05: test/ and train/ are no classes, unless somebody says so."""
    path = tree(files("train", "test"))
    with pytest.raises(DataError, match=r"lie directly in test/, train/.*--folders classes"):
        found(path)
    assert found(path, "classes") == {(None, "train"), (None, "test")}


def test_what_may_be_both_is_refused_with_both_ways_out(tree):
    path = tree(files("valid/may", "test/june"))
    with pytest.raises(DataError, match="--folders splits or --folders classes"):
        found(path)
    assert found(path, "splits") == {("train", "may"), ("test", "june")}
    assert found(path, "classes") == {(None, "valid"), (None, "test")}


def test_nothing_but_a_test_split_cannot_be_learned_from(tree):
    with pytest.raises(DataError, match=r"test/ is for testing.*add a train/"):
        found(tree(files("test/cat", "test/dog")))


def test_no_split_where_splits_were_asked_for(tree):
    with pytest.raises(DataError, match="no folder is called train or test; found cat/, dog/"):
        found(tree(files("cat", "dog")), "splits")


@pytest.mark.parametrize("wrapper", ["a", "a/b", "set/images", "test", "train"])
def test_folders_around_everything_are_looked_through(tree, wrapper):
    assert found(tree(files(f"{wrapper}/train/cat", f"{wrapper}/test/cat"))) == {
        ("train", "cat"), ("test", "cat"),
    }  # fmt: skip
    if side_of(wrapper) is None:
        assert found(tree(files(f"{wrapper}/cat", f"{wrapper}/dog/more"), "other")) == {
            (None, "cat"), (None, "dog"),
        }  # fmt: skip


def test_one_picture_s_two_spellings_are_one_class(tree, picture):
    """macOS writes é as e and an accent, everybody else as one character."""
    one, two = unicodedata.normalize("NFD", "café"), unicodedata.normalize("NFC", "café")
    folder = tree({f"{one}/1.png": picture(1), f"{two}/2.png": picture(2), "tea/3.png": picture(3)})
    assert found(folder) == {(None, two), (None, "tea")}


def test_archives_inside_of_an_archive_are_named(pack):
    path = pack({"train.zip": b"PK", "test.zip": b"PK", "README": b"x"}, "set.zip")
    with pytest.raises(DataError, match="2 archives inside, which are not opened; unpack them"):
        found(path)


def test_classes_that_lie_deeper_are_said():
    notes = Layout.of(files("animals/cat", "animals/dog", "plants/rose"), "set").notes
    assert notes[0].startswith("all files lie in sub-folders (animals/cat, animals/dog, …)")
    for same in (("cat/may", "cat/june", "dog/may"), ("cat", "dog/may"), ("cat/may", "dog/june")):
        assert Layout.of(files(*same), "set").notes == ()


# The same rule for what a device stored ----------------------------------------------------------


@given(st.data())
def test_a_stored_path_says_the_class_it_was_trained_as(data):
    """Case 42: however deep the folders of a class are, and whatever they are called."""
    names = st.text("abc", min_size=1, max_size=3)
    classes = data.draw(st.lists(names, min_size=2, max_size=4, unique=True))
    below = st.lists(st.sampled_from([*classes, "site0", "x"]), max_size=3)
    paths = [
        "/".join([label, *data.draw(below), f"{i}.png"])
        for label in classes
        for i in range(data.draw(st.integers(1, 3)))
    ]
    layout = Layout.of(paths, "set")
    for path in paths:
        place = layout.place(path)
        assert place.label == path.split("/")[0] == class_of(path, layout.classes)
        assert class_of(f"stream/card1/{path}", layout.classes) == place.label


def test_a_path_outside_of_every_class_has_none():
    assert class_of("pcm@0.500s", {"cat"}) is None
    assert class_of("cat.png", {"cat", "cat.png"}) is None
    assert class_of("2026/dog/cat/1.wav@4.500s", {"cat", "dog"}) == "dog"


# Folders of 'dripgate export' that are no classes ------------------------------------------------


def test_what_an_export_left_without_a_class_is_no_class(tree, picture):
    """Case: half of it labelled, then given to 'fit', which saw twelve classes of ten."""
    folders = ["cat", "dog", "unlabelled", "quarantine", "(broken)"]
    names = [f"{folder}/{i}.png" for folder in folders for i in range(6)]
    root = tree({name: picture(n) for n, name in enumerate(names)} | {"samples.csv": b"id,file"})
    data = load(root)
    assert data.classes == ("cat", "dog")
    why = "in unlabelled/, by 'dripgate export', which is no class"
    assert data.found.unused[why].count == 6
    (root / "samples.csv").unlink()
    assert "unlabelled" in load(root).classes


def test_an_export_without_any_label_says_so(tree):
    root = tree(files("unlabelled", "quarantine") | {"samples.csv": b"id,file"})
    with pytest.raises(DataError, match=r"nothing in it has a class.*label it \('dripgate review'"):
        found(root)
    alone = tree(files("unlabelled") | {"samples.csv": b"id,file"}, "alone")
    with pytest.raises(DataError, match="nothing in it has a class"):
        found(alone)
