"""The gate's graph: preprocessing, model, Grad-CAM, score and verdict as one static ONNX model.

torch.export cannot trace a forward pass that differentiates. What works for any architecture:
make_fx records the forward pass and the backward pass through the head as ordinary nodes, with
the objective's gradient as an input; rewrites and decompositions turn what has no ONNX form into
what has, and torch.export and torch.onnx.export take it from there. The objective before the
backward pass, heatmap, score and verdict behind it are ONNX from the start (tail), and the whole
is made smaller (shrink). Measured: ResNet-8 in 4–6 s on one core, imports included.
"""

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import onnx
import onnx_ir as ir
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel

from dripgate.errors import GateError, ModelError
from dripgate.gate_info import INPUT_NAME, METADATA_KEY, OUTPUT_NAMES, GateInfo
from dripgate.heatmap import SCORES, ScoreSpec
from dripgate.training.decompositions import decompose
from dripgate.training.gradcam import GradCam
from dripgate.training.preprocess import Deployed, build
from dripgate.training.rewrites import shorten_means
from dripgate.training.shrink import OPSET, shrink
from dripgate.training.tail import (
    THRESHOLDS,
    Tail,
    add_heatmap,
    add_objective,
    add_quality,
    add_verdict,
    threshold_matrix,
)
from dripgate.types import InputSpec, Preprocessing, Thresholds, Typical

#: What is traced: these, and whether a sample holds a value that is not finite (floats only).
TRACED = ("logits", "activations", "alpha", "embedding", "prepared", "taint")

Traced = Callable[..., tuple[Tensor, ...]]


def build_graph(
    model: nn.Module,
    preprocessing: Preprocessing,
    input_spec: InputSpec,
    layer: str,
    score: str,
    thresholds: Thresholds,
    opset: int = OPSET,
) -> bytes:
    """The ONNX model, serialised: ``samples`` in, gate_info.OUTPUT_NAMES out, any batch size.

    What sound samples look like (``thresholds.typical``) is built in. The other thresholds are an
    initializer (tail.THRESHOLDS): ``with_thresholds`` replaces them without
    tracing again. ``model`` is left as it was.

    Raises ModelError for a layer or model that Grad-CAM cannot use, and for one whose forward
    or backward pass holds an operator without an ONNX form, which it names.
    """
    deployed = Deployed(model, build(preprocessing, input_spec))
    _refuse_other_devices(deployed)
    shape = (2, *input_spec.shape)  # torch takes a dimension of 1 for a constant
    example = torch.zeros(shape, dtype=getattr(torch, input_spec.dtype.name))
    with GradCam(deployed, f"model.{layer}") as gradcam, _traceable():
        cam = gradcam(example, SCORES[score])
        forward = _forward(gradcam, deployed.preprocessing)
        traced = _trace(forward, example, torch.zeros_like(cam.logits))
    _refuse_fixed_batch(traced, type(model).__name__)
    shorten_means(traced)
    decompose(traced)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    names = TRACED if example.is_floating_point() else TRACED[:-1]
    exported = _to_onnx(traced, (example, torch.zeros_like(cam.logits)), names, opset, model)
    _, channels, height, width = cam.activations.shape
    shape = (channels, height, width)
    classes = cam.logits.shape[1]
    _complete(exported.graph, SCORES[score], shape, classes, thresholds.typical)
    shrink(exported)
    graph = ir.to_proto(exported)
    _forget_origins(graph)
    return with_thresholds(graph.SerializeToString(), thresholds)


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


# What is traced ---------------------------------------------------------------------------------


def _forward(gradcam: GradCam, prepare: nn.Module) -> Traced:
    def forward(samples: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        logits, leaf = gradcam.forward(samples)
        gradients = gradcam.backward(logits, leaf, cotangent)
        activations = leaf.detach()
        dims = tuple(range(2, activations.ndim))
        found = (
            logits.detach(), activations, gradients.mean(dims), activations.mean(dims),
            prepare(samples),
        )  # fmt: skip
        if not samples.is_floating_point():
            return found
        # NaN where a value is not finite, else 0: pools and strides may leave that value out.
        return *found, samples.flatten(1).sum(1, keepdim=True) * 0

    return forward


def _trace(forward: Traced, example: Tensor, cotangent: Tensor) -> fx.GraphModule:
    """Record ``forward`` with a symbolic batch and every other size fixed."""
    fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    sizes = [DimDynamic.DYNAMIC] + [DimDynamic.STATIC] * (example.ndim - 1)
    batch = fake.from_tensor(
        example,
        symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes),
    )
    with fake:
        given = cotangent.new_zeros(batch.shape[0], cotangent.shape[1])
        return make_fx(forward)(batch, given)


