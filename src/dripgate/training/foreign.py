"""Torch models as people have them: modules, timm, Hugging Face, TorchScript, factories."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dripgate.data import Dataset, Source, infer_input
from dripgate.errors import ModelError
from dripgate.graph.classifier import OnnxClassifier
from dripgate.training.classifier import Classifier, import_factory, load_classifier, read_weights
from dripgate.training.export import exported
from dripgate.types import (
    AudioInput,
    ImageInput,
    InputSpec,
    Normalize,
    Preprocessing,
    Waveform,
)


def open_torch(
    model: Any, data: Dataset | Source, *, weights: str | Path | None = None, trust: bool = False,
    size: tuple[int, int] | None = None,
) -> OnnxClassifier:  # fmt: skip
    """Any torch model as an ONNX classifier; see dripgate.models.open_model. Raises ModelError."""
    if isinstance(model, Classifier):
        return model.exported()
    if isinstance(model, str | os.PathLike):
        text = str(model)
        if text.startswith("timm:"):
            return _timm(text.removeprefix("timm:"), weights, data, size)
        if text.startswith("hf:"):
            return _hugging_face(Path(text.removeprefix("hf:")), data, size)
        path = Path(text)
        if path.suffix.lower() in (".pt", ".ts"):
            return _module(_torchscript(path, trust), text, data, size)
        if path.suffix.lower() == ".pt2":
            return _module(_program(path, trust), text, data, size)
        if ":" in text and not path.exists() and weights is not None:
            state, info = read_weights(Path(weights))
            if info is None:
                made = _loaded(import_factory(text)(), state, str(weights))
                return _module(made, text, data, size)
        return load_classifier(text, weights).exported()
    return _module(model, type(model).__name__, data, size)


def _module(
    model: Any, name: str, data: Dataset | Source, size: tuple[int, int] | None,
    preprocessing: Preprocessing | None = None, classes: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> OnnxClassifier:  # fmt: skip
    """A module that says nothing of itself: fed with what the data are."""
    spec = data.input if isinstance(data, Dataset) else infer_input(data)
    if isinstance(spec, ImageInput) and size:
        spec = ImageInput(height=size[0], width=size[1], channels=spec.channels)
    shape = _shape(spec)
    found = exported(model, shape, name)
    return replace(
        found, input=spec if not isinstance(spec, AudioInput) or preprocessing else None,
        preprocessing=preprocessing, classes=classes, shape=shape, notes=notes,
    )  # fmt: skip


def _shape(spec: InputSpec) -> tuple[int, ...]:
    if isinstance(spec, ImageInput):
        return (spec.channels, spec.height, spec.width)
    if isinstance(spec, AudioInput):
        return (spec.length,)
    return spec.shape


def _loaded(module: nn.Module, state: dict[str, torch.Tensor], name: str) -> nn.Module:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        cause = " ".join(str(error).split())[:300]
        raise ModelError(f"{name}: its weights do not fit ({cause})") from None
    return module.eval()


def _timm(
    name: str, weights: str | Path | None, data: Dataset | Source, size: tuple[int, int] | None
) -> OnnxClassifier:
    timm = _package("timm", f"timm:{name}")
    if weights is None:
        raise ModelError(f"timm:{name}: add --weights FILE.safetensors; nothing is downloaded")
    state, _ = read_weights(Path(weights))
    try:
        plain = timm.create_model(name, pretrained=False)
        head = plain.pretrained_cfg.get("classifier")
        head = head if isinstance(head, str) else (head or ("",))[0]
        bias = state.get(f"{head}.weight")
        module = plain if bias is None else timm.create_model(
            name, pretrained=False, num_classes=len(bias)
        )  # fmt: skip
    except Exception as error:
        raise ModelError(f"timm:{name}: timm cannot make it ({error})") from None
    config = module.pretrained_cfg
    sides = size or tuple(config["input_size"][1:])
    normalize = Normalize(mean=tuple(config["mean"]), std=tuple(config["std"]))
    said = (f"preprocessing: timm's for {name} (mean {config['mean']}, {sides[0]} × {sides[1]})",)
    return _module(_loaded(module, state, str(weights)), f"timm:{name}", data, sides, normalize,
                   notes=said)  # fmt: skip


def _hugging_face(
    folder: Path, data: Dataset | Source, size: tuple[int, int] | None
) -> OnnxClassifier:
    transformers = _package("transformers", f"hf:{folder}")
    if not (folder / "config.json").is_file():
        raise ModelError(f"hf:{folder}: no config.json there; give a folder of save_pretrained")
    spec = data.input if isinstance(data, Dataset) else infer_input(data)
    kind = "AutoModelForAudioClassification" if isinstance(spec, AudioInput) else \
        "AutoModelForImageClassification"  # fmt: skip
    try:
        module = getattr(transformers, kind).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:
        cause = str(error).strip().splitlines()[0][:300]
        raise ModelError(f"hf:{folder}: transformers cannot open it ({cause})") from None
    preparation = Waveform(standardise=True) if isinstance(spec, AudioInput) else None
    return _module(module, f"hf:{folder}", data, size, preparation)


def _torchscript(path: Path, trust: bool) -> Any:
    if not trust:
        raise ModelError(
            f"{path}: a TorchScript archive holds code; if you trust where it comes from, say "
            "--trust, else export the model to ONNX where it was made"
        )
    try:
        return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        cause = str(error).strip().splitlines()[0][:200]
        raise ModelError(
            f"{path}: no TorchScript archive ({cause}); weights or modules that were pickled are "
            "never opened: give safetensors, or export to ONNX"
        ) from None


def _program(path: Path, trust: bool) -> Any:
    """Weights that torch cannot write as they are, it pickles, and unpickles without a question."""
    if not trust:
        raise ModelError(
            f"{path}: an archive of torch.export may hold pickles, which run what is in them; if "
            "you trust where it comes from, say --trust, else export the model to ONNX there"
        )
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns with a whole traceback
    try:
        return torch.export.load(path)
    except Exception as error:
        raise ModelError(
            f"{path}: cannot be read as an archive of torch.export ({type(error).__name__}); write "
            f"it with torch.export.save of torch {torch.__version__} or older, or export the model "
            "to ONNX"
        ) from None
    finally:
        log.setLevel(level)


def _package(name: str, for_what: str) -> Any:
    from importlib import import_module

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        return import_module(name)
    except ImportError:
        raise ModelError(
            f"{for_what} needs {name}, which is not installed here: pip install {name}, or export "
            "the model to ONNX where it is"
        ) from None
