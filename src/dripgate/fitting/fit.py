"""The Training Phase's end: an ONNX classifier and held-out data become one gate."""

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx

from dripgate import __version__
from dripgate.adapting.memory import DEFAULT as DEFAULT_MEMORY
from dripgate.adapting.memory import Form, remember
from dripgate.data import Dataset, Source, Split, infer_input, open_source
from dripgate.errors import DataError
from dripgate.fitting.brought import Brought, Said, bring
from dripgate.fitting.reference import learn_quality_range
from dripgate.fitting.thresholds import Keep, Learned, Observed, learn
from dripgate.gate import Gate, Outputs
from dripgate.gate_info import (
    SCHEMA,
    Calibration,
    GateInfo,
    Histogram,
    LastLayer,
    Parity,
    Provenance,
    TargetLayer,
)
from dripgate.gate_tensors import Remembered, changed
from dripgate.graph.build import build_graph, with_info
from dripgate.graph.check import check_gate, make_reference
from dripgate.graph.classifier import OnnxClassifier
from dripgate.graph.measure import run, session
from dripgate.graph.opened import Opened
from dripgate.graph.prepare import preparation_model
from dripgate.graph.read import OPSET, load
from dripgate.graph.reverse import head_nodes
from dripgate.graph.target import Chosen, open_first
from dripgate.heatmap import DEFAULT_SCORE, SCORES
from dripgate.policy.duplicates import distances
from dripgate.progress import Bar, Progress, no_bar
from dripgate.types import Array, ImageInput, InputSpec, Thresholds

_CHECKED, _EXACTLY = 64, 8

Log = Callable[[str], None]


def fit(
    model: OnnxClassifier | onnx.ModelProto | bytes | str | Path,
    data: Dataset | Source | str | Path,
    *,
    layer: str | None = None,
    keep: Keep = "auto",
    score: str = DEFAULT_SCORE,
    preprocessing: Said = "auto",
    classes: tuple[str, ...] | None = None,
    output: str | None = None,
    memory: Form = DEFAULT_MEMORY,
    seed: int = 0,
    force: bool = False,
    log: Log | None = None,
    bar: Bar = no_bar,
) -> Gate:
    """Learn thresholds for a trained classifier and build its gate.

    model: an ONNX file or message, or an OnnxClassifier that says more of itself.
    data: labelled samples the model was not trained on; for a model of ``dripgate train`` the
    part it held out is found by content.
    layer: the target's name in the graph, by default the last cut with spatial cells.
    keep: the fraction of the stream to keep, or "auto" (see thresholds.learn).
    preprocessing: what the classifier expects: a Preprocessing, Pixels or Features. "auto" tries
    the usual conventions on the data, another word names one of them (conventions.conventions).
    classes: the names of the outputs in order. output: which output holds the classes.
    memory: what the gate remembers of the data, so that its head can learn on the device without
    forgetting: "stats", "none", or so many feature vectors per class (docs/adapt.md).
    force: build a gate of a classifier that is no better than a guess, too.
    log: is told each step as it begins, and each choice that was made. bar: shows how far
    what takes long is.

    Raises ModelError, DataError or UserError for what cannot be used, ParityError where the
    graph would not give the classifier's numbers.
    """
    log = log or (lambda _: None)
    if score not in SCORES:
        raise DataError(f"no score is called '{score}'; choose one of {', '.join(SCORES)}")
    classifier = model if isinstance(model, OnnxClassifier) else OnnxClassifier(load(model))
    classifier = classifier.with_(
        classes=classes or classifier.classes, output=output or classifier.output
    )
    if not isinstance(_kind(data), ImageInput):
        classifier = classifier.with_real_input()
    log("choosing the target")
    files = chain([classifier.model], classifier.others())
    _, opened, chosen = open_first(
        files, classifier.name, shape=classifier.shape, layer=layer, output=classifier.output
    )
    brought = bring(classifier, opened, data, preprocessing, force=force, log=log, bar=bar)
    return _Fitting(brought, opened, chosen, score, seed, force, log, bar).gate(keep, memory)


def _kind(data: Dataset | Source | str | Path) -> InputSpec:
    if isinstance(data, Dataset):
        return data.input
    return infer_input(open_source(data) if isinstance(data, str | Path) else data)


class _Graph(NamedTuple):
    """A gate's graph with what is to be said of it."""

    model: bytes
    target: TargetLayer
    parity: Parity
    last: LastLayer | None


