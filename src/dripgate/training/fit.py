"""The Training Phase's end: a model and held-out data become one gate."""

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import torch
from torch import nn

from dripgate import __version__
from dripgate.data import Dataset, Split, infer_input, load, open_source
from dripgate.errors import DataError
from dripgate.gate import Gate, Outputs
from dripgate.gate_info import (
    SCHEMA,
    Calibration,
    GateInfo,
    Histogram,
    Parity,
    Provenance,
    TargetLayer,
)
from dripgate.heatmap import DEFAULT_SCORE, SCORES
from dripgate.policy.duplicates import apart
from dripgate.training.classifier import Classifier, load_classifier, wrap
from dripgate.training.graph import build_graph, with_info, with_thresholds
from dripgate.training.layer import choose_layer, find_layer
from dripgate.training.parity import check_parity
from dripgate.training.preprocess import build
from dripgate.training.shrink import OPSET
from dripgate.training.sound import learn_sound
from dripgate.training.thresholds import Keep, Learned, Observed, learn
from dripgate.types import Array, Preprocessing, Thresholds

#: Calibration samples below which no threshold means anything.
FEWEST = 30
_PARITY_SAMPLES = 64
_EXAMPLES = 4

Say = Callable[[str], None]


def fit(
    model: nn.Module | Classifier | str | Path,
    data: Dataset | str | Path,
    *,
    layer: str | None = None,
    keep: Keep = "auto",
    score: str = DEFAULT_SCORE,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    say: Say | None = None,
) -> Gate:
    """Learn thresholds for a trained classifier and build its gate.

    model: a module, a Classifier, or a model file. data: labelled samples the model was not
    trained on; for a model of ``dripgate train`` the part it held out is found by content.
    layer: the target layer's name, by default the last one everything passes through.
    keep: the fraction of the stream to keep, or "auto" (see thresholds.learn).
    preprocessing: what a bare module expects; by default images scaled to 0…1.
    say: is told each step as it begins.

    Raises ModelError, DataError or UserError for what cannot be used, ParityError where the
    graph would not give autograd's numbers.
    """
    say = say or (lambda _: None)
    if score not in SCORES:
        raise DataError(f"no score is called '{score}'; choose one of {', '.join(SCORES)}")
    classifier, dataset = _resolve(model, data, preprocessing)
    samples = calibration_part(classifier, dataset)
    labels = classifier.indices(dataset.classes, dataset.name)[samples.y]
    info = classifier.info
    say("choosing the target layer")
    target = _target(classifier, layer, samples.batch(np.arange(min(_EXAMPLES, len(samples)))))
    say("learning what sound samples look like")
    sound = learn_sound(samples, info.preprocessing, info.input, len(info.classes), seed)
    say(f"exporting the graph with Grad-CAM at '{target.name}'")
    graph = build_graph(classifier.model, info.preprocessing, info.input, target.name, score, sound)
    say("checking the graph against autograd")
    some = samples.batch(np.linspace(0, len(samples) - 1, _PARITY_SAMPLES).astype(int))
    parity = check_parity(
        graph, classifier.model, info.preprocessing, info.input, target.name, score, some
    )
    say(f"learning the thresholds on {len(samples):,} held-out samples")
    draft_info = _draft(classifier, target, score, sound, parity)
    draft = Gate(with_info(graph, draft_info), "draft", threads=0)
    outputs = run_all(draft, samples)
    seen = Observed(outputs.score, outputs.logits, outputs.embedding, labels)
    learned = learn(seen, keep, seed)
    band = learned.thresholds
    thresholds = msgspec.structs.replace(sound, low=band.low, high=band.high)
    final = GateInfo(
        schema=SCHEMA,
        score=score,
        thresholds=thresholds,
        keep=learned.keep,
        classes=info.classes,
        input=info.input,
        preprocessing=info.preprocessing,
        layer=target,
        calibration=_calibration(seen, outputs.quality, learned),
        parity=parity,
        provenance=_provenance(samples, seed),
    )
    return Gate(with_info(with_thresholds(graph, thresholds), final), "the new gate")


