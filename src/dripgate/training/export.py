"""A torch module becomes an ONNX file, by torch's own exporters."""

import io
import logging
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from dripgate.errors import ModelError
from dripgate.graph.classifier import OnnxClassifier
from dripgate.graph.read import OPSET, load


def exported(model: Any, shape: tuple[int, ...], name: str) -> OnnxClassifier:
    """A module that takes (N, *shape) as an ONNX classifier, by the first exporter that can.

    Raises ModelError where none can.
    """
    rng = np.random.default_rng(0)
    example = torch.from_numpy(rng.normal(size=(2, *shape)).astype(np.float32))

    ways = exports(model, example)
    first = next(ways)
    ways.close()  # and the module is as it was found

    def others() -> Iterator[onnx.ModelProto]:
        for other in islice(exports(model, example), 1, None):
            yield load(other.data, name)

    return OnnxClassifier(load(first.data, name), name, shape=shape, others=others)


#: What the entry with the logits is called, where a module gives several.
_LOGITS = ("logits", "output", "out", "scores", "pred", "prediction", "class_logits")


class Exported(NamedTuple):
    """An ONNX file and how it came about: by which exporter, with which batch."""

    data: bytes
    exporter: str
    dynamic: bool


def to_onnx(
    model: Any, example: Tensor, *, classic: bool = False, output: str | None = None
) -> bytes:
    """The module's forward pass for inputs like ``example`` (N ≥ 2, …), as ONNX bytes.

    classic: by the older exporter, which traces; it writes some modules with simpler operators.
    output: the name of the entry with the logits, where the module gives several.
    The module is left as it was found: mode, dtype, device and flags.
    Raises ModelError where neither a dynamic nor a fixed batch can be exported.
    """
    kind = "torchscript" if classic else "dynamo"
    found = next(each for each in exports(model, example, output=output, kinds=(kind,)))
    return found.data


def exports(
    model: Any, example: Tensor, *, output: str | None = None,
    kinds: tuple[str, ...] = ("dynamo", "torchscript"),
) -> Generator[Exported, None, None]:  # fmt: skip
    """Every way in which a module can be exported, best first, each made when it is asked for.

    With a dynamic batch by either exporter, then with a batch of one. Raises ModelError where
    there is none, and at the end of a search through all of them nothing.
    """
    causes: list[str] = []
    made = 0
    with _as_deployed(model, example) as (module, inputs):
        named = _outputs(module, inputs, output)
        wrapped = module if named is None else _Picked(module, named)
        if isinstance(model, torch.jit.ScriptModule):
            kinds = ("torchscript",)
        for dynamic in (True, False):
            for kind in kinds:
                try:
                    data = _export(wrapped, inputs if dynamic else inputs[:1], kind, dynamic)
                except Exception as error:
                    causes.append(f"{kind}: {_first_line(error)}")
                    continue
                made += 1
                yield Exported(data, kind, dynamic)
    if not made:
        raise ModelError(
            f"{type(model).__name__} cannot be exported to ONNX ({causes[0]}); export it yourself "
            "with torch.onnx.export and give the .onnx file"
        )


def _export(model: nn.Module, example: Tensor, kind: str, dynamic: bool) -> bytes:
    file = io.BytesIO()
    with _quiet():
        if kind == "torchscript":
            # Its annotation names paths; it takes files too.
            torch.onnx.export(
                model, (example,), cast(Any, file), dynamo=False, opset_version=OPSET,
                input_names=["input"],
                dynamic_axes={"input": {0: "batch"}} if dynamic else None,
            )  # fmt: skip
            return file.getvalue()
        shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
        program = torch.onnx.export(
            model, (example,), dynamo=True, external_data=False, optimize=True, verbose=False,
            opset_version=OPSET, input_names=["input"], dynamic_shapes=shapes,
        )  # fmt: skip
        return bytes(program.model_proto.SerializeToString())  # type: ignore[union-attr]


# One tensor out ---------------------------------------------------------------------------------


