"""What follows the classifier in a gate's graph, in ONNX: objective, heatmap, score, verdict.

At batch 1 what an operator computes here is next to nothing: that it is called is what costs. So
there are as few as the arithmetic of dripgate.heatmap allows (docs/performance.md counts them).
"""

import math
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from dripgate.gate_tensors import THRESHOLDS
from dripgate.graph.builder import Builder
from dripgate.graph.cut import Cut
from dripgate.graph.head import HeadKind
from dripgate.heatmap import EMPTY, ScoreSpec, Statistic
from dripgate.quality import FLOOR, spacing
from dripgate.types import Array, Decision, Typical

#: The verdict by the first rule broken: quality low, score low, score high. The fourth is met by
#: none, so that it is the first for who breaks no other.
_VERDICTS = [Decision.QUARANTINE, Decision.DROP, Decision.DROP, Decision.KEEP]


class Objective(NamedTuple):
    """What the logits (N, C) say about the objective."""

    onehot: ir.Value  # (N, C), 1 at the predicted class
    cotangent: ir.Value  # (N, C), sign · ∂objective/∂logits


def add_objective(
    add: Builder, logits: ir.Value, spec: ScoreSpec, kind: HeadKind = "softmax"
) -> Objective:
    """heatmap.objective_gradient: the loss's is p - onehot, with ŷ minus the sum of the others.

    For a sigmoid each, p - y is -sign(z) · sigmoid(-|z|), which no rounding of 1 - p spoils.
    """
    onehot = add.unary("Hardmax", logits, axis=1)
    if spec.objective == "evidence":
        return Objective(onehot, onehot if spec.sign > 0 else add.unary("Neg", onehot))
    if kind == "sigmoid":
        away = add.unary("Abs", logits)
        rest = add.unary("Sigmoid", add.unary("Neg", away))
        signs = add.unary("Sign", logits if spec.sign < 0 else add.unary("Neg", logits))
        return Objective(onehot, add.mul(rest, signs))
    pair = (add.unary("Softmax", logits, axis=1), onehot)
    raw = add.sub(*pair[:: spec.sign])
    # Its sum should be 0; what 1 - p has rounded off is, and ŷ is where it belongs.
    error = add.mul(onehot, add.reduce("ReduceSum", raw, [1]))
    return Objective(onehot, add.sub(raw, error))


class Map(NamedTuple):
    """The outputs that come from α and the activations."""

    heatmap: ir.Value  # (N, h, w)
    score: ir.Value  # (N, 1)
    embedding: ir.Value  # (N, K), the activations' mean over the cells


def add_heatmap(
    add: Builder, target: Cut, alpha: ir.Value, nan_mask: ir.Value | None, spec: ScoreSpec
) -> Map:
    """heatmap.heatmap and its statistic, of the target's activations and alpha (N, K).

    ``nan_mask`` (N, 1) is 0, or NaN for a sample whose score must not count.
    """
    channels, height, width = target.sizes
    batch, cells = target.shape[0], height * width
    values = target.value
    if target.tokens:
        values = add.slice(values, target.cells[0], *target.tokens)
    mean = add.mean(values, target.cells)
    embedding = add.reshape(mean, (batch, channels))
    if target.channel == 1:
        flat = add.reshape(values, (batch, channels, cells))
        weighted = add.matmul(add.reshape(alpha, (batch, 1, channels)), flat)
        line = 2
    else:
        flat = add.reshape(values, (batch, cells, channels))
        weighted = add.matmul(flat, add.reshape(alpha, (batch, channels, 1)))
        line = 1
    weighted = add.unary("Relu", weighted)
    heatmap = add.reshape(weighted, (batch, height, width))
    score = _statistic(add, weighted, line, spec.statistic)
    if nan_mask is not None:
        score = add.add(score, nan_mask)
    return Map(heatmap, score if spec.direction > 0 else add.unary("Neg", score), embedding)


def _statistic(add: Builder, weighted: ir.Value, line: int, name: Statistic) -> ir.Value:
    """heatmap.statistic along the axis ``line``, (N, 1) of (N, 1, h·w) or (N, h·w, 1)."""

    def along(operator: str) -> ir.Value:
        shape = (add.shapes[weighted][0], 1)
        return add(operator, weighted, add.numbers([line]), shape=shape, keepdims=0)

    if name == "mean":
        return along("ReduceMean")
    if name == "max":
        return along("ReduceMax")
    least = add("Clip", along("ReduceMax"), add.constant(EMPTY), shape=(add.shapes[weighted][0], 1))
    return add.div(along("ReduceMean"), least)


def add_quality(add: Builder, x: ir.Value, nan_mask: ir.Value | None, typical: Typical) -> ir.Value:
    """dripgate.quality of the model's input x (N, …), (N, 1).

    One strided convolution takes the three numbers of every block.
    """
    n, *sizes = add.shapes[x]
    channels, height, width = _as_planes(sizes)
    x = add.reshape(x, (n, channels, height, width))
    block = [min(2, height), min(2, width)]
    apart = [spacing(height), spacing(width)]
    rows, columns = ((height - block[0]) // apart[0] + 1, (width - block[1]) // apart[1] + 1)
    cells = channels * rows * columns
    parts = add(
        "Conv", x, add.constant(_blocks(channels, block)),
        shape=(n, 3 * channels, rows, columns), strides=apart,
    )  # fmt: skip
    parts = add.reshape(parts, (n, 3, cells))
    mean = add.reduce("ReduceMean", parts, [2])
    spread = add.reduce("ReduceL1", add.sub(parts, mean), [2])
    # The mean's 1/cells comes after the logarithm, as a shift; FLOOR is scaled to it.
    logs = add.unary("Log", add.add(spread, FLOOR * cells))
    whitening, shift = _whitened(typical, cells)
    both = add("Concat", mean, logs, shape=(n, 6, 1), axis=1)
    away = add.add(add.matmul(add.constant(whitening), both), add.constant(shift))
    squares = add("ReduceSumSquare", away, add.numbers([1]), shape=(n, 1), keepdims=0)
    quality = add.unary("Reciprocal", squares)
    return quality if nan_mask is None else add.add(quality, nan_mask)


def _as_planes(sizes: list[int]) -> tuple[int, int, int]:
    """(C, h, w) of a model's input of any rank: what stands before the last two are planes."""
    sizes = [1] * (3 - len(sizes)) + sizes
    return math.prod(sizes[:-2]), sizes[-2], sizes[-1]


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
    add: Builder, score: ir.Value, quality: ir.Value, onehot: ir.Value, classes: int
) -> ir.Value:
    """int8 (N,) from score and quality (N, 1) and the onehot of ŷ, by the first rule broken."""
    batch = add.shapes[score][0]
    thresholds = add.initializer(THRESHOLDS, np.zeros((2 + classes, len(_VERDICTS)), np.float32))
    facts = add("Concat", quality, score, onehot, shape=(batch, 2 + classes), axis=1)
    margins = add.matmul(facts, thresholds)
    met = add.binary("GreaterOrEqual", margins, 0.0)  # not by a NaN
    flags = add.unary("Cast", met, to=ir.DataType.INT32)
    broken = add("ArgMin", flags, shape=(batch,), axis=1, keepdims=0)
    add.declare(broken, (batch,), ir.DataType.INT64)
    codes = add.constant([verdict.code for verdict in _VERDICTS], np.int8)
    verdict = add("Gather", codes, broken, shape=(batch,))
    add.declare(verdict, (batch,), ir.DataType.INT8)
    return verdict
