"""What follows the classifier in a gate's graph, in ONNX: objective, heatmap, score, verdict.

At batch 1 what an operator computes here is next to nothing: that it is called is what costs. So
there are as few as the arithmetic of dripgate.heatmap allows (docs/performance.md counts them).
"""

from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from dripgate.heatmap import EMPTY, ScoreSpec, Statistic
from dripgate.quality import FLOOR, spacing
from dripgate.types import Array, Decision, Thresholds, Typical

#: The thresholds' name in the graph: float32 (2 + classes, 4), see threshold_matrix.
THRESHOLDS = "thresholds"
#: "No bound" in the graph: every finite float32 is inside, infinities and NaN are not.
UNBOUNDED = float(np.finfo(np.float32).max)
#: The verdict by the first rule broken: quality low, score low, score high. The fourth is met by
#: none, so that it is the first for who breaks no other.
_VERDICTS = [Decision.QUARANTINE, Decision.DROP, Decision.DROP, Decision.KEEP]


class Tail:
    """Adds nodes to a graph; constants are made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._tape = ir.tape.Tape(graph)
        self._graph = graph

    def __call__(self, operator: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """The first output of a new node."""
        return self._tape.op(operator, inputs, attributes)

    def constant(self, name: str, values: Any) -> ir.Value:
        """An initializer called ``tail.name``, or the one that is there."""
        name = f"tail.{name}"
        if name not in self._graph.initializers:
            self._tape.initializer(ir.tensor(np.asarray(values), name=name))
        return self._graph.initializers[name]

    def initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        """A constant under the tensor's own name."""
        return self._tape.initializer(tensor)

    def axis(self, number: int) -> ir.Value:
        """The axes of a reduction over one axis."""
        return self.constant(f"axis{number}", np.array([number]))


class Objective(NamedTuple):
    """What the logits (N, C) say about the objective."""

    onehot: ir.Value  # (N, C), 1 at the predicted class
    cotangent: ir.Value  # (N, C), sign · ∂objective/∂logits


def add_objective(add: Tail, logits: ir.Value, spec: ScoreSpec) -> Objective:
    """heatmap.objective_gradient: the loss's is p - onehot, with ŷ minus the sum of the others."""
    onehot = add("Hardmax", logits, axis=1)
    if spec.objective == "evidence":
        signed = onehot if spec.sign > 0 else add("Neg", onehot)
        return Objective(onehot, signed)
    pair = (add("Softmax", logits, axis=1), onehot)
    raw = add("Sub", *pair[:: spec.sign])
    # Its sum should be 0; what 1 - p has rounded off is, and ŷ is where it belongs.
    error = add("Mul", onehot, add("ReduceSum", raw, add.axis(1), keepdims=1))
    return Objective(onehot, add("Sub", raw, error))


class Map(NamedTuple):
    """The outputs that come from α and the activations."""

    heatmap: ir.Value  # (N, h, w)
    score: ir.Value  # (N, 1)


def add_heatmap(
    add: Tail,
    activations: ir.Value,
    alpha: ir.Value,
    taint: ir.Value | None,
    spec: ScoreSpec,
    shape: tuple[int, int, int],
) -> Map:
    """heatmap.heatmap and its statistic; activations (N, K, h, w) of ``shape``, alpha (N, K).

    ``taint`` (N, 1) is 0, or NaN for a sample whose score must not count.
    """
    channels, height, width = shape
    flat = add("Reshape", activations, add.constant("flat", [-1, channels, height * width]))
    weighted = add("Relu", add("MatMul", add("Unsqueeze", alpha, add.axis(1)), flat))
    heatmap = add("Reshape", weighted, add.constant("map", [-1, height, width]))
    score = _statistic(add, weighted, spec.statistic)
    if taint is not None:
        score = add("Add", score, taint)
    return Map(heatmap, score if spec.direction > 0 else add("Neg", score))


def _statistic(add: Tail, weighted: ir.Value, name: Statistic) -> ir.Value:
    """heatmap.statistic, (N, 1) of (N, 1, h·w)."""
    if name == "mean":
        return add("ReduceMean", weighted, add.axis(2), keepdims=0)
    peak = add("ReduceMax", weighted, add.axis(2), keepdims=0)
    if name == "max":
        return peak
    mean = add("ReduceMean", weighted, add.axis(2), keepdims=0)
    return add("Div", mean, add("Clip", peak, add.constant("empty", np.float32(EMPTY))))


