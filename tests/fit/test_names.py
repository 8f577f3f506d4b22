"""Class names, and what a confusion says of a wrong order."""

import numpy as np
import pytest

from dripgate.errors import DataError, ModelError, UserError
from dripgate.fitting.names import match, permuted, read_names


def test_numbers_before_names_are_left_out_only_where_all_have_them(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("0 cat\n1 dog\n\n", "utf-8")
    assert read_names(path) == ("cat", "dog")
    path.write_text("3 blind mice\ndog\n", "utf-8")
    assert read_names(path) == ("3 blind mice", "dog")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no UTF-8 text"):
        read_names(path)
    with pytest.raises(UserError, match="no such file"):
        read_names(tmp_path / "none")


def test_folders_are_found_among_the_names():
    classes, places, notes = match(("Dog", "ice cream", "cat"), ("cat", "ice_cream"), 3, "d", "m")
    assert classes == ("Dog", "ice cream", "cat")
    assert places.tolist() == [2, 1]
    assert notes == ["1 of 3 classes have no samples here"]
    assert match(None, ("a", "b"), 2, "d", "m")[1].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (None, ModelError, r"m has 3 outputs, d has 2 classes \(a, b\).*--classes"),
        (("a", "b"), ModelError, "2 class names for the 3 outputs of m"),
        (("a", "b", "a"), ModelError, "two outputs of m are called 'a'"),
        (("a", "c", "d"), DataError, "does not know the classes b; it knows a, c, d"),
    ],
)
def test_what_does_not_fit(names, error, words):
    with pytest.raises(error, match=words):
        match(names, ("a", "b"), 3, "d", "m")


def test_another_order_is_told_from_a_bad_model():
    labels = np.arange(400) % 4
    order = np.array([2, 0, 1, 3])
    assert permuted(order[labels], labels, 4).tolist() == order.tolist()
    assert permuted(labels, labels, 4) is None
    assert permuted(np.random.default_rng(0).integers(0, 4, 400), labels, 4) is None
