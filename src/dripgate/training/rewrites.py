"""Two exact shortcuts: Grad-CAM needs no gradient plane, only the plane's mean.

What a backward operator spreads over a plane adds up to what it was given. So behind a global
average pool the mean needs no plane at all; behind a (ReLU and) max-pool it needs neither the
indices nor a scatter, as each pooled cell's gradient lands on one cell of the plane, and passes
the ReLU exactly where the pooled value is above zero.
"""

import math
from typing import Any, NamedTuple, cast

import torch
from torch import fx

from dripgate.training.decompositions import Proxy, is_first_result, replace, shape

aten = torch.ops.aten

_ALIASES = (aten.clone.default, aten.alias.default, aten.detach.default)
_RESHAPES = (
    aten.view.default,
    aten._unsafe_view.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
)
_SCALES = {
    aten.div.Scalar: lambda by: 1 / by,
    aten.div.Tensor: lambda by: 1 / by,
    aten.mul.Scalar: lambda by: by,
    aten.mul.Tensor: lambda by: by,
}
_MAX_POOL_BACKWARD = aten.max_pool2d_with_indices_backward.default
_SPREADS = (_MAX_POOL_BACKWARD, aten._adaptive_avg_pool2d_backward.default)


def shorten_means(module: fx.GraphModule) -> int:
    """Rewrite in place every mean over a spread gradient plane; gives the number of rewrites."""
    count = 0
    tracer = fx.proxy.GraphAppendingTracer(module.graph)
    for node in module.graph.find_nodes(op="call_function", target=aten.mean.dim):
        plane: Any = node.args[0]
        dims = list(range(2, plane.meta["val"].ndim))
        if [dim % plane.meta["val"].ndim for dim in cast(Any, node.args[1])] != dims or len(
            node.args
        ) > 2:
            continue
        with module.graph.inserting_before(node):
            total = _plane_sum(fx.Proxy(plane, tracer))
            if total is None:
                continue
            mean = _scaled(total.plane, total.factor / math.prod(plane.meta["val"].shape[2:]))
        replace(node, mean.node)
        count += 1
    return count


class _Sum(NamedTuple):
    """factor · Σ of a small plane stands for the sum of a large one."""

    plane: Proxy
    factor: float = 1.0


def _plane_sum(plane: Proxy) -> _Sum | None:
    """Σ over the plane as (N, K), without the plane; None where there is no shortcut."""
    node = plane.node
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    source = _proxy(node.args[0], plane)
    if node.target in _ALIASES:
        return _plane_sum(source)
    if node.target in _RESHAPES:
        return _plane_sum(source) if shape(source)[:2] == shape(plane)[:2] else None
    if node.target in _SCALES and isinstance(node.args[1], int | float):
        total = _plane_sum(source)
        factor = _SCALES[node.target](node.args[1])
        return total and _Sum(total.plane, total.factor * factor)
    if node.target is aten.expand.default:
        return _sum_of_expanded(source, shape(plane))
    if node.target in _SPREADS:
        return _Sum(_cells_summed(source))
    if node.target is aten.threshold_backward.default:
        return _sum_behind_relu(plane)
    return None


def _sum_of_expanded(source: Proxy, target: Any) -> _Sum | None:
    if len(shape(source)) != len(target) or shape(source)[:2] != target[:2]:
        return None
    return _Sum(_cells_summed(source), math.prod(target[2:]) / math.prod(shape(source)[2:]))


def _sum_behind_relu(plane: Proxy) -> _Sum | None:
    spread, rectified, threshold = cast(tuple[Any, ...], plane.node.args)
    if not isinstance(spread, fx.Node) or spread.target is not _MAX_POOL_BACKWARD or threshold:
        return None
    grad, pool_input, *_, indices = cast(tuple[Any, ...], spread.args)
    if _origin(pool_input) is not _origin(rectified):
        return None
    pooled = next((user for user in indices.args[0].users if is_first_result(user)), None)
    if pooled is None:
        return None
    graph = plane.node.graph
    with graph.inserting_after(pooled):  # at once, before an in-place layer changes it
        passes = graph.call_function(torch.sign, (pooled,))
    passed = _proxy(grad, plane) * _proxy(passes, plane)
    passed.node.meta["val"] = grad.meta["val"]
    return _Sum(_cells_summed(passed))


def _origin(node: fx.Node) -> fx.Node:
    """What autograd saved is an alias of what the forward pass gave."""
    while node.target in _ALIASES:
        node = cast(fx.Node, node.args[0])
    return node


def _proxy(node: fx.Node, beside: Proxy) -> Proxy:
    return fx.Proxy(node, beside.tracer)


def _cells_summed(plane: Proxy) -> Proxy:
    cells = math.prod(shape(plane)[2:])
    return plane.flatten(1) if cells == 1 else plane.flatten(2).sum(2)


def _scaled(plane: Proxy, factor: float) -> Proxy:
    return plane if factor == 1 else plane * factor
