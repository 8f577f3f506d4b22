"""A classifier's graph becomes a gate's: preparation before it, the tail behind it."""

from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from dripgate.errors import GateError, ModelError
from dripgate.gate_info import (
    FEATURES,
    HEAD_BIAS,
    HEAD_WEIGHT,
    INPUT_NAME,
    MEMORY_CLASSES,
    MEMORY_FEATURES,
    MEMORY_SPREAD,
    METADATA_KEY,
    OUTPUT_NAMES,
    GateInfo,
    LastLayer,
)
from dripgate.gate_tensors import THRESHOLDS, threshold_matrix
from dripgate.graph.builder import Builder
from dripgate.graph.cut import Cut
from dripgate.graph.last import take_last
from dripgate.graph.opened import Opened
from dripgate.graph.prepare import add_preparation, samples_input
from dripgate.graph.reverse import alpha
from dripgate.graph.shrink import shrink
from dripgate.graph.tail import (
    add_heatmap,
    add_objective,
    add_quality,
    add_verdict,
)
from dripgate.heatmap import SCORES
from dripgate.types import InputSpec, Preprocessing, Thresholds

_RESERVED = {
    THRESHOLDS, INPUT_NAME, *OUTPUT_NAMES, "alpha", FEATURES, HEAD_WEIGHT, HEAD_BIAS,
    MEMORY_FEATURES, MEMORY_CLASSES, MEMORY_SPREAD,
}  # fmt: skip


class Built(NamedTuple):
    """A gate's graph, and how many operators stand in it behind the classifier's own.

    last: the layer that can learn on the device; None where there is none.
    """

    model: bytes
    added: int
    last: LastLayer | None


def build_graph(
    opened: Opened, target: Cut, preprocessing: Preprocessing, spec: InputSpec, score: str,
    thresholds: Thresholds, *, with_alpha: bool = False,
) -> Built:  # fmt: skip
    """The gate's ONNX model: ``samples`` in, gate_info.OUTPUT_NAMES out, and FEATURES where the
    last layer takes something else than the embedding.

    ``opened`` is used up: its graph becomes the gate's. What ordinary samples look like
    (``thresholds.typical``) is built in; the other thresholds are an initializer, which
    ``with_thresholds`` replaces. with_alpha: give α (N, K) as one more output, for checks.

    Raises NoRule where the head holds an operator without a rule, ModelError where the
    preprocessing does not give what the classifier takes.
    """
    graph, build = opened.model.graph, opened.build
    _free_names(graph)
    before = sum(1 for _ in graph)
    batch = -1 if opened.measured.batch is None else opened.measured.batch
    samples = samples_input(build, spec, batch)
    prepared = add_preparation(build, samples, preprocessing, spec)
    _connect(opened, prepared.values)
    graph.inputs[:], graph.outputs[:] = [samples], []
    floats = samples.dtype == ir.DataType.FLOAT
    nan_mask = _nan_mask(build, samples) if floats else None
    logits = opened.head.logits
    objective = add_objective(build, logits, SCORES[score], opened.head.kind)
    weights = alpha(build, target, logits, objective.cotangent)
    cam = add_heatmap(build, target, weights, nan_mask, SCORES[score])
    found = add_quality(build, prepared.planes, nan_mask, thresholds.typical)
    classes = build.shapes[logits][1]
    verdict = add_verdict(build, cam.score, found, objective.onehot, classes)
    outputs = {
        "logits": logits, "score": build.reshape(cam.score, (batch,)),
        "verdict": verdict, "quality": build.reshape(found, (batch,)),
        "embedding": cam.embedding, "heatmap": cam.heatmap,
    }  # fmt: skip
    if with_alpha:
        outputs["alpha"] = weights
    _name_outputs(graph, outputs)
    shrink(opened.model)
    last = take_last(build, graph)
    proto = ir.to_proto(opened.model)
    _tidy(proto)
    written = with_thresholds(proto.SerializeToString(), thresholds)
    return Built(written, len(proto.graph.node) - before, last)


def _connect(opened: Opened, values: ir.Value) -> None:
    given, build = opened.given, opened.build
    wanted, found = build.shapes[given][1:], build.shapes[values][1:]
    if wanted != found:
        raise ModelError(
            f"{opened.name} takes samples of {wanted}, the preprocessing gives {found}; "
            "check the size and the layout (--size, --layout)"
        )
    if given.dtype != values.dtype:
        if given.dtype not in (ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.FLOAT):
            raise ModelError(
                f"{opened.name} takes {given.dtype} samples, the preprocessing gives "
                f"{values.dtype}; choose another preprocessing"
            )
        values = build.unary("Cast", values, to=given.dtype)
    given.replace_all_uses_with(values)


def _nan_mask(build: Builder, samples: ir.Value) -> ir.Value:
    """(N, 1): NaN where a value of the sample is not finite, else 0.

    Pools and strides may leave that value out.
    """
    n, *sizes = build.shapes[samples]
    flat = build.reshape(samples, (n, int(np.prod(sizes))))
    return build.mul(build.reduce("ReduceSum", flat, [1]), 0.0)


def _free_names(graph: ir.Graph) -> None:
    """The names that a gate's parts have are not the classifier's."""
    values = {value for node in graph for value in node.outputs}
    for value in (*values, *list(graph.initializers.values()), *graph.inputs):
        if value.name in _RESERVED or (value.name or "").startswith("const."):
            value.name = f"own.{value.name}"  # an initializer is registered again by its new name


def _name_outputs(graph: ir.Graph, outputs: dict[str, ir.Value]) -> None:
    for name, value in outputs.items():
        value.name = name
    graph.outputs[:] = list(outputs.values())
    graph.sort()


def _tidy(proto: onnx.ModelProto) -> None:
    """Drop the exporter's notes, which hold stack traces with the builder's own paths."""
    graph = proto.graph
    del graph.value_info[:], proto.metadata_props[:]
    parts: list[Any] = [proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    proto.producer_name, proto.producer_version = "dripgate", ""


def with_thresholds(model: bytes, thresholds: Thresholds) -> bytes:
    """The same graph with other thresholds, exact in float32; raises GateError on a misfit."""
    graph = onnx.load_model_from_string(model)
    stored = next((t for t in graph.graph.initializer if t.name == THRESHOLDS), None)
    values = threshold_matrix(thresholds)
    if stored is None:
        raise GateError(f"the graph has no '{THRESHOLDS}'; build it with dripgate fit")
    if list(stored.dims) != list(values.shape):
        raise GateError(
            f"the thresholds are for {len(thresholds.low)} classes, the graph's for "
            f"{stored.dims[0] - 2}; give one per class"
        )
    stored.CopyFrom(numpy_helper.from_array(values, THRESHOLDS))
    return bytes(graph.SerializeToString())


def with_info(model: bytes, info: GateInfo) -> bytes:
    """The same graph with ``info`` as its metadata, in place of any it had."""
    graph = onnx.load_model_from_string(model)
    onnx.helper.set_model_props(graph, {METADATA_KEY: info.to_json()})
    return bytes(graph.SerializeToString())
