"""Exact rewrites of an exported graph into fewer and larger operators.

Each finds one form of nodes and puts in its place fewer that give the same numbers, to rounding.
What each saves is measured in docs/performance.md.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

from dripgate.graph.last import find_last
from dripgate.graph.read import FOLDED, OPSET
from dripgate.types import Array

#: Linear in their first input, sample by sample, where their other inputs are constant.
_LINEAR = {"Reshape", "ReduceSum", "ReduceMean", "Mul", "Div", "Squeeze", "Unsqueeze", "Flatten"}
#: Only move values about, so that one factor for all of them may go before or after.
_MOVES = {"Transpose", "Unsqueeze", "Squeeze", "Reshape"}


def shrink(model: ir.Model) -> None:
    """All rewrites, in place; what nothing depends on any more is left out."""
    graph = model.graph
    for rewrite in (_constants, _drop_pooled_axes, _fold_linear, _store_once, _scales):
        rewrite(graph)
        common.RemoveUnusedNodesPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    graph.sort()


def _constants(graph: ir.Graph) -> None:
    """What constants alone make is computed here: a gate is opened without folding.

    Quantised weights stay as small as they are.
    """
    for node in list(graph):
        inputs = [value for value in node.inputs if value is not None]
        arrays = [_array(value) for value in inputs]
        if not inputs or node.op_type == "DequantizeLinear" or any(a is None for a in arrays):
            continue
        feeds = {str(value.name): array for value, array in zip(inputs, arrays, strict=True)}
        run: Any = ReferenceEvaluator(ir.to_proto(node), opsets={"": graph.opset_imports[""]})
        values = np.asarray(run.run(None, feeds)[0])
        if values.nbytes <= max(FOLDED, *(a.nbytes for a in arrays if a is not None)):
            _replace(node, _constant(graph, f"{node.outputs[0].name}.folded", values))


def _drop_pooled_axes(graph: ir.Graph) -> None:
    """Mean over height and width, then a reshape to (N, K): the mean can leave the axes out.

    Then it is the same as the embedding wherever the target layer is what is pooled.
    """
    for node in _nodes(graph, "ReduceMean"):
        axes, rank = _array(node.inputs[1]), len(_in(node).shape or ())
        if axes is None or rank != 4 or sorted(axes % rank) != [2, 3]:
            continue
        keeps = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
        last: ir.Node | None = node
        if keeps:
            last = _only_user(node.outputs[0])
        if last is None or (keeps and last.op_type not in ("Reshape", "Squeeze", "Flatten")):
            continue
        if _rank(last.outputs[0]) != 2:
            continue
        mean = _add(
            graph, last or node, "ReduceMean",
            [node.inputs[0], _constant(graph, "tail.plane", np.array([2, 3]))], keepdims=0,
        )  # fmt: skip
        _replace(last, mean)


def _fold_linear(graph: ir.Graph) -> None:
    """x · W, then reshapes, sums and factors: one product with a W that has been through them.

    Behind LeNet's pool, (N, 120) · (120, 784) summed over 49 cells is (N, 120) · (120, 16). A
    mere factor, such as 1/(h·w), becomes the product's own: W is not stored a second time. That
    is all that may be done with the last layer's, which will be another once the head has learned.
    """
    learns = find_last(graph)
    for node in _nodes(graph, "MatMul") + _nodes(graph, "Gemm"):
        matrix = _matrix(node)
        if matrix is None:
            continue
        source, weight, turned = matrix
        best = None
        chain = list(_linear_chain(node))
        for i, last in enumerate(chain):
            folded = _through(weight, chain[: i + 1])
            if folded.ndim == 2 and folded.shape[0] == weight.shape[0]:
                best = last, folded
        if best is None or best[1].size > weight.size:
            continue
        last, folded = best
        factor = _factor(folded, weight)
        if factor is None and learns is not None and source is learns.weight:
            continue
        if factor is None:
            constant = _constant(graph, f"{node.outputs[0].name}.folded", folded)
            product = _add(graph, last, "MatMul", [node.inputs[0], constant])
        else:
            inputs = [node.inputs[0], source]
            product = _add(graph, last, "Gemm", inputs, alpha=factor, transB=int(turned))
        _replace(last, product)


def _matrix(node: ir.Node) -> tuple[ir.Value, Array, bool] | None:
    """(the constant, W as x · W, whether the constant is Wᵀ) of a mere product of matrices."""
    attributes = {name: _value(attribute) for name, attribute in node.attributes.items()}
    source = _source(node.inputs[1])
    values = _array(source)
    if source is None or values is None or values.ndim != 2 or _rank(node.inputs[0]) != 2:
        return None
    biased = len(node.inputs) > 2 and node.inputs[2] is not None
    if biased or attributes.get("alpha", 1) != 1 or attributes.get("transA", 0):
        return None
    turned = bool(attributes.get("transB", 0)) != (source is not node.inputs[1])
    return source, values.T if turned else values, turned


def _factor(folded: Array, weight: Array) -> float | None:
    """The number that ``folded`` is ``weight`` times, if it is."""
    if folded.shape != weight.shape or not weight.any():
        return None
    at = np.unravel_index(np.abs(weight).argmax(), weight.shape)
    factor = float(folded[at] / weight[at])
    return factor if np.allclose(folded, weight * factor, rtol=1e-6, atol=0) else None


def _store_once(graph: ir.Graph) -> None:
    """The backward pass reads the matrix that the forward pass has, as a Gemm that transposes."""
    for operator in ("MatMul", "Gemm"):
        for node in _nodes(graph, operator):
            weight = _source(node.inputs[1])
            values = _array(weight)
            if values is None or values.ndim != 2 or _rank(node.inputs[0]) != 2:
                continue
            attributes = {name: _value(attribute) for name, attribute in node.attributes.items()}
            turned = bool(attributes.get("transB", 0)) != (weight is not node.inputs[1])
            twin = next((v for v in graph.initializers.values() if _turned(v, values)), None)
            if twin is not None and turned is False and _first_use(graph, twin, node):
                weight, turned = twin, True
            if weight is not node.inputs[1]:
                attributes["transB"] = int(turned)
                inputs = [node.inputs[0], weight, *node.inputs[2:]]
                _replace(node, _add(graph, node, "Gemm", inputs, **attributes))


def _source(value: ir.Value | None) -> ir.Value | None:
    """What a transposed matrix is made from, else the value itself."""
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and node.op_type == "Transpose" else value


def _turned(value: ir.Value, values: Array) -> bool:
    """Whether a constant holds the transpose of ``values``."""
    other = _array(value)
    if other is None or other.dtype != values.dtype or other.shape != values.shape[::-1]:
        return False
    return bool((other == values.T).all())


def _first_use(graph: ir.Graph, value: ir.Value, node: ir.Node) -> bool:
    """Whether ``value`` is used before ``node`` is."""
    order = {other: i for i, other in enumerate(graph)}
    return any(order[use.node] < order[node] for use in value.uses())


def _precise(array: Array | None) -> Array | None:
    return array.astype(np.float64) if array is not None and array.dtype.kind == "f" else array


def _linear_chain(node: ir.Node) -> Iterator[ir.Node]:
    following = _only_user(node.outputs[0])
    while following is not None and following.op_type in _LINEAR:
        others = [_array(value) for value in following.inputs[1:]]
        if following.inputs[0] is not node.outputs[0] or any(other is None for other in others):
            return
        factor = following.op_type in ("Mul", "Div")
        if factor and others[0] is not None and others[0].size != 1:
            return
        if _rows(following) is None or _rows(following) != _rows(node):
            return  # rows are regrouped, as tokens into samples
        yield following
        node, following = following, _only_user(following.outputs[0])


def _rows(node: ir.Node) -> object:
    shape = node.outputs[0].shape
    return shape[0] if shape else None


def _through(weight: Array, chain: list[ir.Node]) -> Array:
    """The rows of ``weight`` as if each were a sample."""
    values = weight.astype(np.float64)
    for node in chain:
        feeds = {str(value.name): _array(value) for value in node.inputs[1:] if value is not None}
        run = ReferenceEvaluator(ir.to_proto(node), opsets={"": OPSET})
        feeds = {name: _precise(array) for name, array in feeds.items()}
        if node.op_type == "Reshape":  # a fixed batch is written in it, and here it is the rows
            sizes = [v for array in feeds.values() if array is not None for v in array[1:]]
            feeds = dict.fromkeys(feeds, np.array([len(weight), *sizes]))
        (values,) = cast("list[Array]", run.run(None, {str(_in(node).name): values, **feeds}))
    return values.astype(np.float32)


def _scales(graph: ir.Graph) -> None:
    """A factor on what only goes into convolutions belongs into their weights.

    A shift stays: a padded border is 0 behind it, not before. (x · s + b) is (x + b/s) · s.
    """
    for scale in [node for node in graph if node.op_type in ("Mul", "Div")]:
        factor = _array(scale.inputs[1])
        if factor is None or not factor.all():
            continue
        factor = factor if scale.op_type == "Mul" else 1 / factor
        shift = _only_user(scale.outputs[0])
        by = None
        if shift is not None and shift.op_type in ("Add", "Sub"):
            by = _array(shift.inputs[1])
        scaled = scale.outputs[0] if shift is None or by is None else shift.outputs[0]
        convs = _convolutions(scaled)
        if not convs or not all(_takes(conv, factor, moved) for conv, moved in convs):
            continue
        if shift is not None and by is not None:
            constant = _constant(graph, f"{scaled.name}.by", by / factor)
            _replace(shift, _add(graph, shift, shift.op_type, [scale.inputs[0], constant]))
        else:
            _replace(scale, _in(scale))
        for conv, _ in convs:
            weight = cast(Array, _array(conv.inputs[1])) * factor
            name = f"{_in(conv, 1).name}.{scaled.name}.scaled"
            conv.replace_input_with(1, _constant(graph, name, weight))


def _convolutions(value: ir.Value) -> list[tuple[ir.Node, bool]]:
    """All that use a value, and whether it is moved about before; none if another node does."""
    found: list[tuple[ir.Node, bool]] = []
    for node, place in value.uses():
        if node.op_type == "Conv" and place == 0:
            found.append((node, False))
        elif node.op_type in _MOVES and place == 0 and (behind := _convolutions(node.outputs[0])):
            found += [(conv, True) for conv, _ in behind]
        else:
            return []
    return [] if value.is_graph_output() else found


def _takes(conv: ir.Node, factor: Array, moved: bool) -> bool:
    """Whether the weights can hold a factor of the map that the convolution reads."""
    weight, groups = _array(conv.inputs[1]), conv.attributes.get("group")
    if weight is None or (groups is not None and groups.as_int() != 1):
        return False
    of_channels = factor.shape == (1, weight.shape[1], *[1] * (weight.ndim - 2))
    return factor.size == 1 or (of_channels and not moved)


# Reading and changing the graph -----------------------------------------------------------------


def _nodes(graph: ir.Graph, operator: str) -> list[ir.Node]:
    return [node for node in graph if node.op_type == operator]


def _in(node: ir.Node, i: int = 0) -> ir.Value:
    return cast(ir.Value, node.inputs[i])


def _array(value: ir.Value | None) -> Array | None:
    """A constant's values; None where it is none."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def _number(value: ir.Value | None) -> float | None:
    array = _array(value)
    return float(array.item()) if array is not None and array.size == 1 else None


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _only_user(value: ir.Value) -> ir.Node | None:
    """The one node that takes a value, where there is but one and the value is no output."""
    users = [use.node for use in value.uses()]
    return users[0] if len(users) == 1 and not value.is_graph_output() else None


