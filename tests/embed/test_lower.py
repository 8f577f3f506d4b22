"""The graph before it becomes C: the same numbers from fewer weights, and storage that is safe."""

from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dripgate.embed.arena import plan
from dripgate.embed.graphs import drop_unused
from dripgate.embed.lower import (
    PLAIN,
    WITH_SCORE,
    Lowered,
    fold_linear_sums,
    lower,
    share_transposes,
)
from dripgate.embed.storage import storage

RNG = np.random.default_rng(0)


def graph(nodes, inputs, outputs, **constants):
    """A graph of float32 values; names → shapes."""
    value = helper.make_tensor_value_info
    return helper.make_graph(
        nodes, "g",
        [value(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [value(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip


def model(found):
    made = helper.make_model(found, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)


def outcome(found, **inputs):
    return onnxruntime.InferenceSession(model(found).SerializeToString()).run(None, inputs)


def stored(found):
    return sum(numpy_helper.to_array(tensor).size for tensor in found.initializer)


@pytest.fixture
def head():
    """A linear head and its backward pass, as Grad-CAM leaves them: W, and W again transposed."""
    weight = RNG.normal(size=(24, 6)).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["logits"]),
        helper.make_node("MatMul", ["logits", "wt"], ["plane"]),
        helper.make_node("Reshape", ["plane", "shape"], ["cells"]),
        helper.make_node("ReduceSum", ["cells", "axes"], ["alpha"], keepdims=0),
    ]
    return graph(
        nodes, {"x": [1, 24]}, {"logits": [1, 6], "alpha": [1, 4]},
        w=weight, wt=weight.T.copy(), b=np.zeros(6, np.float32),
        shape=np.array([1, 4, 6]), axes=np.array([2]),
    )  # fmt: skip


def test_a_sum_over_cells_is_taken_out_of_the_matrix(head):
    x = RNG.normal(size=(1, 24)).astype(np.float32)
    before = outcome(head, x=x)
    assert fold_linear_sums(head) == 1
    drop_unused(head)
    for one, other in zip(before, outcome(head, x=x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert stored(head) == 24 * 6 + 6 + 6 * 4  # W, b, and W summed over six cells


def test_a_matrix_and_its_transpose_are_stored_once(head):
    head.output.append(helper.make_tensor_value_info("plane", TensorProto.FLOAT, [1, 24]))
    x = RNG.normal(size=(1, 24)).astype(np.float32)
    before = outcome(head, x=x)
    assert fold_linear_sums(head) == 0  # the plane itself is asked for
    assert share_transposes(head) == 1
    drop_unused(head)
    for one, other in zip(before, outcome(head, x=x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert stored(head) == 24 * 6 + 6 + 3 + 1


def test_a_sum_over_something_else_is_left_alone(head):
    head.initializer[-1].CopyFrom(numpy_helper.from_array(np.array([1]), "axes"))
    head.output[1].type.tensor_type.shape.dim[1].dim_value = 6
    assert fold_linear_sums(head) == 0


def test_a_gate_keeps_its_numbers(gate, spec):
    samples = RNG.integers(0, 256, (5, *spec.shape), np.uint8)
    expected = gate(samples)
    lowered = lower(gate.data).model
    session = onnxruntime.InferenceSession(lowered.SerializeToString())
    rows = [session.run(None, {"samples": sample[None]}) for sample in samples]
    for i, name in enumerate(("logits", "score", "verdict", "quality")):
        found = np.concatenate([row[i] for row in rows])
        np.testing.assert_allclose(found, getattr(expected, name), rtol=1e-4, atol=1e-5)


def test_quality_is_taken_before_the_net_needs_the_memory(gate):
    """Taken last, it would keep the input alive at the net's busiest step."""
    whole, plain = (
        plan(storage(lower(gate.data, outputs)).blocks).size for outputs in (WITH_SCORE, PLAIN)
    )
    assert whole < 1.02 * plain


# Storage ----------------------------------------------------------------------------------------


def shares(found, *names):
    """Whether all of them lie in the same storage."""
    held = storage(Lowered(model(found), None))
    return len({held.of[name] for name in names}) == 1


def chain(*nodes, outputs):
    shape = [1, 3, 4, 4]
    return graph(
        [helper.make_node("Exp", ["x"], ["a"]), *nodes], {"x": shape},
        dict.fromkeys(outputs, shape), two=np.float32([2]), flat=np.array([1, 48]),
    )  # fmt: skip


def test_an_activation_overwrites_what_nobody_reads_again():
    relu = helper.make_node("Relu", ["a"], ["b"])
    assert shares(chain(relu, outputs=["b"]), "a", "b")
    again = helper.make_node("Add", ["a", "b"], ["c"])
    assert not shares(chain(relu, again, outputs=["c"]), "a", "b")
    assert not shares(chain(relu, outputs=["a", "b"]), "a", "b")


def test_a_view_keeps_its_source_alive():
    view = helper.make_node("Reshape", ["a", "flat"], ["v"])
    relu = helper.make_node("Relu", ["a"], ["b"])
    found = graph(
        [helper.make_node("Exp", ["x"], ["a"]), view, relu,
         helper.make_node("Neg", ["v"], ["n"])],
        {"x": [1, 3, 4, 4]}, {"b": [1, 3, 4, 4], "n": [1, 48]}, flat=np.array([1, 48]),
    )  # fmt: skip
    assert shares(found, "a", "v")
    assert not shares(found, "a", "b")  # the view is read after the activation
    assert shares(found, "v", "n")


def test_a_smaller_operand_is_not_overwritten_by_a_larger_result():
    nodes = [
        helper.make_node("Exp", ["x"], ["a"]),
        helper.make_node("Mul", ["a", "wide"], ["b"]),
    ]
    found = graph(
        nodes, {"x": [1, 3, 1, 1]}, {"b": [1, 3, 4, 4]},
        wide=np.ones((1, 3, 4, 4), np.float32),
    )  # fmt: skip
    assert not shares(found, "a", "b")


def test_outputs_live_to_the_end(gate):
    lowered = lower(gate.data)
    held = storage(lowered)
    offsets, size = plan(held.blocks)
    spans = {
        name: (offsets[held.of[name]], offsets[held.of[name]] + held.blocks[held.of[name]].size)
        for name in ("logits", "score", "verdict", "quality")
    }
    ordered = sorted(spans.values())
    assert all(a[1] <= b[0] for a, b in pairwise(ordered))
    assert ordered[-1][1] <= size
