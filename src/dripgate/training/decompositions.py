"""Backward operators that have no ONNX form, written with forward operators that have one.

The traced graph holds them as nodes; each is replaced by the nodes of a function below. Torch's
own decompositions cover everything else (activations, normalisations, softmax).
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from dripgate.errors import ModelError

aten = torch.ops.aten

Rule = Callable[..., Any]
Proxy = Any  # an fx.Proxy: it stands for the tensor that a node will give
#: Operator → function of its arguments that gives its (first) result.
RULES: dict[Any, Rule] = {}


def decompose(module: fx.GraphModule) -> None:
    """Replace in place every node that has a rule."""
    tracer = fx.proxy.GraphAppendingTracer(module.graph)

    def as_proxy(node: fx.Node) -> Proxy:
        return fx.Proxy(node, tracer)

    for node in list(module.graph.nodes):
        rule = RULES.get(node.target)
        if rule is None or not node.users:
            continue
        with module.graph.inserting_before(node):
            arguments = (*node.args, *node.kwargs.values())
            result = rule(*fx.map_arg(arguments, as_proxy))
        replace(node, result.node)


def replace(node: fx.Node, new: fx.Node) -> None:
    """Give ``new`` to all users of ``node``, or of its first result where it has several."""
    new.meta.setdefault("val", node.meta.get("val"))
    users = [user for user in node.users if is_first_result(user)] or [node]
    for user in users:
        new.meta["val"] = user.meta.get("val")
        user.replace_all_uses_with(new)


def is_first_result(node: fx.Node) -> bool:
    """Whether the node takes the first of another node's several results."""
    return bool(node.target is operator.getitem and node.args[1] == 0)


def shape(value: Proxy) -> Any:
    """The traced shape: static but for the batch."""
    return value.node.meta["val"].shape


def constant(like: Proxy, values: Tensor) -> Proxy:
    """A constant of the graph that ``like`` belongs to."""
    module = like.node.graph.owning_module
    name = f"_decomposed{len(list(module.buffers()))}"
    module.register_buffer(name, values)
    return fx.Proxy(like.node.graph.get_attr(name), like.tracer)


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Register a decomposition."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return register


@rule(aten.convolution_backward.default)
def _convolution(
    grad: Proxy,
    x: Proxy,
    weight: Proxy,
    bias_sizes: object,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> Proxy:
    """The input's gradient is the transposed convolution with the same weights, and back."""
    sizes, steps = shape(x)[2:], shape(grad)[2:]
    kernel = shape(weight)[2:]
    extra = [0] * len(sizes)
    if not transposed:  # the rows that a strided convolution never reached
        reach = zip(steps, stride, padding, dilation, kernel, strict=True)
        ends = [(o - 1) * s - 2 * p + d * (k - 1) + 1 for o, s, p, d, k in reach]
        extra = [size - end for size, end in zip(sizes, ends, strict=True)]
    # More than a stride can be missing where the padding is larger than the kernel's reach.
    within = [min(e, s - 1) for e, s in zip(extra, stride, strict=True)]
    result = torch.convolution(
        grad, weight, None, stride, padding, dilation, not transposed, within, groups
    )
    missing = [e - w for e, w in zip(extra, within, strict=True)]
    if any(missing):
        result = functional.pad(result, [n for m in reversed(missing) for n in (0, m)])
    return result


@rule(aten.silu_backward.default)
def _silu(grad: Proxy, x: Proxy) -> Any:
    gate = torch.sigmoid(x)
    return grad * gate * (1 + x * (1 - gate))


@rule(aten.mish_backward.default)
def _mish(grad: Proxy, x: Proxy) -> Any:
    squashed = torch.tanh(functional.softplus(x))
    return grad * (squashed + x * torch.sigmoid(x) * (1 - squashed * squashed))


@rule(aten.max_pool2d_with_indices_backward.default)
def _max_pool(grad: Proxy, x: Proxy, *arguments: Any) -> Any:
    """Every pooled cell's gradient goes to the cell that it came from."""
    indices = arguments[-1]
    empty: Proxy = torch.zeros_like(x).flatten(2)
    return empty.scatter_add(2, indices.flatten(2), grad.flatten(2)).view(-1, *shape(x)[1:])


@rule(aten.adaptive_max_pool2d_backward.default)
def _adaptive_max_pool(grad: Proxy, x: Proxy, indices: Proxy) -> Any:
    return _max_pool(grad, x, indices)


@rule(aten.avg_pool2d_backward.default)
def _avg_pool(
    grad: Proxy,
    x: Proxy,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Any:
    if divisor is not None:  # torch.onnx drops it in the forward pass: wrong logits
        raise ModelError("avg_pool2d with divisor_override cannot be exported; leave it None")

    def along(axis: int, line: Tensor) -> Tensor:
        step = stride[axis] if stride else kernel[axis]
        window = (kernel[axis], 1), (step, 1), (padding[axis], 0)
        return functional.avg_pool2d(line, *window, ceil_mode, count_include_pad)

    return _separable(grad, shape(x)[2:], along)


@rule(aten._adaptive_avg_pool2d_backward.default)
def _adaptive_avg_pool(grad: Proxy, x: Proxy) -> Any:
    sizes = shape(grad)[2:]

    def along(axis: int, line: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(line, (sizes[axis], 1))

    return _separable(grad, shape(x)[2:], along)


def _separable(grad: Proxy, sizes: Sequence[int], along: Callable[[int, Tensor], Tensor]) -> Any:
    """Y = R X Cᵀ for constant R and C, so that ∂X = Rᵀ ∂Y C.

    ``along(axis, line)`` applies the operator of that axis to columns (·, 1, length, 1): of
    the identity it makes the matrix, whatever the padding and the rounding.
    """
    rows, columns = (
        along(axis, torch.eye(size)[:, None, :, None]).flatten(1)  # (size, out), transposed
        for axis, size in enumerate(sizes)
    )
    # The constant on the right: on the left, torch would copy it for every sample.
    across: Proxy = torch.matmul(grad, constant(grad, columns.mT.contiguous()))
    down: Proxy = torch.matmul(across.transpose(2, 3), constant(grad, rows.mT.contiguous()))
    return down.transpose(2, 3)
