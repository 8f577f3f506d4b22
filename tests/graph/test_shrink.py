"""Each rewrite gives what the graph gave before, and leaves alone what it must not touch."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from dripgate.graph.shrink import shrink

RANDOM = np.random.default_rng(0)


def _model(text: str, **constants: np.ndarray) -> onnx.ModelProto:
    head = '<ir_version: 10, opset_import: ["" : 20]>'
    model = onnx.parser.parse_model(f"{head} g {text}")
    for name, values in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def _shrunk(model: onnx.ModelProto, **inputs: np.ndarray) -> list[str]:
    """The operators left, after a check that both graphs give the same."""
    small = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    shrink(small)
    after = ir.to_proto(small)
    onnx.checker.check_model(after, full_check=True)
    before, now = (
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, inputs)
        for m in (model, after)
    )
    for old, new in zip(before, now, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5 * np.abs(old).max())
    return [node.op_type for node in after.graph.node]


def _floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


PREPROCESSED = """(float[N, 2, 6, 6] x) => (float[N, 3, 6, 6] y) {
    a = Mul (x, s)  b = Add (a, m)  y = Conv <pads = [1, 1, 1, 1]> (b, w) }"""


@pytest.mark.parametrize("shape", [(1, 2, 1, 1), ()])
def test_scale_goes_into_the_convolution_and_the_padded_border_stays_right(shape):
    scale = np.asarray(RANDOM.uniform(0.1, 2, shape), np.float32)
    model = _model(PREPROCESSED, s=scale, m=_floats(1, 2, 1, 1), w=_floats(3, 2, 3, 3))
    assert _shrunk(model, x=_floats(2, 2, 6, 6)) == ["Add", "Conv"]


@pytest.mark.parametrize("scale", [np.zeros((1, 2, 1, 1), np.float32), _floats(1, 1, 6, 6)])
def test_scale_that_cannot_be_undone_or_is_no_factor_stays(scale):
    model = _model(PREPROCESSED, s=scale, m=_floats(1, 2, 1, 1), w=_floats(3, 2, 3, 3))
    assert _shrunk(model, x=_floats(2, 2, 6, 6)) == ["Mul", "Add", "Conv"]


def test_scale_goes_into_all_convolutions_that_read_it():
    model = _model(
        """(float[N, 2, 6, 6] x) => (float[N, 3, 6, 6] y, float[N, 4, 3, 3] z) {
        a = Div (x, s)  b = Sub (a, m)  y = Conv <pads = [1, 1, 1, 1]> (b, w)
        z = Conv <strides = [2, 2]> (b, v) }""",
        s=_floats(1, 2, 1, 1),
        m=_floats(1, 2, 1, 1),
        w=_floats(3, 2, 3, 3),
        v=_floats(4, 2, 2, 2),
    )
    assert _shrunk(model, x=_floats(2, 2, 6, 6)) == ["Sub", "Conv", "Conv"]


def test_scale_that_another_node_needs_stays():
    model = _model(
        """(float[N, 1, 6, 6] x) => (float[N, 1, 4, 4] y, float[N, 1, 6, 6] z) {
        a = Mul (x, s)  y = Conv (a, w)  z = Relu (a) }""",
        s=_floats(1),
        w=_floats(1, 1, 3, 3),
    )
    assert "Mul" in _shrunk(model, x=_floats(2, 1, 6, 6))


def test_sum_behind_a_product_is_folded_into_its_matrix():
    model = _model(
        """(float[N, 5] x) => (float[N, 4] y) { a = MatMul (x, w)  b = Reshape (a, r)
        c = ReduceSum <keepdims = 0> (b, two)  y = Mul (c, s) }""",
        w=_floats(5, 24),
        r=np.array([0, 4, 6]),
        two=np.array([2]),
        s=np.float32(0.25),
    )
    assert _shrunk(model, x=_floats(3, 5)) == ["MatMul"]


def test_mean_over_samples_is_not_folded():
    model = _model(
        """(float[N, 5] x) => (float[1, 4] y) {
        a = MatMul (x, w)  y = ReduceMean <keepdims = 1> (a, zero) }""",
        w=_floats(5, 4),
        zero=np.array([0]),
    )
    assert _shrunk(model, x=_floats(3, 5)) == ["MatMul", "ReduceMean"]


def test_rows_that_are_regrouped_are_not_folded():
    """As in a transformer, where a row is a token and eight of them are a sample."""
    model = _model(
        """(float[M, 5] x) => (float[N, 6] y) { a = MatMul (x, w)  b = Reshape (a, r)
        y = ReduceSum <keepdims = 0> (b, one) }""",
        w=_floats(5, 6),
        r=np.array([-1, 8, 6]),
        one=np.array([1]),
    )
    assert _shrunk(model, x=_floats(16, 5)) == ["MatMul", "Reshape", "ReduceSum"]


def test_a_mere_factor_and_a_transpose_need_no_second_matrix():
    weight = _floats(6, 4)
    model = _model(
        """(float[N, 6] x) => (float[N, 4] y, float[N, 6] z) { y = Gemm (x, w)
        a = Transpose <perm = [1, 0]> (w)  b = MatMul (y, a)  z = Mul (b, s) }""",
        w=weight,
        s=np.float32(1 / 49),
    )
    assert _shrunk(model, x=_floats(3, 6)) == ["Gemm", "Gemm"]
