"""Classifiers' ends: what stands before softmax or sigmoid is found, and said where it is not."""

import numpy as np
import pytest
import support

from dripgate.errors import ModelError
from dripgate.graph.opened import open_classifier

X = support.floats(12, 3, 8, 8)
PLAIN = support.run(support.gate_of(support.small_cnn(), (3, 8, 8)), X)


@pytest.mark.parametrize(
    "end",
    [
        "y = Softmax <axis = 1> (z)",
        "y = LogSoftmax <axis = 1> (z)",
        "s = Softmax <axis = 1> (z) y = Identity (s)",
    ],
)
def test_softmax_ends_are_taken_off(end):
    found = support.run(support.gate_of(support.small_cnn(end), (3, 8, 8)), X)
    for name in ("logits", "score", "heatmap"):
        np.testing.assert_allclose(found[name], PLAIN[name], rtol=1e-5, atol=1e-7)


def test_probabilities_that_cannot_be_taken_off_are_led_back_and_it_is_said():
    end = "e = Exp (z) t = ReduceSum <keepdims = 1> (e, one) y = Div (e, t)"
    model = support.small_cnn(end)
    model.graph.initializer.append(support.numpy_helper.from_array(np.array([1]), "one"))
    opened = open_classifier(model)
    assert any("cannot be taken off" in note for note in opened.notes)
    found = support.run(support.gate_of(model, (3, 8, 8)), X)
    np.testing.assert_allclose(found["score"], PLAIN["score"], rtol=1e-3)


def test_sigmoids_are_several_classes_at_once():
    opened = open_classifier(support.small_cnn("y = Sigmoid (z)"))
    assert (opened.head.kind, opened.head.ends) == ("sigmoid", "Sigmoid")
    assert any("multi-label" in note for note in opened.notes)


@pytest.mark.parametrize("end", ["y = Identity (z)", "y = Sigmoid (z)"])
def test_one_output_is_the_second_of_two_classes(end):
    model = support.small_cnn(end, result="float[N, 1] y", outputs=1)
    opened = open_classifier(model)
    assert opened.head.binary
    logits = support.run(support.gate_of(model, (3, 8, 8)), X)["logits"]
    assert logits.shape == (12, 2)
    assert not logits[:, 0].any()
    assert logits[:, 1].any()


def test_logits_as_a_map_of_one_cell():
    model = support.small_cnn(
        "s = Unsqueeze (z, two) y = Unsqueeze (s, three)", result="float[N, 4, 1, 1] y"
    )
    for name, axis in (("two", 2), ("three", 3)):
        model.graph.initializer.append(support.numpy_helper.from_array(np.array([axis]), name))
    found = support.run(support.gate_of(model, (3, 8, 8)), X)
    np.testing.assert_allclose(found["score"], PLAIN["score"], rtol=1e-5)


def test_several_outputs_must_be_told_apart():
    model = support.small_cnn(
        "y = Identity (z) k = Relu (z)", result="float[N, 4] y, float[N, 4] k"
    )
    with pytest.raises(ModelError, match=r"several outputs: y \(N, 4\), k \(N, 4\).*--output"):
        open_classifier(model)
    opened = open_classifier(model, output="y")
    assert any("not used: k" in note for note in opened.notes)
    with pytest.raises(ModelError, match="has no output 'z', but y"):
        open_classifier(model, output="z")


def test_a_detector_is_refused():
    model = support.onnx_model(
        "(float[N, 3, 8, 8] x) => (float[N, 6, 8, 8] y) { y = Conv (x, w) }",
        w=support.floats(6, 3, 1, 1),
    )
    with pytest.raises(ModelError, match=r"gives y \(N, 6, 8, 8\): no classifier"):
        open_classifier(model)
