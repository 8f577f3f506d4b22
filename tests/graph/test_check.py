"""A gate that says something else than its classifier is not written."""

import numpy as np
import onnx
import onnxruntime
import pytest
import support
from onnx import numpy_helper

from dripgate.errors import ModelError, ParityError
from dripgate.graph.check import Reference, check_gate, make_reference
from dripgate.graph.target import choose_target

SAMPLES = support.floats(20, 3, 8, 8, seed=5)


def reference(model: onnx.ModelProto) -> Reference:
    classifier = support.opened(model, (3, 8, 8))
    return make_reference(classifier, choose_target(classifier).cut, SAMPLES[:6])


def own_outputs(model: onnx.ModelProto) -> np.ndarray:
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": SAMPLES})
    return found


def with_other(model: onnx.ModelProto, name: str, factor: np.ndarray | float) -> onnx.ModelProto:
    """The same model with one constant multiplied."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (tensor,) = (t for t in changed.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor) * factor
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    return changed


@pytest.mark.parametrize("score", ["loss_mean", "evidence_max"])
@pytest.mark.parametrize("end", ["y = Identity (z)", "y = Softmax <axis=1> (z)", "y = Sigmoid (z)"])
def test_a_gate_of_the_same_classifier_passes(end, score):
    model = support.small_cnn(end)
    graph = support.gate_of(model, (3, 8, 8), score=score)
    parity = check_gate(graph, SAMPLES, reference(model), score, own_outputs(model), 0.0)
    assert parity.tolerance == 1e-4
    assert max(parity.logits, parity.heatmap, parity.score) < 1e-5


def test_other_logits_than_the_file_s_are_found():
    model = support.small_cnn()
    other = with_other(model, "b", 1.01)
    graph = support.gate_of(other, (3, 8, 8))
    with pytest.raises(ParityError, match=r"logits .*expected at most 1e-04"):
        check_gate(graph, SAMPLES, reference(model), "loss_mean", own_outputs(model), 0.0)


def test_a_heatmap_that_is_another_derivative_is_found():
    """Only the backward pass differs: the matrix is twice as large there as in the head."""
    model = support.small_cnn()
    graph = support.gate_of(model, (3, 8, 8))
    twice = reference(with_other(model, "m", np.array([[1, 1.1, 1, 1]])))
    with pytest.raises(ParityError, match="heatmap"):
        check_gate(graph, SAMPLES, twice, "loss_mean", own_outputs(model), 0.0)


def test_another_score_than_was_asked_for_is_found():
    model = support.small_cnn()
    graph = support.gate_of(model, (3, 8, 8), score="loss_max")
    with pytest.raises(ParityError, match="score"):
        check_gate(graph, SAMPLES, reference(model), "loss_mean", own_outputs(model), 0.0)


def test_a_dead_classifier_has_no_spread_and_is_written_only_by_force():
    model = with_other(support.small_cnn(), "w", 0.0)
    graph = support.gate_of(model, (3, 8, 8))
    arguments = (graph, SAMPLES, reference(model), "loss_mean", own_outputs(model), 0.0)
    with pytest.raises(ModelError, match=r"tells none of 20 samples from another.*--force"):
        check_gate(*arguments)
    assert check_gate(*arguments, force=True).samples == 20


def test_what_is_not_finite_never_passes():
    with pytest.raises(ModelError, match="not finite for ordinary samples"):
        support.gate_of(with_other(support.small_cnn(), "m", np.nan), (3, 8, 8))