def add_quality(add: Tail, x: ir.Value, taint: ir.Value | None, typical: Typical) -> ir.Value:
    """dripgate.quality of the model's input x (N, …), (N, 1).

    One strided convolution takes the three numbers of every block.
    """
    sizes = [size for size in x.shape or () if isinstance(size, int)]  # all but the batch
    channels, height, width = [1] * (3 - len(sizes)) + sizes
    if len(sizes) != 3:
        x = add("Reshape", x, add.constant("planes", [-1, channels, height, width]))
    block = [min(2, height), min(2, width)]
    apart = [spacing(height), spacing(width)]
    parts = add("Conv", x, add.constant("blocks", _blocks(channels, block)), strides=apart)
    rows, columns = ((height - block[0]) // apart[0] + 1, (width - block[1]) // apart[1] + 1)
    cells = channels * rows * columns
    parts = add("Reshape", parts, add.constant("parts", [-1, 3, cells]))
    mean = add("ReduceMean", parts, add.axis(2), keepdims=1)
    spread = add("ReduceL1", add("Sub", parts, mean), add.axis(2), keepdims=1)
    # The mean's 1/cells comes after the logarithm, as a shift; FLOOR is scaled to it.
    logs = add("Log", add("Add", spread, add.constant("floor", np.float32(FLOOR * cells))))
    whitening, shift = _whitened(typical, cells)
    away = add("MatMul", add.constant("whitening", whitening), add("Concat", mean, logs, axis=1))
    away = add("Add", away, add.constant("shift", shift))
    quality = add("Reciprocal", add("ReduceSumSquare", away, add.axis(1), keepdims=0))
    return quality if taint is None else add("Add", quality, taint)


def _blocks(channels: int, block: list[int]) -> Array:
    """Filters (3 · C, C, *block): of each channel the first value, and the steps from it."""
    filters = np.zeros((3, channels, channels, *block), np.float32)
    for channel in range(channels):
        own = filters[:, channel, channel]
        own[0, 0, 0] = 1
        if block[1] > 1:
            own[1, 0, 0], own[1, 0, 1] = -1, 1
        if block[0] > 1:
            own[2, 0, 0], own[2, 1, 0] = -1, 1
    return filters.reshape(3 * channels, channels, *block)


def _whitened(typical: Typical, cells: int) -> tuple[Array, Array]:
    """(5, 6) and (5, 1), so that ‖W · (three means, three logs) + b‖² is d² / 4 + 1."""
    whitening = np.array(typical.whitening) / 2
    centre = np.array(typical.centre) + np.array([0, *[np.log(cells)] * 3])
    wide = np.insert(whitening, [1, 1], 0.0, axis=1)  # the steps' means say nothing
    shift = np.append(-(whitening @ centre), 1.0)[:, None]
    return np.append(wide, np.zeros((1, 6)), axis=0).astype(np.float32), shift.astype(np.float32)


def add_verdict(
    add: Tail, score: ir.Value, quality: ir.Value, onehot: ir.Value, classes: int
) -> ir.Value:
    """int8 (N,) from score and quality (N, 1) and the onehot of ŷ, by the first rule broken."""
    thresholds = ir.tensor(np.zeros((2 + classes, len(_VERDICTS)), np.float32), name=THRESHOLDS)
    facts = add("Concat", quality, score, onehot, axis=1)
    margins = add("MatMul", facts, add.initializer(thresholds))
    met = add("GreaterOrEqual", margins, add.constant("zero", np.float32(0)))  # not by a NaN
    flags = add("Cast", met, to=ir.DataType.INT32)
    broken = add("ArgMin", flags, axis=1, keepdims=0)
    codes = np.array([verdict.code for verdict in _VERDICTS], np.int8)
    return add("Gather", add.constant("verdicts", codes), broken)


def threshold_matrix(thresholds: Thresholds) -> Array:
    """float32 (2 + C, 4), by which (quality, score, onehot of ŷ) gives each rule's margin.

    A margin is value - low or high - value. But for those two all terms are 0, and a difference
    of two float32 is never rounded across 0: the sign is exact. What is not finite meets no rule.
    """
    low, high = (
        np.array([missing if b is None else b for b in bounds], np.float32)
        for bounds, missing in ((thresholds.low, -UNBOUNDED), (thresholds.high, UNBOUNDED))
    )
    least = thresholds.quality_low
    matrix = np.zeros((2 + len(low), len(_VERDICTS)), np.float32)
    matrix[0, 0], matrix[1, 1:3] = 1, (1, -1)
    matrix[2:, 0] = UNBOUNDED if least is None else -least
    matrix[2:, 1], matrix[2:, 2], matrix[2:, 3] = -low, high, -1
    return matrix
