"""Near-duplicates: the same scene is kept once, others are not taken for it."""

import numpy as np
import pytest

from dripgate.policy import Policy, Rules
from dripgate.policy.duplicates import SIZE, Duplicates, distances, radius
from dripgate.types import Decision, Reason


def kept(verdicts):
    return np.array([v.decision is Decision.KEEP for v in verdicts])


def scenes(rng, n, width=64):
    """Pooled activations: none is negative, all have much in common."""
    return np.maximum(rng.normal(0.5, 1, size=(n, width)), 0)


@pytest.mark.parametrize("width", [8, 32, 64, 600])
def test_a_static_camera_stores_a_handful(stream_of, info, width):
    rng = np.random.default_rng(0)
    frames = np.repeat(scenes(rng, 2, width), 1800, axis=0)
    frames = frames * (1 + rng.normal(0, 0.02, frames.shape))
    rules = Rules(audit=0, floor=0)
    verdicts = stream_of(np.full(3600, 2.0), embeddings=frames).through(Policy(rules, info))
    assert 2 <= kept(verdicts).sum() <= 4
    assert {v.reason for v in verdicts if not v.stored} == {Reason.DUPLICATE}
    assert {v.propensity for v in verdicts if not v.stored} == {0.0}


def test_what_stays_in_view_is_not_forgotten(stream_of, info):
    """One scene among ten times as many others as the memory holds."""
    rng = np.random.default_rng(1)
    n = 10 * SIZE
    frames = scenes(rng, n)
    frames[::4] = frames[0]
    verdicts = stream_of(np.full(n, 2.0), embeddings=frames).through(
        Policy(Rules(audit=0, floor=0), info)
    )
    assert kept(verdicts)[::4].sum() == 1
    others = np.arange(n) % 4 > 0
    assert kept(verdicts)[others].all()


@pytest.mark.parametrize("width", [16, 100])
def test_the_distance_is_that_of_distinct_calibration_samples(width):
    """A twentieth of other distinct scenes is as near to one of 64; repeats are much nearer."""
    rng = np.random.default_rng(5)
    known = distances(scenes(rng, 1500, width).astype(np.float32))
    assert len(known) == 101
    nearness = radius(known, 0.05)
    memory = Duplicates(nearness)
    points = memory.points(scenes(rng, 3000, width).astype(np.float32))
    lost = 0
    for i, point in enumerate(points):
        same = memory.find(*point)
        lost += same is not None and i >= SIZE
        memory.add(*point)  # all are distinct, and all are remembered
    assert lost / (3000 - SIZE) == pytest.approx(0.05, abs=0.02)
    assert radius(known, 0.01) < nearness < radius(known, 0.2)


def test_apart_is_the_distance_to_the_nearest():
    known = distances(np.array([[0, 3], [4, 0], [0, 3.0]], np.float32))  # two are the same
    assert known[0] == known[50] == 0
    assert known[100] == pytest.approx(5 / np.sqrt((9 + 16) / 2), rel=1e-3)
    assert distances(np.ones((1, 4), np.float32)) == ()
    assert distances(np.zeros((5, 4), np.float32)) == (0.0,) * 101


def test_apart_does_not_depend_on_the_order_of_the_data():
    """Folders give one class after the other; a stream does not."""
    rng = np.random.default_rng(9)
    centres = 10 * scenes(rng, 10, 16)
    mixed = np.repeat(centres, 200, axis=0) + scenes(rng, 2000, 16)
    by_class, shuffled = (distances(x.astype(np.float32)) for x in (mixed, rng.permutation(mixed)))
    assert by_class[5:95] == pytest.approx(shuffled[5:95], rel=0.1)


def test_without_calibration_or_asked_for_nothing_is_a_duplicate():
    assert radius((), 0.05) == 0
    assert radius((0.1,) * 101, 0.0) == 0
    assert radius(tuple(np.arange(101) / 100), 0.055) == pytest.approx(0.055)


