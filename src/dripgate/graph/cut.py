"""Cuts: the tensors that everything from the samples to the logits passes through."""

from typing import NamedTuple

import onnx_ir as ir

from dripgate.graph.builder import Shape
from dripgate.graph.measure import Measured

_POOLS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool"}
_MOVES = {
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout", "Cast",
    "QuantizeLinear",
}  # fmt: skip
#: Operators whose first input, and whose output, has its channels second or last.
_SECOND = {
    "Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "GroupNormalization",
    *_POOLS,
}  # fmt: skip
_LAST = {"MatMul", "Gemm", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
_SAME = {
    "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish",
    "Tanh", "Erf", "Gelu", "Softplus", "Mish", "Swish", "Clip", "Add", "Sub", "Mul", "Div", "Pow",
    "Sqrt", "Neg", "Abs", "Exp", "Max", "Min", "Where", "Identity", "Dropout", "Cast", "Pad",
    "QuantizeLinear", "DequantizeLinear", "Concat", "Slice", "Resize", "Softmax", "Split", "Sum",
}  # fmt: skip
_REDUCES = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2"}


class Cut(NamedTuple):
    """A tensor (N, …) and how it is read as activations.

    channel: its channel axis. tokens: where along the cell axis the spatial cells are, if class
    or register tokens lie beside them; None is all. guess: the axis could not be told for sure.
    """

    value: ir.Value
    shape: Shape
    channel: int
    tokens: tuple[int, int] | None
    guess: bool

    @property
    def cells(self) -> list[int]:
        """The axes of the cells."""
        return [a for a in range(1, len(self.shape)) if a != self.channel]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(K, h, w) of the activations; one row where the cells are a sequence."""
        sides = [self.shape[a] for a in self.cells]
        if self.tokens:
            sides = [self.tokens[1] - self.tokens[0]]
        sides = [side for side in sides if side != 1] if len(sides) > 1 else sides
        sides = sides or [1]
        if len(sides) == 1:
            side = round(sides[0] ** 0.5)
            sides = [side, side] if self.channel == 2 and side**2 == sides[0] else [1, sides[0]]
        while len(sides) > 2:
            sides = [sides[0] * sides[1], *sides[2:]]
        return self.shape[self.channel], sides[0], sides[1]

    @property
    def name(self) -> str:
        """The tensor's name in the graph."""
        return str(self.value.name)


def find_cuts(graph: ir.Graph, logits: ir.Value, measured: Measured) -> list[ir.Value]:
    """The tensors that everything passes through, first to last: one pass in topological order.

    A set of the values that are still needed is kept; where it has one member, that is a cut.
    """
    needed = _needed(logits) & measured.data
    last = dict.fromkeys(needed, -1)
    nodes = [node for node in graph if any(value in needed for value in node.outputs)]
    for place, node in enumerate(nodes):
        for value in node.inputs:
            if value in needed:
                last[value] = place
    found: list[ir.Value] = []
    live = {value for value in graph.inputs if value in needed}
    for place, node in enumerate(nodes):
        live |= {value for value in node.outputs if value in needed}
        live = {value for value in live if last[value] > place or value is logits}
        if len(live) == 1 and (only := next(iter(live))) not in found[-1:]:
            found.append(only)
    return found


def _needed(logits: ir.Value) -> set[ir.Value]:
    found, waiting = {logits}, [logits]
    while waiting:
        node = waiting.pop().producer()
        for value in node.inputs if node is not None else ():
            if value is not None and value not in found:
                found.add(value)
                waiting.append(value)
    return found


def spatial(cuts: list[ir.Value], measured: Measured) -> list[Cut]:
    """Those of the cuts that can be activations: floats with a channel axis and cells.

    What a pool gives is a coarser copy of what went in, and what only moves values is the same
    tensor again: neither is a cut of its own.
    """
    batch = -1 if measured.batch is None else measured.batch
    found = []
    for value in cuts:
        shape, node = measured.shapes.get(value, ()), value.producer()
        if node is None or len(shape) not in (3, 4, 5) or shape[0] != batch:
            continue
        if node.op_type in _POOLS | _MOVES or value.dtype not in (None, ir.DataType.FLOAT):
            continue
        if _source(value, _MOVES).op_type in _POOLS and node.op_type in _SAME - {"Add", "Concat"}:
            continue
        axis = channel_axis(value, measured)
        guess = axis is None
        axis = axis if axis is not None else 2 if len(shape) == 3 else 1
        cut = Cut(value, shape, axis, _tokens(value, shape, axis, measured), guess)
        _, height, width = cut.sizes
        if height * width > 1 and all(size > 0 for size in shape[1:]):
            found.append(cut)
    return found


def _source(value: ir.Value, through: set[str]) -> ir.Node:
    """The node that a value comes from, past DequantizeLinear and moves."""
    node = value.producer()
    assert node is not None  # noqa: S101 - the caller has seen it
    while node.op_type in through | {"DequantizeLinear"} and node.inputs[0] is not None:
        before = node.inputs[0].producer()
        if before is None:
            break
        node = before
    return node


# Which axis is the channel? ---------------------------------------------------------------------


def channel_axis(value: ir.Value, measured: Measured) -> int | None:
    """The channel axis, by what takes the value, else by what made it; None where neither tells."""
    return _by_users(value, measured, 0) or _by_maker(value, measured, 0)


def _by_users(value: ir.Value, measured: Measured, depth: int) -> int | None:
    shape = measured.shapes.get(value, ())
    if depth > 12 or len(shape) < 3:
        return None
    for node, place in sorted(value.uses(), key=lambda use: use.node.op_type in _SAME):
        axis = _by_user(value, node, place, measured, depth)
        if axis is not None:
            return axis
    return None


def _by_user(
    value: ir.Value, node: ir.Node, place: int, measured: Measured, depth: int
) -> int | None:
    shape, kind = measured.shapes[value], node.op_type
    rank = len(shape)
    if place == 0 and kind in _SECOND:
        return 1
    if place == 0 and kind in _LAST:
        return rank - 1 if _of_last_axis(node, rank) else None
    if kind in _REDUCES:
        return _by_reduction(value, node, rank)
    after = measured.shapes.get(node.outputs[0], ())
    if kind == "Gather" and place == 0 and rank == 3 and len(after) == 2:
        gone = int(node.attributes["axis"].value) % rank if "axis" in node.attributes else 0
        return 3 - gone if gone else None
    behind = _by_users(node.outputs[0], measured, depth + 1) if node.outputs else None
    if kind in _SAME and len(after) == rank:
        return behind
    if behind is not None and kind == "Transpose":
        return int(node.attributes["perm"].value[behind])
    if behind is not None and kind in _MOVES:
        return _same_axis(after, shape, behind)
    return None


def _of_last_axis(node: ir.Node, rank: int) -> bool:
    """Whether an operator takes the last axis alone: a LayerNorm may take (K, h, w)."""
    axis = node.attributes.get("axis")
    return axis is None or int(axis.value) % rank == rank - 1


def _by_reduction(value: ir.Value, node: ir.Node, rank: int) -> int | None:
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] else None
    if axes is None:
        return None
    gone = {int(a) % rank for a in axes.numpy().ravel()}
    left = [a for a in range(1, rank) if a not in gone]
    if len(left) == 1 and not (rank == 3 and _is_centred(value, node)):
        return left[0]
    return next(iter(gone)) if len(gone) == 1 else None


