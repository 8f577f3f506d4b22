"""Rules: no look ahead, no labels, and what the gate itself would decide."""

from needs import need

need("torch", "scikit-activeml")

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dripgate.bench import diverse
from dripgate.bench.hold import held
from dripgate.bench.plan import plan_for
from dripgate.bench.protocol import Bench, alone
from dripgate.bench.rules import RULES, _even, inside
from dripgate.types import Decision
from prefix import Prefix

ONE_PASS = [name for name, rule in RULES.items() if rule.passes == 1]


@pytest.fixture(scope="module")
def made():
    with alone():
        yield Bench("digits", plan_for("digits", "quick"), 0).under("clean")


@pytest.mark.parametrize("name", ONE_PASS)
def test_what_comes_later_changes_nothing(made, name):
    task = made.task(0.3, made.scene.stream.y)
    whole = RULES[name].choose(task)
    n = 400
    part = RULES[name].choose(task._replace(stream=Prefix(task.stream, n), labels=task.labels[:n]))
    np.testing.assert_array_equal(part, whole[:n])


@pytest.mark.parametrize("name", [n for n, rule in RULES.items() if not rule.needs_labels])
def test_labels_change_nothing_for_rules_that_need_none(made, name):
    choose = RULES[name].choose
    np.testing.assert_array_equal(
        choose(made.task(0.3)), choose(made.task(0.3, made.scene.stream.y))
    )


@pytest.mark.parametrize("name", ["el2n", "coverage"])
def test_labels_matter_to_references(made, name):
    with_labels = RULES[name].choose(made.task(0.3, made.scene.stream.y))
    wrong = RULES[name].choose(made.task(0.3, (made.scene.stream.y + 1) % 10))
    assert (with_labels != wrong).any()


def test_arithmetic_agrees_with_the_gate(made):
    gate = made.first.gate.info
    by_hand = inside(gate.thresholds, made.stream, gate.score)
    decided = [verdict.decision is Decision.KEEP for verdict in made.stream.verdicts]
    np.testing.assert_array_equal(by_hand, decided)
    assert 0 < by_hand.mean() < 1


def test_the_gates_score_is_autograds(made):
    theirs, ours = made.stream._scores[made.first.gate.info.score], made.stream.score("loss_mean")
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_a_share_is_held_whatever_the_scores(keep, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=1500) + np.linspace(0, rng.normal() * 3, 1500)
    kept = held(values, rng.normal(size=100), keep, rng)
    assert kept.mean() == pytest.approx(keep, abs=0.05)
    assert values[kept].mean() > values[~kept].mean()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.01, 1), min_size=2, max_size=12), st.floats(0.01, 1),
)  # fmt: skip
def test_chances_spread_the_share_evenly_over_classes(weights, keep):
    shares = np.array(weights) / sum(weights)
    chance = _even(shares, keep)
    assert (chance <= 1 + 1e-9).all()
    assert (chance * shares).sum() == pytest.approx(keep, abs=1e-6)
    filled = (chance * shares)[chance < 1 - 1e-9]
    if len(filled):
        np.testing.assert_allclose(filled, filled[0], rtol=1e-6)
        assert (shares[chance >= 1 - 1e-9] <= filled[0] + 1e-9).all()


def clusters(sizes, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(sizes), 16)) * 3
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rng.shuffle(labels)
    return labels, (centres[labels] + rng.normal(size=(len(labels), 16)) * 0.2).astype(np.float32)


@pytest.mark.parametrize("name", ["novelty", "sieve"])
def test_variety_is_kept_more_than_its_share(name):
    labels, embedding = clusters([900, 50, 50])
    rng = np.random.default_rng(0)
    kept = (
        diverse.novelty(embedding, 0.2, rng)
        if name == "novelty"
        else diverse.three_sieves(embedding, embedding[:100], 0.2)
    )
    assert kept.mean() == pytest.approx(0.2, abs=0.03)
    assert kept[labels > 0].mean() > 1.5 * kept[labels == 0].mean()


@pytest.mark.parametrize("keep", [0.1, 0.3])
def test_vessal_holds_its_rate_where_few_samples_have_the_volume(keep):
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(3000, 16)).astype(np.float32)
    logits = rng.normal(size=(3000, 4)) * np.where(rng.random(3000) < 0.1, 1, 12)[:, None]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    kept = diverse.vessal(embedding, p, keep, np.random.default_rng(1))
    assert kept.mean() == pytest.approx(keep, abs=0.03)
    unsure = p.max(axis=1) < 0.9
    assert kept[unsure].mean() > kept[~unsure].mean()