def test_another_nets_lengths_change_nothing():
    """Distances are relative: activations a hundredfold are as near to each other."""
    some = scenes(np.random.default_rng(6), 300, 20).astype(np.float32)
    assert distances(some) == pytest.approx(distances(100 * some), rel=0.02)


def test_repeats_do_not_call_for_the_floor(stream_of, info):
    """A class of which all that comes is stored already has not dried up."""
    rng = np.random.default_rng(8)
    n = 3000
    frames, scores = scenes(rng, n), np.full(n, 0.01)
    frames[::2], scores[::2] = frames[0], 2.0
    stream = stream_of(scores, np.zeros(n, int), embeddings=frames)
    verdicts = stream.through(Policy(Rules(audit=0, floor=0.25, duplicates=0.05), info))
    floor = sum(v.reason is Reason.FLOOR for v in verdicts)
    assert 0.08 * n / 2 < floor < 0.13 * n / 2  # 0.25 · 0.4 of the samples that are no repeats


def test_off_is_off(stream_of, info):
    frames = np.ones((100, 8))
    rules = Rules(audit=0, duplicates=0)
    assert kept(stream_of(np.full(100, 2.0), embeddings=frames).through(Policy(rules, info))).all()


def test_an_audited_duplicate_is_kept_with_the_audits_propensity(stream_of, info):
    frames = np.ones((3000, 8))
    rules = Rules(audit=0.05, floor=0)
    verdicts = stream_of(np.full(3000, 2.0), embeddings=frames).through(Policy(rules, info))
    audited = [v for v in verdicts if v.reason is Reason.AUDIT]
    assert 100 < len(audited) < 200
    assert {v.propensity for v in audited} == {0.05}


def test_embeddings_without_a_number_are_nothings_duplicate(stream_of, info):
    frames = np.full((20, 8), 1.0)
    frames[:10] = np.nan
    verdicts = stream_of(np.full(20, 2.0), embeddings=frames).through(Policy(Rules(audit=0), info))
    assert kept(verdicts)[:10].all()
    assert kept(verdicts)[10:].sum() == 1


def test_dark_frames_are_the_same_scene(stream_of, info):
    frames = np.zeros((10, 8))
    verdicts = stream_of(np.full(10, 2.0), embeddings=frames).through(Policy(Rules(audit=0), info))
    assert kept(verdicts).sum() == 1


def test_the_memory_is_bounded_and_restores_exactly():
    rng = np.random.default_rng(2)
    memory = Duplicates(0.1)
    for point in memory.points(scenes(rng, 200, 100).astype(np.float32)):
        if memory.find(*point) is None:
            memory.add(*point)
    packed = memory.pack()
    assert sum(map(len, packed[1:])) < 5000
    again = Duplicates(0.1)
    again.unpack(*packed)
    assert again.pack() == packed


@pytest.mark.parametrize("width", [7, 32, 33, 64, 500])
def test_points_are_the_same_alone_as_in_a_batch(width):
    embeddings = np.random.default_rng(3).normal(size=(50, width)).astype(np.float32)
    memory = Duplicates(0.1)
    together = memory.points(embeddings)
    for i, (point, squared) in enumerate(together):
        ((alone, length),) = memory.points(embeddings[i : i + 1])
        assert alone.tobytes() == point.tobytes()
        assert length == squared


def test_folding_keeps_distances_well_enough():
    pairs = np.maximum(np.random.default_rng(4).normal(size=(2, 400, 512)), 0)
    pairs = pairs.astype(np.float32)
    true = ((pairs[0] - pairs[1]) ** 2).sum(axis=1)
    memory = Duplicates(0.1)
    a, b = ([p for p, _ in memory.points(side)] for side in pairs)
    folded = np.array([((p - q) ** 2).sum() for p, q in zip(a, b, strict=True)])
    assert np.median(folded / true) == pytest.approx(1, abs=0.1)
    assert (folded / true).std() < 0.35
