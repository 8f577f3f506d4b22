"""The head's last linear layer: what can be learned again on the device by replacing two tensors.

Forward and backward pass must read one initializer, and nothing before the logits another's part
of it: then a gate with other values there is the gate of the classifier with those values.
"""

from typing import Literal, NamedTuple, cast

import numpy as np
import onnx_ir as ir

from dripgate.gate_info import EMBEDDING, FEATURES, HEAD_BIAS, HEAD_WEIGHT, LastLayer
from dripgate.graph.builder import Builder
from dripgate.types import Array

#: Only give a value another shape.
_SHAPES = {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}


class Found(NamedTuple):
    """node: the product. weight, bias: initializers; bias None where there is none yet.

    turned: the weight is (C, D) and not (D, C). rows: C, but 1 where the logits are (0, z).
    """

    node: ir.Node
    weight: ir.Value
    bias: ir.Value | None
    turned: bool
    rows: int
    width: int


def find_last(graph: ir.Graph) -> Found | None:
    """The linear layer that gives the output ``logits``; None where something else does."""
    logits = next((value for value in graph.outputs if value.name == "logits"), None)
    node, bias = (logits.producer() if logits else None), None
    while node is not None and (node.op_type in _SHAPES or _is_second_of_two(node)):
        node = _before(node)
    if node is not None and node.op_type == "Add":
        pair = [cast(ir.Value, value) for value in node.inputs]
        constants = [value for value in pair if _array(value) is not None]
        if len(constants) != 1:
            return None
        bias = constants[0]
        node = next(value for value in pair if value is not bias).producer()
        while node is not None and node.op_type in _SHAPES:
            node = _before(node)
    found = _product(node) if node is not None else None
    if found is None or found.weight.dtype != ir.DataType.FLOAT or _learns_before(found):
        return None
    if bias is not None:
        found = None if found.bias is not None else found._replace(bias=bias)
    if found and found.bias is not None and _size(found.bias) != found.rows:
        return None
    return found


def take_last(build: Builder, graph: ir.Graph) -> LastLayer | None:
    """Name the layer's tensors, and give what it takes as an output; None where there is none."""
    found = find_last(graph)
    taken = found.node.inputs[0] if found else None
    if found is None or taken is None or not _alone(found):
        return None
    if found.bias is None or len(found.bias.uses()) > 1:
        found = _with_own_bias(build, graph, found)
    for old, name in ((found.weight, HEAD_WEIGHT), (found.bias, HEAD_BIAS)):
        _rename(build, cast(ir.Value, old), name)
    features: Literal["embedding", "features"] = EMBEDDING
    if taken.name != EMBEDDING:
        features = FEATURES
        shape = (build.shapes.get(taken) or _shape(taken), found.width)
        _give(build, graph, taken, shape[0], found.width)
    return LastLayer(
        turned=found.turned, width=found.width, rows=found.rows, features=features, scale2=1.0
    )


def _rename(build: Builder, old: ir.Value, name: str) -> None:
    """A copy takes its place: the tensor may be the classifier's, who is used again."""
    new = build.initializer(name, np.array(_array(old)))
    old.replace_all_uses_with(new)
    del build.graph.initializers[str(old.name)]


def _give(
    build: Builder, graph: ir.Graph, taken: ir.Value, shape: tuple[int, ...], width: int
) -> None:
    """``taken`` as the output FEATURES, (N, D)."""
    value = taken
    if len(shape) != 2 or value.is_graph_output() or value.is_graph_input():
        build.shapes.setdefault(value, shape)
        flat = build.numbers([shape[0] if shape[0] > 0 else -1, width])
        value = build("Reshape", value, flat, shape=(shape[0], width))
    else:
        build.declare(value, shape, ir.DataType.FLOAT)
    value.name = FEATURES
    graph.outputs.append(value)
    graph.sort()


