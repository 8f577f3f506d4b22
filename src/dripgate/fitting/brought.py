"""A classifier and the data it is fitted on, brought together: input, classes, preprocessing.

Each choice that nobody made is made here from what the file and the data say, told, and checked:
a classifier that is no better than a guess on the labelled data gets no gate.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dripgate.data import Dataset, Source, Split, infer_input, load, open_source
from dripgate.data.split import HOLDOUT_SALT
from dripgate.errors import DataError, ModelError
from dripgate.fitting import names
from dripgate.fitting.conventions import (
    Layout,
    Pixels,
    accuracy,
    image_layout,
    named_convention,
    run_in_batches,
    try_conventions,
)
from dripgate.fitting.features import Features
from dripgate.gate_info import INPUT_NAME
from dripgate.graph.classifier import OnnxClassifier
from dripgate.graph.head import HeadKind
from dripgate.graph.measure import session
from dripgate.graph.opened import Opened
from dripgate.graph.prepare import preparation_model
from dripgate.progress import Bar, no_bar
from dripgate.types import (
    Array,
    ArrayInput,
    AudioInput,
    Identity,
    ImageInput,
    InputSpec,
    LogMel,
    Normalize,
    Preprocessing,
    Waveform,
)

#: Calibration samples below which no threshold means anything.
FEWEST = 30
#: A row of at least so many numbers may be sound as it is.
_SHORTEST_WAVE = 2_000

Log = Callable[[str], None]


@dataclass(frozen=True)
class Ends:
    """Both ends of a classifier's file: what it takes, what it gives.

    shape: of a sample at its input. quantum, zero: the output's scale where it is quantised.
    """

    name: str
    given: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    output: str
    quantum: float
    zero: int
    classes: int
    head: HeadKind
    notes: tuple[str, ...]

    @classmethod
    def of(cls, opened: Opened) -> "Ends":
        """Of an opened classifier."""
        dtype = opened.given.dtype.numpy() if opened.given.dtype else np.dtype(np.float32)
        return cls(
            opened.name, str(opened.given.name), opened.build.shapes[opened.given][1:], dtype,
            str(opened.output.name), *opened.quantum, opened.build.shapes[opened.head.logits][1],
            opened.head.kind, tuple(opened.notes),
        )  # fmt: skip

    def layout(self, wanted: str | None) -> Layout | None:
        """How an image goes in, or None."""
        return image_layout(self.shape, self.dtype, wanted)

    @property
    def is_wave(self) -> bool:
        """Whether the input is one long row, as sound is."""
        return len([n for n in self.shape if n > 1]) == 1 and max(self.shape) >= _SHORTEST_WAVE


@dataclass(frozen=True)
class Brought:
    """A classifier with all that a gate must know about it, and the samples to fit it on.

    file: as it was brought. labels: the model's class index of each sample, (n,).
    """

    classifier: OnnxClassifier
    file: bytes
    input: InputSpec
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    samples: Split
    labels: Array
    notes: tuple[str, ...]
    ends: Ends

    def outputs_of(self, samples: Array, *, plain: bool = False) -> Array:
        """What the user's own file gives for raw samples (n, …), in real numbers, (n, …).

        plain: without onnxruntime's optimisations.
        """
        prepare = session(preparation_model(self.preprocessing, self.input))
        values = run_in_batches(prepare, INPUT_NAME, samples, "values")
        found = run_in_batches(
            session(self.file, plain=plain), self.ends.given, values, self.ends.output
        )
        if found.dtype.kind == "f":
            return found
        return np.asarray((found.astype(np.float64) - self.ends.zero) * self.ends.quantum)


#: What somebody may say of the preparation: all of it, what is known of pixels, a recipe of
#: features, or the name of a convention ("auto": the best of them).
Said = Preprocessing | Pixels | Features | str


def bring(
    classifier: OnnxClassifier, opened: Opened, data: Dataset | Source | str | Path, said: Said,
    *, force: bool, log: Log, bar: Bar = no_bar,
) -> Brought:  # fmt: skip
    """Bring a classifier and its data together; see the module.

    Raises ModelError, DataError or UserError with what was found and what to do.
    """
    if said == "auto" and classifier.preprocessing is not None:
        said = classifier.preprocessing
    ends = Ends.of(opened)
    notes = [*classifier.notes, *ends.notes]
    source = open_source(data) if isinstance(data, str | Path) else data
    spec = classifier.input or _input_for(ends, source, said, notes)
    dataset = source if isinstance(source, Dataset) else load(source, spec)
    if dataset.input != spec:
        raise DataError(
            f"{dataset.name} is decoded to {dataset.input}, {classifier.name} takes {spec}; "
            "load the data with the classifier's input"
        )
    known_names = _names(classifier, ends.classes, notes)
    model = classifier.name
    if known_names is not None and classifier.beside:
        model += f" (by {classifier.beside})"
    found, places, more = names.match(
        known_names, dataset.classes, ends.classes, dataset.name, model
    )
    samples = calibration_part(dataset, classifier.holdout)
    file, labels = opened.file, places[samples.y]
    known = _preparation(ends, file, said, spec, samples, labels, notes, bar)
    notes += more
    brought = Brought(classifier, file, spec, known, found, samples, labels, tuple(notes), ends)
    for note in notes:
        log(note)
    _judge(brought, force, log)
    return brought


def input_spec(classifier: OnnxClassifier, data: Source | Dataset, said: Said) -> InputSpec:
    """What samples of ``data`` are decoded to for a classifier. Raises ModelError or DataError."""
    if said == "auto" and classifier.preprocessing is not None:
        said = classifier.preprocessing
    return classifier.input or _input_for(Ends.of(classifier.open()), data, said, [])


def calibration_part(dataset: Dataset, holdout: float) -> Split:
    """The samples the model has not seen: the part it held out if it has one, else all of train.

    Raises DataError where there are too few to learn thresholds from.
    """
    part = dataset.train.hold_out(holdout, HOLDOUT_SALT)[0] if holdout else dataset.train
    if len(part) < FEWEST:
        raise DataError(
            f"{dataset.name}: {len(part)} samples to learn thresholds from, at least {FEWEST} are "
            "needed (a few hundred are good); give more labelled data"
        )
    return part


def _names(classifier: OnnxClassifier, outputs: int, notes: list[str]) -> tuple[str, ...] | None:
    """The classes as they are known; a file that lies beside counts where it fits the outputs."""
    classes, beside = classifier.classes, classifier.beside
    if classes is None or not beside:
        return classes
    if len(classes) != outputs:
        notes.append(
            f"classes: {beside} has {len(classes)} names for {outputs} outputs, and is not used; "
            "--classes FILE says which are right"
        )
        return None
    notes.append(f"classes: {beside}")
    return classes


def _input_for(ends: Ends, data: Source | Dataset, said: Said, notes: list[str]) -> InputSpec:
    """What a decoded sample is, from the classifier's input and the kind of the data."""
    seen = data.input if isinstance(data, Dataset) else infer_input(data)
    if isinstance(seen, ImageInput):
        layout = ends.layout(said.layout if isinstance(said, Pixels) else None)
        if layout is None:
            raise ModelError(
                f"{ends.name} takes {ends.dtype} {ends.shape}, which is no image of 1 or 3 "
                "channels; the data are images: give arrays (.npy) as the classifier takes them"
            )
        return msgspec.structs.replace(layout.input, range=seen.range)
    if isinstance(seen, AudioInput):
        if isinstance(said, Features):
            return AudioInput(rate=said.rate(seen), length=_scaled(seen, said.rate(seen)))
        if isinstance(said, LogMel | Waveform):
            return seen
        if ends.is_wave:
            notes.append(
                f"audio: {max(ends.shape):,} samples at {seen.rate:,} Hz (the data's rate)"
            )
            return AudioInput(rate=seen.rate, length=max(ends.shape))
        raise ModelError(
            f"{ends.name} takes {ends.shape}, which is no sound as it is recorded; say how its "
            "features are made with --features, or give them as arrays (.npy)"
        )
    if seen.shape != ends.shape:
        raise DataError(f"the arrays are {seen.shape}, {ends.name} takes {ends.shape}")
    return ArrayInput(shape=ends.shape)


