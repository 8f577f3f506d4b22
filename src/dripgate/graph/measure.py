"""What a graph's values are, measured by running it: shapes, types, constants.

Symbolic shape inference loses them in half of all transformers. So the graph is run for two
samples and for three, with every value as an output: a size that differs depends on the batch,
and what is the same in both runs and takes nothing from the samples is a constant.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from dripgate.errors import ModelError
from dripgate.graph.builder import Shape, symbol
from dripgate.graph.read import FOLDED
from dripgate.types import Array

#: What takes a value's size, not its content.
_OF_SHAPE = {"Shape", "Size"}


class Measured(NamedTuple):
    """batch is None where it is dynamic, else the one size that the graph takes."""

    shapes: dict[ir.Value, Shape]
    data: set[ir.Value]  # depends on what is in the samples
    batch: int | None


def session(model: bytes, *, plain: bool = False) -> Any:
    """An onnxruntime session that says nothing, on the CPU. Raises ModelError.

    plain: node by node, without any optimisation.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    if plain:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        cause = str(error).strip().splitlines()[0][:300]
        raise ModelError(f"onnxruntime {onnxruntime.__version__} cannot open it: {cause}") from None


def run(found: Any, feeds: Mapping[str, Array], names: list[str] | None = None) -> list[Array]:
    """Run a session. Raises ModelError with onnxruntime's reason."""
    try:
        results: list[Array] = found.run(names, dict(feeds))
    except Exception as error:  # as above
        cause = str(error).strip().splitlines()[0][:300]
        raise ModelError(f"onnxruntime cannot run it: {cause}") from None
    return results


def samples_like(value: ir.Value, n: int, shape: tuple[int, ...], seed: int = 0) -> Array:
    """n made-up samples of an input's type, (n, *shape): the first ones are always the same."""
    kind = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
    rng = np.random.default_rng(seed)
    values = np.stack([rng.normal(size=shape) for _ in range(n)])
    if kind.kind in "iu":
        low, high = (0, 200) if kind.kind == "u" else (-100, 100)
        return np.clip(np.round(values * 40 + (low + high) / 2), low, high).astype(kind)
    return values.astype(kind)


def measure(
    model: ir.Model, given: ir.Value, shape: tuple[int, ...], batch: int | None
) -> Measured:
    """Run ``model`` for samples (N, *shape) and note what its values are.

    What is constant and small enough is stored in place of the operators that compute it.
    batch: a size that the graph insists on, else None. Raises ModelError where it cannot run.
    """
    data = _depend_on(model.graph, given)
    _refuse_control_flow(model.graph, data)
    sizes = (2, 3) if batch is None else (batch,)
    runs = [_all_values(model, given, samples_like(given, n, shape), data) for n in sizes]
    shapes: dict[ir.Value, Shape] = {}
    for value in _values(model.graph):
        found = [values[value][0] for values in runs if value in values]
        if len(found) == len(sizes):
            shapes[value] = _size(found[0], found[-1]) if batch is None else found[0]
            value.type = ir.TensorType(ir.DataType.from_numpy(runs[0][value][1]))
    _fold(model.graph, runs, data)
    _fix_shapes(model.graph, shapes, batch)
    return Measured(shapes, data, batch)


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def _size(two: Shape, three: Shape) -> Shape:
    """A shape at two samples and at three, in one: -k for k times the batch."""
    if len(two) != len(three):
        raise ModelError("a value's rank depends on the number of samples")
    sizes = []
    for a, c in zip(two, three, strict=True):
        if a != c and (a % 2 or a // 2 * 3 != c):
            raise ModelError("a value's size is no multiple of the number of samples")
        sizes.append(a if a == c else -(a // 2))
    return tuple(sizes)


def _depend_on(graph: ir.Graph, given: ir.Value) -> set[ir.Value]:
    data = {given}
    for node in graph:
        if node.op_type not in _OF_SHAPE and any(value in data for value in node.inputs):
            data.update(node.outputs)
        elif any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
                 for a in node.attributes.values()):  # fmt: skip
            data.update(node.outputs)  # a body may take values from outside
    return data


def _refuse_control_flow(graph: ir.Graph, data: set[ir.Value]) -> None:
    for node in graph:
        if node.op_type in ("If", "Loop", "Scan") and any(v in data for v in node.outputs):
            raise ModelError(
                f"it holds {node.op_type} ('{node.name}'), and a gate is one static graph; export "
                "the model without branches or loops (trace it, or fix what they depend on)"
            )


#: Shape, type, and the content of what takes nothing from the samples.
Seen = dict[ir.Value, tuple[Shape, np.dtype[Any], Array | None]]


def _all_values(model: ir.Model, given: ir.Value, samples: Array, data: set[ir.Value]) -> Seen:
    """Every value's shape, and the content of those that take nothing from the samples."""
    proto = ir.to_proto(model)
    named = {str(v.name): v for node in model.graph for v in node.outputs if v.name}
    have = {value.name for value in proto.graph.output}
    del proto.graph.value_info[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in named if name not in have)
    found = session(proto.SerializeToString(), plain=True)
    results = run(found, {str(given.name): samples}, list(named))
    seen: Seen = {given: (samples.shape, samples.dtype, None)}
    for value, array in zip(named.values(), results, strict=True):
        if isinstance(array, np.ndarray):
            seen[value] = (array.shape, array.dtype, None if value in data else array)
    return seen


def _fold(graph: ir.Graph, runs: list[Seen], data: set[ir.Value]) -> None:
    """Constants in place of what computes them. Quantised weights stay as small as they are."""
    for node in list(graph):
        if node.op_type == "DequantizeLinear":
            continue
        for value in node.outputs:
            arrays = [a for seen in runs if value in seen and (a := seen[value][2]) is not None]
            if value in data or len(arrays) < len(runs):
                continue
            first, last = arrays[0], arrays[-1]
            same = first.dtype == last.dtype and np.array_equal(first, last)
            if (
                same
                and first.nbytes <= max(FOLDED, _bytes_into(node))
                and not value.is_graph_output()
            ):
                tensor = ir.tensor(np.array(first, order="C"), name=f"{value.name}.folded")
                constant = ir.val(
                    tensor.name, tensor.dtype, ir.Shape(first.shape), const_value=tensor
                )
                graph.register_initializer(constant)
                value.replace_all_uses_with(constant)
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)


def _bytes_into(node: ir.Node) -> int:
    constants = [v.const_value for v in node.inputs if v is not None and v.const_value is not None]
    return sum(tensor.nbytes for tensor in constants)


def _fix_shapes(graph: ir.Graph, shapes: dict[ir.Value, Shape], batch: int | None) -> None:
    """Write the measured shapes down; a Reshape needs no operators to compute its target."""
    for value in graph.initializers.values():
        if value.const_value is not None:
            shapes[value] = tuple(value.const_value.shape.numpy())
    for value, shape in shapes.items():
        value.shape = ir.Shape([symbol(size) for size in shape])
    for node in [node for node in graph if node.op_type == "Reshape"]:
        shape = shapes[node.outputs[0]]
        if sum(size < 0 for size in shape) > 1 or node.inputs[1] in (None, *graph.inputs):
            continue
        target = np.array([-1 if size < 0 else size for size in shape], np.int64)
        name = f"{node.outputs[0].name}.target"
        tensor = ir.tensor(target, name=name)
        constant = ir.val(name, tensor.dtype, ir.Shape(target.shape), const_value=tensor)
        graph.register_initializer(constant)
        shapes[constant] = target.shape
        node.replace_input_with(1, constant)
        node.attributes.pop("allowzero", None)