def _constant(graph: ir.Graph, name: str, values: Array) -> ir.Value:
    if name not in graph.initializers:
        values = values.astype(np.float32) if values.dtype.kind == "f" else values
        tensor = ir.tensor(np.ascontiguousarray(values), name=name)
        graph.register_initializer(
            ir.val(name, tensor.dtype, cast(ir.Shape, tensor.shape), const_value=tensor)
        )
    return graph.initializers[name]


def _value(attribute: ir.Attr) -> float:
    return attribute.as_float() if attribute.type is ir.AttributeType.FLOAT else attribute.as_int()


def _add(
    graph: ir.Graph,
    before: ir.Node,
    operator: str,
    inputs: Sequence[ir.Value | None],
    **attributes: float,
) -> ir.Value:
    """A new node's output, which takes type and shape of the one that it will replace."""
    node = ir.node(operator, inputs, attributes)
    graph.insert_before(before, node)
    return node.outputs[0]


def _replace(node: ir.Node, value: ir.Value) -> None:
    """Let all that took the node's output take ``value``."""
    old = node.outputs[0]
    if value.producer() is not None and value.shape is None:
        value.type, value.shape = old.type, old.shape
        if old.is_graph_output():
            value.name, old.name = old.name, None
    old.replace_all_uses_with(value, replace_graph_outputs=True)
