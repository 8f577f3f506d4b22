"""A classifier with all that a gate must know about it, and its file: weights without code."""

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from dripgate.data import Dataset, Split
from dripgate.data.split import HOLDOUT_SALT
from dripgate.errors import DataError, ModelError
from dripgate.files import read_whole, write_whole
from dripgate.gate_check import input_problem
from dripgate.graph.classifier import OnnxClassifier
from dripgate.progress import Progress
from dripgate.training import nets
from dripgate.training.export import exported
from dripgate.training.preprocess import Deployed, build
from dripgate.training.train import Recipe, logits_of, train
from dripgate.types import (
    Array,
    AudioInput,
    FloatArray,
    Identity,
    ImageInput,
    InputSpec,
    LogMel,
    Normalize,
    Preprocessing,
)

METADATA_KEY = "dripgate"
LARGEST_MODEL = 4 << 30
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model file says beside its weights.

    arch: a reference net, or the user's package.module:factory (never imported from here).
    holdout: share of the training data, chosen by content hash, that the model has not seen.
    """

    schema: int = 1
    arch: str
    classes: tuple[str, ...]
    input: InputSpec
    preprocessing: Preprocessing
    recipe: Recipe = Recipe()
    holdout: float = 0.0


@dataclass(frozen=True)
class Classifier:
    """A model and what surrounds it. ``build`` makes the same net anew, untrained."""

    model: nn.Module
    info: ModelInfo
    build: Callable[[], nn.Module]

    @property
    def deployed(self) -> nn.Module:
        """From raw samples, as a device has them, to logits."""
        return Deployed(self.model, build(self.info.preprocessing, self.info.input))

    def logits(self, x: Array) -> FloatArray:
        """Logits (N, classes) of raw samples (N, …)."""
        return logits_of(self.deployed, _tensor(x))

    def accuracy(self, x: Array, y: Array) -> float:
        """Share of raw samples whose predicted class is y."""
        return float((self.logits(x).argmax(axis=1) == y).mean())

    def parts(self, dataset: Dataset) -> tuple[Split, Split]:
        """(what the model learns from, what it is calibrated on) of the data's train part."""
        held_out, learned_from = dataset.train.hold_out(self.info.holdout, HOLDOUT_SALT)
        return learned_from, held_out

    def indices(self, classes: tuple[str, ...], name: str) -> Array:
        """The model's class index of each of the data's ``classes``, (len(classes),).

        Raises DataError, naming the data, for a class that the model does not know.
        """
        known = {label: i for i, label in enumerate(self.info.classes)}
        strange = [label for label in classes if label not in known]
        if strange:
            raise DataError(
                f"{name}: the model does not know the classes {', '.join(strange[:5])}; "
                f"it knows {', '.join(self.info.classes[:10])}"
            )
        return np.array([known[label] for label in classes])

    def trained(
        self, x: Array, y: Array, recipe: Recipe | None = None, *,
        fresh: bool = True, progress: Progress | None = None, weights: Array | None = None,
    ) -> "Classifier":  # fmt: skip
        """A classifier of the same kind trained on raw samples x (N, …) and classes y (N,).

        fresh: from a new initialisation drawn from the recipe's seed; else from these weights.
        weights: how much each sample counts, (N,); None is all the same.
        """
        recipe = recipe or self.info.recipe
        torch.manual_seed(recipe.seed)
        model = self.build()
        if not fresh:
            model.load_state_dict(self.model.state_dict())
        forward, pixels = _training_form(model, self.info, x)
        train(forward, pixels, y, recipe, progress, weights)
        return replace(self, model=model, info=msgspec.structs.replace(self.info, recipe=recipe))

    def exported(self) -> OnnxClassifier:
        """The model as an ONNX classifier, with all that is known of it. Raises ModelError."""
        shape = _prepared_shape(self.info)
        found = exported(self.model, shape, self.info.arch)
        return found.with_(
            classes=self.info.classes, input=self.info.input,
            preprocessing=self.info.preprocessing, holdout=self.info.holdout,
        )  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all. Raises ModelError."""
        tensors = self.model.state_dict().items()
        state = {name: tensor.detach().clone().contiguous() for name, tensor in tensors}
        text = msgspec.json.encode(self.info).decode()
        try:
            write_whole(Path(path), save_tensors(state, {METADATA_KEY: text}))
        except OSError as error:
            raise ModelError(
                f"{path}: cannot be written ({error.strerror}); check the folder and free space"
            ) from None


def new_classifier(
    arch: str, classes: tuple[str, ...], spec: InputSpec, x: Array, *,
    recipe: Recipe, holdout: float,
) -> Classifier:  # fmt: skip
    """An untrained reference net for samples like x (N, …), whose statistics it normalises by."""
    preprocessing = standardising(spec, x)
    module = build(preprocessing, spec)
    shape = tuple(module(_tensor(x[:1])).shape[1:])
    if len(shape) != 3:
        raise ModelError(
            f"{arch} takes images or audio, found samples of shape {spec.shape}; "
            "bring your own net as package.module:factory"
        )
    make = nets.factory(arch, cast(nets.Shape, shape), len(classes))
    torch.manual_seed(recipe.seed)
    info = ModelInfo(
        arch=arch, classes=classes, input=spec, preprocessing=preprocessing,
        recipe=recipe, holdout=holdout,
    )  # fmt: skip
    return Classifier(make(), info, make)


def standardising(spec: InputSpec, x: Array, most: int = 2000) -> Preprocessing:
    """Preprocessing that brings samples like x to zero mean and unit variance."""
    some = x[np.linspace(0, len(x) - 1, min(most, len(x))).astype(int)]
    if isinstance(spec, ImageInput):
        pixels = some.reshape(-1, spec.channels).astype(np.float64) / 255
        std = np.maximum(pixels.std(axis=0), 1e-3)
        return Normalize(mean=_rounded(pixels.mean(axis=0)), std=_rounded(std))
    if isinstance(spec, AudioInput):
        raw = LogMel(
            window=spec.rate // 25, hop=spec.rate // 50, bins=40,
            low=20.0, high=spec.rate / 2, mean=0.0, std=1.0,
        )  # fmt: skip
        with torch.inference_mode():
            levels = build(raw, spec)(_tensor(some))
        return msgspec.structs.replace(
            raw, mean=round(float(levels.mean()), 4), std=round(float(levels.std()), 4)
        )
    return Identity()


def load_classifier(
    model: str,
    weights: str | Path | None = None,
    describe: Callable[[str], ModelInfo] | None = None,
) -> Classifier:
    """Open MODEL: a safetensors file of a reference net, or package.module:factory with weights.

    ``describe(arch)`` supplies the info of weights that carry none. Raises ModelError. Nothing
    in a file is ever executed.
    """
    if _FACTORY.fullmatch(model) and not Path(model).exists():
        make = import_factory(model)
        if weights is None:
            raise ModelError(f"{model}: a factory gives no weights; add --weights FILE.safetensors")
        state, info = read_weights(Path(weights))
        if info is None and describe is None:
            raise ModelError(f"{weights}: weights without dripgate's metadata; say what they take")
        return _filled(make, state, info or cast(Any, describe)(model), str(weights))
    state, info = read_weights(Path(model))
    if info is None:
        raise ModelError(
            f"{model}: weights without dripgate's metadata; name the code they belong to: "
            f"--model package.module:factory --weights {model}"
        )
    if info.arch not in nets.NETS:
        raise ModelError(
            f"{model}: weights of '{info.arch}', which is not a reference net; "
            f"give --model {info.arch} --weights {model}"
        )
    try:
        shape = _prepared_shape(info)
        make = nets.factory(info.arch, cast(nets.Shape, shape), len(info.classes))
        return _filled(make, state, info, model)
    except (RuntimeError, ValueError, ArithmeticError, MemoryError, IndexError) as error:
        cause = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{model}: its dripgate metadata makes no {info.arch} ({cause}); train the model again"
        ) from None


def _prepared_shape(info: ModelInfo) -> tuple[int, ...]:
    """The shape of one sample as the model takes it."""
    return tuple(build(info.preprocessing, info.input)(_zeros(info.input)).shape[1:])


def default_preprocessing(spec: InputSpec) -> Preprocessing:
    """Images scaled to 0…1; audio has no default."""
    if isinstance(spec, ImageInput):
        return Normalize(mean=(0.0,) * spec.channels, std=(1.0,) * spec.channels)
    if isinstance(spec, AudioInput):
        raise ModelError(
            "an audio model needs to know its features; give preprocessing=dripgate.types.LogMel(…)"
        )
    return Identity()


def _training_form(model: nn.Module, info: ModelInfo, x: Array) -> tuple[nn.Module, Tensor]:
    """The module to train and its inputs (N, h, w, C).

    Images are normalised batch by batch, from bytes; audio features are computed once.
    """
    module = build(info.preprocessing, info.input)
    if isinstance(info.input, ImageInput):
        return Deployed(model, module), _tensor(x)
    with torch.inference_mode():
        parts = [module(_tensor(x[i : i + 512])) for i in range(0, len(x), 512)]
    features = torch.cat(parts).clone()
    if features.ndim != 4:
        raise ModelError(
            f"training here takes features (channels, h, w), found {tuple(features.shape[1:])}; "
            "train the model yourself and give it to 'dripgate fit'"
        )
    return nn.Sequential(ChannelsFirst(), model), features.permute(0, 2, 3, 1)


class ChannelsFirst(nn.Module):
    """(N, h, w, C) → (N, C, h, w), the order that convolutions take."""

    def forward(self, x: Tensor) -> Tensor:
        """A view: nothing is copied."""
        return x.permute(0, 3, 1, 2)


def import_factory(name: str) -> Callable[[], nn.Module]:
    """The function that package.module:factory names. Raises ModelError."""
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's code lies where the command is run
    try:
        made = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"{name}: cannot be imported ({error}); give package.module:factory, "
            "run from the folder that holds the package"
        ) from None
    return cast(Callable[[], nn.Module], made)


def _filled(
    make: Callable[[], nn.Module], state: dict[str, Tensor], info: ModelInfo, name: str
) -> Classifier:
    model = make()
    if not isinstance(model, nn.Module):
        raise ModelError(f"{info.arch}: gave a {type(model).__name__}, expected a torch.nn.Module")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        cause = " ".join(str(error).split())[:300]
        raise ModelError(f"{name}: its weights do not fit {info.arch} ({cause})") from None
    return Classifier(model.eval(), info, make)


def read_weights(path: Path) -> tuple[dict[str, Tensor], ModelInfo | None]:
    """Tensors and metadata of a safetensors file, which is sized first. Raises ModelError."""
    try:
        data = read_whole(path, LARGEST_MODEL)
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        state = load_tensors(data)
    except FileNotFoundError:
        raise ModelError(
            f"{path}: no such file; make a first model with 'dripgate train', or give "
            "package.module:factory with --weights"
        ) from None
    # Whose header was made by hand may claim any shape, and torch says so in its own ways.
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        cause = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{path}: not a safetensors file ({cause}); pickled weights (.pt, .pth) are not "
            "loaded because they can run code: convert them with safetensors.torch.save_file"
        ) from None
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(
                f"{path}: its weights '{name:.80}' are no finite numbers; give the file of a "
                "training that did not diverge"
            )
    if METADATA_KEY not in metadata:
        return state, None
    try:
        info = msgspec.json.decode(metadata[METADATA_KEY], type=ModelInfo)
    except msgspec.DecodeError as error:
        raise ModelError(
            f"{path}: its dripgate metadata cannot be read ({error}); train the model again"
        ) from None
    if problem := input_problem(info.input):
        raise ModelError(f"{path}: its dripgate metadata says {problem}; train the model again")
    return state, info


def _zeros(spec: InputSpec) -> Tensor:
    return _tensor(np.zeros((1, *spec.shape), spec.dtype))


def _tensor(x: Array) -> Tensor:
    return torch.from_numpy(np.require(x, requirements=["C", "W"]))


def _rounded(values: Any) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in values)
