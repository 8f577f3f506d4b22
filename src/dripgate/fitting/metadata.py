"""What a model file, or the files beside it, say of classes and preprocessing."""

import ast
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import onnx

from dripgate.errors import ModelError
from dripgate.fitting.names import read_names
from dripgate.graph.classifier import CARD_KEY, Card
from dripgate.types import InputSpec, Normalize, Preprocessing

_LARGEST = 4_000_000  # bytes of a configuration


class Facts(NamedTuple):
    """What is known; None is nothing. size: (height, width) of the images. beside: the file with
    the classes where they do not stand in the model's own.
    """

    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    input: InputSpec | None = None
    holdout: float = 0.0
    beside: str = ""


def facts_of(proto: onnx.ModelProto, path: Path | None) -> Facts:
    """From the model's own metadata (Ultralytics), else from the files beside it.

    Those are Hugging Face's config.json and preprocessor_config.json, and labels.txt.
    Raises ModelError where the metadata say that it is no classifier.
    """
    own = {entry.key: entry.value for entry in proto.metadata_props}
    if CARD_KEY in own:
        return _card(own[CARD_KEY], str(path or "the model"))
    if "names" in own and "task" in own:
        return _ultralytics(own, str(path or "the model"))
    if path is None:
        return Facts()
    found = hugging_face(path.parent)
    if found != Facts():
        return found
    labels = path.with_name("labels.txt")
    if labels.is_file():
        return Facts(classes=read_names(labels), beside=str(labels))
    return Facts()


def _card(text: str, name: str) -> Facts:
    """What ``dripgate train --onnx`` wrote."""
    try:
        card = msgspec.json.decode(text, type=Card)
    except msgspec.DecodeError as error:
        raise ModelError(
            f"{name}: what dripgate noted in it is damaged ({error}); export it again"
        ) from None
    return Facts(card.classes, card.preprocessing, None, (), card.input, card.holdout)


def _ultralytics(own: dict[str, str], name: str) -> Facts:
    """names is a Python dictionary as text; the pixels go in as RGB from 0 to 1."""
    if own["task"] != "classify":
        raise ModelError(
            f"{name}: an Ultralytics model for '{own['task']}', not for classification; a gate "
            "needs a classifier (yolo11n-cls and the like)"
        )
    try:
        names = dict(ast.literal_eval(own["names"]))
        classes = tuple(str(names[i]) for i in range(len(names)))
        size = ast.literal_eval(own["imgsz"]) if "imgsz" in own else None
    except (ValueError, SyntaxError, KeyError, TypeError):
        return Facts(notes=("Ultralytics' metadata cannot be read and is not used",))
    sides = (int(size[0]), int(size[1])) if isinstance(size, list | tuple) else None
    return Facts(
        classes, Normalize(mean=(0.0,) * 3, std=(1.0,) * 3), sides,
        ("classes and preprocessing (0-1) from Ultralytics' metadata",),
    )  # fmt: skip


def hugging_face(folder: Path) -> Facts:
    """From config.json (id2label) and preprocessor_config.json in ``folder``, as far as there."""
    config = _json(folder / "config.json")
    images = _json(folder / "preprocessor_config.json")
    if not config and not images:
        return Facts()
    labels = config.get("id2label") or {}
    classes = None
    if labels and sorted(map(int, labels)) == list(range(len(labels))):
        classes = tuple(str(labels[str(i)]) for i in range(len(labels)))
        if all(re.fullmatch(r"LABEL_\d+", name) for name in classes):
            classes = None  # what transformers writes where nobody named them
    size = images.get("crop_size") or images.get("size") or {}
    side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
    width = size.get("width", side) if isinstance(size, dict) else side
    sides = (int(side), int(width)) if side and width else None
    described = "image_mean" in images or "do_rescale" in images
    normalize = _hugging_face_pixels(images) if described else None
    notes = (f"preprocessing: {folder / 'preprocessor_config.json'}",) if normalize else ()
    beside = str(folder / "config.json") if classes else ""
    return Facts(classes, normalize, sides, notes, beside=beside)


def _hugging_face_pixels(config: dict[str, Any]) -> Normalize:
    """(pixel · rescale - mean) / std in terms of (pixel / 255 - m) / s."""
    rescale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1
    normalized = config.get("do_normalize", True) and "image_mean" in config
    mean = config["image_mean"] if normalized else [0.0] * 3
    std = config["image_std"] if normalized else [1.0] * 3
    factor = 255 * rescale
    return Normalize(
        mean=tuple(float(m) / factor for m in mean), std=tuple(float(s) / factor for s in std)
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return {}
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