def _scaled(seen: AudioInput, rate: int) -> int:
    """The data's length at another rate."""
    return round(seen.length * rate / seen.rate)


def _preparation(
    ends: Ends, file: bytes, said: Said, spec: InputSpec, samples: Split, labels: Array,
    notes: list[str], bar: Bar,
) -> Preprocessing:  # fmt: skip
    """The preparation: as said, else what gives the best accuracy. Raises ModelError, UserError."""
    if isinstance(said, Normalize | LogMel | Waveform | Identity):
        return _in_layout(said, ends, spec)
    wrong = isinstance(spec, AudioInput) and not isinstance(said, Features)
    if said != "auto" and (wrong or isinstance(spec, ArrayInput)):
        raise ModelError(
            f"--{'features' if isinstance(said, Features) else 'preprocess'} or the like is for "
            f"{'sound' if isinstance(said, Features) else 'images'}, and the data are "
            f"{'sound' if wrong else 'arrays'}; leave it out"
        )
    if isinstance(spec, ArrayInput):
        return Identity()
    if isinstance(spec, AudioInput):
        return said.recipe(spec, ends.shape) if isinstance(said, Features) else Waveform(
            shape=ends.shape
        )  # fmt: skip
    layout = ends.layout(said.layout if isinstance(said, Pixels) else None)
    if layout is None or layout.input.shape != spec.shape:
        raise ModelError(f"{ends.name} takes {ends.dtype} {ends.shape}, samples are {spec}")
    if isinstance(said, Pixels):
        return said.on(layout)
    if isinstance(said, Features):
        raise ModelError("--features are for sound, and the data are images")
    if said != "auto":
        return named_convention(said, layout)
    with bar(None, "trying conventions") as told:
        tried = try_conventions(file, ends.given, ends.output, samples, labels, layout, told=told)
    if len(tried) > 1:
        others = ", ".join(f"{one.name} {one.accuracy:.0%}" for one in tried[1:5])
        notes.append(
            f"preprocessing: '{tried[0].name}' gives the best accuracy ({tried[0].accuracy:.1%}; "
            f"{others}); --preprocess says another"
        )
    return tried[0].preprocessing


