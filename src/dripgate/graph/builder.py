"""Adding operators to a graph whose shapes are known.

A shape here is a tuple of sizes in which ``-k`` stands for k times the batch. Gradients are kept
*unexpanded*: a size of 1 where the value that they belong to has more says that they are the same
all along that axis. Behind a mean over cells a gradient therefore never becomes a plane.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from dripgate.types import Array

Shape = tuple[int, ...]
_COMPARISONS = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}


class Builder:
    """Appends nodes to ``graph`` and knows every value's shape; constants are made once."""

    def __init__(self, graph: ir.Graph, shapes: dict[ir.Value, Shape]) -> None:
        self.graph, self.shapes = graph, shapes
        self._tape = ir.tape.Tape(graph)

    def __call__(
        self, operator: str, *inputs: ir.Value | None, shape: Shape, **attributes: Any
    ) -> ir.Value:
        """The first output of a new node, which has ``shape``."""
        value: ir.Value = self._tape.op(operator, inputs, attributes)
        kind = ir.DataType.BOOL if operator in _COMPARISONS else ir.DataType.FLOAT
        self.declare(value, shape, ir.DataType(attributes.get("to", kind)))
        return value

    def declare(self, value: ir.Value, shape: Shape, kind: ir.DataType) -> None:
        """Say a value's shape and type."""
        self.shapes[value] = shape
        value.shape = ir.Shape([symbol(size) for size in shape])
        value.type = ir.TensorType(kind)

    def constant(self, values: Any, dtype: Any = np.float32) -> ir.Value:
        """An initializer with these values; the same values are the same initializer."""
        array = np.ascontiguousarray(values, dtype)
        about = f"{array.dtype} {array.shape} ".encode()
        name = "const." + hashlib.sha256(about + array.tobytes()).hexdigest()[:12]
        if name not in self.graph.initializers:
            value = self._tape.initializer(ir.tensor(array, name=name))
            self.shapes[value] = array.shape
        return self.graph.initializers[name]

    def initializer(self, name: str, values: Array) -> ir.Value:
        """A constant under a name of its own."""
        value = self._tape.initializer(ir.tensor(values, name=name))
        self.shapes[value] = values.shape
        return value

    def numbers(self, values: Iterable[int]) -> ir.Value:
        """int64 constants: axes, shapes, bounds."""
        return self.constant(list(values), np.int64)

    # Arithmetic that knows shapes ----------------------------------------------------------------

    def unary(self, operator: str, x: ir.Value, **attributes: Any) -> ir.Value:
        """An operator that leaves the shape as it is."""
        return self(operator, x, shape=self.shapes[x], **attributes)

    def binary(self, operator: str, x: ir.Value, y: ir.Value | float) -> ir.Value:
        """Add, Sub, Mul or Div with broadcasting; y may be a number."""
        other = y if isinstance(y, ir.Value) else self.constant(y)
        return self(operator, x, other, shape=broadcast(self.shapes[x], self.shapes[other]))

    def add(self, x: ir.Value, y: ir.Value | float) -> ir.Value:
        """x + y."""
        return self.binary("Add", x, y)

    def sub(self, x: ir.Value, y: ir.Value | float) -> ir.Value:
        """x - y."""
        return self.binary("Sub", x, y)

    def mul(self, x: ir.Value, y: ir.Value | float) -> ir.Value:
        """x · y; a factor of 1 is left out."""
        return x if not isinstance(y, ir.Value) and y == 1 else self.binary("Mul", x, y)

    def div(self, x: ir.Value, y: ir.Value | float) -> ir.Value:
        """x / y."""
        return self.binary("Div", x, y)

    def mask(self, operator: str, x: ir.Value, y: ir.Value | float) -> ir.Value:
        """1.0 where the comparison holds, else 0.0."""
        return self.unary("Cast", self.binary(operator, x, y), to=ir.DataType.FLOAT)

    # Sums, moves and expansions ------------------------------------------------------------------

    def reduce(self, operator: str, x: ir.Value, axes: Iterable[int]) -> ir.Value:
        """A reduction that keeps the axes, as size 1."""
        axes = sorted(axes)
        kept = tuple(1 if a in axes else size for a, size in enumerate(self.shapes[x]))
        return self(operator, x, self.numbers(axes), shape=kept, keepdims=1)

    def sum(self, g: ir.Value, axes: Iterable[int], full: Shape) -> ir.Value:
        """Σ along ``axes`` of a gradient that stands for one of shape ``full``; they become 1."""
        shape = self.shapes[g]
        axes = [a for a in axes if full[a] != 1]
        real = [a for a in axes if shape[a] != 1]
        times = math.prod(full[a] for a in axes if shape[a] == 1)
        g = self.reduce("ReduceSum", g, real) if real else g
        return self.mul(g, float(times))

    def mean(self, g: ir.Value, axes: Iterable[int]) -> ir.Value:
        """The mean along ``axes``; where the gradient is the same all along, it is that."""
        real = [a for a in axes if self.shapes[g][a] != 1]
        return self.reduce("ReduceMean", g, real) if real else g

    def reshape(self, x: ir.Value, shape: Sequence[int]) -> ir.Value:
        """x in another shape, without a node where it has it already."""
        shape = tuple(shape)
        if self.shapes[x] == shape:
            return x
        sizes = [-1 if size < 0 else size for size in shape]
        if sizes.count(-1) > 1:
            raise ValueError(f"two sizes of {shape} depend on the batch")
        return self("Reshape", x, self.numbers(sizes), shape=shape)

    def transpose(self, x: ir.Value, perm: Sequence[int]) -> ir.Value:
        """x with its axes in another order."""
        if list(perm) == list(range(len(perm))):
            return x
        shape = tuple(self.shapes[x][a] for a in perm)
        return self("Transpose", x, shape=shape, perm=list(perm))

    def swap_last(self, x: ir.Value) -> ir.Value:
        """A matrix, or a stack of them, transposed."""
        rank = len(self.shapes[x])
        return self.transpose(x, [*range(rank - 2), rank - 1, rank - 2])

    def expand(self, g: ir.Value, full: Shape, axes: Iterable[int] | None = None) -> ir.Value:
        """A gradient written out along ``axes`` (by default along all)."""
        shape = self.shapes[g]
        along = set(range(len(full)) if axes is None else (a % len(full) for a in axes))
        wanted = tuple(f if a in along else s for a, (s, f) in enumerate(zip(shape, full)))  # noqa: B905
        if wanted == shape:
            return g
        sizes = [1 if size < 0 else size for size in wanted]  # an expansion leaves the batch
        return self("Expand", g, self.numbers(sizes), shape=wanted)

    def sum_to(self, g: ir.Value, full: Shape, shape: Shape) -> ir.Value:
        """The gradient of an operand of ``shape`` that was broadcast to ``full``."""
        extra = len(full) - len(shape)
        padded = (1,) * extra + shape
        repeated = [a for a, (f, s) in enumerate(zip(full, padded, strict=True)) if s == 1 != f]
        g = self.sum(g, repeated, full)
        return self.reshape(g, self.shapes[g][extra:]) if extra else g

    def matmul(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """x · y over the last two axes, broadcasting the others."""
        (a, b) = (self.shapes[x], self.shapes[y])
        return self("MatMul", x, y, shape=(*broadcast(a[:-2], b[:-2]), a[-2], b[-1]))

    def slice(self, x: ir.Value, axis: int, start: int, stop: int) -> ir.Value:
        """x[start:stop] along one axis."""
        shape = self.shapes[x]
        if (start, stop) == (0, shape[axis]):
            return x
        bounds = [self.numbers([n]) for n in (start, stop, axis)]
        return self("Slice", x, *bounds, shape=(*shape[:axis], stop - start, *shape[axis + 1 :]))

    def pad(self, x: ir.Value, before: Sequence[int], after: Sequence[int]) -> ir.Value:
        """x with zeros around it; negative numbers cut off."""
        if not any((*before, *after)):
            return x
        sizes = zip(self.shapes[x], before, after, strict=True)
        shape = tuple(size if size < 0 else size + b + a for size, b, a in sizes)
        return self("Pad", x, self.numbers([*before, *after]), shape=shape)


def broadcast(a: Shape, b: Shape) -> Shape:
    """The shape of an elementwise operation on two."""
    rank = max(len(a), len(b))
    a, b = ((1,) * (rank - len(s)) + s for s in (a, b))
    return tuple(m if n == 1 else n for n, m in zip(a, b, strict=True))


def symbol(size: int) -> int | str:
    """How a size is written in an ONNX shape."""
    return size if size >= 0 else "batch" if size == -1 else f"{-size}*batch"