class _Fitting:
    """One fit: what was brought, and what all steps share."""

    def __init__(
        self, brought: Brought, opened: Opened, chosen: Chosen, score: str, seed: int,
        force: bool, log: Log, bar: Bar,
    ) -> None:  # fmt: skip
        self._brought, self._score, self._seed, self._log = brought, score, seed, log
        self._force, self._bar = force, bar
        self._opened, self._chosen = opened, chosen  # used up by the graph

    def gate(self, keep: Keep, memory: Form) -> Gate:
        """The steps in order."""
        brought = self._brought
        self._log("learning what ordinary samples look like")
        ordinary = learn_quality_range(
            brought.samples, brought.preprocessing, brought.input, len(brought.classes), self._seed
        )
        graph = self._graph(ordinary)
        self._log(f"learning the thresholds on {len(brought.samples):,} held-out samples")
        draft = Gate(
            with_info(graph.model, self._info(graph, ordinary, None, 1.0)), "draft", threads=0
        )
        with self._bar(len(brought.samples), "scoring") as told:
            outputs = run_all(draft, brought.samples, told=told)
        seen = Observed(
            outputs.score, outputs.logits, outputs.embedding, brought.labels, brought.ends.head
        )
        learned = learn(seen, keep, self._seed)
        band = learned.thresholds
        thresholds = msgspec.structs.replace(ordinary, low=band.low, high=band.high)
        calibration = _calibration(seen, outputs.quality, learned)
        info = self._info(graph, thresholds, calibration, learned.keep)
        info, remembered = self._remembering(info, outputs.features, memory)
        return Gate(changed(graph.model, info, memory=remembered), "the new gate")

    def _remembering(
        self, info: GateInfo, features: Array, form: Form
    ) -> tuple[GateInfo, Remembered | None]:
        """What the head needs to learn on the device: the size of its features, and the memory."""
        if info.last is None:
            why = (
                "the head does not end in a linear layer of its own: it cannot learn on the device"
            )
            self._log(why)
            return msgspec.structs.replace(info, notes=(*info.notes, why)), None
        brought = self._brought
        scale2 = float(np.mean(np.square(features, dtype=np.float64)))
        last = msgspec.structs.replace(info.last, scale2=scale2 or 1.0)
        made = remember(features, brought.labels, len(brought.classes), form, self._seed)
        about, remembered = made or (None, None)
        return msgspec.structs.replace(info, last=last, memory=about), remembered

    def _graph(self, ordinary: Thresholds) -> _Graph:
        brought, score = self._brought, self._score
        opened, chosen = self._opened, self._chosen
        self._log(f"target '{chosen.cut.name}' {chosen.cut.sizes}: {chosen.why}")
        some = brought.samples.batch(np.linspace(0, len(brought.samples) - 1, _CHECKED).astype(int))
        batch = opened.measured.batch
        prepare = session(preparation_model(brought.preprocessing, brought.input))
        (values,) = run(prepare, {"samples": some[: batch or _EXACTLY]}, ["values"])
        reference = make_reference(opened, chosen.cut, values)
        head = head_nodes(opened.model.graph, chosen.cut.value, opened.head.logits)
        behind, module = tuple(node.op_type for node in head), chosen.module
        built = build_graph(
            opened, chosen.cut, brought.preprocessing, brought.input, score, ordinary
        )
        self._log(f"checking the graph, {built.added} operators larger, against the classifier")
        parity = check_gate(
            built.model, some, reference, score,
            brought.outputs_of(some, plain=reference.quantised), brought.ends.quantum, batch,
            force=self._force,
        )  # fmt: skip
        target = TargetLayer(
            name=chosen.cut.name, module=module, shape=chosen.cut.sizes, why=chosen.why,
            behind=behind, added=built.added,
        )  # fmt: skip
        return _Graph(built.model, target, parity, built.last)

    def _info(
        self, graph: _Graph, thresholds: Thresholds, seen: Calibration | None, keep: float
    ) -> GateInfo:
        brought = self._brought
        nothing = Histogram(edges=(), counts=())
        draft = Calibration(
            samples=0, accuracy=0, score=nothing, quality=nothing,
            predicted=(), kept=(), curve=(), full=0, why="draft",
        )  # fmt: skip
        return GateInfo(
            schema=SCHEMA, score=self._score, thresholds=thresholds, keep=keep,
            classes=brought.classes, input=brought.input, preprocessing=brought.preprocessing,
            head=brought.ends.head, notes=brought.notes, layer=graph.target,
            calibration=seen or draft, parity=graph.parity, last=graph.last,
            provenance=_provenance(brought, self._seed),
        )  # fmt: skip


def run_all(
    gate: Gate, samples: Split, batch: int = 256, *, told: Progress = lambda _: None
) -> Outputs:
    """The gate's outputs for all samples, a batch at a time. told: is given how many so far."""
    parts = []
    for start in range(0, len(samples), batch):
        end = min(start + batch, len(samples))
        parts.append(gate(samples.batch(np.arange(start, end))))
        told(end)
    return Outputs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _calibration(seen: Observed, quality: Array, learned: Learned) -> Calibration:
    classes = seen.logits.shape[1]
    kept = seen.predicted[learned.thresholds.inside(seen.score, seen.predicted)]
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
        distances=distances(seen.features),
    )


def _provenance(brought: Brought, seed: int) -> Provenance:
    ids = "".join(sorted(map(str, brought.samples.ids)))
    return Provenance(
        dripgate=__version__,
        onnx=version("onnx"),
        onnxruntime=version("onnxruntime"),
        opset=OPSET,
        data=hashlib.sha256(ids.encode()).hexdigest(),
        model=hashlib.sha256(brought.file).hexdigest(),
        seed=seed,
    )
