"""What follows the classifier in a gate's graph, in ONNX: objective, heatmap, score, verdict.

At batch 1 what an operator computes here is next to nothing: that it is called is what costs. So
there are as few as the arithmetic of dripgate.heatmap allows (docs/performance.md counts them).
"""

from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from dripgate.heatmap import EMPTY, ScoreSpec
from dripgate.types import Array, Decision, Thresholds

#: The thresholds' name in the graph: float32 (2 + classes, 5), see threshold_matrix.
THRESHOLDS = "thresholds"
#: "No bound" in the graph: every finite float32 is inside, infinities and NaN are not.
UNBOUNDED = float(np.finfo(np.float32).max)
#: The verdict by the first rule broken: quality low, quality high, score low, score high. The
#: fifth is met by none, so that it is the first for who breaks no other.
_VERDICTS = [Decision.QUARANTINE] * 2 + [Decision.DROP] * 2 + [Decision.KEEP]


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
    quality: ir.Value  # (N, 1)


def add_heatmap(
    add: Tail,
    activations: ir.Value,
    alpha: ir.Value,
    taint: ir.Value | None,
    spec: ScoreSpec,
    shape: tuple[int, int, int],
) -> Map:
    """heatmap.heatmap and the statistics; activations (N, K, h, w) of ``shape``, alpha (N, K).

    ``taint`` (N, 1) is 0, or NaN for a sample whose score and quality must not count.
    """
    channels, height, width = shape
    flat = add("Reshape", activations, add.constant("flat", [-1, channels, height * width]))
    weighted = add("Relu", add("MatMul", add("Unsqueeze", alpha, add.axis(1)), flat))
    heatmap = add("Reshape", weighted, add.constant("map", [-1, height, width]))
    mean = add("ReduceMean", weighted, add.axis(2), keepdims=0)
    peak = add("ReduceMax", weighted, add.axis(2), keepdims=0)
    if taint is not None:
        mean, peak = add("Add", mean, taint), add("Add", peak, taint)
    area = add("Div", mean, add("Clip", peak, add.constant("empty", np.float32(EMPTY))))
    score = {"mean": mean, "max": peak, "area": area}[spec.statistic]
    return Map(heatmap, score if spec.direction > 0 else add("Neg", score), area)


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
    """float32 (2 + C, 5), by which (quality, score, onehot of ŷ) gives each rule's margin.

    A margin is value - low or high - value. But for those two all terms are 0, and a difference
    of two float32 is never rounded across 0: the sign is exact. What is not finite meets no rule.
    """
    low, high = (
        np.array([missing if b is None else b for b in bounds], np.float32)
        for bounds, missing in ((thresholds.low, -UNBOUNDED), (thresholds.high, UNBOUNDED))
    )
    floor, ceiling = thresholds.quality_low, thresholds.quality_high
    matrix = np.zeros((2 + len(low), len(_VERDICTS)), np.float32)
    matrix[0, :2] = matrix[1, 2:4] = 1, -1
    matrix[2:, 0] = UNBOUNDED if floor is None else -floor
    matrix[2:, 1] = UNBOUNDED if ceiling is None else ceiling
    matrix[2:, 2], matrix[2:, 3], matrix[2:, 4] = -low, high, -1
    return matrix
