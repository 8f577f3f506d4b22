"""How pixels become the classifier's numbers: said, or found by the labelled data."""

import numpy as np
import pytest

from dripgate.errors import UserError
from dripgate.fitting.conventions import (
    Pixels,
    accuracy,
    conventions,
    image_layout,
    named_convention,
)

F32, U8, I8 = (np.dtype(kind) for kind in ("float32", "uint8", "int8"))


def test_the_layout_is_seen_in_the_shape():
    assert image_layout((3, 8, 9), F32)[:4] == (8, 9, 3, "channels_first")
    assert image_layout((8, 9, 3), U8) == (8, 9, 3, "channels_last", "uint8")
    assert image_layout((8, 9, 4), F32) is None
    assert image_layout((3, 8, 9), F32, "channels_last") is None
    assert image_layout((16000,), F32) is None


def test_integers_leave_no_choice_and_floats_do():
    assert list(conventions(image_layout((8, 8, 3), I8))) == ["int8"]
    assert list(conventions(image_layout((8, 8, 3), U8))) == ["0-255"]
    assert {"0-1", "imagenet", "tf", "0-255", "caffe", "tf bgr"} <= set(
        conventions(image_layout((3, 8, 8), F32))
    )
    with pytest.raises(UserError, match="--preprocess is 'imagenet', expected auto or one of 0-1"):
        named_convention("imagenet", image_layout((1, 8, 8), F32))


def test_a_range_is_a_mean_and_a_deviation():
    layout = image_layout((3, 8, 8), F32)
    tf = Pixels(range=(-1.0, 1.0)).on(layout)
    assert (tf.mean, tf.std) == (pytest.approx((0.5,) * 3), pytest.approx((0.5,) * 3))
    with pytest.raises(UserError, match="--mean has 2 numbers, expected one, or 3"):
        Pixels(mean=(0.1, 0.2)).on(layout)


def test_one_output_is_the_second_class():
    truth = np.array([0, 1, 1, 0])
    assert accuracy(np.array([[0.1], [0.9], [0.6], [0.4]]), truth) == 1
    assert accuracy(np.array([[-3.0], [2.0], [0.2], [-0.1]]), truth) == 1
