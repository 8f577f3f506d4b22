"""Learning thresholds: what is kept is what was asked for, and auto is explained."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dripgate.errors import UserError
from dripgate.fitting.probe import MOST, learning_curve
from dripgate.fitting.scarcity import COUNTED, NET, loss
from dripgate.fitting.thresholds import ENOUGH, GRID, Observed, learn


def observed(n=600, classes=4, seed=0, informative=True, unlearned=0.3):
    """Samples whose score follows, or does not follow, how wrong the model is about them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = rng.normal(size=(classes, 30)) / 4
    features = centres[labels] + rng.normal(size=(n, 30))
    hard = rng.random(n) < unlearned
    logits = 6.0 * np.eye(classes)[labels]
    logits[hard] = rng.normal(size=(hard.sum(), classes))
    score = hard + rng.random(n) if informative else rng.random(n)
    return Observed(score.astype(np.float32), logits, features, labels)


def kept(seen, thresholds):
    low = np.array([-np.inf if b is None else b for b in thresholds.low])[seen.predicted]
    high = np.array([np.inf if b is None else b for b in thresholds.high])[seen.predicted]
    return (seen.score >= low) & (seen.score <= high)


@given(st.floats(0.02, 1.0), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_the_share_asked_for_is_kept(keep, seed):
    seen = observed(seed=seed)
    learned = learn(seen, keep, seed=0)
    assert learned.keep == keep
    # Per class, each class rounds by at most one sample; a small class follows the others.
    assert abs(kept(seen, learned.thresholds).mean() - keep) <= 4 / 600 + 0.02
    lows = [b for b in learned.thresholds.low if b is not None]
    highs = [b for b in learned.thresholds.high if b is not None]
    assert not lows or not highs or max(lows) < min(highs)


def test_everything_is_kept_without_bounds():
    learned = learn(observed(), 1.0, seed=0)
    assert set(learned.thresholds.low) == set(learned.thresholds.high) == {None}


def mastered(n=3000, hard=0.02, seed=0):
    """Samples of which a few are hard, have the highest scores, and carry all the signal."""
    seen = observed(n, seed=seed)
    is_hard = np.random.default_rng([seed, 1]).random(n) < hard
    logits = np.where(is_hard[:, None], 0.5 * seen.logits[:, ::-1], 6.0 * np.eye(4)[seen.labels])
    score = is_hard + np.random.default_rng([seed, 2]).random(n)
    return replace(seen, logits=logits, score=score.astype(np.float32))


def test_auto_drops_most_where_hardly_anything_is_left_to_learn():
    seen = mastered()
    learned = learn(seen, "auto", seed=0)
    assert learned.keep < 0.3
    assert seen.signal[kept(seen, learned.thresholds)].sum() > 0.9
    wrong = (seen.predicted != seen.labels).sum()
    assert 0 < wrong < 70
    assert f"wrong on {wrong} of 3000 samples held out" in learned.why


def test_auto_keeps_everything_where_data_are_scarce_and_says_why():
    learned = learn(observed(n=300, unlearned=0.8), "auto", seed=0)
    assert learned.keep == 1
    assert set(learned.thresholds.low) == set(learned.thresholds.high) == {None}
    assert "more data still teaches" in learned.why
    assert "--keep overrules it" in learned.why


def test_auto_does_not_take_a_probe_with_too_few_samples_for_one_that_has_learned_all():
    few = observed(n=30, classes=25, unlearned=1.0)
    blind = replace(few, features=np.random.default_rng(0).normal(size=few.features.shape))
    assert learn(blind, "auto", seed=0).keep == 1


def test_auto_is_never_below_the_break_even_by_hand():
    seen = mastered(n=500, hard=0.004, seed=2)
    seen = replace(seen, score=seen.score + 0.2 * np.random.default_rng(0).random(500))
    by_score = np.cumsum(seen.signal[np.argsort(-seen.score)])
    gain = by_score - np.arange(1, 501) / 500
    s = by_score[gain.argmax()]
    first = (gain >= gain.max() - np.sqrt(s * (1 - s) / 500)).argmax()
    learned = learn(seen, "auto", seed=0)
    assert learned.keep >= (first + 1) / 500 - 0.015


@given(st.integers(1, 90), st.floats(0.05, 1.5), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_more_errors_cost_more_and_keeping_more_costs_less(wrong, exponent, seed):
    signal = np.sqrt(GRID)

    def ends(wrong):
        return loss(wrong, 100, GRID, signal, 50, np.full(20, exponent), seed)

    for few, many in zip(ends(wrong), ends(min(wrong + 5, 100)), strict=True):
        assert (np.diff(few) <= 1e-12).all()
        assert few[-1] == pytest.approx(0, abs=1e-12)
        assert (many >= few).all()
    expected, upper = ends(wrong)
    assert (upper >= expected - 1e-12).all()


def test_the_worst_length_of_a_stream_is_that_of_algebra():
    """Error ∝ 1/n: the loss of a share s has its maximum (1 - √s) / (1 + √s) at 1/√s."""
    many, share = 10**9, (GRID + COUNTED * (np.sqrt(GRID) - GRID))
    expected, upper = loss(many // 5, many, GRID, np.sqrt(GRID), many, np.full(20, 1 / NET), seed=0)
    by_hand = 0.2 * (1 - np.sqrt(share)) / (1 + np.sqrt(share))
    np.testing.assert_allclose(expected, by_hand, rtol=0.02, atol=1e-5)
    np.testing.assert_allclose(upper, expected, rtol=0.01, atol=1e-5)


def test_the_curve_rises_to_everything_and_random_is_beside_it():
    learned = learn(observed(), 0.5, seed=0)
    expected = [point.expected for point in learned.curve]
    assert expected == sorted(expected)
    assert expected[-1] == pytest.approx(learned.full)
    assert all(p.expected >= p.random for p in learned.curve)
    assert learned.curve[-1].keep == 1
    assert learned.curve[-1].signal == pytest.approx(1)


def test_the_signal_is_that_of_the_labels():
    seen = observed(n=50)
    p = np.exp(seen.logits - seen.logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    by_hand = np.array([((p[i] - np.eye(4)[y]) ** 2).sum() for i, y in enumerate(seen.labels)])
    np.testing.assert_allclose(seen.signal, by_hand / by_hand.sum(), atol=1e-6)


def test_one_band_per_class_keeps_the_mix_of_classes_whatever_their_scales():
    seen = observed(n=4 * ENOUGH * 4)
    scaled = Observed(seen.score * 10.0**seen.predicted, seen.logits, seen.features, seen.labels)
    thresholds = learn(scaled, 0.3, seed=0).thresholds
    assert len(set(thresholds.low)) == 4
    shares = [kept(scaled, thresholds)[scaled.predicted == c].mean() for c in range(4)]
    np.testing.assert_allclose(shares, 0.3, atol=0.02)


def test_one_band_for_all_where_a_class_of_its_own_would_cost_signal():
    seen = observed(n=2000)
    # All the signal is in one class: a quota for each of the others would waste the budget.
    easy = seen.predicted != 0
    logits = np.where(easy[:, None], 9.0 * np.eye(4)[seen.labels], seen.logits)
    skewed = Observed(np.where(easy, 0.1, 1.0) * seen.score, logits, seen.features, seen.labels)
    assert len(set(learn(skewed, 0.15, seed=0).thresholds.low)) == 1


def test_rare_classes_share_a_band():
    seen = observed(n=2 * ENOUGH)
    assert np.bincount(seen.predicted, minlength=4).max() < ENOUGH
    assert len(set(learn(seen, 0.3, seed=0).thresholds.low)) == 1


def test_same_seed_same_thresholds():
    assert learn(observed(), "auto", 5) == learn(observed(), "auto", 5)


@pytest.mark.parametrize("keep", [0, -0.1, 1.2, float("nan")])
def test_a_fraction_that_is_none(keep):
    with pytest.raises(UserError, match="expected a fraction"):
        learn(observed(), keep, seed=0)


@pytest.mark.needs("scikit-learn")
def test_the_learning_curve_is_that_of_a_ridge_probe():
    seen = observed(n=900)
    curve = learning_curve(seen.features, seen.labels, seed=0)
    assert curve(0.0) <= curve(0.5) <= curve(1.0)
    # Independent: scikit-learn's ridge on the same kind of split.
    from sklearn.linear_model import RidgeClassifier

    order = np.random.default_rng(0).permutation(900)
    probe = RidgeClassifier(alpha=3.0).fit(seen.features[order[:600]], seen.labels[order[:600]])
    reference = probe.score(seen.features[order[600:]], seen.labels[order[600:]])
    assert abs(curve(1.0) - reference) < 0.03


def test_many_features_are_never_a_system_as_large(monkeypatch):
    """2,048 features took 46 s of CPU: what is solved must not grow with them."""
    seen = observed(n=90)
    wide = np.concatenate([seen.features, np.random.default_rng(1).normal(size=(90, 2018))], 1)
    assert wide.shape[1] == 2048
    sizes, solve = [], np.linalg.solve

    def counted(a, b):
        sizes.append(len(a))
        return solve(a, b)

    monkeypatch.setattr(np.linalg, "solve", counted)
    learned = learn(replace(seen, features=wide), 0.5, seed=0)
    assert len(sizes) >= 200
    assert max(sizes) <= MOST + 1
    assert learned.full > 0.25


def test_main_directions_keep_what_the_probe_needs():
    """Where fewer directions than features hold all the variance, nothing is lost."""
    seen = observed(n=400)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(600, 30)))[0].T
    wide = replace(seen, features=seen.features @ turned)
    assert learning_curve(wide.features, wide.labels, seed=0)(1.0) == pytest.approx(
        learning_curve(seen.features, seen.labels, seed=0)(1.0), abs=0.05
    )


def test_signal_of_several_classes_at_once_is_that_of_sigmoids():
    seen = replace(observed(n=50), head="sigmoid")
    p = 1 / (1 + np.exp(-seen.logits))
    by_hand = ((p - np.eye(4)[seen.labels]) ** 2).sum(axis=1)
    np.testing.assert_allclose(seen.signal, by_hand / by_hand.sum(), atol=1e-6)
