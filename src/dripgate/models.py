"""MODEL, in whatever form people have it, as an ONNX classifier; and ``dripgate.fit``.

Files that are ONNX, or become it by a converter, need no torch. Everything else goes through
``dripgate.training``, which does.
"""

import os
import re
from pathlib import Path
from typing import Any

import onnx

from dripgate.data import Dataset, Source, open_source
from dripgate.errors import ModelError, require
from dripgate.fitting import tflite
from dripgate.fitting.fit import fit as fit_onnx
from dripgate.fitting.metadata import Facts, facts_of, hugging_face
from dripgate.gate import Gate
from dripgate.gate_info import METADATA_KEY
from dripgate.graph.classifier import OnnxClassifier
from dripgate.graph.read import load

_NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*|(timm|hf):.+")
#: Weights that only unpickling could open.
_PICKLES = {".pth", ".bin", ".pkl", ".ckpt", ".keras", ".h5"}


def fit(model: Any, data: Dataset | str | Path, *, weights: str | Path | None = None,
        trust: bool = False, **options: Any) -> Gate:  # fmt: skip
    """Learn thresholds for a trained classifier on labelled data, and build its gate.

    model: an .onnx or .tflite file, a torch.nn.Module, torch.export.ExportedProgram, an ONNX
    message or its bytes, or any MODEL of the command line. options: those of
    dripgate.fitting.fit.fit (layer, keep, score, preprocessing, classes, output, seed, force, log).
    Raises ModelError, DataError or UserError for what cannot be used, ParityError where the graph
    would not give the classifier's numbers.
    """
    if isinstance(model, OnnxClassifier):
        return fit_onnx(model, data, **options)
    source = open_source(data) if isinstance(data, str | Path) else data
    found = open_model(model, source, weights=weights, trust=trust)
    return fit_onnx(found, source, **options)


def open_model(
    model: Any, data: Dataset | Source, *, weights: str | Path | None = None, trust: bool = False,
    size: tuple[int, int] | None = None,
) -> OnnxClassifier:  # fmt: skip
    """MODEL as an ONNX classifier, with what is known of it.

    data: a Dataset or Source, for models that do not say what they take. size: (height, width) of
    images, where the file leaves them open. trust: a TorchScript archive may be opened.
    Raises ModelError, or MissingExtra where it takes torch.
    """
    if isinstance(model, OnnxClassifier):
        return model
    if isinstance(model, bytes | onnx.ModelProto):
        return _onnx(load(model), "the model", None, size)
    if isinstance(model, os.PathLike) or (isinstance(model, str) and not _is_named(model)):
        path = Path(model)
        kind = path.suffix.lower()
        if kind == ".onnx":
            return _onnx(load(path), str(path), path, size)
        if kind == ".tflite":
            return _onnx(load(tflite.convert(path), str(path)), str(path), path, size)
        if kind in _PICKLES:
            raise ModelError(
                f"{path}: a {kind} file is opened by running what is in it, which dripgate never "
                "does; export the model to ONNX where it was trained, or give its weights as "
                "safetensors with --model package.module:factory"
            )
        if not path.exists():
            raise ModelError(
                f"{path}: no such file; give an .onnx or .tflite file, or make a first model with "
                "'dripgate train'"
            )
        if kind not in (".safetensors", ".pt", ".ts", ".pt2"):
            raise ModelError(
                f"{path}: no MODEL; give an .onnx or .tflite file, safetensors of 'train', "
                "timm:NAME, hf:FOLDER, or package.module:factory with --weights"
            )
    require(f"a model that is no .onnx or .tflite file ({_short(model)})", "train", "torch")
    from dripgate.training.foreign import open_torch

    text = str(model)
    facts = hugging_face(Path(text[3:])) if text.startswith("hf:") else Facts()
    found = open_torch(model, data, weights=weights, trust=trust, size=size or facts.size)
    return found.with_(
        classes=facts.classes or found.classes,
        preprocessing=facts.preprocessing or found.preprocessing,
        notes=(*found.notes, *facts.notes),
        beside=facts.beside,
    )


def _is_named(model: str) -> bool:
    return bool(_NAMED.fullmatch(model)) and not Path(model).exists()


def _short(model: Any) -> str:
    return str(model)[:80] if isinstance(model, str | os.PathLike) else type(model).__name__


def _onnx(
    proto: onnx.ModelProto, name: str, path: Path | None, size: tuple[int, int] | None
) -> OnnxClassifier:
    if any(entry.key == METADATA_KEY for entry in proto.metadata_props):
        raise ModelError(f"{name}: is a gate already; give the classifier that it was made of")
    facts = facts_of(proto, path)
    sides = size or facts.size
    shape = _with_sides(proto, sides) if sides else None
    return OnnxClassifier(
        proto, name, facts.classes, facts.input, facts.preprocessing, facts.holdout,
        shape=shape, notes=facts.notes, beside=facts.beside,
    )  # fmt: skip


def _with_sides(proto: onnx.ModelProto, sides: tuple[int, int]) -> tuple[int, ...] | None:
    """A sample's shape at the first input, its open sizes filled with the sides of an image."""
    dims = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim][1:]
    if len(dims) != 3:
        return None
    if dims[2] in (1, 3):
        return (*sides, dims[2])
    return (dims[0] or 3, *sides)
