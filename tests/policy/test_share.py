"""The target share, whatever the scores do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dripgate.gate_info import Histogram
from dripgate.policy import Policy, Rules
from dripgate.policy.share import SIZE, Ranks, Share, above
from dripgate.types import Decision

WINDOW = 5000


def drifting(kind, n, seed=0):
    rng = np.random.default_rng(seed)
    base, t = rng.gamma(0.5, size=n), np.arange(n)
    if kind == "waves":
        return base * np.exp(2 * np.sin(2 * np.pi * t / 9000))
    if kind == "jumps":
        return rng.normal(size=n) + np.repeat(rng.normal(0, 1.5, 6), n // 6)
    if kind == "ties":  # half of the scores are exactly zero, sometimes nearly all
        return np.where(rng.random(n) < 0.5 + 0.4 * np.sin(t / 2000), 0, base)
    return base * np.exp(np.cumsum(rng.normal(0, 0.01, n)))


@pytest.mark.parametrize("kind", ["waves", "jumps", "ties", "walk"])
@pytest.mark.parametrize(("keep", "within"), [(0.01, 0.2), (0.05, 0.1), (0.2, 0.1), (0.6, 0.1)])
def test_every_window_keeps_its_share(stream_of, info, kind, keep, within):
    stream = stream_of(drifting(kind, 12_000))
    verdicts = stream.through(Policy(Rules(keep=keep, duplicates=0), info))
    kept = np.cumsum([0, *(v.decision is Decision.KEEP for v in verdicts)])[SIZE:]
    shares = (kept[WINDOW:] - kept[:-WINDOW]) / WINDOW
    assert np.abs(shares / keep - 1).max() <= within


def test_what_is_kept_ranks_highest(stream_of, info):
    scores = np.random.default_rng(3).gamma(0.5, size=10_000)
    rules = Rules(keep=0.1, duplicates=0, audit=0, floor=0)
    verdicts = stream_of(scores).through(Policy(rules, info))
    kept = np.array([v.decision is Decision.KEEP for v in verdicts])
    top = scores >= np.quantile(scores, 0.9)
    assert kept[top].mean() > 0.85
    assert scores[kept].min() > np.quantile(scores, 0.8)


def test_calibration_stands_in_for_the_first_samples(stream_of, info, make_info, calibrated):
    """From the first sample on high scores are kept and low ones dropped."""
    policy = Policy(Rules(keep=0.2, duplicates=0, audit=0, floor=0), info)
    low_high = stream_of([0.001, 5.0] * 4)
    decisions = [v.decision for v in low_high.through(policy)]
    assert decisions == [Decision.DROP, Decision.KEEP] * 4


@settings(max_examples=30, deadline=None)
@given(
    scores=st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.5, 1e30]), min_size=300, max_size=800),
    keep=st.sampled_from([0.02, 0.1, 0.5]),
)
def test_never_more_than_the_share_and_a_constant(stream_of, info, scores, keep):
    """For any scores: what is kept exceeds the target by less than the largest debt."""
    rules = Rules(keep=keep, duplicates=0, audit=0)
    verdicts = stream_of(scores).through(Policy(rules, info))
    kept = np.cumsum([v.decision is Decision.KEEP for v in verdicts])
    most = 3.0 / min(max(0.01 / keep, 0.02), 0.8) + 1
    assert (kept - keep * np.arange(1, len(scores) + 1)).max() <= most


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=700))
def test_ranks_are_those_among_the_last_scores(scores):
    ranks = Ranks()
    for i, score in enumerate(scores):
        past = scores[max(0, i - SIZE) : i]
        low, high = sum(p < score for p in past), sum(p <= score for p in past) + 1
        assert ranks.rank(score) == (low / (len(past) + 1), high / (len(past) + 1))
        ranks.add(score)
    assert list(Ranks.unpack(ranks.pack()).recent) == scores[-SIZE:]


def test_a_histogram_seeds_the_ranks():
    ranks = Ranks.seeded(Histogram(edges=(0.0, 1.0, 2.0, 10.0), counts=(50, 50, 0)))
    for score, expected in ((0.0, 0.0), (0.5, 0.25), (1.0, 0.5), (1.5, 0.75), (5.0, 1.0)):
        assert ranks.rank(score)[0] == pytest.approx(expected, abs=0.02)
    assert Ranks.seeded(Histogram(edges=(), counts=())).rank(3.0) == (0.0, 1.0)


def test_chance_decides_between_equals():
    assert above(0.2, 0.6, 0.5) == pytest.approx(0.25)
    assert above(0.2, 0.6, 0.7) == 0
    assert above(0.2, 0.6, 0.1) == 1


def test_the_bar_answers_to_what_was_kept():
    share = Share()
    assert share.bar(0.1) == pytest.approx(0.9)
    for _ in range(10):
        share.note(0.1, True)
    assert share.bar(0.1) > 0.9
    for _ in range(10_000):
        share.note(0.1, False)
    assert share.bar(0.1) < 0.9
    assert share.bar(1.0) == 0
    for _ in range(10_000):
        share.note(0.1, True)
    assert share.bar(0.1) == 1
