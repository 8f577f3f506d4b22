"""The gate's graph: preprocessing, model, Grad-CAM, score and verdict as one static ONNX model.

torch.export cannot trace a forward pass that differentiates. What works for any architecture:
make_fx records Grad-CAM as run by autograd (the backward pass through the head becomes ordinary
nodes), rewrites and decompositions turn what has no ONNX form into what has, and torch.export
and torch.onnx.export take it from there. Measured: ResNet-8 in 4–6 s on one core, imports included.
"""

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import onnx
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
from dripgate.quality import FLOOR
from dripgate.training.decompositions import decompose
from dripgate.training.gradcam import GradCam
from dripgate.training.preprocess import Deployed, build
from dripgate.training.rewrites import shorten_means
from dripgate.types import Array, Decision, InputSpec, Preprocessing, Thresholds

OPSET = 20
#: The thresholds' names in the graph: float32 (C,), (C,), (2,), (4,) and (4, 4).
THRESHOLD_NAMES = (
    "thresholds.low", "thresholds.high", "thresholds.quality", "typical.centre",
    "typical.whitening",
)  # fmt: skip
#: "No bound" in the graph: every finite float32 is inside, infinities and NaN are not.
UNBOUNDED = float(np.finfo(np.float32).max)

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

    The thresholds are initializers (THRESHOLD_NAMES): ``with_thresholds`` replaces them without
    tracing again. ``model`` is left as it was.

    Raises ModelError for a layer or model that Grad-CAM cannot use, and for one whose forward
    or backward pass holds an operator without an ONNX form, which it names.
    """
    deployed = Deployed(model, build(preprocessing, input_spec))
    _refuse_other_devices(deployed)
    shape = (2, *input_spec.shape)  # torch takes a dimension of 1 for a constant
    example = torch.zeros(shape, dtype=getattr(torch, input_spec.dtype.name))
    with GradCam(deployed, f"model.{layer}") as gradcam, _traceable():
        classes = gradcam(example, SCORES[score]).logits.shape[1]
        shapes: tuple[tuple[int, ...], ...] = ((classes,), (classes,), (2,), (4,), (4, 4))
        bounds = tuple(torch.zeros(shape) for shape in shapes)
        forward = _forward(gradcam, SCORES[score], deployed.preprocessing)
        traced = _trace(forward, example, bounds)
    _refuse_fixed_batch(traced, type(model).__name__)
    shorten_means(traced)
    decompose(traced)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    graph = _to_onnx(traced, example, bounds, opset, type(model).__name__)
    _inputs_to_initializers(graph)
    _forget_origins(graph)
    return with_thresholds(graph.SerializeToString(), thresholds)


def with_thresholds(model: bytes, thresholds: Thresholds) -> bytes:
    """The same graph with other thresholds, exact in float32; raises GateError on a misfit."""
    graph = onnx.load_model_from_string(model)
    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    for name, values in zip(THRESHOLD_NAMES, _bounds(thresholds), strict=True):
        if name not in stored:
            raise GateError(f"the graph has no '{name}'; build it with dripgate fit")
        if list(stored[name].dims) != list(values.shape):
            raise GateError(
                f"'{name}' has {values.size} values, the graph has {stored[name].dims[0]}; "
                "give one per class"
            )
        stored[name].CopyFrom(numpy_helper.from_array(values, name))
    return bytes(graph.SerializeToString())


def with_info(model: bytes, info: GateInfo) -> bytes:
    """The same graph with ``info`` as its metadata, in place of any it had."""
    graph = onnx.load_model_from_string(model)
    onnx.helper.set_model_props(graph, {METADATA_KEY: info.to_json()})
    return bytes(graph.SerializeToString())


def _bounds(thresholds: Thresholds) -> tuple[Array, ...]:
    def values(bounds: tuple[float | None, ...], unbounded: float) -> Array:
        return np.array([unbounded if b is None else b for b in bounds], np.float32)

    quality = (
        values((thresholds.quality_low,), -UNBOUNDED),
        values((thresholds.quality_high,), UNBOUNDED),
    )
    low, high = values(thresholds.low, -UNBOUNDED), values(thresholds.high, UNBOUNDED)
    typical = thresholds.typical
    centre, whitening = (np.array(v, np.float32) for v in (typical.centre, typical.whitening))
    return low, high, np.concatenate(quality), centre, whitening


# What is traced ---------------------------------------------------------------------------------


def _forward(gradcam: GradCam, spec: ScoreSpec, prepare: nn.Module) -> Traced:
    def forward(
        samples: Tensor, low: Tensor, high: Tensor, bounds: Tensor, centre: Tensor,
        whitening: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        cam = gradcam(samples, spec)
        score, quality = cam.score, quality_of(prepare(samples), centre, whitening)
        if samples.is_floating_point():
            # NaN where a value is not finite, else 0: pools and strides may leave that value out.
            taint = samples.flatten(1).sum(1) * 0
            score = score + taint
        # What overflowed is as broken as what came in broken.
        quality = quality + score * 0
        band = low.index_select(0, cam.predicted), high.index_select(0, cam.predicted)
        verdict = _verdict(score, quality, *band, bounds)
        return cam.logits, score, verdict, quality, cam.embedding, cam.heatmap

    return forward


def quality_of(x: Tensor, centre: Tensor, whitening: Tensor) -> Tensor:
    """dripgate.quality of the model's input x (N, …), (N,)."""
    x = x.reshape(-1, *(1,) * (4 - x.ndim), *x.shape[1:])
    plane = (1, 2, 3)
    mean = x.mean(plane)
    across, down = x[..., 1:] - x[..., :-1], x[:, :, 1:] - x[:, :, :-1]
    spread = [x.std(plane, correction=0), *(_mean_size(part) for part in (across, down))]
    logs = torch.log(torch.stack(spread, 1) + FLOOR)
    away = (torch.cat([mean.unsqueeze(1), logs], 1) - centre) @ whitening.T
    return 1 / (1 + (away * away).mean(1))