def _is_centred(value: ir.Value, node: ir.Node) -> bool:
    """Whether the mean is taken off again, as a normalisation over the channels does."""
    return any(
        use.node.op_type == "Sub" and value in use.node.inputs for use in node.outputs[0].uses()
    )


def _by_maker(value: ir.Value, measured: Measured, depth: int) -> int | None:
    shape, node = measured.shapes.get(value, ()), value.producer()
    if depth > 12 or len(shape) < 3 or node is None:
        return None
    if node.op_type in _SECOND:
        return 1
    if node.op_type in _LAST and _of_last_axis(node, len(shape)):
        return len(shape) - 1
    for before in node.inputs:
        given = measured.shapes.get(before, ()) if before is not None else ()
        if before is None or before not in measured.data:
            continue
        if node.op_type in _SAME and len(given) == len(shape):
            axis = _by_maker(before, measured, depth + 1)
        elif node.op_type == "Transpose":
            axis = _by_maker(before, measured, depth + 1)
            axis = None if axis is None else list(node.attributes["perm"].value).index(axis)
        elif node.op_type in _MOVES:
            axis = _by_maker(before, measured, depth + 1)
            axis = None if axis is None else _same_axis(given, shape, axis)
        else:
            axis = None
        if axis is not None:
            return axis
    return None


def _same_axis(given: Shape, wanted: Shape, axis: int) -> int | None:
    """Where an axis is after a reshape: as many values lie behind it, and it is as long."""

    def behind(shape: Shape, a: int) -> int:
        product = 1
        for size in shape[a + 1 :]:
            product *= size
        return product

    for a in range(1, len(wanted)):
        if wanted[a] == given[axis] and behind(wanted, a) == behind(given, axis):
            return a
    return None


# Class and register tokens ----------------------------------------------------------------------


def _tokens(
    value: ir.Value, shape: Shape, channel: int, measured: Measured
) -> tuple[int, int] | None:
    """Where the spatial tokens are: found at the Concat that put learned tokens beside them."""
    if len(shape) != 3:
        return None
    axis = 3 - channel
    seen, waiting = {value}, [value]
    while waiting:
        node = waiting.pop().producer()
        if node is None:
            continue
        if node.op_type == "Concat":
            start = 0
            for part in node.inputs:
                size = measured.shapes[part] if part is not None else (0,) * 3
                length = size[axis] if len(size) == 3 else 0
                if part in measured.data and 1 < length < shape[axis]:
                    others = [p for p in node.inputs if p is not part]
                    if all(p not in measured.data for p in others):
                        return start, start + length
                start += length
        for before in node.inputs:
            same = before is not None and measured.shapes.get(before, ()) == shape
            if same and before in measured.data and before not in seen:
                seen.add(before)
                waiting.append(before)
    return None
