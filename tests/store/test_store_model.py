"""Stores against plain dicts, over sequences of calls that hypothesis makes up."""

import math
import os
import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from dripgate.store import Put, Store, Wanted
from dripgate.store.age import Clocks
from dripgate.store.space import SMALLEST
from dripgate.types import Decision, Reason, Sample, Verdict

RUN = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
SIZES = [0, 7, 300, 1000, 2030, 4054, 4061, 4581, 9000, 30_000]

reals = st.floats().map(lambda x: x + 0.0)  # SQLite knows one zero
payloads = st.builds(
    lambda seed, size: random.Random(seed).randbytes(size),
    st.integers(0, 200),
    st.sampled_from(SIZES),
)
samples = st.builds(Sample, payload=payloads, source=st.text(max_size=20), time=st.floats(0, 2e9))
verdicts = st.builds(
    Verdict,
    decision=st.sampled_from([Decision.KEEP, Decision.KEEP, Decision.QUARANTINE]),
    reason=st.sampled_from(Reason),
    score=st.one_of(reals, st.integers(0, 5).map(float)),
    quality=reals,
    predicted=st.integers(-1, 9),
    propensity=st.sampled_from([1.0, 1.0, 1.0, 0.25]),
    detail=st.text(max_size=5),
)
pairs = st.lists(st.tuples(samples, verdicts), max_size=30)
labels = st.one_of(st.none(), st.text(max_size=30))
flags = st.sampled_from([None, True, False])

REFUSED = {"keep": "refused", "audit": "refused_audit", "quarantine": "refused_quarantine"}
EVICTED = {
    "keep": "evicted_limit", "audit": "evicted_audit", "quarantine": "evicted_quarantine"
}  # fmt: skip


def pool(verdict):
    return "audit" if verdict.propensity < 1 else verdict.decision.value


def rank(sample, verdict, uploaded):
    """What goes first: uploaded, then the lowest score, or of audit samples the lowest hash."""
    score = -math.inf if math.isnan(verdict.score) else verdict.score
    return not uploaded, sample.id if verdict.propensity < 1 else score


def fields(stored):  # repr: NaN equals NaN
    return repr((stored.sample, stored.verdict, stored.label, stored.uploaded))


class Machine(RuleBasedStateMachine):
    limit: int | None = None

    def __init__(self):
        super().__init__()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # fsync costs nothing
        self.folder = Path(tempfile.mkdtemp(prefix="dripgate-", dir=memory))
        self.passed = 0.0
        self.clocks = Clocks(steady=lambda: self.passed)
        self.store = Store(self.folder / "kept.db", self.limit, clocks=self.clocks)
        self.model = {}  # id → (sample, verdict, label, uploaded), in order of insertion
        self.counters = {}

    def teardown(self):
        self.store.close()
        shutil.rmtree(self.folder)

    def note(self, **increments):
        for name, amount in increments.items():
            if amount:
                self.counters[name] = self.counters.get(name, 0) + amount

    @rule(pairs=pairs)
    def put_many(self, pairs):
        puts = self.store.put_many(pairs, counters={"seen": len(pairs)})
        self.note(seen=len(pairs))
        self.after_put(pairs, puts)

    @rule(sample=samples, verdict=verdicts)
    def put(self, sample, verdict):
        self.after_put([(sample, verdict)], [self.store.put(sample, verdict)])

    @precondition(lambda self: self.model)
    @rule(data=st.data(), verdict=verdicts)
    def put_again(self, data, verdict):
        sample, *_ = self.model[data.draw(st.sampled_from(sorted(self.model)))]
        assert self.store.put(sample, verdict) is Put.PRESENT

    @rule(data=st.data(), given=st.lists(labels, max_size=5))
    def label(self, data, given):
        ids = st.sampled_from([*sorted(self.model), "0" * 64])
        chosen = {data.draw(ids): label for label in given}
        assert self.store.missing(chosen) == [id for id in chosen if id not in self.model]
        assert self.store.set_labels(chosen) == sum(id in self.model for id in chosen)
        for id, label in chosen.items():
            if id in self.model:
                self.model[id] = (*self.model[id][:2], label, self.model[id][3])
        self.forget_evicted()

    @rule(data=st.data(), count=st.integers(0, 5))
    def upload(self, data, count):
        chosen = [data.draw(st.sampled_from([*self.model, "0" * 64])) for _ in range(count)]
        assert self.store.mark_uploaded(chosen) == sum(id in self.model for id in chosen)
        for id in self.model.keys() & set(chosen):
            self.model[id] = (*self.model[id][:3], True)
        self.forget_evicted()

    @rule(now=st.floats(0, 2e9), age=st.floats(1e6, 3e9))
    def expire(self, now, age):
        self.passed += age + 1  # all have been there for so long
        old = [id for id, (sample, *_) in self.model.items() if sample.time < now - age]
        assert self.store.expire(age, now=now) == len(old)
        self.leave(old, "evicted_age")

    @rule(wanted=st.builds(
        Wanted, uploaded=flags, labelled=st.booleans(), age=st.none(),
        decision=st.sampled_from([None, Decision.KEEP, Decision.QUARANTINE]),
    ))  # fmt: skip
    def purge(self, wanted):
        chosen = [
            id
            for id, (_, verdict, label, uploaded) in self.model.items()
            if wanted.uploaded in {None, uploaded}
            and wanted.labelled in {None, label is not None}
            and wanted.decision in {None, verdict.decision}
        ]
        assert self.store.purge(wanted) == len(chosen)
        self.leave(chosen, "purged")

    def leave(self, ids, reason):
        for id in ids:
            self.note(**{reason + "_uploaded" * self.model.pop(id)[3]: 1})

    @rule(name=st.sampled_from(["seen", "dropped"]), amount=st.integers(1, 1000))
    def count(self, name, amount):
        self.store.count(**{name: amount})
        self.note(**{name: amount})
        self.forget_evicted()

    @rule()
    def reopen(self):
        self.store.close()
        self.store = Store(self.folder / "kept.db", clocks=self.clocks)

    @rule()
    def read_beside(self):
        with Store(self.folder / "kept.db", read_only=True) as reader:
            assert [fields(one) for one in reader] == [fields(one) for one in self.store]

    @invariant()
    def same(self):
        expected = [repr(one) for one in self.model.values()]
        assert [fields(one) for one in self.store] == expected
        assert len(self.store) == len(expected)
        assert self.store.counters == self.counters
        assert all(id in self.store for id in self.model)
        waiting = [id for id, one in self.model.items() if not one[3]]
        pending = [one.id for one in self.store.pending(7)]
        assert pending == waiting[: len(pending)]
        assert len(pending) == min(7, len(waiting))  # none is large

    def after_put(self, pairs, puts):
        for (sample, verdict), put in zip(pairs, puts, strict=True):
            assert put is (Put.PRESENT if sample.id in self.model else Put.STORED)
            self.model.setdefault(sample.id, (sample, verdict, None, False))

    def forget_evicted(self):
        pass


