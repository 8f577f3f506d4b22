"""Conditions do what their names say, to images and to audio, the same for the same seed."""

from typing import get_args

import numpy as np
import pytest

from dripgate.bench.conditions import COPIES, Condition, arrange
from dripgate.data import Split

CLASSES = 6


def split(n, shape, dtype, seed):
    rng = np.random.default_rng(seed)
    if dtype == np.uint8:
        x = rng.integers(20, 200, (n, *shape)).astype(dtype)
    else:  # a slow tone each: moved a little, it is still the same
        turns = rng.uniform(2, 8, (n, 1)) * np.linspace(0, 2 * np.pi, *shape)
        x = (9000 * np.sin(turns + rng.uniform(0, 6, (n, 1)))).astype(dtype)
    ids = np.arange(n).astype(str)
    return Split.of(x, rng.integers(0, CLASSES, n), ids, [""] * n, np.full(n, 10))


KINDS = {"image": ((12, 10, 3), np.uint8), "audio": ((800,), np.int16)}


@pytest.fixture(params=KINDS)
def parts(request):
    shape, dtype = KINDS[request.param]
    return [split(n, shape, dtype, seed) for seed, n in enumerate((300, 600, 200))]


def _arrays(scene):
    return [scene.initial.y, scene.stream.x, scene.returned, scene.test.x]


def _differ(a, b):
    return a.shape != b.shape or (a != b).any()


@pytest.mark.parametrize("condition", get_args(Condition))
def test_same_seed_same_scene(parts, condition):
    one, two, other = (arrange(condition, *parts, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.stream.x, two.stream.x)
    np.testing.assert_array_equal(one.returned, two.returned)
    assert one.stream.x.dtype == parts[1].x.dtype
    if condition != "clean":
        assert any(_differ(a, b) for a, b in zip(_arrays(one), _arrays(other), strict=True))


def test_clean_changes_nothing(parts):
    scene = arrange("clean", *parts, 0)
    np.testing.assert_array_equal(scene.stream.x, parts[1].x)
    np.testing.assert_array_equal(scene.returned, parts[1].y)
    assert len(np.unique(scene.scene)) == 600
    assert not scene.broken.any()


@pytest.mark.parametrize(("condition", "share"), [("broken10", 0.1), ("broken30", 0.3)])
def test_the_share_is_broken_and_the_rest_is_not_touched(parts, condition, share):
    scene = arrange(condition, *parts, 0)
    assert scene.broken.mean() == pytest.approx(share, abs=0.05)
    changed = (scene.stream.x != parts[1].x).reshape(600, -1).any(axis=1)
    np.testing.assert_array_equal(changed, scene.broken)
    np.testing.assert_array_equal(scene.returned, parts[1].y)


def test_a_tenth_of_the_labels_comes_back_wrong(parts):
    scene = arrange("label_noise", *parts, 0)
    assert (scene.returned != scene.stream.y).mean() == pytest.approx(0.1, abs=0.04)
    np.testing.assert_array_equal(scene.stream.y, parts[1].y)


def test_the_long_tail_is_long(parts):
    counts = np.sort(np.bincount(arrange("long_tail", *parts, 0).stream.y, minlength=CLASSES))
    assert counts[0] < 0.2 * counts[-1]
    assert counts[-1] > 60


def test_near_duplicates_are_near(parts):
    scene = arrange("duplicates", *parts, 0)
    assert np.bincount(scene.scene).tolist() == [COPIES] * (600 // COPIES)
    first, second = scene.stream.x[:2].astype(float)
    assert scene.scene[0] == scene.scene[1]
    assert (first != second).any()
    moved = np.abs(first - second).mean()
    assert moved < np.abs(first - scene.stream.x[COPIES].astype(float)).mean()


def test_the_new_class_is_new(parts):
    scene = arrange("new_class", *parts, 0)
    assert len(set(scene.initial.y)) == CLASSES - 1
    assert len(set(scene.stream.y)) == CLASSES


def test_drift_grows(parts):
    scene = arrange("drift", *parts, 0)
    change = np.abs(scene.stream.x.astype(float) - parts[1].x).reshape(600, -1).mean(axis=1)
    assert change[:100].mean() < 0.5 * change[-100:].mean()
    assert (scene.test.x != parts[2].x).any()