def _in_layout(said: Preprocessing, ends: Ends, spec: InputSpec) -> Preprocessing:
    """What a configuration says of the pixels, in the layout that this file takes."""
    layout = ends.layout(None)
    if not isinstance(said, Normalize) or layout is None or layout.input.shape != spec.shape:
        return said
    return msgspec.structs.replace(said, layout=layout.layout, dtype=layout.dtype)


def _judge(brought: Brought, force: bool, log: Log) -> None:
    """Refuse a classifier that is no better than a guess, and say what it looks like."""
    samples, labels = brought.samples, brought.labels
    chosen = np.linspace(0, len(samples) - 1, min(len(samples), 2_000)).astype(int)
    outputs = brought.outputs_of(samples.batch(chosen))
    truth = labels[chosen]
    right = accuracy(outputs, truth)
    common = max(Counter(truth.tolist()).values()) / len(truth)
    log(f"accuracy of {brought.classifier.name} on {len(chosen):,} samples: {right:.1%}")
    flat = outputs.reshape(len(outputs), -1)
    predicted = flat.argmax(axis=1) if flat.shape[1] > 1 else (flat[:, 0] > 0.5).astype(int)
    order = names.permuted(predicted, truth, len(brought.classes))
    problem = None
    if order is not None:
        problem = _looks_permuted(brought.classes, order, predicted, truth)
    elif right <= common:
        problem = _looks_wrong(brought, outputs)
    if problem is None:
        return
    text = (
        f"{brought.classifier.name}: {right:.1%} of {len(chosen):,} samples are right, the "
        f"commonest class alone would be {common:.1%}; {problem}"
    )
    if not force:
        raise ModelError(f"{text}; --force writes a gate all the same")
    warnings.warn(text, stacklevel=2)


def _looks_permuted(classes: tuple[str, ...], order: Array, predicted: Array, truth: Array) -> str:
    moved = [(c, int(o)) for c, o in enumerate(order) if o >= 0 and o != c][:4]
    listed = ", ".join(f"'{classes[o]}' is predicted for {classes[c]}" for c, o in moved)
    would = float((order[truth] == predicted).mean())
    return (
        f"the outputs look like the same classes in another order ({listed}; put right, "
        f"{would:.1%}): give their order with --classes FILE"
    )


def _looks_wrong(brought: Brought, outputs: Array) -> str:
    layout = brought.ends.layout(None) if isinstance(brought.input, ImageInput) else None
    best = _best_convention(brought, layout) if layout is not None else None
    if best is not None:
        return f"it looks like another preprocessing: {best}"
    if np.ptp(outputs.reshape(len(outputs), -1), axis=0).max() <= 1e-6:
        return "it gives the same for every sample, as if it were not trained or badly converted"
    return (
        "it looks untrained for these classes, or fed with something else than it was trained on: "
        "check the classes' order (--classes), the preprocessing (--preprocess, --mean, --std) "
        "and the data"
    )


def _best_convention(brought: Brought, layout: Layout) -> str | None:
    tried = try_conventions(
        brought.file,
        brought.ends.given,
        brought.ends.output,
        brought.samples,
        brought.labels,
        layout,
    )
    best = tried[0]
    if best.preprocessing == brought.preprocessing or best.accuracy < 1.5 / len(brought.classes):
        return None
    return f"'--preprocess {best.name}' gives {best.accuracy:.1%}"
