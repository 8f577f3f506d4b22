"""Grad-CAM by hooks and autograd, for any ``nn.Module``: see dripgate.heatmap for the arithmetic.

The target layer's output is cut off as a leaf, so that autograd walks the head only. The same
code is traced to become the gate's graph, and run as it is to check that graph.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from dripgate.errors import ModelError
from dripgate.heatmap import EMPTY, ScoreSpec, Statistic

if TYPE_CHECKING:
    from typing import Self


class Cam(NamedTuple):
    """Grad-CAM of a batch, float32 and detached."""

    logits: Tensor  # (N, C)
    predicted: Tensor  # (N,) int64
    score: Tensor  # (N,)
    embedding: Tensor  # (N, K), the spatial mean of the activations
    heatmap: Tensor  # (N, h, w)
    activations: Tensor  # (N, K, h, w)
    gradients: Tensor  # (N, K, h, w), of sign · objective


class GradCam:
    """Grad-CAM at one layer, as a context manager that owns its hook.

    Inside the context the model is in eval mode and its parameters ask for no gradient; each
    module's mode and each parameter's flag come back on exit, and ``.grad`` is never touched.

        with GradCam(model, "features.8") as gradcam:
            cam = gradcam(batch, SCORES["loss_mean"])
    """

    def __init__(self, model: nn.Module, layer: str) -> None:
        self.model, self.layer = model, layer
        self._leaves: list[Tensor] = []
        self._exit = ExitStack()

    def __enter__(self) -> "Self":
        module = submodule(self.model, self.layer)
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.model))
            stack.callback(module.register_forward_hook(self._cut).remove)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _cut(self, module: nn.Module, inputs: object, output: object) -> Tensor:
        if not is_map(output):
            raise ModelError(
                f"layer '{self.layer}' ({type(module).__name__}) gives {describe(output)}; "
                "Grad-CAM needs one float tensor (N, K, h, w) or (N, K, T)"
            )
        leaf = output.detach().requires_grad_()
        self._leaves.append(leaf)
        # A copy, as an in-place ReLU may follow; contiguous, as the tracer knows no other.
        return leaf.clone(memory_format=torch.contiguous_format)

    def __call__(self, batch: Tensor, spec: ScoreSpec) -> Cam:
        """Grad-CAM of ``batch``, the model's input.

        Raises ModelError where the model gives no logits (N, C), the layer runs more than once
        or not at all, or no gradient flows from the logits to it.
        """
        logits, leaf = self.forward(batch)
        # With the sign in the cotangent, α needs no multiplication of its own.
        predicted = logits.argmax(1)
        cotangent = objective_gradient(logits.detach(), predicted, spec)
        gradients = self.backward(logits, leaf, cotangent)
        return _cam(logits.detach(), predicted, leaf.detach(), gradients, spec)

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, C) and the activations (N, K, h, w) as the leaf that they depend on."""
        self._leaves.clear()
        with torch.enable_grad():
            logits = logits_of(self.model, batch)
        if len(self._leaves) != 1:
            raise ModelError(
                f"layer '{self.layer}' runs {len(self._leaves)} times in one forward pass of "
                f"{type(self.model).__name__}; choose a layer that runs once"
            )
        return logits, self._leaves.pop()

    def backward(self, logits: Tensor, leaf: Tensor, cotangent: Tensor) -> Tensor:
        """cotangent (N, C) · ∂logits/∂leaf, of the leaf's shape: the head's backward pass."""
        gradients = None
        if logits.requires_grad:
            gradients = torch.autograd.grad(logits, leaf, cotangent, allow_unused=True)[0]
        if gradients is None:
            raise ModelError(
                f"no gradient flows from the logits of {type(self.model).__name__} to layer "
                f"'{self.layer}'; choose a layer that they depend on"
            )
        return gradients


def _cam(
    logits: Tensor, predicted: Tensor, activations: Tensor, gradients: Tensor, spec: ScoreSpec
) -> Cam:
    dims = tuple(range(2, activations.ndim))
    alpha = gradients.mean(dims)
    embedding = activations.mean(dims)
    activations, gradients = as_map(activations), as_map(gradients)
    weighted = torch.bmm(alpha.unsqueeze(1), activations.flatten(2))
    heatmap = torch.relu(weighted).view(-1, *activations.shape[2:])
    statistic = _statistic(heatmap, spec.statistic)
    score = statistic if spec.direction > 0 else -statistic
    return Cam(logits, predicted, score, embedding, heatmap, activations, gradients)


def _statistic(heatmap: Tensor, name: Statistic) -> Tensor:
    """heatmap.statistic, (N,) of (N, h, w)."""
    if name == "mean":
        return heatmap.mean((1, 2))
    peak = heatmap.amax((1, 2))
    return peak if name == "max" else heatmap.mean((1, 2)) / peak.clamp(min=EMPTY)


def objective_gradient(logits: Tensor, predicted: Tensor, spec: ScoreSpec) -> Tensor:
    """sign · ∂objective/∂logits at the predicted class, (N, C): heatmap.objective_gradient."""
    classes = torch.arange(logits.shape[1], device=logits.device)
    onehot = classes == predicted.unsqueeze(1)
    if spec.objective == "evidence":
        return spec.sign * onehot.to(logits.dtype)
    others = logits.softmax(1).masked_fill(onehot, 0)
    total = others.sum(1, keepdim=True)
    return torch.where(onehot, -spec.sign * total, spec.sign * others)


# What the tracer, the layer chooser and the hook share ------------------------------------------


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and parameters that ask for no gradient; on exit each gets back what it had."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def logits_of(model: nn.Module, batch: Tensor) -> Tensor:
    """The model's logits (N, C); raises ModelError where it cannot run or gives anything else."""
    name = type(model).__name__
    try:
        logits: object = model(batch)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ModelError(
            f"{name} cannot take {describe(batch)}: {str(error).strip().splitlines()[0]}; "
            "check that the preprocessing gives what the model was trained on"
        ) from error
    if not _is_logits(logits, batch):
        raise ModelError(
            f"{name} gives {describe(logits)} for {batch.shape[0]} samples; "
            "a classifier must return one float tensor of logits (N, classes), 2 classes or more"
        )
    return logits


def _is_logits(output: object, batch: Tensor) -> TypeGuard[Tensor]:
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim != 2:
        return False
    return output.shape[0] == batch.shape[0] and output.shape[1] >= 2


def submodule(model: nn.Module, name: str) -> nn.Module:
    """The module called ``name``; raises ModelError with the closest names where there is none."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name and name in modules:
        return modules[name]
    close = get_close_matches(name, [other for other in modules if other], n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ModelError(f"{type(model).__name__} has no layer called '{name}'{hint}")


def is_map(output: object) -> TypeGuard[Tensor]:
    """Whether a module's output has the form of activations: float (N, K, h, w) or (N, K, T)."""
    return isinstance(output, Tensor) and output.is_floating_point() and output.ndim in (3, 4)


def as_map(values: Tensor) -> Tensor:
    """(N, K, h, w) as it is; (N, K, T) as (N, K, 1, T)."""
    return values.unsqueeze(2) if values.ndim == 3 else values


def describe(value: object) -> str:
    """A value in an error message: a tensor by type and shape, anything else by its class."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}"