def _mean_size(part: Tensor) -> Tensor:
    """Mean magnitude, (N,); 0 where there are no neighbours."""
    flat = part.abs().flatten(1)
    return flat.mean(1) if flat.shape[1] else flat.sum(1)


def _verdict(score: Tensor, found: Tensor, low: Tensor, high: Tensor, quality: Tensor) -> Tensor:
    """Comparisons with NaN are false: it is outside any quality range and outside any band."""
    keep = (low <= score) & (score <= high)
    sound = (quality[0] <= found) & (found <= quality[1])
    judged = torch.where(keep, Decision.KEEP.code, Decision.DROP.code)
    return torch.where(sound, judged, Decision.QUARANTINE.code).to(torch.int8)


def _trace(forward: Traced, example: Tensor, bounds: tuple[Tensor, ...]) -> fx.GraphModule:
    """Record ``forward`` with a symbolic batch and every other size fixed."""
    fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    sizes = [DimDynamic.DYNAMIC] + [DimDynamic.STATIC] * (example.ndim - 1)
    batch = fake.from_tensor(
        example,
        symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes),
    )
    fixed = [fake.from_tensor(bound, static_shapes=True) for bound in bounds]
    with fake:
        return make_fx(forward)(batch, *fixed)


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
    traced: fx.GraphModule, example: Tensor, bounds: tuple[Tensor, ...], opset: int, name: str
) -> onnx.ModelProto:
    dynamic = ({0: torch.export.Dim("batch")}, *[None] * len(bounds))
    try:
        with _quiet():
            program = torch.export.export(
                traced, (example, *bounds), dynamic_shapes=dynamic, strict=False
            )
            exported = torch.onnx.export(
                program,
                dynamo=True,
                external_data=False,
                optimize=True,
                opset_version=opset,
                input_names=[INPUT_NAME, *THRESHOLD_NAMES],
                output_names=OUTPUT_NAMES,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise ModelError(_unexportable(name, error)) from error
    return exported.model_proto  # type: ignore[union-attr]


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


def _inputs_to_initializers(model: onnx.ModelProto) -> None:
    """The thresholds were inputs, so that nothing folded them into other constants."""
    for name in THRESHOLD_NAMES:
        value = next(value for value in model.graph.input if value.name == name)
        shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
        model.graph.input.remove(value)


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
