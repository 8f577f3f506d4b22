"""Estimates: exact where everything is known, honest where it is not."""

import numpy as np
import pytest
from scipy.stats import binomtest

from dripgate.policy import Policy, Rules, Seen, estimate
from dripgate.policy.chance import uniforms
from dripgate.policy.estimate import Stream, wilson
from dripgate.types import Decision


def test_everything_kept_is_known_exactly():
    seen = [Seen(i % 2, i % 4 // 2, 1.0) for i in range(100)]
    found = estimate(seen, Stream(certain=100, chance=0, blind=0), 2)
    assert (found.accuracy.low, found.accuracy.value, found.accuracy.high) == (0.5, 0.5, 0.5)
    assert [one.value for one in found.classes] == [0.5, 0.5]
    assert found.covered == 1


def test_nothing_labelled_is_nothing_known():
    assert estimate([], Stream(certain=5, chance=5, blind=0), 2) is None


def test_what_no_chance_could_show_is_said():
    found = estimate([Seen(0, 0, 1.0)] * 30, Stream(certain=30, chance=0, blind=10), 1)
    assert found.covered == 0.75


def test_wilson_is_the_textbooks():
    hits = np.arange(50) < 13
    found = wilson(hits, np.full(50, 7.0), 10**9)
    reference = binomtest(13, 50).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-5)


def test_a_sample_stands_for_as_many_as_its_propensity_says():
    """Ten right ones stand for 100, ten wrong ones for 20; and unequal weights are worth less."""
    seen = [Seen(0, 0, 0.1)] * 10 + [Seen(1, 0, 0.5)] * 10
    found = estimate(seen, Stream(certain=0, chance=120, blind=0), 2)
    assert found.accuracy.value == pytest.approx(100 / 120)
    assert [one.value for one in found.classes] == pytest.approx([100 / 120, 20 / 120])
    assert found.dropped_accuracy.value == pytest.approx(100 / 120)
    hits = np.arange(20) < 10
    unequal = wilson(hits, np.where(hits, 10.0, 2.0), 10**9)
    kish = (10 * 10 + 10 * 2) ** 2 / (10 * 100 + 10 * 4)  # 13.8 of 20
    equal = wilson(np.arange(1000) < 833, np.full(1000, 7.0), 10**9)
    widths = [one.high - one.low for one in (unequal, equal)]
    assert widths[0] / widths[1] == pytest.approx((1000 / kish) ** 0.5, rel=0.15)


def test_intervals_cover_the_truth_of_real_policies(stream_of, info):
    """300 streams through the policy: classes, accuracy and what
    dropping cost are covered about 95 % of the time,
    and the estimates are not biased."""
    covered, gaps = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        n = 1200
        label = rng.choice(4, n, p=[0.1, 0.2, 0.3, 0.4])
        hard = rng.random(n) < 0.3
        predicted = np.where(hard & (rng.random(n) < 0.5), (label + 1) % 4, label)
        scores = rng.gamma(0.5, size=n) * np.where(hard, 3, 1)
        policy = Policy(Rules(keep=0.2, audit=0.05, seed=seed, duplicates=0), info)
        verdicts = stream_of(scores, predicted).through(policy)
        seen = [
            Seen(int(label[i]), v.predicted, v.propensity)
            for i, v in enumerate(verdicts)
            if v.decision is Decision.KEEP
        ]
        found = estimate(seen, policy.stream, 4)
        lost = np.array([v.propensity < 1 for v in verdicts])
        truths = [*(np.bincount(label, minlength=4) / n), (label == predicted).mean()]
        truths += [(label == predicted)[lost].mean(), lost[label != predicted].mean()]
        worth = [found.dropped_accuracy, found.dropped_mistakes]
        for truth, interval in zip(truths, [*found.classes, found.accuracy, *worth], strict=True):
            covered.append(interval.low <= truth <= interval.high)
            gaps.append(interval.value - truth)
    by_estimate = np.reshape(covered, (300, 7)).mean(axis=0)
    assert 0.93 <= np.mean(covered) <= 0.97
    assert by_estimate.min() > 0.91
    bias = np.abs(np.reshape(gaps, (300, 7)).mean(axis=0))
    assert bias[:6].max() < 0.01
    assert bias[6] < 0.05  # a ratio of estimates, from about 45 audited samples


def test_chance_is_uniform_independent_and_the_same_in_any_batch():
    ties, coins = uniforms(5, 0, 20_000)
    assert uniforms(5, 700, 3) == (ties[700:703], coins[700:703])
    for found in (ties, coins):
        counts = np.histogram(found, 20, (0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 45.3  # chi-squared, 19 degrees, 0.1 %
    assert abs(np.corrcoef(ties, coins)[0, 1]) < 0.03
    assert abs(np.corrcoef(ties, uniforms(6, 0, 20_000)[0])[0, 1]) < 0.03


def test_what_dropping_cost_is_the_share_of_mistakes_not_stored():
    """Ten mistakes kept for certain; a tenth of 1,000 others is audited, five of them mistakes."""
    seen = [Seen(0, 1, 1.0)] * 10 + [Seen(0, 0, 1.0)] * 90
    seen += [Seen(0, 1, 0.1)] * 5 + [Seen(0, 0, 0.1)] * 95
    found = estimate(seen, Stream(certain=100, chance=1000, blind=0), 2)
    assert found.dropped_accuracy.value == pytest.approx(0.95)
    assert found.dropped_mistakes.value == pytest.approx(50 / 60)
    low, high = (
        1000 * (1 - end) for end in (found.dropped_accuracy.high, found.dropped_accuracy.low)
    )
    assert found.dropped_mistakes.low == pytest.approx(low / (low + 10))
    assert found.dropped_mistakes.high == pytest.approx(high / (high + 10))
    assert 0.6 < found.dropped_mistakes.low < 50 / 60 < found.dropped_mistakes.high < 0.95


def test_a_share_of_mistakes_is_as_uncertain_as_both_its_parts():
    """Half of what was kept for certain is labelled, so its mistakes are uncertain too."""
    seen = [Seen(0, 1, 1.0)] * 10 + [Seen(0, 0, 1.0)] * 40
    seen += [Seen(0, 1, 0.1)] * 5 + [Seen(0, 0, 0.1)] * 95
    found = estimate(seen, Stream(certain=100, chance=1000, blind=0), 2)
    kept = wilson(np.arange(50) < 10, np.ones(50), 100)
    low, high = 1000 * (1 - found.dropped_accuracy.high), 1000 * (1 - found.dropped_accuracy.low)
    assert found.dropped_mistakes.low == pytest.approx(low / (low + 100 * kept.high))
    assert found.dropped_mistakes.high == pytest.approx(high / (high + 100 * kept.low))


def test_a_model_without_mistakes_lost_none():
    found = estimate([Seen(0, 0, 1.0)] * 5, Stream(certain=5, chance=0, blind=0), 1)
    assert (found.dropped_mistakes.value, found.dropped_mistakes.low) == (0, 0)
