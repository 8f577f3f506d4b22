"""The loop on the device: samples in, verdicts, what is worth keeping into the store."""

import base64
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

import msgspec

from dripgate.errors import GateError, StoreError
from dripgate.gate import Gate
from dripgate.policy import Policy, Rules
from dripgate.store import Browsing, Store
from dripgate.stream.caution import Caution
from dripgate.stream.feed import Feed
from dripgate.stream.figures import FIGURES, added, noted_figures
from dripgate.stream.force import Batch, InForce, Observer
from dripgate.types import Array, Decision, Reason, Sample, Verdict

#: Samples decided together: onnxruntime is about twice as fast per sample at 64 as at 1.
BATCH = 64
#: Bytes of payloads that end a batch before it is full.
BATCH_BYTES = 32 << 20
#: Unreadable samples that a summary names; all are counted.
NAMED = 20
#: Where the store notes what the policy remembers.
POLICY = "policy"

OnTurn = Callable[["Summary"], None]
OnVerdicts = Callable[[list[tuple[Sample, Verdict]]], None]


class Unreadable(msgspec.Struct, frozen=True):
    """A sample that could not be decoded, and why."""

    source: str
    cause: str


class ClassCount(msgspec.Struct):
    """Samples predicted as one class."""

    name: str
    seen: int = 0
    kept: int = 0
    quarantined: int = 0


class Summary(msgspec.Struct, kw_only=True):
    """What a run did. Bytes are payload bytes; ``bytes_stored`` counts kept and quarantined.

    stored: samples newly written. present: were in the store already. refused: the store was
    full of more valuable ones. lost: came and were thrown away because the loop was too slow.
    gaps: places where something is missing since a device was away or too fast.
    known: files that were decided before by this gate and these rules, and are not counted in
    ``seen``. stayed: files that were to be removed or moved and stay. restless: files that were
    not read because they went on changing. reasons: verdicts by "decision: reason".
    """

    seen: int = 0
    kept: int = 0
    dropped: int = 0
    quarantined: int = 0
    unreadable: int = 0
    stored: int = 0
    present: int = 0
    refused: int = 0
    lost: int = 0
    gaps: int = 0
    known: int = 0
    stayed: int = 0
    restless: list[str] = []
    bytes_seen: int = 0
    bytes_stored: int = 0
    seconds: float = 0.0
    reasons: dict[str, int] = {}
    classes: list[ClassCount] = []
    unreadable_named: list[Unreadable] = []


def run(
    gate: Gate | InForce,
    source: Iterable[Sample | None],
    store: Store,
    *,
    batch: int = BATCH,
    latency: float = 0.0,
    rules: Rules | None = None,
    embeddings: bool = True,
    observers: Sequence[Observer] = (),
    on_verdicts: OnVerdicts | None = None,
    on_turn: OnTurn | None = None,
) -> Summary:
    """Decide about every sample and store what is kept or quarantined; a commit per batch.

    gate: the one that decides, or what says which one does, as it may change between two batches.
    latency: seconds that a sample of a live source may wait for others to share its commit.
    rules: what a policy makes of the gate's verdicts; None leaves them as they are. The policy's
    memory is in the store, written with each batch, so a later run goes on where this one ended.
    embeddings: whether the store keeps those of its samples, for neighbours and for learning.
    observers: look on, and may offer another gate (``stream.force``).
    on_verdicts: is given each batch's samples and verdicts when they are durable. on_turn: is
    given the summary after each batch, and now and then where nothing comes. A broken sample is
    counted with its cause and never stops the stream. Raises StoreError where the
    store cannot be written, DataError where the source itself breaks.
    """
    started = time.perf_counter()
    force = gate if isinstance(gate, InForce) else InForce(store, gate)
    deciding = _Deciding(force, store, rules, observers)
    summary = Summary()
    _fit_classes(summary, force.gate)
    feed = source if isinstance(source, Feed) else Feed(source)
    feed.begin(store, f"{force.origin} {msgspec.json.encode(rules).decode()}")
    caution = Caution(store, batch)
    try:
        for one in observers:
            one.turn()
        for samples in _batches(feed, caution, latency):
            if samples:
                verdicts, features, notes = deciding(caution.look(samples))
                _fit_classes(summary, force.gate)
                pairs = list(zip(samples, verdicts, strict=True))
                ids = (one.id for one in samples)
                known = zip(ids, features, strict=True) if embeddings else ()
                _store(store, pairs, dict(known), force.gate.id, notes, feed, caution, summary)
                feed.done(samples)
                for sample, verdict in pairs:
                    _count(summary, sample, verdict)
                if on_verdicts:
                    on_verdicts(pairs)
            summary.known, summary.stayed = feed.known, feed.stayed
            summary.seconds = time.perf_counter() - started
            for one in observers:
                one.turn()
            if on_turn:
                on_turn(summary)
        deciding.take_up()
        store.put_many([], meta=feed.notes(), decided=feed.decided([]))
        summary.known, summary.stayed = feed.known, feed.stayed
        summary.restless = [*feed.restless][:NAMED]
    finally:
        with suppress(StoreError):  # the first error is the one to tell
            caution.end()
    return summary


