"""Small questions about an ONNX graph, asked by every pass."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dripgate.types import Array

#: Shape and dtype.
Kind = tuple[tuple[int, ...], np.dtype[Any]]


def shapes(graph: onnx.GraphProto) -> dict[str, Kind]:
    """Shape and dtype of every value that is computed, and of the input."""
    return {
        value.name: (
            tuple(size.dim_value for size in value.type.tensor_type.shape.dim),
            np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
        )
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def initializers(graph: onnx.GraphProto) -> dict[str, Array]:
    """The constants by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Who computes each value."""
    return {name: node for node in graph.node for name in node.output}


def users(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto | None]]:
    """Who reads each value; None stands for the graph's output."""
    found: dict[str, list[onnx.NodeProto | None]] = {value.name: [None] for value in graph.output}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((one.i for one in node.attribute if one.name == name), default)


def replace(graph: onnx.GraphProto, old: onnx.NodeProto, new: list[onnx.NodeProto]) -> None:
    """Put other nodes in the place of one; the order stays topological."""
    place = next(i for i, node in enumerate(graph.node) if node is old or node == old)
    nodes = [*graph.node[:place], *new, *graph.node[place + 1 :]]
    del graph.node[:]
    graph.node.extend(nodes)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Nodes and constants that no output needs."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    nodes = list(reversed(kept))
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
