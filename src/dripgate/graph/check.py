"""Does a gate's graph say what it should? Asked of every gate, on real samples.

Its logits are compared with those of the user's own file, its heatmap with finite differences of
the head in double precision: a cell's value Σ_k α_k A_k is the derivative of the logits, weighed
by the objective's gradient, along the direction that adds that cell's activations to every cell.

Where the classifier is quantised, both are compared without onnxruntime's fusions, whose rounding
differs with what else is in the graph; and rounding counts as the identity, as in the gate.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from dripgate import heatmap as reference
from dripgate.errors import ModelError, ParityError
from dripgate.gate_info import INPUT_NAME, Parity
from dripgate.graph.cut import Cut
from dripgate.graph.measure import run, session
from dripgate.graph.opened import Opened
from dripgate.graph.reverse import head_nodes
from dripgate.heatmap import SCORES, ScoreSpec, softmax
from dripgate.types import Array

TOLERANCE = 1e-4
#: Where the head is too slow in double precision, differences are taken in single precision.
COARSE = 2e-2
#: Below this share of a single cell's derivative, that of all cells together is rounding.
CANCELLED = 1e-5
_SLOW = 1.0  # seconds for one pass through the head
_CELLS = 4  # cells of each sample that are looked at

Head = Callable[[Array], Array]


class Reference(NamedTuple):
    """What a gate is compared with; made before the gate uses up the opened graph.

    activations: at the cut, (n, …). head: activations → logits, in double precision where exact.
    """

    activations: Array
    head: Head
    exact: bool
    cut: Cut
    kind: str
    quantised: bool


def make_reference(opened: Opened, cut: Cut, values: Array) -> Reference:
    """The parts of the classifier before and behind ``cut``, run as they were brought.

    values: real inputs of the classifier (n, …), all that the reference is used for.
    """
    frozen = _frozen(opened, cut, values)
    activations = frozen[cut.name]
    nodes = head_nodes(opened.model.graph, cut.value, opened.head.logits)
    try:
        evaluator: Any = ReferenceEvaluator(_head_model(opened, cut, nodes, frozen, np.float64))

        def double(a: Array) -> Array:
            return np.asarray(evaluator.run(None, {cut.name: a})[0])

        started = time.process_time()
        precise = double(activations.astype(np.float64)).dtype == np.float64
        exact = precise and time.process_time() - started < _SLOW
    except Exception:
        exact = False
    if not exact:
        model = _head_model(opened, cut, nodes, frozen, np.float32)
        found = session(model.SerializeToString())

        def single(a: Array) -> Array:
            return run(found, {cut.name: a.astype(np.float32)})[0].astype(np.float64)

    rounded = any(node.op_type == "QuantizeLinear" for node in opened.model.graph)
    head = double if exact else single
    return Reference(activations, head, exact, cut, opened.head.kind, rounded)


def _frozen(opened: Opened, cut: Cut, values: Array) -> dict[str, Array]:
    """The activations, and all that the head takes from elsewhere, for these samples."""
    graph = opened.model.graph
    inside = {cut.value}
    wanted = {cut.name}
    for node in head_nodes(graph, cut.value, opened.head.logits):
        for value in node.inputs:
            if value is not None and value not in inside and value.producer() is not None:
                wanted.add(str(value.name))
        inside.update(node.outputs)
    proto = ir.to_proto(opened.model)
    del proto.graph.value_info[:], proto.graph.output[:]
    names = sorted(wanted)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    found = session(proto.SerializeToString())
    return dict(zip(names, run(found, {str(opened.given.name): values}, names), strict=True))


def _head_model(
    opened: Opened, cut: Cut, nodes: list[ir.Node], frozen: dict[str, Array], dtype: type
) -> onnx.ModelProto:
    """The head as a model of its own, with floats of ``dtype``; quantisation counts as identity."""
    constants: dict[str, Array] = {}
    made, protos = {cut.name}, []
    for node in nodes:
        for value in node.inputs:
            name = "" if value is None else str(value.name)
            if not name or name in made or name in constants:
                continue
            held = value.const_value.numpy() if value is not None and value.const_value else None
            array = frozen[name] if held is None else held
            constants[name] = array.astype(dtype) if array.dtype.kind == "f" else array
        made.update(str(value.name) for value in node.outputs)
        protos.append(_for_dtype(ir.to_proto(node), dtype))
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = onnx.helper.make_graph(
        protos, "head",
        [onnx.helper.make_tensor_value_info(cut.name, kind, None)],
        [onnx.ValueInfoProto(name=str(opened.head.logits.name))],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in constants.items()],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", opened.model.graph.opset_imports[""])]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _for_dtype(node: onnx.NodeProto, dtype: type) -> onnx.NodeProto:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        node.op_type = "Identity"
        del node.input[1:], node.attribute[:]
    for attribute in node.attribute:
        floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i in floats:
            attribute.i = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return node


def check_gate(
    graph: bytes, samples: Array, reference_: Reference, score: str, expected: Array | None,
    quantum: float, batch: int | None = None, *, force: bool = False,
) -> Parity:  # fmt: skip
    """Compare a gate's outputs for raw samples (n, …) with the reference.

    expected: the user's file's own output for them, as logits or probabilities like the head's;
    quantum: how finely that is quantised. The differences are relative to each output's largest
    magnitude.

    Raises ParityError beyond the tolerance, and ModelError where the score has no spread (no
    threshold can tell samples apart then), unless ``force``.
    """
    found = _outputs(graph, samples, batch, plain=reference_.quantised)
    spec = SCORES[score]
    if not force:
        _refuse_no_spread(found["score"], reference_, found["logits"])
    logits = 0.0 if expected is None else _differs_from_file(found["logits"], expected, quantum)
    n = len(reference_.activations)
    cells = _difference(
        *_by_differences(reference_, found["logits"][:n], found["heatmap"][:n], spec)
    )
    scored = _difference(found["score"], reference.score(found["heatmap"], spec))
    tolerance = TOLERANCE if reference_.exact and not reference_.quantised else COARSE
    worst = {"logits": logits, "heatmap": cells, "score": scored}
    # A NaN must fail, so it is asked whether all is well rather than whether something is not.
    if not all(value <= tolerance for value in worst.values()):
        listed = ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
        raise ParityError(
            f"the gate's graph differs from the classifier at '{reference_.cut.name}': {listed}, "
            f"expected at most {tolerance:.0e} of each one's largest value; choose another cut "
            "with --layer (--list-cuts), and please report this classifier's head"
        )
    return Parity(samples=len(samples), tolerance=tolerance, **worst)


def _outputs(
    graph: bytes, samples: Array, batch: int | None, *, plain: bool
) -> dict[str, Array]:  # fmt: skip
    names = ["logits", "score", "heatmap"]
    found, size = session(graph, plain=plain), batch or 64
    starts = range(0, len(samples) - (len(samples) % size if batch else 0), size)
    parts = [run(found, {INPUT_NAME: samples[i : i + size]}, names) for i in starts]
    return {n: np.concatenate([p[i] for p in parts]) for i, n in enumerate(names)}


def _differs_from_file(logits: Array, expected: Array, quantum: float) -> float:
    """expected: (n, C) logits, or what softmax or sigmoid make of them."""
    expected = expected[: len(logits)].reshape(len(logits), -1).astype(np.float64)
    if expected.shape[1] == 1:
        logits = logits[:, 1:] - logits[:, :1]
    forms = [logits, softmax(logits), 1 / (1 + np.exp(-logits.astype(np.float64))), _log(logits)]
    away = min(float(np.abs(form - expected).max()) for form in forms)
    return max(away - quantum, 0) / max(float(np.abs(expected).max()), 1e-30)


def _log(logits: Array) -> Array:
    return np.asarray(np.log(np.maximum(softmax(logits), 1e-30)))


def _by_differences(
    ref: Reference, logits: Array, maps: Array, spec: ScoreSpec
) -> tuple[Array, Array]:
    """(heatmap, expected) at some cells of each sample, (cells · n,)."""
    n, found, expected = len(ref.activations), [], []
    weights = reference.objective_gradient(logits, spec.objective, ref.kind).astype(np.float64)
    flat = maps.reshape(n, -1)
    places = np.linspace(0, flat.shape[1] - 1, _CELLS - 1).astype(int)
    for chosen in (flat.argmax(axis=1), *(np.full(n, p) for p in places)):
        before, after = _slopes(ref, weights, _direction(ref, chosen))
        # Where both sides differ there is a kink, as at a ReLU's 0: no derivative to compare with.
        smooth = np.abs(after - before) <= 0.01 * (np.abs(after) + np.abs(before)) + 1e-12
        slope = (before + after) / 2 / flat.shape[1]
        found.append(flat[np.arange(n), chosen][smooth])
        expected.append(np.maximum(spec.sign * slope, 0)[smooth])
    return np.concatenate(found), np.concatenate(expected)


def _slopes(ref: Reference, weights: Array, direction: Array) -> tuple[Array, Array]:
    """One-sided derivatives of weights · logits (n, C) along a direction, (n,) each."""
    step = 1e-5 if ref.exact else 1e-2
    values = [
        (weights * ref.head(ref.activations + side * step * direction)).sum(axis=1)
        for side in (-1, 0, 1)
    ]
    return (values[1] - values[0]) / step, (values[2] - values[1]) / step


def _direction(ref: Reference, chosen: Array, *, alone: bool = False) -> Array:
    """The activations of one cell of each sample, at every cell that counts, or there alone."""
    moved = np.moveaxis(ref.activations.astype(np.float64), ref.cut.channel, 1)
    flat = moved.reshape(len(moved), moved.shape[1], -1)
    rows, (first, last) = np.arange(len(flat)), ref.cut.tokens or (0, flat.shape[2])
    one = flat[rows, :, first + chosen]
    direction = np.zeros_like(flat)
    if alone:
        direction[rows, :, first + chosen] = one
    else:
        direction[:, :, first:last] = one[:, :, None]
    return np.moveaxis(direction.reshape(moved.shape), 1, ref.cut.channel)


def _difference(found: Array, expected: Array) -> float:
    if not found.size:
        return 0.0
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def _refuse_no_spread(scores: Array, ref: Reference, logits: Array) -> None:
    """Scores that are all the same, or all rounding: the gradient's mean cancels out."""
    chosen = np.zeros(len(ref.activations), int)
    top = np.eye(logits.shape[1])[logits[: len(chosen)].argmax(axis=1)]
    every, alone = (
        np.abs(_slopes(ref, top, _direction(ref, chosen, alone=one))).max() for one in (False, True)
    )
    same = len(scores) > 1 and np.ptp(scores) <= 1e-6 * np.abs(scores).max()
    if same or every <= CANCELLED * alone:
        raise ModelError(
            f"the score tells none of {len(scores)} samples from another: the gradient's mean "
            "vanishes (an InstanceNorm right behind the target does that), or the classifier is "
            "not trained; choose another cut with --layer (--list-cuts), or write the gate all the "
            "same with --force"
        )
