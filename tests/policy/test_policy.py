"""The policy as a whole: order of questions, one by one as in batches, restarts, reasons."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dripgate.errors import StoreError
from dripgate.policy import Allowance, Policy, Rules
from dripgate.types import Decision, Reason

BUDGETS = (Allowance(20, 100.0), Allowance(3_000, 60.0, True))
RULES = [
    Rules(),
    Rules(keep=0.1, audit=0.05),
    Rules(keep=0.4, budgets=BUDGETS, quarantine=0.05, seed=3),
    Rules(budgets=BUDGETS[:1], audit=0.2, duplicates=0.5),
]


def kept(verdicts):
    return np.array([v.decision is Decision.KEEP for v in verdicts])


def share(verdicts, reason):
    return np.mean([v.reason is reason for v in verdicts])


@pytest.fixture(scope="module")
def mixed(stream_of):
    """Everything at once: drift, repeats, clocks that jump, alien and broken samples."""
    rng = np.random.default_rng(7)
    n = 1400
    embeddings = rng.normal(size=(n, 40))
    embeddings[400:500] = embeddings[400] + rng.normal(size=(100, 40)) * 0.01
    times = np.cumsum(rng.exponential(2.0, n))
    times[700] = -50
    return stream_of(
        rng.gamma(0.5, size=n) * np.linspace(1, 4, n), times=times, embeddings=embeddings,
        sizes=rng.integers(1, 200, n), alien=set(range(3, n, 17)), broken=set(range(0, n, 50)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def straight(mixed, make_info):
    """What comes of it without a stop, by rules, and the state in the end."""
    found = []
    for rules in RULES:
        policy = Policy(rules, make_info())
        found.append((mixed.through(policy), policy.save()))
    return found


@settings(max_examples=25, deadline=None)
@given(which=st.integers(0, len(RULES) - 1), cuts=st.lists(st.integers(1, 1399), max_size=4))
def test_a_restart_anywhere_changes_nothing(mixed, straight, make_info, which, cuts):
    saved, found = b"", []
    for start, stop in pairwise(sorted({0, *cuts, len(mixed)})):
        policy = Policy(RULES[which], make_info(), saved)
        found += mixed.through(policy, start=start, stop=stop)
        saved = policy.save()
        unchanged = Policy(RULES[which], make_info(), saved).save() == saved
        assert unchanged
    same = (found, saved) == straight[which]
    assert same


@settings(max_examples=25, deadline=None)
@given(which=st.integers(0, len(RULES) - 1), batch=st.integers(1, 300))
def test_batches_change_nothing(mixed, straight, make_info, which, batch):
    policy = Policy(RULES[which], make_info())
    same = (mixed.through(policy, batch), policy.save()) == straight[which]
    assert same


def test_another_seed_is_another_audit(mixed, info):
    audits = [
        [v.reason is Reason.AUDIT for v in mixed.through(Policy(Rules(seed=seed), info))]
        for seed in (1, 2)
    ]
    assert audits[0] != audits[1]


def test_the_state_stays_a_few_kilobytes(mixed, info):
    for rules in RULES:
        policy = Policy(rules, info)
        sizes = set()
        for _ in range(4):
            mixed.through(policy)
            sizes.add(len(policy.save()) // 500)
        assert max(sizes) * 500 < 10_000
        assert max(sizes) - min(sizes) <= 1


def test_without_anything_asked_the_band_decides(stream_of, info):
    stream = stream_of(np.random.default_rng(0).gamma(0.5, size=2000))
    rules = Rules(audit=0, duplicates=0, floor=0)
    verdicts = stream.through(Policy(rules, info))
    assert [v.decision for v in verdicts] == [v.decision for v in stream.verdicts]
    assert {v.propensity for v in verdicts} == {0.0, 1.0}


def test_unreadable_samples_pass_as_they_are(mixed, straight):
    for verdicts, _ in straight:
        assert [v for v in verdicts if v.reason is Reason.UNREADABLE] == [
            v for v in mixed.verdicts if v.reason is Reason.UNREADABLE
        ]


def test_a_score_that_is_no_number_is_never_kept_for_training(stream_of, info):
    scores = np.random.default_rng(0).gamma(0.5, size=600)
    scores[::3] = np.nan
    verdicts = stream_of(scores).through(Policy(Rules(keep=0.5), info))
    assert not kept(verdicts)[::3].any()
    assert kept(verdicts)[1::3].mean() > 0.3


def test_every_verdict_is_counted_by_its_reason(mixed, info):
    policy = Policy(RULES[2], info)
    verdicts = mixed.through(policy)
    reasons = {}
    for v in verdicts:
        key = f"{v.decision}: {v.reason}"
        reasons[key] = reasons.get(key, 0) + 1
    assert policy.counts.reasons == reasons
    assert {"keep: band", "drop: band", "drop: budget", "quarantine: quality"} < set(reasons)
    stream = policy.stream
    readable = [v for v in verdicts if v.reason is not Reason.UNREADABLE]
    assert stream.certain == sum(v.propensity == 1 for v in readable)
    assert stream.blind == sum(v.propensity == 0 for v in readable)
    assert stream.certain + stream.chance + stream.blind == len(readable)
    assert sum(policy.counts.kept) == kept(verdicts).sum()


def test_quarantine_is_bounded_and_stays_out_of_training(stream_of, info):
    n = 5000
    stream = stream_of(np.ones(n), alien=set(range(n)))
    policy = Policy(Rules(quarantine=0.02, audit=0), info)
    verdicts = stream.through(policy)
    aside = sum(v.decision is Decision.QUARANTINE for v in verdicts)
    assert 0.02 * n <= aside <= 0.02 * n + 20
    assert not kept(verdicts).any()
    assert {v.reason for v in verdicts} == {Reason.QUALITY}


def test_what_quarantine_has_no_room_for_is_audited(stream_of, info):
    n = 3000
    policy = Policy(Rules(quarantine=0.01, audit=0.1), info)
    verdicts = stream_of(np.ones(n), alien=set(range(n))).through(policy)
    by_chance = [v for v in verdicts if v.reason is Reason.AUDIT]
    assert 200 < len(by_chance) < 400
    assert {v.decision for v in by_chance} == {Decision.QUARANTINE}
    assert {v.propensity for v in verdicts if v.reason is Reason.AUDIT} == {0.1}
    assert {v.propensity for v in verdicts if not v.stored} == {0.1}
    certain = sum(v.propensity == 1 for v in verdicts)
    assert (policy.stream.certain, policy.stream.chance) == (certain, n - certain)


BROKEN = np.arange(4000) % 10 == 0


def shares(verdicts, rows):
    """Of sound samples: (kept, set aside or dropped for their quality)."""
    aside = np.array([v.reason is Reason.QUALITY for v in verdicts])
    return kept(verdicts)[rows & ~BROKEN].mean(), aside[rows & ~BROKEN].mean()


@pytest.mark.parametrize(
    "rules", [Rules(keep=0.1, audit=0), Rules(budgets=(Allowance(9.0, 60.0),), audit=0)]
)
def test_what_drifts_out_of_the_quality_range_is_followed(drifting, rules):
    info, stream = drifting
    late = np.arange(4000) >= 3000
    assert np.mean([v.decision is Decision.QUARANTINE for v in stream.verdicts[3000:]]) > 0.9
    verdicts = stream.through(Policy(rules, info))
    share, aside = shares(verdicts, late)
    assert share > 0.07
    assert aside < 0.4
    assert not kept(verdicts)[BROKEN].any()


def test_where_the_band_decides_the_gates_word_on_quality_stands(drifting):
    info, stream = drifting
    verdicts = stream.through(Policy(Rules(audit=0.05), info))
    alien = [one.reason is Reason.QUALITY for one in stream.verdicts]
    assert not kept(verdicts)[alien].any()
    assert {v.reason for v in np.array(verdicts, object)[alien]} <= {Reason.QUALITY, Reason.AUDIT}


def test_what_jumps_out_of_the_quality_range_stays_out_however_long(drifting, stream_of):
    info, _ = drifting
    n = 4000
    quality = np.where(np.arange(n) < 500, 0.5, 0.02)
    stream = stream_of(np.ones(n), qualities=quality, alien=set(range(500, n)))
    verdicts = stream.through(Policy(Rules(keep=0.2, audit=0, duplicates=0), info))
    assert kept(verdicts)[:500].any()
    assert not kept(verdicts)[500:].any()


def test_no_class_dries_up(stream_of, info):
    rng = np.random.default_rng(5)
    n = 12_000
    predicted = rng.integers(0, 4, n)
    scores = rng.gamma(0.5, size=n) * np.where(predicted == 2, 0.001, 1)

    def kept_of_two(floor):
        rules = Rules(keep=0.1, floor=floor, audit=0, duplicates=0)
        verdicts = stream_of(scores, predicted).through(Policy(rules, info))
        assert kept(verdicts)[1000:].mean() == pytest.approx(0.1, rel=0.05)
        return kept(verdicts)[predicted == 2].mean(), share(verdicts, Reason.FLOOR)

    without, never = kept_of_two(0)
    with_floor, stepped_in = kept_of_two(0.5)
    assert without < 0.005
    assert never == 0
    assert with_floor == pytest.approx(0.05, rel=0.15)
    assert stepped_in == pytest.approx(0.05 / 4, rel=0.3)


def test_a_floor_does_nothing_for_classes_that_get_their_share(stream_of, info):
    stream = stream_of(np.random.default_rng(5).gamma(0.5, size=8000))
    verdicts = stream.through(Policy(Rules(keep=0.1, audit=0), info))
    assert share(verdicts, Reason.FLOOR) < 0.001


def test_propensities_are_the_probabilities_of_being_kept(stream_of, info):
    """Over many seeds each sample is kept about as often as its propensities say."""
    rng = np.random.default_rng(2)
    n = 300
    embeddings = np.repeat(rng.normal(size=(n // 3, 8)), 3, axis=0)
    stream = stream_of(rng.gamma(0.5, size=n), embeddings=embeddings, times=np.arange(n) * 2.0)
    found, said = [], []
    for seed in range(150):
        rules = Rules(keep=0.3, audit=0.05, budgets=(Allowance(60, 300.0),), seed=seed)
        verdicts = stream.through(Policy(rules, info))
        found.append(kept(verdicts))
        said.append([v.propensity for v in verdicts])
    gap = np.array(found) - np.array(said)  # a martingale difference: mean zero given the past
    p = np.array(said)
    z = gap.sum(axis=0) / np.sqrt((p * (1 - p)).sum(axis=0) + 1e-12)
    assert abs(gap.sum()) < 4 * np.sqrt((p * (1 - p)).sum())
    assert (np.abs(z) > 4).mean() < 0.005
    assert ((p > 0) & (p < 1)).any()


def test_another_gate_begins_anew_but_grants_no_budget_twice(mixed, make_info):
    rules = RULES[2]
    policy = Policy(rules, make_info())
    mixed.through(policy)
    old = msgspec.msgpack.decode(policy.save())
    new = msgspec.msgpack.decode(Policy(rules, make_info(keep=0.3), policy.save()).save())
    assert new["budget"] == old["budget"]
    assert new["number"] == old["number"]
    assert new["counts"]["reasons"] == {}
    assert new["share"]["debt"] == 0


def test_other_rules_keep_what_is_still_asked_for(mixed, make_info):
    policy = Policy(RULES[2], make_info())
    mixed.through(policy)
    old = msgspec.msgpack.decode(policy.save())
    rules = msgspec.structs.replace(RULES[2], keep=0.5, budgets=BUDGETS[1:])
    new = msgspec.msgpack.decode(Policy(rules, make_info(), policy.save()).save())
    assert new["budget"]["buckets"] == old["budget"]["buckets"][1:]
    assert new["counts"] == old["counts"]
    assert new["ranks"] == old["ranks"]


def test_a_damaged_state_is_refused_with_the_remedy(mixed, info):
    policy = Policy(RULES[2], info)
    mixed.through(policy)
    saved = policy.save()
    broken = msgspec.msgpack.decode(saved)
    for damage in (
        saved[:-3],
        b"nonsense",
        msgspec.msgpack.encode(broken | {"ranks": b"abc"}),
        msgspec.msgpack.encode(broken | {"floors": {"debts": [0.0]}}),
        msgspec.msgpack.encode(broken | {"kept": [8, b"1", b"22"]}),
    ):
        with pytest.raises(StoreError, match=r"saved policy is damaged .*begin anew"):
            Policy(RULES[2], info, damage)
