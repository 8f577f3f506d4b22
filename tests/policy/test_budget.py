"""Budgets: strict in any window, spent evenly, saved up, whatever the clock does."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dripgate.errors import UserError
from dripgate.policy import Allowance, Policy, Rules, parse_allowance
from dripgate.types import Decision, Reason

HOUR = 3600.0


def stored(stream, policy):
    """(times as the clock stood, costs in bytes) of what was stored."""
    verdicts = stream.through(policy)
    clock = np.maximum.accumulate([
        s.time if math.isfinite(s.time) else -math.inf for s in stream.samples
    ])  # fmt: skip
    there = np.array([v.stored for v in verdicts])
    sizes = np.array([len(s.payload) for s in stream.samples])
    return clock[there], sizes[there], verdicts


def most_in_any(period, times, costs):
    """The largest sum of costs in any half-open window of a period."""
    total = np.concatenate([[0], np.cumsum(costs)])
    ends = np.searchsorted(times, times + period, "left")
    return max((total[ends] - total[:-1]).max(), 0) if len(times) else 0


steps = st.one_of(
    st.floats(0, 3), st.sampled_from([0.0, 1000.0, -500.0, -1e6, 1e7, math.nan, math.inf])
)


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(st.tuples(steps, st.integers(1, 150)), min_size=1, max_size=6),
    amount=st.integers(1, 60),
    keep=st.sampled_from([None, 0.2, 1.0]),
    period=st.sampled_from([10.0, 100.0]),
    data=st.data(),
)
def test_no_window_exceeds_any_budget(stream_of, info, runs, amount, keep, period, data):
    gaps = [gap for gap, times in runs for _ in range(times)]
    n = len(gaps)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    times = []
    for gap in gaps:  # a NaN or infinite time does not stay: the next clock is a good one
        times.append((times[-1] if times and math.isfinite(times[-1]) else 0.0) + gap)
    stream = stream_of(
        rng.gamma(0.5, size=n), times=times, sizes=rng.integers(0, 50, n), band=0.1,
        alien=set(range(0, n, 7)),
    )  # fmt: skip
    budgets = (Allowance(amount, period), Allowance(amount * 20, period * 3, True))
    rules = Rules(keep=keep, budgets=budgets, audit=0.1, quarantine=0.5)
    clock, sizes, _ = stored(stream, Policy(rules, info))
    assert most_in_any(period, clock, np.ones(len(clock))) <= amount
    assert most_in_any(period * 3, clock, sizes) <= amount * 20


def busy(stream_of, seconds, every=1.0, start=0.0, seed=0):
    n = int(seconds / every)
    scores = np.random.default_rng(seed).gamma(0.5, size=n)
    return stream_of(scores, times=start + np.arange(n) * every)


@pytest.mark.parametrize("keep", [None, 0.5])
def test_a_budget_is_spent_evenly_and_nearly_all_of_it(stream_of, info, keep):
    rules = Rules(keep=keep, budgets=(Allowance(200, HOUR),), quarantine=0, duplicates=0)
    clock, _, verdicts = stored(busy(stream_of, 6 * HOUR), Policy(rules, info))
    per_hour = np.histogram(clock, np.arange(7) * HOUR)[0]
    assert (per_hour[1:] >= 170).all()
    assert (per_hour <= 200).all()
    quarters = np.histogram(clock, np.arange(25) * HOUR / 4)[0]
    assert quarters[1:].min() > 25
    assert quarters.max() < 80
    assert Reason.BUDGET in {v.reason for v in verdicts}


def test_a_budget_takes_the_best(stream_of, info):
    stream = busy(stream_of, 3 * HOUR)
    rules = Rules(budgets=(Allowance(200, HOUR),), audit=0, duplicates=0, floor=0)
    _, _, verdicts = stored(stream, Policy(rules, info))
    scores = np.array([v.score for v in verdicts])
    kept = np.array([v.decision is Decision.KEEP for v in verdicts])
    assert np.median(scores[kept]) > np.quantile(scores, 0.93)


def test_what_a_quiet_time_left_is_there_afterwards(stream_of, info):
    """An hour of nothing: the next hour may keep its own and much of what was saved."""
    quiet, after = np.arange(3) * HOUR / 3, HOUR + np.arange(3600)
    times = np.concatenate([quiet, after])
    stream = stream_of(np.random.default_rng(1).gamma(0.5, size=len(times)), times=times)
    rules = Rules(budgets=(Allowance(100, HOUR),), audit=0, quarantine=0, duplicates=0)
    clock, _, _ = stored(stream, Policy(rules, info))
    eighths = np.histogram(clock, HOUR + np.arange(9) * HOUR / 8)[0]
    assert eighths[:4].sum() > 70  # an hour that began with nothing would have 50
    assert eighths.max() <= 38
    assert eighths.sum() <= 100


def test_an_eighth_may_be_spent_ahead_by_an_archive(stream_of, info):
    """Ten seconds, an hourly budget: what a folder is worth, and not an hour's worth at once."""
    for n, least, most in ((300, 60, 300), (20_000, 180, 320)):
        scores = np.random.default_rng(n).gamma(0.5, size=n)
        stream = stream_of(scores, times=np.linspace(0, 10, n), band=0.1)
        rules = Rules(budgets=(Allowance(2000, HOUR),), duplicates=0)
        _, sizes, verdicts = stored(stream, Policy(rules, info))
        assert least <= len(sizes) <= most
        reasons = [v.reason for v in verdicts]
        assert Reason.BUDGET in reasons


