"""Which layer the heatmap is made of: chosen from one forward pass, and explained.

The choice is the last spatial layer that is a *full cut* of the model: everything the logits
depend on passes through its output. That is tested, not guessed from the architecture: the
layer's output for one batch is put in place of that for another, and the logits must follow.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, dropout, instancenorm, pooling

from dripgate.errors import ModelError
from dripgate.gate_info import TargetLayer
from dripgate.heatmap import SCORES
from dripgate.training.gradcam import (
    GradCam,
    as_map,
    describe,
    evaluating,
    is_map,
    logits_of,
    submodule,
)

_POOLS = tuple(
    kind
    for kind in vars(pooling).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and kind is not nn.Module
)
#: Modules whose output is no layer of its own, or has its channels last.
_SKIPPED = (*_POOLS, dropout._DropoutNd, nn.Identity, nn.Flatten, nn.Unflatten)
_CHANNELS_LAST = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.MultiheadAttention, nn.Softmax)
_CHANNELS_FIRST = (conv._ConvNd, batchnorm._NormBase, instancenorm._InstanceNorm, nn.GroupNorm)

_FULL_CUT = "the last spatial layer; everything the logits depend on passes through it"
_PARTIAL = (
    "the last spatial layer with a gradient; no single layer carries everything the logits "
    "depend on, so the heatmap shows one path of several"
)


class _Call(NamedTuple):
    name: str
    module: nn.Module
    output: object


def choose_layer(model: nn.Module, example: Tensor) -> TargetLayer:
    """The target layer of ``model``, from a batch of its own input (real samples are best).

    Candidates are the modules, in order of execution, with an output (N, K, h, w), h·w > 1, or
    (N, K, T) of a 1-D convolutional net; pools, dropout and reshapes are none, nor are modules
    that run twice. Of nested modules that give the same tensor the outermost is named.

    Raises ModelError where no module qualifies, with what was seen.
    """
    with evaluating(model), torch.no_grad():
        calls, logits = _observe(model, example)
        candidates = _candidates(calls)
        if not candidates:
            raise ModelError(_no_layer(model, calls))
        other = example.roll(1, 0).flip(-1)
        for call in reversed(candidates):
            if _is_full_cut(model, call.module, example, other, logits):
                return _target(call, _FULL_CUT)
    for call in reversed(candidates):
        if _has_gradient(model, call, example):
            return _target(call, _PARTIAL)
    raise ModelError(
        f"no gradient flows from the logits of {type(model).__name__} to any spatial layer "
        f"({', '.join(call.name for call in candidates[-5:])}); Grad-CAM needs a head that can "
        "be differentiated"
    )


def find_layer(model: nn.Module, name: str, example: Tensor) -> TargetLayer:
    """The layer that the user named.

    Raises ModelError, with the usable layers, where it does not exist, does not run exactly
    once, or gives no map of at least two cells.
    """
    with evaluating(model), torch.no_grad():
        calls, _ = _observe(model, example)
    usable = [call.name for call in _candidates(calls)] or ["none"]
    listed = f"usable layers of {type(model).__name__}: {', '.join(usable)}"
    try:
        module = submodule(model, name)
    except ModelError as error:
        raise ModelError(f"{error}; {listed}") from None
    own = [call for call in calls if call.module is module]
    if len(own) != 1:
        raise ModelError(f"layer '{name}' runs {len(own)} times, expected once; {listed}")
    if not _is_spatial(own[0].output):
        raise ModelError(
            f"layer '{name}' ({type(module).__name__}) gives {describe(own[0].output)}, expected "
            f"float (N, K, h, w) with more than one cell; {listed}"
        )
    if not _has_gradient(model, own[0], example):
        raise ModelError(f"no gradient flows from the logits to layer '{name}'; {listed}")
    return _target(own[0], "named by the user")


def _observe(model: nn.Module, example: Tensor) -> tuple[list[_Call], Tensor]:
    """Every module's outputs in order of execution, the root's left out, and the logits."""
    calls: list[_Call] = []
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:

                def record(
                    module: nn.Module, inputs: object, output: object, name: str = name
                ) -> None:
                    calls.append(_Call(name, module, output))

                stack.callback(module.register_forward_hook(record).remove)
        logits = logits_of(model, example)
    return calls, logits


def _candidates(calls: list[_Call]) -> list[_Call]:
    names = [call.name for call in calls]
    pooled: set[int] = set()  # a container that ends in a pool gives the pool's tensor
    channels_first = True
    found = []
    for call in calls:
        leaf = not any(call.module.children())
        if leaf and any(True for _ in call.module.parameters(recurse=False)):
            channels_first = isinstance(call.module, _CHANNELS_FIRST)
        if isinstance(call.module, _POOLS):
            pooled.add(id(call.output))
        if isinstance(call.module, (*_SKIPPED, *_CHANNELS_LAST)) or id(call.output) in pooled:
            continue
        # A transformer's tokens (N, T, K) look like a 1-D net's maps (N, K, T): the layer they
        # come from tells them apart.
        flat = isinstance(call.output, Tensor) and call.output.ndim == 3
        if (
            _is_spatial(call.output)
            and names.count(call.name) == 1
            and (channels_first or not flat)
        ):
            found.append(call)
    return found


def _is_spatial(output: object) -> bool:
    return is_map(output) and as_map(output).shape[2:].numel() > 1


def _is_full_cut(
    model: nn.Module, module: nn.Module, example: Tensor, other: Tensor, logits: Tensor
) -> bool:
    kept: list[Tensor] = []  # a copy, as an in-place layer may follow
    with _hooked(module, lambda *call: kept.append(call[2].clone())):
        logits_of(model, example)
    with _hooked(module, lambda *_: kept[0]):
        swapped = logits_of(model, other)
    scale = float(logits.abs().max())
    return torch.allclose(swapped, logits, rtol=1e-4, atol=1e-5 * scale)


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _has_gradient(model: nn.Module, call: _Call, example: Tensor) -> bool:
    try:
        with GradCam(model, call.name) as gradcam:
            return bool(gradcam(example, SCORES["evidence_mean"]).gradients.any())
    except ModelError:
        return False


def _target(call: _Call, why: str) -> TargetLayer:
    channels, height, width = as_map(cast(Tensor, call.output)).shape[1:]
    return TargetLayer(name=call.name, shape=(channels, height, width), why=why)


def _no_layer(model: nn.Module, calls: list[_Call]) -> str:
    kinds = sorted({type(call.module).__name__ for call in calls})
    return (
        f"{type(model).__name__} has no spatial layer to make a heatmap of: its modules are "
        f"{', '.join(kinds) or 'none'}, and none gives (N, K, h, w) with h·w > 1; use a model with "
        "a convolution (or another spatial map) before its head"
    )
