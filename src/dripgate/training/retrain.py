"""Retraining: the labelled data of the beginning, and what the device kept since."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from dripgate.data import Dataset, label_of, load
from dripgate.errors import DataError, StoreError, UnreadableError
from dripgate.files import read_whole
from dripgate.media import decode
from dripgate.progress import Progress
from dripgate.store import Store
from dripgate.text import from_cell
from dripgate.training.classifier import Classifier, load_classifier
from dripgate.training.train import Recipe
from dripgate.types import Array, Decision

#: Bytes of a table of labels: a hundred for each of two million samples.
LARGEST_LABELS = 256 << 20
#: How much a kept sample counts: as one, or as all the samples of the stream it stands for.
Weigh = Literal["equal", "stream"]


@dataclass(frozen=True)
class Retrained:
    """The new classifier beside the old one, on the same held-out test samples.

    used: kept samples trained on. unlabelled, unknown: kept samples left out because they have no
    label, or one that the model does not know. quarantined: those left out because they are.
    strangers: ids that a label was given for, and that the store does not hold. effective: with
    weights, as how many samples of equal weight those trained on count (Kish); else ``used``.
    """

    classifier: Classifier
    old_accuracy: float
    new_accuracy: float
    tested: int
    used: int
    unlabelled: int
    unknown: int
    quarantined: int
    strangers: tuple[str, ...]
    effective: float

    @property
    def better(self) -> bool:
        """Whether the new model may replace the old one: it is not worse on held-out data."""
        return self.new_accuracy >= self.old_accuracy


def retrain(
    store: Store | str | Path,
    data: Dataset | str | Path,
    model: Classifier | str | Path,
    *,
    labels: Mapping[str, str] | None = None,
    from_scratch: bool = False,
    weigh: Weigh = "equal",
    recipe: Recipe | None = None,
    progress: Progress | None = None,
) -> Retrained:
    """Train on the initial data and the labelled kept samples, and compare with the old model.

    data: what the model was first trained on; its hold-out stays held out, its test part is what
    both are compared on. labels: class by sample id; samples without one have the label in the
    store, else the first folder on their path that has the name of a class. Quarantined samples are
    never used. from_scratch: begin with new weights; else training goes on from the old ones,
    which is what the scores were about, at half of the learning rate. recipe overrides that.

    weigh: "stream" weighs the loss of each kept sample by 1/propensity, so that together they
    stand for the stream and not for what is hard in it (inverse-propensity weights; Horvitz and
    Thompson, 1952). That is unbiased and noisy: audited samples count a hundredfold.

    Raises DataError, StoreError or ModelError for what cannot be used.
    """
    classifier = model if isinstance(model, Classifier) else load_classifier(str(model))
    dataset = data if isinstance(data, Dataset) else load(data, classifier.info.input)
    if isinstance(store, Store):
        kept = collect(store, classifier, labels or {})
    else:
        with Store(store, read_only=True) as opened:
            kept = collect(opened, classifier, labels or {})
    if not len(kept.y):
        raise StoreError(
            f"no labelled kept samples ({kept.unlabelled} without a label, {kept.unknown} with "
            "one that the model does not know); give --labels FILE.csv with columns id,label"
        )
    if weigh == "stream" and not np.isfinite(kept.weights).all():
        raise StoreError(
            f"{int((~np.isfinite(kept.weights)).sum())} kept samples have no propensity, so they "
            "stand for no known part of the stream; weigh them equally"
        )
    initial, _ = classifier.parts(dataset)
    class_of = classifier.indices(dataset.classes, dataset.name)
    weights = kept.weights if weigh == "stream" else np.ones(len(kept.y))
    new = classifier.trained(
        np.concatenate([initial.x, kept.x]),
        np.concatenate([class_of[initial.y], kept.y]),
        recipe or (classifier.info.recipe if from_scratch else onward(classifier.info.recipe)),
        fresh=from_scratch,
        progress=progress,
        weights=np.concatenate([np.ones(len(initial)), weights]) if weigh == "stream" else None,
    )
    test_y = class_of[dataset.test.y]
    return Retrained(
        classifier=new,
        old_accuracy=classifier.accuracy(dataset.test.x, test_y),
        new_accuracy=new.accuracy(dataset.test.x, test_y),
        tested=len(test_y),
        used=len(kept.y),
        unlabelled=kept.unlabelled,
        unknown=kept.unknown,
        quarantined=kept.quarantined,
        strangers=kept.strangers,
        effective=float(weights.sum() ** 2 / (weights @ weights)),
    )


def onward(recipe: Recipe) -> Recipe:
    """How to go on training a model that was trained by ``recipe``: at half its learning rate."""
    return msgspec.structs.replace(recipe, lr=recipe.lr / 2)


@dataclass(frozen=True)
class Kept:
    """Decoded kept samples x (n, …) with classes y (n,), and how many were left out.

    weights: 1/propensity (n,), infinite where a sample was stored without one.
    """

    x: Array
    y: Array
    weights: Array
    unlabelled: int
    unknown: int
    quarantined: int
    strangers: tuple[str, ...]


def collect(store: Store, classifier: Classifier, labels: Mapping[str, str]) -> Kept:
    """The store's kept samples that have a label the model knows, in the order they came."""
    known = {name: i for i, name in enumerate(classifier.info.classes)}
    spec = classifier.info.input
    xs, ys, weights, unlabelled, unknown = [], [], [], 0, 0
    for stored in store.samples(decision=Decision.KEEP):
        given = labels.get(stored.id, stored.label)
        label = label_of(given, stored.source, known)
        if label is None:
            unlabelled += 1
        elif label not in known:
            unknown += 1
        else:
            try:
                xs.append(decode(stored.payload, spec))
            except UnreadableError as error:
                raise StoreError(
                    f"sample {stored.id[:12]} ({stored.source}) in the store cannot be decoded "
                    f"({error}); was it kept by a gate for another input?"
                ) from None
            ys.append(known[label])
            weights.append(1 / stored.propensity if stored.propensity > 0 else np.inf)
    x = np.stack(xs) if xs else np.zeros((0, *spec.shape), spec.dtype)
    return Kept(
        x, np.array(ys, np.int64), np.array(weights, float), unlabelled, unknown,
        quarantined=store.summary().decisions.get(Decision.QUARANTINE.value, 0),
        strangers=tuple(id for id in labels if id not in store),
    )  # fmt: skip


class _Label(msgspec.Struct):
    id: str
    label: str


def read_labels(path: str | Path) -> dict[str, str]:
    """Labels by sample id from a CSV with the columns id and label. Raises DataError."""
    try:
        text = read_whole(Path(path), LARGEST_LABELS).decode("utf-8-sig")
        table = csv.DictReader(io.StringIO(text, newline=""))
        if missing := {"id", "label"} - set(table.fieldnames or ()):
            raise ValueError(f"no column called {' or '.join(sorted(missing))}")
        rows = [msgspec.convert(row, _Label) for row in table]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, csv.Error, msgspec.ValidationError) as error:
        raise DataError(
            f"{path}: not a table of labels ({error}); expected CSV with a header line 'id,label'"
        ) from None
    labels: dict[str, str] = {}
    for row in rows:
        label = from_cell(row.label)
        if label and labels.setdefault(row.id, label) != label:
            raise DataError(
                f"{path}: {row.id} is '{labels[row.id]}' and '{label}' in it; leave one of them"
            )
    return labels