def _refuse_fixed_batch(traced: fx.GraphModule, name: str) -> None:
    samples = next(iter(traced.graph.nodes)).meta["val"]
    if samples.shape[0].node.maybe_as_int() is not None:
        raise ModelError(
            f"{name} fixes the batch size while it is traced; in its forward pass use x.shape[0] "
            "in place of len(x) or int(…), and no upsampling between the target layer and the "
            "logits (choose a layer behind it with --layer)"
        )


@contextmanager
def _traceable() -> Iterator[None]:
    """Attention in plain operators: the fused ones have no ONNX form."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with sdpa_kernel(SDPBackend.MATH):
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def _refuse_other_devices(model: nn.Module) -> None:
    devices = {str(t.device) for t in (*model.parameters(), *model.buffers())} - {"cpu"}
    if devices:
        raise ModelError(f"the model is on {', '.join(sorted(devices))}; call model.cpu() first")


# From the trace to ONNX -------------------------------------------------------------------------


def _to_onnx(
    traced: fx.GraphModule,
    examples: tuple[Tensor, Tensor],
    names: tuple[str, ...],
    opset: int,
    model: nn.Module,
) -> ir.Model:
    batch = torch.export.Dim("batch")
    try:
        with _quiet():
            program = torch.export.export(
                traced, examples, dynamic_shapes=({0: batch}, {0: batch}), strict=False
            )
            exported = torch.onnx.export(
                program,
                dynamo=True,
                external_data=False,
                optimize=True,
                opset_version=opset,
                input_names=[INPUT_NAME, "cotangent"],
                output_names=names,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise ModelError(_unexportable(type(model).__name__, error)) from error
    return exported.model  # type: ignore[union-attr]


def _complete(
    graph: ir.Graph, spec: ScoreSpec, shape: tuple[int, int, int], classes: int, typical: Typical
) -> None:
    """Put the objective in place of the input ``cotangent``, and the gate's outputs at the end."""
    traced = {str(value.name): value for value in graph.outputs}
    cotangent = graph.inputs.pop()
    add = Tail(graph)
    objective = add_objective(add, traced["logits"], spec)
    objective.cotangent.type, objective.cotangent.shape = cotangent.type, cotangent.shape
    cotangent.replace_all_uses_with(objective.cotangent)
    taint = traced.get("taint")
    cam = add_heatmap(add, traced["activations"], traced["alpha"], taint, spec, shape)
    found = add_quality(add, traced["prepared"], taint, typical)
    score, quality = (add("Squeeze", value, add.axis(1)) for value in (cam.score, found))
    verdict = add_verdict(add, cam.score, found, objective.onehot, classes)
    outputs = (traced["logits"], score, verdict, quality, traced["embedding"], cam.heatmap)
    graph.outputs[:] = outputs
    types = [ir.DataType.FLOAT] * 2 + [ir.DataType.INT8] + [ir.DataType.FLOAT] * 3
    sizes = ((classes,), (), (), (), shape[:1], shape[1:])
    for value, name, kind, size in zip(outputs, OUTPUT_NAMES, types, sizes, strict=True):
        value.name, value.type = name, ir.TensorType(kind)
        value.shape = ir.Shape(["batch", *size])
    graph.sort()


def _unexportable(name: str, error: BaseException) -> str:
    cause: BaseException | None = error
    texts = []
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    operators = sorted(set(re.findall(r"aten[.:]+\w+", "\n".join(texts))))
    missing = ", ".join(operators) or texts[0].strip().splitlines()[0]
    return (
        f"{name} cannot be exported to ONNX: no form for {missing}; replace that operation in the "
        "model, or choose a layer behind it with --layer if it is in the head's backward pass"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter warns about torchvision's absence and about its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(logger.setLevel, level)
        logger.setLevel(logging.ERROR)
        yield


def _forget_origins(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes, which hold stack traces with the builder's own paths."""
    graph = model.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:  # or an expression, such as 64*s0
                size.dim_param = size.dim_param.replace(symbol, "batch")
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in graph.initializer:
        tensor.ClearField("metadata_props")
    model.producer_name = "dripgate"