def _before(node: ir.Node) -> ir.Node | None:
    return node.inputs[0].producer() if node.inputs[0] is not None else None


def _is_second_of_two(node: ir.Node) -> bool:
    """z (N, 1) · [[0, 1]]: a classifier of one number, whose first logit is 0."""
    values = _array(node.inputs[1]) if node.op_type == "MatMul" else None
    return values is not None and values.tolist() == [[0.0, 1.0]]


def _product(node: ir.Node) -> Found | None:
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    values = _array(weight)
    if weight is None or values is None or node.op_type not in ("Gemm", "MatMul", "Conv"):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and _array(bias) is None:
        return None
    if node.op_type == "Conv":
        of_one_cell = values.ndim > 2 and values.size == values.shape[0] * values.shape[1]
        if not of_one_cell or _number(node, "group", 1) != 1 or _cells(node.outputs[0]) != 1:
            return None
        return Found(node, weight, bias, True, values.shape[0], values.shape[1])
    plain = all(_number(node, name, one) == one
                for name, one in (("alpha", 1), ("beta", 1), ("transA", 0)))  # fmt: skip
    if values.ndim != 2 or not plain or len(_shape(node.inputs[0])) not in (0, 2):
        return None
    turned = bool(_number(node, "transB", 0))
    rows, width = values.shape if turned else values.shape[::-1]
    return Found(node, weight, bias, turned, rows, width)


def _alone(found: Found) -> bool:
    """Whether the backward pass reads the weight too: else it reads what was made of it."""
    return len(found.weight.uses()) > 1


def _learns_before(found: Found) -> bool:
    """Whether a node on the way to the layer uses its weight: tied weights, a part of the trunk."""
    waiting, seen = [found.node.inputs[0]], set()
    users = {use.node for use in found.weight.uses()} - {found.node}
    while waiting:
        value = waiting.pop()
        node = value.producer() if value is not None else None
        if node is not None and node not in seen:
            seen.add(node)
            waiting += node.inputs
    return bool(users & seen)


def _with_own_bias(build: Builder, graph: ir.Graph, found: Found) -> Found:
    """The layer with a bias that nothing else reads."""
    old, node = found.bias, found.node
    values = _array(old) if old is not None else None
    own = np.zeros(found.rows, np.float32) if values is None else np.array(values)
    bias = build.initializer("head.bias.own", own)
    for use in list(old.uses()) if old is not None else []:
        if use.node is node or (use.node.op_type == "Add" and node.outputs[0] in use.node.inputs):
            use.node.replace_input_with(use.idx, bias)
            return found._replace(bias=bias)
    kind = "Conv" if node.op_type == "Conv" else "Gemm"
    inputs = [node.inputs[0], node.inputs[1], bias]
    made = ir.node(kind, inputs, attributes=dict(node.attributes))
    graph.insert_before(node, made)
    was, now = node.outputs[0], made.outputs[0]
    now.type, now.shape, build.shapes[now] = was.type, was.shape, build.shapes.get(was, ())
    if was.is_graph_output():
        now.name, was.name = was.name, None
    was.replace_all_uses_with(now, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return found._replace(bias=bias, node=made)


def _array(value: ir.Value | None) -> Array | None:
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def _size(value: ir.Value) -> int:
    array = _array(value)
    return -1 if array is None else array.size


def _number(node: ir.Node, name: str, default: int) -> float:
    found = node.attributes.get(name)
    if found is None:
        return default
    return found.as_float() if found.type is ir.AttributeType.FLOAT else found.as_int()


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    """Sizes, -1 where one is not fixed; () where nothing is known."""
    if value is None or value.shape is None:
        return ()
    return tuple(size if isinstance(size, int) else -1 for size in value.shape)


def _cells(value: ir.Value) -> int:
    """Spatial cells of a map (N, C, …); 0 where they are not known."""
    sizes = _shape(value)[2:]
    return int(np.prod(sizes)) if sizes and min(sizes) > 0 else 0
