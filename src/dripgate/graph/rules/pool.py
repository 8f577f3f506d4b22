"""The chain rule of pools, and the two of which only the mean over the cells is needed."""

import math

import numpy as np
import onnx_ir as ir

from dripgate.graph.builder import Builder
from dripgate.graph.rules.linear import separable, window
from dripgate.graph.rules.table import NoRule, Rule, attribute, rule, source

#: Like RULES, but gives Σ over all cells of the input's gradient, of shape (N, K, 1, …).
CELL_SUMS: dict[str, Rule] = {}


@rule("GlobalAveragePool")
def _global_average(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """Each of the h · w cells has g / (h · w)."""
    x, _ = source(node)
    return b.mul(g, 1 / math.prod(b.shapes[x][2:]))


@rule("GlobalMaxPool")
def _global_max(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """The gradient goes to the largest cell, in equal parts where several are."""
    x, y = source(node)
    flags = b.mask("Equal", x, y)
    axes = range(2, len(b.shapes[x]))
    return b.mul(b.div(flags, b.reduce("ReduceSum", flags, axes)), g)


@rule("AveragePool")
def _average(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """A constant matrix along each axis, so that its transposes lead back."""
    x, y = source(node)
    sizes, out = b.shapes[x][2:], b.shapes[y][2:]
    kernel, stride, dilation, before, behind = window(node, b)
    whole = all(o == 1 and k >= n for o, k, n in zip(out, kernel, sizes, strict=True))
    if whole and not any(before):
        return b.mul(g, 1 / math.prod(sizes))
    with_pads = attribute(node, "count_include_pad", 0)
    g = b.expand(g, b.shapes[y])
    matrices = {}
    for a, (n, o) in enumerate(zip(sizes, out, strict=True)):
        places = np.arange(o)[:, None] * stride[a] + np.arange(kernel[a]) * dilation[a] - before[a]
        inside = (places >= 0) & (places < n)
        # What lies beyond the padding, as ceil_mode makes it, never counts.
        padded = (places >= -before[a]) & (places < n + behind[a])
        matrix = np.zeros((o, n), np.float64)
        np.add.at(matrix, (np.nonzero(inside)[0], places[inside]), 1)
        counted = padded if with_pads else inside
        matrices[2 + a] = matrix / np.maximum(counted.sum(axis=1, keepdims=True), 1)
    return separable(b, g, matrices)


@rule("MaxPool")
def _max(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """Every pooled cell's gradient goes to the cell that it came from."""
    x, y = source(node)
    if len(node.outputs) < 2:
        node.resize_outputs(2)
        node.outputs[1].name = f"{y.name}.places"
        b.declare(node.outputs[1], b.shapes[y], ir.DataType.INT64)
    if attribute(node, "storage_order", 0):
        raise NoRule("MaxPool in column-major order")
    g = b.expand(g, b.shapes[y])
    n, *sizes = b.shapes[x]
    flat = (n * math.prod(sizes),)
    pooled = (n * math.prod(b.shapes[y][1:]),)
    empty = b.mul(b.reshape(x, flat), 0.0)
    places = b("Reshape", node.outputs[1], b.numbers([-1]), shape=pooled)
    b.declare(places, pooled, ir.DataType.INT64)
    values = b.reshape(g, pooled)
    spread = b("ScatterElements", empty, places, values, shape=flat, axis=0, reduction="add")
    return b.reshape(spread, b.shapes[x])


def _max_cells(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """Each pooled cell's gradient lands on one cell: their sum needs no indices."""
    _, y = source(node)
    return b.sum(g, range(2, len(b.shapes[y])), b.shapes[y])


CELL_SUMS["MaxPool"] = _max_cells
