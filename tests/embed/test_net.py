"""The generated C against onnxruntime, operator by operator where the loops are ours."""

import ctypes

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dripgate.embed.lower import Lowered
from dripgate.embed.net import generate
from dripgate.errors import GateError

RNG = np.random.default_rng(3)
#: name → (channels in, out, kernel, attributes), each with and without bias below.
CONVOLUTIONS = {
    "plain": (6, 8, (3, 3), {"pads": [1, 1, 1, 1]}),
    "lopsided": (6, 5, (5, 2), {"pads": [3, 0, 1, 1]}),
    "strided": (6, 6, (3, 5), {"strides": [2, 3], "pads": [1, 2, 1, 2]}),
    "dilated": (6, 4, (3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "wide": (6, 2, (1, 9), {"pads": [0, 4, 0, 4]}),
    "grouped": (6, 4, (3, 3), {"group": 2, "pads": [0, 1, 0, 1]}),
    "depthwise": (6, 6, (3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "depthwise5": (6, 6, (5, 3), {"group": 6, "pads": [2, 1, 2, 1]}),
    "multiplied": (6, 12, (3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "point": (6, 6, (1, 1), {}),
    "narrowing": (6, 3, (1, 1), {}),
    "point_strided": (6, 6, (1, 1), {"strides": [2, 2]}),
}


def lowered(nodes, shape, outputs, constants):
    """A model of float32 from ``x`` to ``outputs``."""
    found = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(found, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return Lowered(onnx.shape_inference.infer_shapes(model, strict_mode=True), None)


def run_c(made, x, expected, library, folder):
    """What the C gives for each output, as arrays shaped as onnxruntime's."""
    (folder / "net.c").write_text(made.code.replace("dripgate_spectrum", "unused_front"))
    (folder / "data.c").write_text(made.data)
    built = library([folder / "net.c", folder / "data.c"], folder / "net.so")
    built.dripgate_net.restype = ctypes.c_void_p
    base = built.dripgate_net(ctypes.c_void_p(np.ascontiguousarray(x).ctypes.data))
    arena = np.frombuffer((ctypes.c_uint8 * made.arena).from_address(base), np.uint8)
    return {
        name: arena[offset : offset + expected[name].nbytes].view(np.float32)
        .reshape(expected[name].shape)
        for name, offset in made.offsets.items()
    }  # fmt: skip


def checked(model, x, library, folder):
    """Asserts that C and onnxruntime agree; gives what was generated."""
    session = onnxruntime.InferenceSession(model.model.SerializeToString())
    names = [value.name for value in model.model.graph.output]
    expected = dict(zip(names, session.run(None, {"x": x}), strict=True))
    made = generate(model)
    found = run_c(made, x, expected, library, folder)
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], 1e-5, 1e-5, err_msg=name)
    return made


def test_every_kind_of_convolution(library, tmp_path):
    nodes, constants = [], {}
    for i, (name, (inputs, outputs, kernel, attributes)) in enumerate(CONVOLUTIONS.items()):
        shape = (outputs, inputs // attributes.get("group", 1), *kernel)
        constants[f"w_{name}"] = RNG.normal(size=shape).astype(np.float32)
        names = ["x", f"w_{name}"]
        if i % 2:
            constants[f"b_{name}"] = RNG.normal(size=outputs).astype(np.float32)
            names.append(f"b_{name}")
        nodes.append(helper.make_node("Conv", names, [name], name, **attributes))
    x = RNG.normal(size=(1, 6, 11, 9)).astype(np.float32)
    checked(lowered(nodes, [1, 6, 11, 9], list(CONVOLUTIONS), constants), x, library, tmp_path)


def test_a_depthwise_separable_net_works_in_the_memory_of_one_map(library, tmp_path):
    names = ["first", "deep", "deep5", "point", "last"]
    weights = {
        "first": (8, 1, 3, 3), "deep": (8, 1, 3, 3), "deep5": (8, 1, 5, 3), "point": (8, 8, 1, 1),
        "last": (2, 8, 1, 1),
    }  # fmt: skip
    nodes, before = [], "x"
    for name in names:
        group = 8 if name.startswith("deep") else 1
        pads = [weights[name][2] // 2, weights[name][3] // 2] * 2
        nodes.append(
            helper.make_node("Conv", [before, f"w_{name}"], [name], name, group=group, pads=pads,
                             kernel_shape=weights[name][2:])
        )  # fmt: skip
        nodes.append(helper.make_node("Relu", [name], [f"{name}_relu"], f"{name}_relu"))
        before = f"{name}_relu"
    constants = {
        f"w_{name}": RNG.normal(size=shape).astype(np.float32) for name, shape in weights.items()
    }
    model = lowered(nodes, [1, 1, 13, 10], [before], constants)
    x = RNG.normal(size=(1, 1, 13, 10)).astype(np.float32)
    made = checked(model, x, library, tmp_path)
    one_map, result = 8 * 13 * 10 * 4, 2 * 13 * 10 * 4
    assert made.arena == one_map + result


def test_an_operator_without_c_is_named():
    nodes = [helper.make_node("Unknowable", ["x"], ["y"], "odd", domain="")]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(GateError, match="Unknowable"):
        generate(Lowered(model, None))