def calibration_part(classifier: Classifier, dataset: Dataset) -> Split:
    """The samples the model has not seen: its hold-out if it has one, else all of train.

    Raises DataError where there are too few to learn thresholds from.
    """
    learned_from, held_out = classifier.parts(dataset)
    part = held_out if classifier.info.holdout else learned_from
    if len(part) < FEWEST:
        raise DataError(
            f"{dataset.name}: {len(part)} samples to learn thresholds from, at least {FEWEST} are "
            "needed (a few hundred are good); give more labelled data"
        )
    return part


def run_all(gate: Gate, samples: Split, batch: int = 256) -> Outputs:
    """The gate's outputs for all samples, a batch at a time."""
    starts = range(0, len(samples), batch)
    parts = [gate(samples.batch(np.arange(i, min(i + batch, len(samples))))) for i in starts]
    return Outputs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _resolve(
    model: nn.Module | Classifier | str | Path,
    data: Dataset | str | Path,
    preprocessing: Preprocessing | None,
) -> tuple[Classifier, Dataset]:
    if isinstance(model, str | Path):
        model = load_classifier(str(model))
    if isinstance(data, str | Path):
        source = open_source(data)
        spec = model.info.input if isinstance(model, Classifier) else infer_input(source)
        data = load(source, spec)
    if isinstance(model, nn.Module):
        model = wrap(model, data.classes, data.input, preprocessing)
    if data.input != model.info.input:
        raise DataError(
            f"{data.name} is decoded to {data.input}, the model takes {model.info.input}; "
            "load the data with the model's input"
        )
    return model, data


def _target(classifier: Classifier, layer: str | None, samples: Array) -> TargetLayer:
    with torch.no_grad():
        module = build(classifier.info.preprocessing, classifier.info.input)
        example = module(torch.from_numpy(samples))
    if layer is None:
        return choose_layer(classifier.model, example)
    return find_layer(classifier.model, layer, example)


def _draft(
    classifier: Classifier, target: TargetLayer, score: str, sound: Thresholds, parity: Parity
) -> GateInfo:
    """What the graph says about itself while its thresholds are still being learned."""
    nothing = Histogram(edges=(), counts=())
    info = classifier.info
    return GateInfo(
        schema=SCHEMA, score=score, thresholds=sound, keep=1.0,
        classes=info.classes, input=info.input, preprocessing=info.preprocessing, layer=target,
        calibration=Calibration(
            samples=0, accuracy=0, score=nothing, quality=nothing,
            predicted=(), kept=(), curve=(), full=0, why="draft",
        ),
        parity=parity,
        provenance=Provenance(
            dripgate=__version__, torch="", onnx="", onnxruntime="", opset=OPSET, data="", seed=0
        ),
    )  # fmt: skip


def _calibration(seen: Observed, quality: Array, learned: Learned) -> Calibration:
    classes = seen.logits.shape[1]
    low, high = (
        np.array([default if b is None else b for b in bounds])[seen.predicted]
        for bounds, default in (
            (learned.thresholds.low, -np.inf),
            (learned.thresholds.high, np.inf),
        )
    )
    kept = seen.predicted[(seen.score >= low) & (seen.score <= high)]
    return Calibration(
        samples=len(seen.labels),
        accuracy=float((seen.predicted == seen.labels).mean()),
        score=Histogram.of(seen.score),
        quality=Histogram.of(quality),
        predicted=tuple(np.bincount(seen.predicted, minlength=classes).tolist()),
        kept=tuple(np.bincount(kept, minlength=classes).tolist()),
        curve=learned.curve,
        full=learned.full,
        why=learned.why,
        apart=apart(seen.features),
    )


def _provenance(samples: Split, seed: int) -> Provenance:
    ids = "".join(sorted(cast("list[str]", list(samples.ids))))
    return Provenance(
        dripgate=__version__,
        torch=version("torch"),
        onnx=version("onnx"),
        onnxruntime=version("onnxruntime"),
        opset=OPSET,
        data=hashlib.sha256(ids.encode()).hexdigest(),
        seed=seed,
    )
