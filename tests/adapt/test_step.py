"""The online step: what C does, in NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dripgate.adapting.step import PULL, RATE, UNLABELLED, Head, Ring, learn


def _head(classes: int = 4, width: int = 6, kind: str = "softmax") -> Head:
    rng = np.random.default_rng(0)
    return Head.of(rng.normal(size=(classes, width)), rng.normal(size=classes), kind, 2.0)


@pytest.mark.parametrize(("classes", "kind"), [(4, "softmax"), (4, "sigmoid"), (1, "softmax")])
def test_a_step_goes_down_the_gradient_of_the_cross_entropy(classes, kind):
    h, label = np.random.default_rng(1).normal(size=6).astype(np.float32), 1

    def loss(weight, bias):
        z = weight @ h + bias
        if kind == "sigmoid" or classes == 1:
            target = np.zeros(classes)
            target[0 if classes == 1 else label] = 1
            return float((np.logaddexp(0, z) - target * z).sum())
        return float(np.log(np.exp(z).sum()) - z[label])

    head = _head(classes, kind=kind)
    weight, bias = head.weight.astype(float), head.bias.astype(float)
    slope = np.zeros_like(weight)
    for index in np.ndindex(weight.shape):
        moved = weight.copy()
        moved[index] += 1e-5
        slope[index] = (loss(moved, bias) - loss(weight, bias)) / 1e-5
    head.step(h, label, 0.1, 0.0)
    share = 0.1 / (1 + h @ h / 2.0) / 2.0
    np.testing.assert_allclose(head.weight, weight - share * slope, rtol=1e-3, atol=1e-5)


@given(st.floats(1e-3, 1e4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_a_step_is_bounded_whatever_the_feature_is(size, label):
    head = _head()
    before = head.weight.copy()
    head.step(np.full(6, size, np.float32), label, RATE, 0.0)
    assert np.isfinite(head.weight).all()
    assert np.linalg.norm(head.weight - before) <= RATE * 2**0.5 / 2**0.5 / 2  # over 2 · sqrt(2)


def test_the_pull_leads_back_to_the_deployed_head():
    head = _head()
    first = head.weight.copy()
    head.weight += 1
    for _ in range(5000):
        head.step(np.zeros(6), 0, 0.0, PULL)
    assert np.abs(head.weight - first).max() < 0.01


def test_learning_takes_labelled_entries_in_turn_each_followed_by_the_memory():
    rng = np.random.default_rng(2)
    features, vectors = rng.normal(size=(5, 6)), rng.normal(size=(3, 6))
    ring = Ring(features, [2, UNLABELLED, 0, UNLABELLED, 1], [1.0, 9.0, 20.0, 1.0, 0.5], cursor=1)
    head, expected = _head(), _head()
    assert learn(head, ring, (vectors, np.array([0, 1, 2])), steps=4) == 4
    mean = (1 + 10 + 1) / 3
    for slot, weight, vector in ((2, 10, 0), (4, 1, 1), (0, 1, 2), (2, 10, 0)):
        label = ring.classes[slot]
        expected.step(features[slot], label, RATE * weight / mean, PULL)
        expected.step(vectors[vector], vector, RATE, 0.0)
    np.testing.assert_allclose(head.weight, expected.weight, rtol=1e-5)
    assert (ring.cursor, ring.replay) == (3, 1)


def test_without_a_label_nothing_is_learned():
    head, ring = _head(), Ring(np.ones((2, 6)), [UNLABELLED] * 2, [1.0, 1.0])
    before = head.weight.copy()
    assert learn(head, ring, (np.zeros((0, 6)), np.zeros(0))) == 0
    np.testing.assert_array_equal(head.weight, before)
