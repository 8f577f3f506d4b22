"""The head learns while the loop runs: adapt, check, switch; and back where it got worse.

Labels may come whenever, from wherever. What was learned is judged by labels of samples that the
new gate has decided since, weighed by 1/propensity, so that the audit speaks for the stream: both
heads are asked about the same samples.
"""

import time
from collections.abc import Callable, Mapping
from zlib import crc32

import msgspec
import numpy as np

from dripgate.adapting.check import Compared, compare
from dripgate.adapting.gather import Labelled, gather
from dripgate.adapting.learning import LEAST, adapt
from dripgate.adapting.solve import logits
from dripgate.errors import DripgateError
from dripgate.gate import Gate
from dripgate.gate_tensors import read_linear
from dripgate.store import Store
from dripgate.stream.force import InForce, Observer

#: Where the store notes what was learned from, so that the same is not learned twice.
LEARNED = "learned"

Labels = Callable[[], Mapping[str, str]]


class _Learned(msgspec.Struct, frozen=True):
    """change: the newest change of labels that was seen. given: a checksum of those beside."""

    change: int = -1
    given: int = 0


class Learner(Observer):
    """Lets the head learn every so often, where there are new labels.

    every: seconds. labels: gives labels by sample id from beside the store, may be empty. busy:
    whether another gate is on trial; while one is, the head stays as it is. told: is given a line
    for whatever happens. clock: seconds that only rise.
    """

    def __init__(
        self, store: Store, force: InForce, every: float, *,
        labels: Labels = dict, busy: Callable[[], bool] = lambda: False,
        told: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._store, self._force, self._every = store, force, every
        self._labels, self._busy, self._told, self._clock = labels, busy, told, clock
        self._next = clock() + every
        self._seen = _noted(store)

    def turn(self) -> None:
        """Learn, or go back, where it is time. What goes wrong is told, and the stream goes on."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + self._every
        if self._force.offered or self._busy():
            return
        try:
            # Of samples that are here: a file of labels may be older than what it names.
            given = {id: label for id, label in self._labels().items() if id in self._store}
            text = msgspec.json.encode(sorted(given.items()))
            now = _Learned(self._store.version()[2], crc32(text))
            if now == self._seen:
                return
            self._seen = now
            if not self._go_back(given):
                self._learn(given)
        except DripgateError as error:
            self._told(f"not adapted: {error}")

    def _learn(self, given: Mapping[str, str]) -> None:
        old = self._force.gate
        adapted = adapt(old, self._store, labels=given)
        outcome, noted = adapted.outcome, msgspec.json.encode(self._seen).decode()
        if adapted.gate is None:
            self._store.set_meta(LEARNED, noted)
            self._told(f"not adapted: {outcome.why}")
            return
        said = f"{outcome.used.labelled:,} labels, {_said(outcome.labels)}"
        self._force.offer(adapted.gate, "adapted", said, {LEARNED: noted})

    def _go_back(self, given: Mapping[str, str]) -> bool:
        """Offer the gate before, where labels of what the present one decided say it is better."""
        gate, previous = self._force.gate, self._force.previous
        if not previous or previous not in gate.info.provenance.lineage:
            return False
        before = self._force.stored(previous)
        found, _ = gather(gate, self._store, given, weigh=True)
        seen = _since(found, self._store, gate, before)
        if seen is None or seen.gain + seen.half >= 0:
            return False
        said = f"{seen.samples:,} labels of what it decided, {_said(seen)}: {previous} again"
        noted = {LEARNED: msgspec.json.encode(self._seen).decode()}
        self._force.offer(before, "rolled back", said, noted)
        return True


def _since(found: Labelled, store: Store, gate: Gate, before: Gate) -> Compared | None:
    """Both heads on labelled samples that the present gate decided; None where there are few."""
    decided = [bool(row and row.gate == gate.id) for row in store.rows(found.keys)]
    names = gate.info.classes
    rows = [i for i, mine in enumerate(decided) if mine and found.names[i] in names]
    if len(rows) < LEAST:
        return None
    classes = np.array([names.index(found.names[i]) for i in rows])
    said = [
        logits(read_linear(one.data, one.info, one.name), found.features[rows])
        for one in (before, gate)
    ]
    return compare(said[0], said[1], classes, found.weights[rows])


def _said(seen: Compared) -> str:
    return f"{seen.before.value:.1%} → {seen.after.value:.1%} (± {seen.half:.1%})"


def _noted(store: Store) -> _Learned:
    try:
        return msgspec.json.decode(store.meta.get(LEARNED, "{}"), type=_Learned)
    except msgspec.DecodeError:
        return _Learned()
