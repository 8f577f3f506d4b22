"""The loop with a policy: its memory lives in the store, and what it says can be looked up."""

import os
import signal
import subprocess
import sys

import msgspec
import pytest

from dripgate.errors import StoreError
from dripgate.gate import Gate
from dripgate.graph.build import with_thresholds
from dripgate.policy import Allowance, Policy, Rules
from dripgate.store import Store
from dripgate.store.age import Clocks
from dripgate.stream.account import account
from dripgate.stream.loop import POLICY, run, saved_policy
from dripgate.types import Decision, Reason, Sample

RULES = Rules(keep=0.3, audit=0.05, budgets=(Allowance(200, 100.0),), seed=1)


@pytest.fixture
def samples(stream):
    return [Sample(payload, name, float(i)) for i, (name, payload) in enumerate(stream[:300])]


def rows(store):
    return [(s.id, s.decision, s.reason, s.propensity) for s in store]


def test_a_run_in_parts_is_the_run_in_one(gate, samples, tmp_path):
    with Store(tmp_path / "one.db") as store:
        run(gate, samples, store, rules=RULES, batch=25)
        whole = rows(store), saved_policy(store)
    for start in range(0, 300, 100):  # a new process would read the same file
        with Store(tmp_path / "parts.db") as store:
            run(gate, samples[start : start + 100], store, rules=RULES, batch=25)
    with Store(tmp_path / "parts.db", read_only=True) as store:
        same = (rows(store), saved_policy(store)) == whole
    assert same
    assert len(whole[0]) > 50


_KILLED = """
import os, signal, sys
from dripgate import Gate, Store
from dripgate.stream.loop import run
from dripgate.stream.sources import watch
from dripgate.policy import Rules
from dripgate.types import Sample
gate, archive, path, after = sys.argv[1:]
def samples():
    for i, sample in enumerate(watch(archive)):
        if i == int(after):
            os.kill(os.getpid(), signal.SIGKILL)
        yield Sample(sample.payload, sample.source, float(i))
with Store(path) as store:
    run(Gate.load(gate), samples(), store, rules=Rules(keep=0.3, seed=1), batch=32)
"""


def test_a_killed_run_has_the_memory_of_its_last_batch(gate, loop, tmp_path):
    """After SIGKILL the policy stands exactly where the stored samples end."""
    path = tmp_path / "kept.db"
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, loop / "gate.onnx", loop / "stream.zip", path, "250"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    with Store(path, read_only=True) as store:
        policy = Policy.restored(gate.info, saved_policy(store))
        stored = sum(n for key, n in policy.counts.reasons.items() if not key.startswith("drop"))
        assert store.counters["seen"] == sum(policy.counts.reasons.values()) == 224
        assert len(store) == stored > 0


def test_counts_and_propensities_of_the_store_are_the_policys(gate, samples, tmp_path):
    with Store(tmp_path / "kept.db") as store:
        summary = run(gate, samples, store, rules=RULES)
        found = account(store)
        assert found is not None
        assert found.reasons == summary.reasons
        assert [(c.name, c.seen, c.kept) for c in found.classes] == [
            (c.name, c.seen, c.kept) for c in summary.classes
        ]
        assert found.rules == RULES
        audits = [s for s in store if s.reason is Reason.AUDIT]
        assert 0 < len(audits) < 40
        assert all(0 < s.propensity < 1 for s in audits)
        assert all(s.propensity > 0 for s in store)


def test_the_account_estimates_the_stream_from_folders_of_classes(gate, samples, tmp_path):
    rules = Rules(audit=0.2, duplicates=0)
    with Store(tmp_path / "kept.db") as store:
        run(gate, samples, store, rules=rules)
        found = account(store)
    truth = [sample.source.split("/")[-2] for sample in samples]
    assert found.estimates.covered == 1
    assert found.estimates.by_chance > 10
    right = sum(
        share.low <= truth.count(c.name) / len(truth) <= share.high
        for c, share in zip(found.classes, found.estimates.classes, strict=True)
    )
    assert right >= 8
    predicted = [v.predicted for v in gate.decide_batch(samples)]
    accuracy = sum(gate.info.classes[p] == t for p, t in zip(predicted, truth, strict=True)) / 300
    assert found.estimates.accuracy.value == pytest.approx(accuracy, abs=0.07)


def test_labels_in_the_store_count_more_than_folders(gate, samples, tmp_path):
    renamed = [msgspec.structs.replace(s, source=f"{i}.png") for i, s in enumerate(samples)]
    with Store(tmp_path / "kept.db") as store:
        run(gate, renamed, store, rules=Rules(audit=0.2))
        assert account(store).estimates is None
        assert "no stored sample is labelled" in account(store).why
        store.set_labels({s.id: "3" for s in store})
        assert account(store).estimates.classes[3].value == 1


def test_labels_that_the_gate_does_not_know_are_reported(gate, samples, tmp_path):
    with Store(tmp_path / "kept.db") as store:
        run(gate, samples[:100], store, rules=Rules(keep=1.0))
        assert account(store).strange == {}
        first, second, third = [s.id for s in store][:3]
        store.set_labels({first: "fox", second: "fox", third: "3"})
        assert account(store).strange == {"fox": 2}