class LimitedMachine(Machine):
    """The same, where samples may be refused or evicted, if they are worth least and counted."""

    limit = SMALLEST

    @initialize(seed=st.integers(0, 3))
    def fill(self, seed):
        rng = random.Random(seed)
        some = [
            (
                Sample(payload=rng.randbytes(rng.choice([300, 4581, 9000])), time=1e9),
                Verdict(
                    decision=rng.choice([Decision.KEEP, Decision.KEEP, Decision.QUARANTINE]),
                    reason=Reason.BAND,
                    score=rng.random() * 5,
                    quality=0.0,
                    predicted=0,
                    propensity=rng.choice([1.0, 1.0, 0.25]),
                ),
            )
            for _ in range(60)
        ]
        for start in range(0, 60, 6):
            self.put_many(some[start : start + 6])

    def after_put(self, pairs, puts):
        before = dict(self.model)
        for (sample, verdict), put in zip(pairs, puts, strict=True):
            assert (put is Put.PRESENT) == (sample.id in self.model)
            if put is Put.STORED:
                self.model[sample.id] = (sample, verdict, None, False)
        refused = {}
        for (sample, verdict), put in zip(pairs, puts, strict=True):
            if put is Put.REFUSED and sample.id not in refused:
                refused[sample.id] = (sample, verdict)
                self.note(**{REFUSED[pool(verdict)]: 1})
        new = [one[:2] for id, one in self.model.items() if id not in before]
        asked = [(pool(v), rank(s, v, False)) for s, v in [*new, *refused.values()]]
        for sample, verdict, _, uploaded in self.forget_evicted():
            mine, own = pool(verdict), rank(sample, verdict, uploaded)
            left = [
                rank(s, v, up) for s, v, _, up in self.model.values()
                if pool(v) == mine and s.id in before
            ]  # fmt: skip
            assert own <= min(left, default=own)  # the lowest first
            # To somebody worth more, or across the border of the audit's share.
            assert any(
                (own < other if mine == theirs else "quarantine" not in {mine, theirs})
                for theirs, other in asked
            )

    def forget_evicted(self):
        before = list(self.model.values())
        left = {stored.id for stored in self.store}
        evicted = [one for one in before if one[0].id not in left]
        for sample, verdict, _, _ in evicted:
            self.leave([sample.id], EVICTED[pool(verdict)])
        assert self.store.counters == self.counters
        return evicted

    @invariant()
    def within_the_limit(self):
        assert sum(f.stat().st_size for f in self.folder.iterdir()) <= self.limit


TestStore = Machine.TestCase
TestStore.settings = RUN
TestLimitedStore = LimitedMachine.TestCase
TestLimitedStore.settings = RUN
