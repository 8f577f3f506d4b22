"""The NumPy reference: its closed form, its definitions, and its limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dripgate import heatmap

maps = arrays(np.float32, (3, 4, 5), elements=st.floats(0, 100, width=32, allow_subnormal=False))


@pytest.mark.parametrize("objective", ["evidence", "loss"])
@pytest.mark.parametrize("sign", [1, -1])
def test_closed_form_equals_the_general_one(objective, sign):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(6, 8, 4, 5)).astype(np.float32)
    W, b = rng.normal(size=(3, 8)), rng.normal(size=3)
    logits = A.mean((2, 3)) @ W.T + b
    # d objective / dA of a GAP + linear head, written out cell by cell
    gradient = heatmap.objective_gradient(logits, objective) @ W / 20
    gradients = np.broadcast_to(gradient[:, :, None, None], A.shape)
    expected = heatmap.heatmap(A, gradients, sign)
    found = heatmap.heatmap_of_linear_head(A, W, b, objective, sign)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.max() > 0


def test_gradient_of_the_loss_matches_finite_differences():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(5, 4))
    predicted = logits.argmax(1)

    def loss(z):
        z = z - z.max(1, keepdims=True)
        return -(z[np.arange(5), predicted] - np.log(np.exp(z).sum(1)))

    step = 1e-6
    for c in range(4):
        moved = logits.copy()
        moved[:, c] += step
        slope = (loss(moved) - loss(logits)) / step
        np.testing.assert_allclose(
            heatmap.objective_gradient(logits, "loss")[:, c], slope, atol=1e-4
        )


@given(maps)
def test_area_is_a_share_and_does_not_depend_on_scale(heatmaps):
    area = heatmap.statistic(heatmaps, "area")
    assert ((area >= 0) & (area <= 1 + 1e-6)).all()
    empty = heatmaps.reshape(3, -1).max(1) == 0
    assert (area[empty] == 0).all()
    bright = heatmaps.reshape(3, -1).max(1) > 1e-3
    np.testing.assert_allclose(
        heatmap.statistic(heatmaps * 4, "area")[bright], area[bright], rtol=1e-4
    )


@given(maps)
def test_scores_follow_their_definition(heatmaps):
    flat = heatmaps.reshape(3, 20).astype(np.float64)
    by_hand = {"mean": flat.mean(1), "max": flat.max(1)}
    for spec in heatmap.SCORES.values():
        if spec.statistic in by_hand:
            np.testing.assert_allclose(
                heatmap.score(heatmaps, spec),
                spec.direction * by_hand[spec.statistic],
                rtol=1e-5,
                atol=1e-30,
            )


def test_a_flat_map_has_area_one_and_a_single_cell_its_share():
    flat, single = np.ones((1, 4, 4)), np.zeros((1, 4, 4))
    single[0, 1, 2] = 7
    assert heatmap.statistic(flat, "area")[0] == 1
    assert heatmap.statistic(single, "area")[0] == 1 / 16


def test_the_heatmap_is_rectified_and_never_normalised():
    A = np.ones((1, 2, 3, 3), np.float32)
    G = np.stack([np.full((3, 3), 2.0), np.full((3, 3), -0.5)])[None]
    np.testing.assert_allclose(heatmap.heatmap(A, G, +1), np.full((1, 3, 3), 1.5))
    np.testing.assert_allclose(heatmap.heatmap(A, G, -1), np.zeros((1, 3, 3)))