def test_what_is_outside_of_the_quality_range_is_counted(gate, samples, tmp_path):
    """A gate whose quality range nothing is in: little finds room in quarantine, all is counted."""
    outside = msgspec.structs.replace(gate.info.thresholds, quality_low=1e9)
    strict = Gate(with_thresholds(gate.data, outside), "strict")
    with Store(tmp_path / "kept.db") as store:
        run(strict, samples, store, rules=Rules(audit=0.1))
        found = account(store)
        aside = sum(s.decision is Decision.QUARANTINE for s in store)
        assert not any(s.decision is Decision.KEEP for s in store)
    assert found.outside == len(samples) > aside > 20


def test_an_archive_gets_an_eighth_of_a_budget_ahead(gate, samples, tmp_path):
    """300 samples in 0.3 s: an hour's budget of 400 is not lost on those who read fast."""
    fast = [Sample(s.payload, s.source, 1e9 + i / 1000) for i, s in enumerate(samples)]
    rules = Rules(keep=1.0, budgets=(Allowance(400, 3600.0),), duplicates=0, audit=0)
    with Store(tmp_path / "kept.db") as store:
        run(gate, fast, store, rules=rules)
        kept = sum(s.decision is Decision.KEEP for s in store)
    assert 15 <= kept <= 400 * (1 / 8 + 1 / 32) + 1


def large(samples):
    """So large that a small store has to evict."""
    return [
        Sample(s.payload + bytes([i % 256]) * 9000, s.source, s.time) for i, s in enumerate(samples)
    ]


def test_estimates_of_a_store_that_had_to_evict_speak_for_less(gate, samples, tmp_path):
    rules = Rules(audit=0.05, duplicates=0)
    found = {}
    for limit in (None, "600kB"):
        with Store(tmp_path / f"{limit}.db", limit=limit, audit_share=0.6) as store:
            run(gate, large(samples), store, rules=rules)
            found[limit] = account(store).estimates
            names = ("evicted_limit", "evicted_quarantine", "refused", "refused_quarantine")
            lost = sum(store.counters.get(name, 0) for name in names)
    assert lost > 5
    everything, rest = found.values()
    # What chance kept is all there; of the others the least valuable went.
    assert rest.by_chance == everything.by_chance > 5
    assert rest.dropped_accuracy == everything.dropped_accuracy
    assert everything.covered == 1
    assert rest.covered == pytest.approx(1 - lost / 300)
    assert rest.labelled == everything.labelled - lost


def test_estimates_end_where_samples_were_deleted(gate, samples, tmp_path):
    passed = [0.0]
    with Store(tmp_path / "kept.db", clocks=Clocks(steady=lambda: passed[0])) as store:
        run(gate, samples, store, rules=Rules(audit=0.2, duplicates=0))
        assert account(store).estimates is not None
        passed[0] += 300
        store.expire(200, now=300)
        found = account(store)
    assert found.estimates is None
    assert "were deleted" in found.why


def test_without_a_policy_there_is_no_account(gate, samples, tmp_path):
    with Store(tmp_path / "kept.db") as store:
        run(gate, samples[:50], store)
        assert account(store) is None
        assert POLICY not in store.meta


def test_a_damaged_memory_is_refused(gate, samples, tmp_path):
    with Store(tmp_path / "kept.db") as store:
        store.set_meta(POLICY, "not base64!")
        with pytest.raises(StoreError, match="saved policy is damaged"):
            run(gate, samples, store, rules=RULES)
        store.set_meta(POLICY, "AAAA")
        with pytest.raises(StoreError, match="saved policy is damaged"):
            run(gate, samples, store, rules=RULES)


def test_repeats_of_a_scene_are_stored_once(gate, samples, tmp_path):
    """The same frame with other bytes behind it: other ids, the same scene."""
    repeated = [
        Sample(s.payload + bytes([i]), s.source, s.time + i) for s in samples[:60] for i in range(9)
    ]
    rules = Rules(audit=0, floor=0)
    with Store(tmp_path / "a.db") as store:
        run(gate, repeated, store, rules=Rules(audit=0, floor=0, duplicates=0))
        without = sum(s.decision is Decision.KEEP for s in store)
    with Store(tmp_path / "b.db") as store:
        summary = run(gate, repeated, store, rules=rules)
        kept = sum(s.decision is Decision.KEEP for s in store)
    assert without >= 9
    assert kept <= without / 9
    assert summary.reasons["drop: duplicate"] >= without - kept


def test_unreadable_samples_are_counted_beside_the_policy(gate, samples, tmp_path):
    mixed = [s for pair in zip(samples, samples, strict=True) for s in pair]
    mixed[::2] = [Sample(b"no image %d" % i, f"{i}.png", float(i)) for i in range(300)]
    with Store(tmp_path / "kept.db") as store:
        summary = run(gate, mixed, store, rules=Rules())
    assert summary.unreadable == 300
    assert summary.reasons["drop: unreadable"] == 300