@pytest.mark.parametrize("rate", [1, 10])
def test_evenly_however_fast_the_stream(stream_of, info, rate):
    """What may be spent ahead is gone in the first minutes; the rest is even, and the best."""
    stream = busy(stream_of, HOUR, 1 / rate)
    rules = Rules(budgets=(Allowance(200, HOUR),), quarantine=0, duplicates=0, audit=0)
    clock, _, verdicts = stored(stream, Policy(rules, info))
    first, *_, last = np.histogram(clock, np.arange(5) * HOUR / 4)[0]
    assert first < 85
    assert last > 20
    scores = np.array([v.score for v in verdicts])
    kept = np.array([v.stored for v in verdicts])
    assert np.median(scores[kept]) > np.quantile(scores, 1 - kept.mean())


def test_what_was_spent_ahead_is_not_spent_in_a_lump_again(stream_of, info):
    """When the first minutes leave the window, the next hour is as even as any."""
    rules = Rules(budgets=(Allowance(200, HOUR),), quarantine=0, duplicates=0, audit=0)
    clock, _, _ = stored(busy(stream_of, 2 * HOUR, 0.25), Policy(rules, info))
    second = np.histogram(clock, HOUR + np.arange(9) * HOUR / 8)[0]
    assert second.max() <= 34
    assert second[1:].min() >= 12


def test_small_budgets_lose_nothing_to_the_audit(stream_of, info):
    """Of three an hour no tenth can be given away: they go to the best, one after the other."""
    rules = Rules(budgets=(Allowance(3, HOUR),), duplicates=0)
    clock, _, _ = stored(busy(stream_of, 8 * HOUR, 10.0), Policy(rules, info))
    assert most_in_any(HOUR, clock, np.ones(len(clock))) <= 3
    assert len(clock) >= 16


def test_a_clock_set_back_grants_nothing(stream_of, info):
    n = 2000
    times = np.where(np.arange(n) % 2, 0.0, HOUR)  # there and back a thousand times
    stream = stream_of(np.random.default_rng(1).gamma(0.5, size=n), times=times)
    rules = Rules(budgets=(Allowance(50, HOUR),), quarantine=0, duplicates=0)
    _, sizes, _ = stored(stream, Policy(rules, info))
    assert len(sizes) <= 50


def test_budgets_as_people_write_them():
    assert parse_allowance("200/h") == Allowance(200, 3600, False)
    assert parse_allowance("500MB/week") == Allowance(5e8, 604800, True)
    assert parse_allowance("2 GB per day") == Allowance(2e9, 86400, True)
    assert parse_allowance("1.5 KiB/min") == Allowance(1536, 60, True)
    assert parse_allowance("10 samples/hour") == Allowance(10, 3600, False)


@pytest.mark.parametrize(
    "text", ["", "200", "200/year", "-3/h", "0/h", "5 parsecs/h", "MB/h", "1e9/h"]
)
def test_what_is_no_budget_says_how_to_write_one(text):
    with pytest.raises(UserError, match=r"cannot be read; write .*200/h"):
        parse_allowance(text)


@pytest.mark.parametrize(
    "wrong", [{"keep": 0}, {"keep": 1.5}, {"audit": -0.1}, {"floor": 2}, {"duplicates": math.nan}]
)
def test_rules_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match="expected"):
        Rules(**wrong)
