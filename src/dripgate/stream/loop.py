"""The loop on the device: samples in, verdicts, what is worth keeping into the store."""

import base64
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import msgspec

from dripgate.errors import StoreError
from dripgate.gate import Gate
from dripgate.policy import Policy, Rules
from dripgate.store import Store
from dripgate.types import Decision, Reason, Sample, Verdict

#: Samples decided together: onnxruntime is about twice as fast per sample at 64 as at 1.
BATCH = 64
#: Unreadable samples that a summary names; all are counted.
NAMED = 20
#: Where the store notes what the policy remembers.
POLICY = "policy"

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
    full of more valuable ones. reasons: verdicts by "decision: reason".
    """

    seen: int = 0
    kept: int = 0
    dropped: int = 0
    quarantined: int = 0
    unreadable: int = 0
    stored: int = 0
    present: int = 0
    refused: int = 0
    bytes_seen: int = 0
    bytes_stored: int = 0
    seconds: float = 0.0
    reasons: dict[str, int] = {}
    classes: list[ClassCount] = []
    unreadable_named: list[Unreadable] = []


def run(
    gate: Gate,
    source: Iterable[Sample],
    store: Store,
    *,
    batch: int = BATCH,
    rules: Rules | None = None,
    on_verdicts: OnVerdicts | None = None,
) -> Summary:
    """Decide about every sample and store what is kept or quarantined; a commit per batch.

    rules: what a policy makes of the gate's verdicts; None leaves them as they are. The policy's
    memory is in the store, written with each batch, so a later run goes on where this one ended.
    on_verdicts: is given each batch's samples and verdicts when they are durable. A broken
    sample is counted with its cause and never stops the stream. Raises StoreError where the
    store cannot be written, DataError where the source itself breaks.
    """
    started = time.perf_counter()
    summary = Summary(classes=[ClassCount(name) for name in gate.info.classes])
    store.set_meta("gate", gate.info.to_json())
    store.set_meta("gate_id", gate.id)
    policy = Policy(rules, gate.info, saved_policy(store)) if rules else None
    for samples in _batches(source, batch):
        if policy:
            verdicts = policy(samples, *gate.observe_batch(samples))
        else:
            verdicts = gate.decide_batch(samples)
        pairs = list(zip(samples, verdicts, strict=True))
        _store(store, pairs, policy, summary)
        for sample, verdict in pairs:
            _count(summary, sample, verdict)
        summary.seconds = time.perf_counter() - started
        if on_verdicts:
            on_verdicts(pairs)
    return summary


def saved_policy(store: Store) -> bytes:
    """What a policy left in the store; empty where there was none. Raises StoreError."""
    try:
        return base64.b64decode(store.meta.get(POLICY, ""), validate=True)
    except ValueError:
        raise StoreError(
            f"{store.path}: its saved policy is damaged; begin anew with another store"
        ) from None


def _store(
    store: Store, pairs: list[tuple[Sample, Verdict]], policy: Policy | None, summary: Summary
) -> None:
    worth = [(sample, verdict) for sample, verdict in pairs if verdict.stored]
    counted = Counter(verdict.decision.value for _, verdict in pairs)
    counted["seen"] = len(pairs)
    counted["unreadable"] = sum(v.reason is Reason.UNREADABLE for _, v in pairs)
    counted["bytes_seen"] = sum(len(sample.payload) for sample, _ in pairs)
    meta = {POLICY: base64.b64encode(policy.save()).decode()} if policy else {}
    for outcome in store.put_many(worth, counters=counted, meta=meta):
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


def _batches(source: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    samples = iter(source)
    while batch := list(islice(samples, size)):
        yield batch
