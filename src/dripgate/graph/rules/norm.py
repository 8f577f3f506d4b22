"""The chain rule of normalisations and of softmax."""

import math
from collections.abc import Sequence

import onnx_ir as ir

from dripgate.graph.builder import Builder
from dripgate.graph.rules.table import NoRule, attribute, axes_of, rule, source


@rule("Softmax")
def _softmax(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """∂x = y · (g - Σ g · y)."""
    _, y = source(node)
    axis = attribute(node, "axis", -1) % len(b.shapes[y])
    total = b.sum(b.mul(g, y), [axis], b.shapes[y])
    return b.mul(b.sub(g, total), y)


@rule("LogSoftmax")
def _log_softmax(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """∂x = g - eʸ · Σ g."""
    _, y = source(node)
    axis = attribute(node, "axis", -1) % len(b.shapes[y])
    total = b.sum(g, [axis], b.shapes[y])
    return b.sub(g, b.mul(b.unary("Exp", y), total))


@rule("BatchNormalization")
def _batch_norm(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """In use a scale per channel: γ / √(σ² + ε)."""
    if i or attribute(node, "training_mode", 0):
        raise NoRule("BatchNormalization in training mode")
    x, _ = source(node)
    scale, variance = source(node, 1)[0], source(node, 4)[0]
    deviation = b.unary("Sqrt", b.add(variance, attribute(node, "epsilon", 1e-5)))
    sizes = (1, b.shapes[scale][0], *(1,) * (len(b.shapes[x]) - 2))
    return b.mul(g, b.reshape(b.div(scale, deviation), sizes))


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _layer_norm(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = γ · x̂ + β over the axes from ``axis`` on; RMSNormalization does not take the mean."""
    x, _ = source(node)
    rank = len(b.shapes[x])
    axes = range(attribute(node, "axis", -1) % rank, rank)
    if i:
        raise NoRule(f"{node.op_type} whose scale depends on the sample")
    centred = node.op_type == "LayerNormalization"
    g = b.mul(g, source(node, 1)[0])
    return _normalised(b, x, g, axes, attribute(node, "epsilon", 1e-5), centred=centred)


@rule("InstanceNormalization", "GroupNormalization")
def _group_norm(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """Normalised over each channel's cells, or over those of a group of channels."""
    if i:
        raise NoRule(f"{node.op_type} whose scale depends on the sample")
    x, y = source(node)
    scale, _ = source(node, 1)
    n, channels, *cells = b.shapes[x]
    groups = attribute(node, "num_groups", channels)
    full = b.expand(b.mul(g, b.reshape(scale, (1, channels, *(1,) * len(cells)))), b.shapes[y])
    grouped = (n, groups, channels // groups * math.prod(cells))
    found = _normalised(
        b, b.reshape(x, grouped), b.reshape(full, grouped), [2], attribute(node, "epsilon", 1e-5)
    )
    return b.reshape(found, b.shapes[x])


def _normalised(
    b: Builder, x: ir.Value, g: ir.Value, axes: Sequence[int], epsilon: float, *,
    centred: bool = True,
) -> ir.Value:  # fmt: skip
    """x̂ = (x - μ) / σ: ∂x = (g - mean g - x̂ · mean(g · x̂)) / σ."""
    away = b.sub(x, b.reduce("ReduceMean", x, axes)) if centred else x
    variance = b.reduce("ReduceMean", b.mul(away, away), axes)
    sigma = b.unary("Sqrt", b.add(variance, epsilon))
    unit = b.div(away, sigma)
    along = b.mul(unit, b.mean(b.mul(g, unit), axes))
    g = b.sub(g, b.mean(g, axes)) if centred else g
    return b.div(b.sub(g, along), sigma)


@rule("LpNormalization")
def _lp_normalised(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = x / ‖x‖: ∂x = (g - y · Σ g · y) / ‖x‖, with sign x in place of the second y for p = 1."""
    x, y = source(node)
    axis = attribute(node, "axis", -1) % len(b.shapes[x])
    p = attribute(node, "p", 2)
    length = b.reduce(f"ReduceL{p}", x, [axis])
    total = b.sum(b.mul(g, y), [axis], b.shapes[y])
    direction = y if p == 2 else b.unary("Sign", x)
    return b.div(b.sub(g, b.mul(direction, total)), length)


def kept(b: Builder, node: ir.Node, value: ir.Value) -> ir.Value:
    """A reduction's result, or its gradient, with the reduced axes in place as size 1."""
    x, _ = source(node)
    axes = axes_of(node, len(b.shapes[x]))
    if attribute(node, "keepdims", 1):
        return value
    sizes = list(b.shapes[value])
    for axis in axes:
        sizes.insert(axis, 1)
    return b.reshape(value, sizes)


@rule("ReduceMean", "ReduceSum")
def _reduced(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """Each of the n summed values has the same gradient: g, or g / n for the mean."""
    x, _ = source(node)
    n = math.prod(b.shapes[x][a] for a in axes_of(node, len(b.shapes[x])))
    return b.mul(kept(b, node, g), 1 / n if node.op_type == "ReduceMean" else 1)


@rule("ReduceMax", "ReduceMin")
def _reduced_extreme(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """The gradient goes to the largest, in equal parts where several are."""
    x, y = source(node)
    axes = axes_of(node, len(b.shapes[x]))
    flags = b.mask("Equal", x, kept(b, node, y))
    return b.mul(b.div(flags, b.reduce("ReduceSum", flags, axes)), kept(b, node, g))


@rule("CumSum")
def _cumulative(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """Each value is in all later sums: the sum of their gradients, from the other end."""
    x, _ = source(node)
    g = b.expand(g, b.shapes[x])
    return b(
        "CumSum", g, node.inputs[1], shape=b.shapes[x], reverse=1 - attribute(node, "reverse", 0),
        exclusive=attribute(node, "exclusive", 0),
    )  # fmt: skip


@rule("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceLogSum")
def _reduced_norm(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """L1: sign x. L2: x / y. Σx²: 2x. log Σeˣ: e^(x - y). log Σx: e^-y."""
    x, y = source(node)
    g, y = kept(b, node, g), kept(b, node, y)
    slope = {
        "ReduceL1": lambda: b.unary("Sign", x),
        "ReduceL2": lambda: b.div(x, y),
        "ReduceSumSquare": lambda: b.mul(x, 2.0),
        "ReduceLogSum": lambda: b.unary("Exp", b.unary("Neg", y)),
        "ReduceLogSumExp": lambda: b.unary("Exp", b.sub(x, y)),
    }[node.op_type]()
    return b.mul(g, slope)
