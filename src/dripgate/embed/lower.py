"""From a gate's graph to one that is cheap in C: one sample, no dead parts, weights stored once.

Every rewrite is exact but for float32 rounding, and works on any graph; one that finds nothing to
do changes nothing.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from dripgate.embed.graphs import (
    Kind,
    attribute,
    drop_unused,
    initializers,
    producers,
    replace,
    shapes,
    users,
)
from dripgate.embed.head import Head, open_head
from dripgate.embed.spectrum import Spectrum, take_spectrum
from dripgate.errors import GateError
from dripgate.types import Array

#: What a verdict is made of; the graph's other outputs are left out, and what only they need.
WITH_SCORE = ("logits", "score", "verdict", "quality")
#: The classifier alone: what ran on the device before there was a gate.
PLAIN = ("logits",)


class Lowered(NamedTuple):
    """The model, and the log-mel front end that was cut from it, whose result it then takes.

    head: where its weights are inputs of the model, so that they can learn.
    """

    model: onnx.ModelProto
    spectrum: Spectrum | None
    head: Head | None = None


def lower(
    gate: bytes, outputs: tuple[str, ...] = WITH_SCORE, *, head: Head | None = None
) -> Lowered:
    """The gate's graph for one sample, every shape known, with ``outputs`` only.

    head: of this gate, where its weights shall become inputs, and what they multiply one more
    output.

    Raises GateError where a shape depends on the sample's values.
    """
    model = onnx.load_model_from_string(gate)
    if head is not None:
        open_head(model.graph)
    _keep_outputs(model.graph, outputs if head is None else (*outputs, head.features))
    _fix_batch(model.graph)
    model = _folded(model)
    fold_linear_sums(model.graph)
    share_transposes(model.graph)
    spectrum = take_spectrum(model.graph)
    drop_unused(model.graph)
    _quality_first(model.graph)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    _refuse_unknown_shapes(model.graph)
    return Lowered(model, spectrum, head)


def _quality_first(graph: onnx.GraphProto) -> None:
    """Quality as soon as there is what it is taken from, and not after the net is through.

    Else the net's input would have to be kept while the net needs most memory.
    """
    (beside, main) = (_needed(graph, names) for names in (["quality"], ["logits"]))
    waiting = [node for node in graph.node if beside & set(node.output) - main]
    ready = {tensor.name for tensor in (*graph.initializer, *graph.input)} | {""}
    ordered: list[onnx.NodeProto] = []

    def place(node: onnx.NodeProto) -> None:
        ordered.append(node)
        ready.update(node.output)

    for node in [node for node in graph.node if node not in waiting]:
        place(node)
        while waiting and ready.issuperset(waiting[0].input):
            place(waiting.pop(0))
    del graph.node[:]
    graph.node.extend(ordered)


def _needed(graph: onnx.GraphProto, names: list[str]) -> set[str]:
    """All that the values are computed from, and they."""
    wanted = set(names)
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
    return wanted


# One sample, folded -----------------------------------------------------------------------------


def _keep_outputs(graph: onnx.GraphProto, names: tuple[str, ...]) -> None:
    found = {value.name: value for value in graph.output}
    del graph.output[:]
    graph.output.extend(found[name] for name in names)


def _fix_batch(graph: onnx.GraphProto) -> None:
    """Batch 1 at both ends; what lies between is inferred again."""
    for value in (graph.input[0], *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del graph.value_info[:]


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants folded and batch norms merged by onnxruntime, standard operators only."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        folded = onnx.load(path)
    used = {node.domain for node in folded.graph.node}
    kept = [opset for opset in folded.opset_import if opset.domain in used]
    del folded.opset_import[:]
    folded.opset_import.extend(kept)
    del folded.metadata_props[:]
    return folded


def _refuse_unknown_shapes(graph: onnx.GraphProto) -> None:
    known = shapes(graph)
    for node in graph.node:
        for name in node.output:
            if name and (name not in known or 0 in known[name][0]):
                raise GateError(
                    f"{node.op_type} '{node.name}' gives a tensor whose size depends on the "
                    "sample; C needs every size at compile time, so use a model without "
                    "data-dependent shapes"
                )


# Rewrites ---------------------------------------------------------------------------------------


def fold_linear_sums(graph: onnx.GraphProto) -> int:
    """x · W, reshaped to (1, K, cells), summed over the cells: one product with W summed before.

    That is Grad-CAM's mean gradient behind a flattened map. The summed matrix is smaller by the
    number of cells, and the large one need not be stored a second time.
    """
    made, read_by, constants = producers(graph), users(graph), initializers(graph)
    count = 0
    for total in [node for node in graph.node if node.op_type == "ReduceSum"]:
        view = made.get(total.input[0])
        product = made.get(view.input[0]) if view is not None else None
        if view is None or view.op_type != "Reshape" or product is None:
            continue
        matrix = constants.get(product.input[1]) if product.op_type == "MatMul" else None
        if matrix is None or matrix.ndim != 2:
            continue
        if len(read_by[view.output[0]]) > 1 or len(read_by[product.output[0]]) > 1:
            continue
        shape, axes = constants.get(view.input[1]), constants.get(total.input[1])
        if shape is None or axes is None or attribute(total, "keepdims", 1):
            continue
        cells = matrix.shape[1] // int(shape[1]) if len(shape) == 3 else 0
        if not cells or axes.tolist() not in ([2], [-1]) or shape[1] * cells != matrix.shape[1]:
            continue
        summed = matrix.reshape(len(matrix), -1, cells).astype(np.float64).sum(axis=2)
        name = f"{product.input[1]}.summed"
        graph.initializer.append(numpy_helper.from_array(summed.astype(np.float32), name))
        folded = helper.make_node(
            "MatMul", [product.input[0], name], [total.output[0]], f"{total.name}_folded"
        )
        replace(graph, total, [folded])
        count += 1
    return count


def share_transposes(graph: onnx.GraphProto) -> int:
    """A matrix that is another one transposed is not stored: Gemm reads it the other way."""
    matrices = {name: value for name, value in initializers(graph).items() if value.ndim == 2}
    known: dict[bytes, str] = {}
    twin: dict[str, str] = {}
    for name, value in matrices.items():
        turned = known.get(_key(value.T))
        if turned is not None and value.size > 1:
            twin[name] = turned
        known.setdefault(_key(value), name)
    ranks = {name: len(shape) for name, (shape, _) in _inferred(graph).items()}
    count = 0
    for node in list(graph.node):
        if len(node.input) < 2 or node.input[1] not in twin:
            continue
        if node.op_type == "MatMul" and ranks.get(node.input[0]) == 2:
            inputs = [node.input[0], twin[node.input[1]]]
            gemm = helper.make_node("Gemm", inputs, list(node.output), node.name, transB=1)
            replace(graph, node, [gemm])
            count += 1
        elif node.op_type == "Gemm":
            flipped = 1 - attribute(node, "transB", 0)
            node.input[1] = twin[node.input[1]]
            kept = [one for one in node.attribute if one.name != "transB"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("transB", flipped)])
            count += 1
    return count


def _key(matrix: Array) -> bytes:
    return repr(matrix.shape).encode() + np.ascontiguousarray(matrix).tobytes()


def _inferred(graph: onnx.GraphProto) -> dict[str, Kind]:
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset)
    return shapes(onnx.shape_inference.infer_shapes(model, data_prop=True).graph)
