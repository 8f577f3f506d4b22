"""What the head can learn from: the labelled samples of a store, with their features.

Features are those that the store keeps beside its samples, where the gate that decided had the
same trunk. Samples without are run again. A few of the stored ones are run again in any case: where
they are another trunk's, all are.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from dripgate.adapting.step import MOST
from dripgate.data.layout import label_of
from dripgate.errors import StoreError, UnreadableError
from dripgate.gate import Gate, Outputs
from dripgate.store import BROKEN, Browsing, Look, Row
from dripgate.types import Array, Decision

#: Rows of a store read at once, and samples that are run at once.
_PART, _BATCH = 1000, 64
#: Stored features that are compared with the gate's own.
_COMPARED = 8
#: Half precision, and another machine's arithmetic.
_SAME = 0.02
_NAMED = 20


class Used(msgspec.Struct, kw_only=True):
    """What of a store and of labels was used, and what was not.

    classes: labelled samples by class name. by_folder: those of them whose label is the folder
    they came from. run_again: samples whose features were not stored. Not used: without a label,
    with one that the gate has no class for (unknown: by label), marked as broken, in quarantine
    without a label of their own, unreadable (named), and labels of samples that are not in the
    store (strangers: the first of them, missing: how many). effective: as how many samples of equal
    weight they count (Kish).
    """

    classes: dict[str, int] = {}
    by_folder: int = 0
    run_again: int = 0
    unlabelled: int = 0
    unknown: dict[str, int] = {}
    broken: int = 0
    quarantined: int = 0
    unreadable: list[str] = []
    strangers: list[str] = []
    missing: int = 0
    effective: float = 0.0

    @property
    def labelled(self) -> int:
        """Samples that are learned from."""
        return sum(self.classes.values())


class Labelled(NamedTuple):
    """n samples: keys in the store, ids, class names, features (n, D), weights (n,) of mean 1."""

    keys: list[int]
    ids: list[str]
    names: list[str]
    features: Array
    weights: Array

    @property
    def folds(self) -> Array:
        """One of five parts for each, (n,): by the hash that is its id, so it is chance."""
        return np.array([int(id[:8], 16) % 5 for id in self.ids], int)


def gather(
    gate: Gate, store: Browsing, labels: Mapping[str, str], *, weigh: bool
) -> tuple[Labelled, Used]:
    """The labelled samples of a store, in the order in which they were stored.

    labels: class by sample id, before those in the store. weigh: by 1/propensity, at most MOST
    times the smallest. Raises StoreError where nothing is labelled.
    """
    used = Used()
    chosen = [(row, name) for row, name in _labelled(gate, store, labels, used)]
    present = {row.id for row, _ in chosen}
    strangers = [id for id in labels if id not in present and id not in store]
    used.strangers, used.missing = strangers[:_NAMED], len(strangers)
    if not chosen:
        raise StoreError(
            f"{store.path}: no labelled samples to learn from ({used.unlabelled:,} without a "
            f"label, {sum(used.unknown.values()):,} with one that the gate does not know, "
            f"{used.missing:,} labels of samples that are not in this store); label some with "
            "'dripgate review' or 'dripgate label'"
        )
    found = _features(gate, store, [row for row, _ in chosen], used)
    whole = [i for i, one in enumerate(found) if one is not None]
    rows = [chosen[i][0] for i in whole]
    names = [chosen[i][1] for i in whole]
    used.classes = dict(sorted(Counter(names).items()))
    weights = _weights(rows) if weigh else np.ones(len(rows))
    used.effective = float(weights.sum() ** 2 / (weights @ weights)) if len(rows) else 0.0
    features = np.stack([one for one in found if one is not None]) if whole else np.empty((0, 0))
    return (
        Labelled([r.key for r in rows], [r.id for r in rows], names, features, weights), used
    )  # fmt: skip


def rows_of(store: Browsing) -> Iterator[Row]:
    """All samples without their payloads, in the order in which they were stored."""
    keys = store.keys(Look(order="oldest"))
    for start in range(0, len(keys), _PART):
        yield from (row for row in store.rows(keys[start : start + _PART].tolist()) if row)


def _labelled(
    gate: Gate, store: Browsing, labels: Mapping[str, str], used: Used
) -> Iterator[tuple[Row, str]]:
    known = {*gate.info.classes}
    for row in rows_of(store):
        given = labels.get(row.id, row.label)
        name = label_of(given, row.source, known)
        if name is None:
            used.unlabelled += 1
        elif name == BROKEN:
            used.broken += 1
        elif row.decision == Decision.QUARANTINE and not given:
            used.quarantined += 1  # a broken frame of a good class's folder teaches nothing
        else:
            used.by_folder += not given
            yield row, name


def _weights(rows: list[Row]) -> Array:
    """1/propensity of each, at most MOST times the smallest, scaled to a mean of 1."""
    raw = np.array([1 / row.propensity if row.propensity else 1.0 for row in rows])
    raw = np.minimum(raw, MOST * raw.min()) if len(raw) else raw
    return np.asarray(raw / raw.mean()) if len(raw) else raw


def _features(gate: Gate, store: Browsing, rows: list[Row], used: Used) -> list[Array | None]:
    """What the head's last layer takes of each sample; None where one cannot be decoded."""
    alike = {gate.id, *gate.info.provenance.lineage, ""}
    stored = _stored(store, [row for row in rows if row.gate in alike], gate)
    known = [row for row in rows if row.key in stored]
    some = known[:: max(1, len(known) // _COMPARED)][:_COMPARED]
    if not all(_agrees(stored[row.key], own) for row, own in _run(gate, store, some, used)):
        stored = {}  # another trunk's
    waiting = [row for row in rows if row.key not in stored]
    used.run_again = len(waiting)
    found = stored | {row.key: own for row, own in _run(gate, store, waiting, used)}
    return [found.get(row.key) for row in rows]


def _stored(store: Browsing, rows: list[Row], gate: Gate) -> dict[int, Array]:
    width = gate.info.last.width if gate.info.last else -1
    wanted, found, after = {row.key for row in rows}, {}, 0
    while len((part := store.embeddings(after=after)).keys) or part.last > after:
        after = part.last
        if part.values.shape[1] == width:
            found.update({
                key: values.astype(np.float32)
                for key, values in zip(part.keys.tolist(), part.values, strict=True)
                if key in wanted
            })  # fmt: skip
    return found


def _agrees(stored: Array, own: Array) -> bool:
    return bool(np.abs(stored - own).max() <= _SAME * max(float(np.abs(own).max()), 1e-6))


def _run(gate: Gate, store: Browsing, rows: list[Row], used: Used) -> Iterator[tuple[Row, Array]]:
    for row, outputs in run_again(gate, store, rows, used):
        yield row, outputs.features[0]


def run_again(
    gate: Gate, store: Browsing, rows: list[Row], used: Used
) -> Iterator[tuple[Row, Outputs]]:
    """Each sample's row with the gate's outputs (1, …) for it; names what cannot be decoded."""
    for start in range(0, len(rows), _BATCH):
        arrays, whole = [], []
        for row in rows[start : start + _BATCH]:
            sample = store.get(row.id)
            try:
                if sample is not None:
                    arrays.append(gate.decode(sample.sample))
                    whole.append(row)
            except UnreadableError as error:
                if len(used.unreadable) < _NAMED:
                    used.unreadable.append(f"{row.source or row.id[:12]}: {error}")
        if arrays:
            outputs = gate(np.stack(arrays))
            for i, row in enumerate(whole):
                yield row, Outputs(*(column[i : i + 1] for column in outputs))
