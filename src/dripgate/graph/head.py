"""The classifier's end: which output holds the classes, and the logits before any softmax."""

from typing import Literal, NamedTuple

import numpy as np
import onnx_ir as ir

from dripgate.errors import ModelError
from dripgate.graph.builder import Builder, Shape
from dripgate.graph.measure import Measured
from dripgate.types import Array

HeadKind = Literal["softmax", "sigmoid"]
#: Below this a probability is all rounding: its logarithm is taken of this instead.
LEAST = 1e-7
#: What makes probabilities: a sigmoid that is written out ends in a division, or is clipped.
_ENDS = {"Softmax", "Sigmoid", "HardSigmoid", "Div", "Reciprocal", "Clip"}
_WEIGHTS = {"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "GlobalAveragePool", "ReduceMean"}
_PASSED = {
    "Identity", "Cast", "QuantizeLinear", "DequantizeLinear", "Reshape", "Flatten", "Squeeze",
    "Unsqueeze",
}  # fmt: skip


class Head(NamedTuple):
    """logits (N, C), C ≥ 2, and how they become probabilities: softmax, or a sigmoid each.

    origin: the classifier's own tensor that they are made of. ends: the operator that was taken
    off behind it. binary: the file has one number, which is the second of the two logits here (the
    first is 0).
    """

    logits: ir.Value
    origin: ir.Value
    kind: HeadKind
    ends: str
    binary: bool


def choose_output(
    model: ir.Model, measured: Measured, wanted: str | None
) -> tuple[ir.Value, list[str]]:
    """The output with the classes, and what is to be said about the choice.

    Raises ModelError where no output is (N, classes), or where several are.
    """
    outputs = {str(value.name): value for value in model.graph.outputs}
    listed = ", ".join(f"{n} {_form(measured.shapes.get(v, ()))}" for n, v in outputs.items())
    if wanted is not None and wanted not in outputs:
        raise ModelError(f"it has no output '{wanted}', but {listed}")
    found = [
        value
        for label, value in outputs.items()
        if value in measured.data
        and _classes(measured.shapes.get(value, ())) is not None
        and wanted in (None, label)
    ]
    if not found:
        raise ModelError(
            f"it gives {listed}: no classifier, which gives one number per class (N, classes); "
            "a detector or a segmentation has no single predicted class to make a heatmap for"
        )
    named = [value for value in found if str(value.name) in ("logits", "output")]
    ends = {logits_before(value)[0] for value in found}
    if len(found) > 1 and len(named) != 1 and len(ends) > 1:
        raise ModelError(f"it has several outputs: {listed}; say which with --output NAME")
    chosen = found[0] if len(found) == 1 or len(named) != 1 else named[0]
    unused = [label for label, value in outputs.items() if value is not chosen]
    notes = [f"output '{chosen.name}' is taken; not used: {', '.join(unused)}"] if unused else []
    return chosen, notes


def _classes(shape: Shape) -> int | None:
    """How many numbers per sample, where the shape is (N, C) but for axes of size 1."""
    sizes = [size for size in shape[1:] if size != 1]
    return None if len(sizes) > 1 or not shape else (sizes[0] if sizes else 1)


def _form(shape: Shape) -> str:
    return "(" + ", ".join("N" if size < 0 else str(size) for size in shape) + ")"


def logits_before(output: ir.Value) -> tuple[ir.Value, str | None]:
    """(logits, the operator that was taken off): what stands before softmax or sigmoid."""
    value = output
    while (node := value.producer()) is not None and node.inputs[0] is not None:
        if node.op_type in ("Softmax", "LogSoftmax", "Sigmoid"):
            return node.inputs[0], node.op_type
        if node.op_type not in _PASSED:
            break
        value = node.inputs[0]
    value = output
    while (node := value.producer()) is not None and node.op_type in ("QuantizeLinear", "Cast"):
        value = node.inputs[0] or value
    return value, None


def take_head(build: Builder, output: ir.Value, values: Array) -> tuple[Head, list[str]]:
    """The logits of an output, which gave ``values`` (n, …) for made-up samples.

    Probabilities that come from no softmax that could be taken off are led back by a logarithm.
    """
    logits, end = logits_before(output)
    classes = _classes(build.shapes[logits]) or 1
    notes: list[str] = []
    flat = values.reshape(len(values), -1).astype(np.float64)
    kind: HeadKind = "sigmoid" if end == "Sigmoid" else "softmax"
    batch = build.shapes[logits][0]
    value = build.reshape(logits, (batch, classes))
    if end is None and _are_probabilities(output, flat):
        value, kind, end = _by_logarithm(build, value, flat)
        notes.append(
            f"the output holds probabilities whose {end} cannot be taken off; "
            "their logarithm is used in place of logits"
        )
    elif end:
        notes.append(f"a {end.lower()} at the end is taken off: the heatmap is of the logits")
    if classes == 1:
        value = build.matmul(value, build.constant([[0.0, 1.0]]))
        notes.append("one output: a binary classifier, whose second class is what it detects")
        return Head(value, logits, "softmax", end or "none", binary=True), notes
    if kind == "sigmoid":
        notes.append("a sigmoid per class: several classes may be right (multi-label)")
    return Head(value, logits, kind, end or "none", binary=False), notes


def _are_probabilities(output: ir.Value, seen: Array) -> bool:
    """Numbers from 0 to 1 that add up to 1, or that a sigmoid made behind all weights."""
    if seen.min() < 0 or seen.max() > 1:
        return False
    if seen.shape[1] > 1 and np.allclose(seen.sum(axis=1), 1, atol=0.02):
        return True
    waiting, found = [output], set()
    while waiting:
        node = waiting.pop().producer()
        if node is None or node in found or node.op_type in _WEIGHTS:
            continue
        found.add(node)
        waiting += [value for value in node.inputs if value is not None]
    return any(node.op_type in _ENDS for node in found)


def _by_logarithm(build: Builder, p: ir.Value, seen: Array) -> tuple[ir.Value, HeadKind, str]:
    """log p, or log p / (1 - p) where the probabilities of a sample do not add up to 1."""
    least = build.constant(LEAST)
    log = build.unary("Log", build.binary("Max", p, least))
    if seen.shape[1] > 1 and np.allclose(seen.sum(axis=1), 1, atol=0.02):
        return log, "softmax", "softmax"
    rest = build.binary("Max", build.binary("Sub", build.constant(1.0), p), least)
    return build.sub(log, build.unary("Log", rest)), "sigmoid", "sigmoid"
