"""A torch module becomes an ONNX file, by torch's own exporters."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
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

    def classic() -> Any:
        try:
            return load(to_onnx(model, example, classic=True), name)
        except ModelError:
            return None

    return OnnxClassifier(
        load(to_onnx(model, example), name), name, shape=shape, alternatives=(classic,)
    )


def to_onnx(model: Any, example: Tensor, *, classic: bool = False) -> bytes:
    """The module's forward pass for inputs like ``example`` (N ≥ 2, …), as ONNX bytes.

    classic: by the older exporter, which traces; it writes some modules with simpler operators.
    The module is left as it was found: mode, dtype, device and flags.
    Raises ModelError where neither a dynamic nor a fixed batch can be exported.
    """
    attempts: list[Callable[[], bytes]] = [
        lambda: _export(model, example, classic=classic, dynamic=True),
        lambda: _export(model, example[:1], classic=classic, dynamic=False),
    ]
    causes = []
    with _as_deployed(model) as module:
        for attempt in attempts:
            try:
                return attempt()
            except Exception as error:
                causes.append(_first_line(error))
    raise ModelError(
        f"{type(model).__name__} cannot be exported to ONNX ({causes[0]}); export it yourself "
        "with torch.onnx.export and give the .onnx file"
    )
    del module


def _export(model: nn.Module, example: Tensor, *, classic: bool, dynamic: bool) -> bytes:
    file = io.BytesIO()
    with _quiet():
        if classic:
            torch.onnx.export(
                model, (example,), file, dynamo=False, opset_version=OPSET, input_names=["input"],
                dynamic_axes={"input": {0: "batch"}} if dynamic else None,
            )  # fmt: skip
            return file.getvalue()
        shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
        program = torch.onnx.export(
            model, (example,), dynamo=True, external_data=False, optimize=True, verbose=False,
            opset_version=OPSET, input_names=["input"], dynamic_shapes=shapes,
        )  # fmt: skip
        return bytes(program.model_proto.SerializeToString())  # type: ignore[union-attr]


@contextmanager
def _as_deployed(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode, no gradients asked for; on exit each module and parameter gets back its own."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield model
    finally:
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
        yield


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}"