class _Deciding:
    """Verdicts on batches, by the gate in force and its policy."""

    def __init__(
        self, force: InForce, store: Store, rules: Rules | None, observers: Sequence[Observer]
    ) -> None:
        self._force, self._rules, self._observers = force, rules, observers
        saved, self._figures = saved_policy(store), noted_figures(store.meta)
        self._policy = Policy(rules, force.gate.info, saved) if rules else None

    def __call__(self, samples: list[Sample]) -> tuple[list[Verdict], Array, dict[str, str]]:
        """Verdicts, what the head's last layer takes (N, D), and what is to be noted with them."""
        self.take_up()
        started = time.perf_counter()
        try:
            given, found, features = self._force.gate.observe_features(samples)
        except GateError as error:
            if not any(one.failed(error) for one in self._observers):
                raise
            self.take_up()
            given, found, features = self._force.gate.observe_features(samples)
        batch = Batch(samples, given, found, time.perf_counter() - started)
        notes: dict[str, str] = {}
        for one in self._observers:
            notes |= one.decided(batch)
        verdicts = self._policy(samples, given, found) if self._policy else given
        notes[FIGURES] = added(self._figures, self._force.gate.id, verdicts)
        return verdicts, features, notes | _memory(self._policy)

    def take_up(self) -> None:
        """Let the gate that was offered take over: of the policy stays what outlives a gate."""
        if not self._force.offered:
            return
        policy = self._policy
        if policy and self._rules:
            policy = Policy(self._rules, self._force.coming.info, policy.save())
        self._force.take(_memory(policy))
        self._policy = policy


def _memory(policy: Policy | None) -> dict[str, str]:
    return {POLICY: base64.b64encode(policy.save()).decode()} if policy else {}


def _fit_classes(summary: Summary, gate: Gate) -> None:
    """A gate that takes over may know more classes."""
    names = gate.info.classes[len(summary.classes) :]
    summary.classes += [ClassCount(name) for name in names]


def saved_policy(store: Browsing) -> bytes:
    """What a policy left in the store; empty where there was none. Raises StoreError."""
    try:
        return base64.b64decode(store.meta.get(POLICY, ""), validate=True)
    except ValueError:
        raise StoreError(
            f"{store.path}: its saved policy is damaged; begin anew with another store"
        ) from None


def _store(
    store: Store,
    pairs: list[tuple[Sample, Verdict]],
    embeddings: dict[str, Array],
    gate: str,
    notes: dict[str, str],
    feed: Feed,
    caution: Caution,
    summary: Summary,
) -> None:
    worth = [(sample, verdict) for sample, verdict in pairs if verdict.stored]
    counted = Counter(verdict.decision.value for _, verdict in pairs)
    counted["seen"] = len(pairs)
    counted["unreadable"] = sum(v.reason is Reason.UNREADABLE for _, v in pairs)
    counted["bytes_seen"] = sum(len(sample.payload) for sample, _ in pairs)
    lost = feed.lost
    counted["lost"], summary.lost = lost - summary.lost, lost
    gaps = feed.gaps
    counted["gaps"], summary.gaps = gaps - summary.gaps, gaps
    meta = dict(feed.notes()) | caution.note(len(pairs)) | notes
    gates = {sample.id: gate for sample, _ in worth}
    decided = feed.decided(pairs)
    stored = store.put_many(
        worth, embeddings=embeddings, gates=gates, counters=counted, meta=meta, decided=decided
    )
    for outcome in stored:
        setattr(summary, outcome.value, getattr(summary, outcome.value) + 1)


def _count(summary: Summary, sample: Sample, verdict: Verdict) -> None:
    summary.seen += 1
    summary.bytes_seen += len(sample.payload)
    key = f"{verdict.decision}: {verdict.reason}"
    summary.reasons[key] = summary.reasons.get(key, 0) + 1
    if verdict.reason is Reason.UNREADABLE:
        summary.unreadable += 1
        if len(summary.unreadable_named) < NAMED:
            summary.unreadable_named.append(Unreadable(sample.source, verdict.detail))
    else:
        summary.classes[verdict.predicted].seen += 1
    if verdict.decision is Decision.DROP:
        summary.dropped += 1
        return
    summary.bytes_stored += len(sample.payload)
    of_class = summary.classes[verdict.predicted]
    if verdict.decision is Decision.KEEP:
        summary.kept += 1
        of_class.kept += 1
    else:
        summary.quarantined += 1
        of_class.quarantined += 1


def _batches(feed: Feed, caution: Caution, latency: float) -> Iterator[list[Sample]]:
    """What is there, up to a batch. A feed that pauses is waited for until ``latency`` is over;
    an empty batch in between is the loop's turn.
    """
    batch: list[Sample] = []
    held, began = 0, 0.0
    for sample in feed:
        if sample is not None:
            began = began if batch else time.monotonic()
            batch.append(sample)
            held += len(sample.payload)
        late = bool(batch) and time.monotonic() - began >= latency
        if (
            len(batch) >= caution.size
            or held >= BATCH_BYTES
            or (late and (sample is None or latency))
        ):
            yield batch
            batch, held = [], 0
        elif sample is None:
            yield []
    if batch:
        yield batch
