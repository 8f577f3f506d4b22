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

from dripgate.store import Put, Store
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
    propensity=st.floats(0, 1),
    detail=st.text(max_size=5),
)
pairs = st.lists(st.tuples(samples, verdicts), max_size=30)
labels = st.one_of(st.none(), st.text(max_size=30))


def worth(verdict):
    return -math.inf if math.isnan(verdict.score) else verdict.score


def fields(stored):
    return repr((stored.sample, stored.verdict, stored.label))  # repr: NaN equals NaN


class Machine(RuleBasedStateMachine):
    limit: int | None = None

    @initialize()
    def begin(self):
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # fsync costs nothing
        self.folder = Path(tempfile.mkdtemp(prefix="dripgate-", dir=memory))
        self.store = Store(self.folder / "kept.db", self.limit)
        self.model = {}  # id → (sample, verdict, label), in order of insertion
        self.counters = {}

    def teardown(self):
        if hasattr(self, "store"):
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
                self.model[id] = (*self.model[id][:2], label)
        self.forget_evicted()

    @rule(name=st.sampled_from(["seen", "dropped"]), amount=st.integers(1, 1000))
    def count(self, name, amount):
        self.store.count(**{name: amount})
        self.note(**{name: amount})
        self.forget_evicted()

    @rule()
    def reopen(self):
        self.store.close()
        self.store = Store(self.folder / "kept.db")

    @rule()
    def read_beside(self):
        with Store(self.folder / "kept.db", read_only=True) as reader:
            assert [fields(one) for one in reader] == [fields(one) for one in self.store]

    @invariant()
    def same(self):
        if not hasattr(self, "store"):
            return
        expected = [repr(one) for one in self.model.values()]
        assert [fields(one) for one in self.store] == expected
        assert len(self.store) == len(expected)
        assert self.store.counters == self.counters
        assert all(id in self.store for id in self.model)

    def after_put(self, pairs, puts):
        for (sample, verdict), put in zip(pairs, puts, strict=True):
            assert put is (Put.PRESENT if sample.id in self.model else Put.STORED)
            self.model.setdefault(sample.id, (sample, verdict, None))

    def forget_evicted(self):
        pass


class LimitedMachine(Machine):
    """The same, where samples may be refused or evicted, if they are worth least and counted."""

    limit = SMALLEST

    def after_put(self, pairs, puts):
        before = dict(self.model)
        for (sample, verdict), put in zip(pairs, puts, strict=True):
            assert (put is Put.PRESENT) == (sample.id in self.model)
            if put is Put.STORED:
                self.model[sample.id] = (sample, verdict, None)
        refused = {
            sample.id: verdict
            for (sample, verdict), put in zip(pairs, puts, strict=True)
            if put is Put.REFUSED
        }
        self.note(refused=len(refused))
        newcomers = [verdict for id, (_, verdict, _) in self.model.items() if id not in before]
        for verdict in self.forget_evicted():
            assert any(
                verdict.decision is new.decision and worth(verdict) < worth(new)
                for new in [*newcomers, *refused.values()]
            )

    def forget_evicted(self):
        left = {stored.id for stored in self.store}
        gone = [id for id in self.model if id not in left]
        evicted = [self.model.pop(id)[1] for id in gone]
        counted = self.store.counters
        kept = sum(verdict.decision is Decision.KEEP for verdict in evicted)
        self.note(evicted_limit=kept, evicted_quarantine=len(evicted) - kept)
        assert counted == self.counters
        return evicted

    @invariant()
    def within_the_limit(self):
        if hasattr(self, "store"):
            assert sum(f.stat().st_size for f in self.folder.iterdir()) <= self.limit


TestStore = Machine.TestCase
TestStore.settings = RUN
TestLimitedStore = LimitedMachine.TestCase
TestLimitedStore.settings = RUN