class _Picked(nn.Module):
    """A module of which one entry of what it gives is taken."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, x: Tensor) -> Tensor:
        return entries(self.model(x))[self.name]


def entries(given: Any, prefix: str = "") -> dict[str, Tensor]:
    """The tensors in what a module gives, by key, field or place; nested ones with a dot."""
    if isinstance(given, Tensor):
        return {prefix or "0": given}
    if isinstance(given, Mapping):
        parts = {str(key): value for key, value in given.items()}
    elif is_dataclass(given):
        parts = {field.name: getattr(given, field.name) for field in fields(given)}
    elif isinstance(given, tuple) and hasattr(given, "_fields"):
        parts = dict(zip(given._fields, given, strict=True))
    elif isinstance(given, list | tuple):
        parts = {str(place): value for place, value in enumerate(given)}
    else:
        return {}
    found: dict[str, Tensor] = {}
    for name, value in parts.items():
        found.update(entries(value, f"{prefix}.{name}" if prefix else name))
    return found


def _outputs(model: nn.Module, example: Tensor, wanted: str | None) -> str | None:
    """The name of the entry with the logits; None where the module gives just one tensor."""
    try:
        with torch.no_grad(), _quiet():
            given = model(example)
    except Exception as error:  # a user's own code
        raise ModelError(
            f"{type(model).__name__} does not run for a sample of {tuple(example.shape[1:])} "
            f"({_first_line(error)}); check the size and the layout of its input"
        ) from None
    if isinstance(given, Tensor) and wanted is None:
        return None
    found = entries(given)
    listed = ", ".join(f"'{name}' {tuple(tensor.shape)}" for name, tensor in found.items())
    if wanted is not None:
        if wanted not in found:
            raise ModelError(
                f"{type(model).__name__} gives no '{wanted}'; it gives {listed or 'no tensor'}"
            )
        return wanted
    likely = {name: tensor for name, tensor in found.items() if _may_be_logits(tensor, example)}
    for name in _LOGITS:
        if name in likely:
            return name
    if len(likely) != 1:
        raise ModelError(
            f"{type(model).__name__} gives {listed or 'no tensor'}: "
            f"{'several may be' if likely else 'none is'} (N, classes); say which with "
            "--output NAME"
        )
    return next(iter(likely))


def _may_be_logits(tensor: Tensor, example: Tensor) -> bool:
    sizes = [size for size in tensor.shape[1:] if size != 1]
    return (
        tensor.is_floating_point()
        and tensor.ndim > 0
        and len(sizes) <= 1
        and (tensor.shape[0] == len(example))
    )


# As it is found, and left so --------------------------------------------------------------------


_OTHER = (torch.float16, torch.bfloat16, torch.float64)


def _in_order(tensor: Tensor) -> bool:
    """Whether a tensor lies in memory row by row; channels-last weights trace as views by strides.

    Also along axes of size 1, about which is_contiguous() does not care.
    """
    return tensor.stride() == torch.empty(tensor.shape, device="meta").stride()


@contextmanager
def _as_deployed(model: Any, example: Tensor) -> Iterator[tuple[nn.Module, Tensor]]:
    """(the module, the example): eval mode, float32, no gradients asked for, no wrappers.

    On exit each module, parameter and buffer gets back its own.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"{type(model).__name__} is no torch module; give an nn.Module")
    while isinstance(model, nn.DataParallel) or hasattr(model, "_orig_mod"):
        model = getattr(model, "_orig_mod", None) or model.module
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    stored = [*model.parameters(), *model.buffers()]
    changed = [(t, t.data) for t in stored if t.dtype in _OTHER or not _in_order(t)]
    device = stored[0].device if stored else example.device
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for tensor, data in changed:
            floats = data.float() if data.dtype in _OTHER else data
            tensor.data = floats.clone(memory_format=torch.contiguous_format)
        yield model, example.to(device)
    finally:
        for tensor, data in changed:
            tensor.data = data
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporters warn about torchvision's absence and about their own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(logger.setLevel, level)
        logger.setLevel(logging.ERROR)
        torch._C._jit_set_onnx_log_enabled(False)  # else graphs that fail are printed
        yield


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}"
