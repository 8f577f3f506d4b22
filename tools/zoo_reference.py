"""α by torch's autograd, for the zoo: which tensor of the module is the gate's target, and its gradient.

Every torch function that a forward pass calls is recorded. The tensor whose values are those of
the target, in whatever order of axes, is differentiated. Where there is none (TorchScript,
files), differences through the head's ONNX graph take its place.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: Functions whose first argument, and whose result, has its channels second or last.
SECOND = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "batch_norm",
    "instance_norm", "group_norm", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d",
    "adaptive_max_pool2d", "adaptive_avg_pool1d", "max_pool1d", "adaptive_avg_pool3d",
}  # fmt: skip
LAST = {"linear", "layer_norm", "rms_norm"}
#: Seconds of one pass in double precision, above which single precision has to do.
SLOW = 2.0


class Reference(NamedTuple):
    """α (N, K) and where it comes from; axis: whether torch has the channels on the same axis."""

    alpha: np.ndarray
    source: str
    axis: str


class Call(NamedTuple):
    """One torch function: its name, the tensors that went in and those that came out."""

    name: str
    given: list[Tensor]
    made: list[Tensor]


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", str(func))
        if name not in ("__get__", "__set__"):
            if name == "layer_norm" and len(args[1]) > 1:  # over the whole map: names no axis
                name = "layer_norm of several axes"
            made = _tensors(result)
            if made:
                self.calls.append(Call(name, _tensors([*args, *(kwargs or {}).values()]), made))
        return result


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, list | tuple):
        return [tensor for part in tree for tensor in _tensors(part)]
    return []


def by_autograd(
    forward: Callable[[Tensor], Tensor], x: Tensor, target: np.ndarray, channel: int,
    tokens: tuple[int, int] | None,
) -> tuple[Reference | None, np.ndarray]:  # fmt: skip
    """(α of the predicted class's logit, the logits): None where no tensor is the target.

    ``target`` are the target's values (N, …) with the channels on axis ``channel``.
    """
    x = x.clone().requires_grad_(True)
    with torch.enable_grad(), _Recorder() as recorder:
        logits = forward(x)
    flat = logits.reshape(len(x), -1)
    values = flat.detach().numpy()
    want = np.sort(target.ravel())
    scale = float(np.abs(want).max()) or 1.0
    checked: set[int] = set()
    matches: list[tuple[int, Tensor, tuple[int, ...]]] = []
    for place, call in enumerate(recorder.calls):
        for tensor in call.made:
            if id(tensor) in checked or not tensor.requires_grad or tensor.numel() != target.size:
                continue
            checked.add(id(tensor))
            found = _array(tensor)
            if not np.allclose(np.sort(found.ravel()), want, rtol=0, atol=1e-4 * scale):
                continue
            order = _order(found, target, scale)
            if order is not None:
                matches.append((place, tensor, order))
    # Of several the last: a ReLU may change no value, and yet stop the gradient at zeros.
    same = [match for match in matches if match[1].ndim == target.ndim]
    for place, tensor, order in [*reversed(same), *matches]:
        (gradient,) = torch.autograd.grad(
            _predicted(flat), tensor, allow_unused=True, retain_graph=True
        )
        if gradient is not None:
            moved = _array(gradient).transpose(order).reshape(target.shape)
            axis = _axis(recorder.calls[place:], tensor, order, target.shape, channel)
            name = recorder.calls[place].name
            return Reference(mean_over_cells(moved, channel, tokens), name, axis), values
    return None, values


def _array(tensor: Tensor) -> np.ndarray:
    """NumPy has no bfloat16."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()


def _predicted(flat: Tensor) -> Tensor:
    """Σ over the samples of the predicted class's logit; of one number, that number's own side."""
    if flat.shape[1] == 1:
        return (flat * (flat > 0)).sum()
    return flat.gather(1, flat.argmax(1, keepdim=True)).sum()


def _order(found: np.ndarray, target: np.ndarray, scale: float) -> tuple[int, ...] | None:
    """The order of axes in which a tensor is the target, up to a reshape."""
    for rest in itertools.permutations(range(1, found.ndim)):
        for order in ((0, *rest), (*rest, 0)) if found.ndim < 4 else ((0, *rest),):
            if np.allclose(
                found.transpose(order).reshape(target.shape), target, rtol=0, atol=1e-4 * scale
            ):
                return order
    return None


def mean_over_cells(
    gradient: np.ndarray, channel: int, tokens: tuple[int, int] | None
) -> np.ndarray:
    """(N, K): the mean over all axes but the channels, over the spatial tokens where there are."""
    gradient = np.moveaxis(gradient.astype(np.float64), channel, 1)
    gradient = gradient.reshape(*gradient.shape[:2], -1)
    if tokens is not None:
        gradient = gradient[:, :, tokens[0] : tokens[1]]
    return np.asarray(gradient.mean(axis=2))


def _axis(
    calls: list[Call], tensor: Tensor, order: tuple[int, ...], shape: tuple[int, ...], channel: int
) -> str:
    """Whether torch's own functions take the same axis for the channels: same, other, unknown."""
    own = _torch_axis(calls, tensor, 0)
    if own is None:
        return "unknown"
    places = torch.arange(tensor.shape[own]).reshape(
        [-1 if a == own else 1 for a in range(tensor.ndim)]
    )
    moved = places.expand(tensor.shape).numpy().transpose(order).reshape(shape)
    along = [a for a in range(1, len(shape)) if np.ptp(moved, axis=a).max() > 0]
    return "same" if along == [channel] else "other"


def _torch_axis(calls: list[Call], tensor: Tensor, depth: int) -> int | None:
    made_by = calls[0].name if depth == 0 else ""
    if made_by in SECOND:
        return 1
    if made_by in LAST:
        return tensor.ndim - 1
    same = {id(tensor)}
    for call in calls[1:]:
        first = call.given[0] if call.given else None
        if first is None or id(first) not in same:
            continue
        if call.name in SECOND:
            return 1
        if call.name in LAST:
            return tensor.ndim - 1
        if call.made[0].shape == tensor.shape:
            same.add(id(call.made[0]))
    return None


def by_differences(
    head: onnx.ModelProto, feeds: dict[str, np.ndarray], target: np.ndarray, alpha: np.ndarray, channel: int,
    tokens: tuple[int, int] | None,
) -> tuple[float, str]:  # fmt: skip
    """How far α is from central differences of the head's graph along random directions.

    Relative to the largest difference. Also which differences: in double precision where ONNX's
    own reference runs the head in it; else in single, which can be no closer than about 1e-3.
    """
    run, which = _double(head, feeds, target) or (_single(head, feeds), "differences")
    logits = run(target)
    predicted = logits.argmax(axis=1)
    sides = (logits[:, 0] > 0).astype(float)
    rng = np.random.default_rng(5)
    channels = target.shape[channel]
    steps = (1e-4, 1e-5, 1e-6, 1e-7) if "double" in which else (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
    wanted: list[list[np.ndarray]] = [[] for _ in steps]
    found = []
    for _ in range(6):
        v = rng.normal(size=(len(target), channels))
        shape = [len(target) if a == 0 else channels if a == channel else 1
                 for a in range(target.ndim)]  # fmt: skip
        direction = np.broadcast_to(v.reshape(shape), target.shape).copy()
        if tokens is not None:
            keep = np.zeros(target.shape[3 - channel])
            keep[tokens[0] : tokens[1]] = 1
            direction *= keep.reshape([-1 if a == 3 - channel else 1 for a in range(3)])
        cells = np.count_nonzero(direction[0]) / channels
        for place, step in enumerate(steps):
            e = step * max(float(np.abs(target).std()), 1e-30)
            slope = (run(target + e * direction) - run(target - e * direction)) / (2 * e)
            rows = np.arange(len(target))
            wanted[place].append(
                slope[rows, predicted] if slope.shape[1] > 1 else slope[:, 0] * sides
            )
        found.append((alpha * v).sum(axis=1) * cells)
    # Small steps drown in rounding and large ones in curvature: the best of them counts.
    errors = [np.abs(np.array(w) - found).max() / max(np.abs(w).max(), 1e-12) for w in wanted]
    return float(min(errors)), which


Head = Callable[[np.ndarray], np.ndarray]


def _single(head: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Head:
    """The head in onnxruntime: target (n, …) → logits float64 (n, C)."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(head.SerializeToString(), options)
    taken = [value.name for value in session.get_inputs()]

    def run(values: np.ndarray) -> np.ndarray:
        given = {**feeds, taken[0]: values.astype(np.float32)}
        found: np.ndarray = session.run(None, {name: given[name] for name in taken})[0]
        return found.reshape(len(values), -1).astype(np.float64)

    return run


def _double(
    head: onnx.ModelProto, feeds: dict[str, np.ndarray], target: np.ndarray
) -> tuple[Head, str] | None:
    """The same in double precision; None where ONNX's reference cannot, or takes too long."""
    precise = onnx.ModelProto()
    precise.CopyFrom(head)
    for tensor in precise.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype.kind == "f":
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float64), tensor.name))
    for node in precise.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                values = onnx.numpy_helper.to_array(attribute.t)
                if values.dtype.kind == "f":
                    attribute.t.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float64)))
            elif node.op_type == "Cast" and attribute.i in (
                onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
            ):  # fmt: skip
                attribute.i = onnx.TensorProto.DOUBLE
    for value in precise.graph.input:
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    taken = [value.name for value in precise.graph.input]

    def run(values: np.ndarray) -> np.ndarray:
        given = {**feeds, taken[0]: values}
        (found,) = evaluator.run(None, {name: given[name].astype(np.float64) for name in taken})
        return np.asarray(found).reshape(len(values), -1)

    try:
        evaluator = ReferenceEvaluator(precise)
        begin = time.process_time()
        exact = run(target).dtype == np.float64
    except Exception:  # an operator that it does not have, or not in this type
        return None
    if not exact or time.process_time() - begin > SLOW:
        return None
    return run, "differences in double precision"
