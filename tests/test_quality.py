"""Quality: broken samples look unlike the calibration samples, more or less light does not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dripgate import quality
from dripgate.bench.conditions import AUDIO_FAULTS, IMAGE_FAULTS
from dripgate.data import Split
from dripgate.fitting.reference import ALIEN, learn_quality_range
from dripgate.graph.measure import run, session
from dripgate.graph.prepare import preparation_model
from dripgate.types import AudioInput, ImageInput, LogMel, Normalize, Typical

IMAGE = ImageInput(height=32, width=32, channels=3)
NORMALIZE = Normalize(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
AUDIO = AudioInput(rate=8000, length=4000)
LOGMEL = LogMel(window=256, hop=128, bins=20, low=20, high=4000, mean=0, std=3)


def pictures(n: int, seed: int = 0) -> np.ndarray:
    """Blobs of colour on colour, as photographs are: smooth parts, edges, some texture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    found = []
    for _ in range(n):
        image = np.full((32, 32, 3), rng.uniform(60, 180, 3))
        for _ in range(4):
            cy, cx, r = rng.uniform((4, 4, 3), (28, 28, 9))
            image[(y - cy) ** 2 + (x - cx) ** 2 < r**2] = rng.uniform(30, 220, 3)
        found.append(image + rng.normal(0, 6, image.shape))
    return np.clip(found, 0, 255).astype(np.uint8)


def recordings(n: int, seed: int = 0) -> np.ndarray:
    """A tone that swells and fades over room noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(4000) / 8000
    found = []
    for _ in range(n):
        pitch, start = rng.uniform(200, 1500), rng.uniform(0.05, 0.3)
        swell = np.exp(-(((t - start) / 0.06) ** 2))
        tone = 8000 * swell * np.sin(2 * np.pi * pitch * t)
        found.append(tone + rng.normal(0, 40, len(t)))
    return np.array(found).astype(np.int16)


def split(x: np.ndarray) -> Split:
    ids = np.arange(len(x)).astype(str)
    zeros = np.zeros(len(x), np.int64)
    return Split.of(x, zeros, ids, [""] * len(x), zeros)


def found_broken(x: np.ndarray, sound, preprocessing, spec) -> np.ndarray:
    prepare = session(preparation_model(preprocessing, spec))
    (inputs,) = run(prepare, {"samples": x}, ["planes"])
    return quality.quality(quality.statistics(inputs), sound.typical) < sound.quality_low


KINDS = {
    "image": (pictures, IMAGE_FAULTS, NORMALIZE, IMAGE),
    "audio": (recordings, AUDIO_FAULTS, LOGMEL, AUDIO),
}


@pytest.mark.parametrize("kind", KINDS)
def test_broken_samples_are_told_from_sound_ones(kind):
    make, faults, preprocessing, spec = KINDS[kind]
    sound = learn_quality_range(split(make(400)), preprocessing, spec, 2, seed=0)
    fresh = make(200, seed=1)
    assert found_broken(fresh, sound, preprocessing, spec).mean() <= 0.04
    rng = np.random.default_rng(2)
    for name, fault in faults.items():
        broken = np.stack([fault(one, rng) for one in fresh])
        assert found_broken(broken, sound, preprocessing, spec).mean() >= 0.9, name


def test_less_light_is_not_broken():
    sound = learn_quality_range(split(pictures(400)), NORMALIZE, IMAGE, 2, seed=0)
    dim = (pictures(200, seed=1) * 0.6).astype(np.uint8)
    assert found_broken(dim, sound, NORMALIZE, IMAGE).mean() <= 0.05


def test_the_range_leaves_out_as_many_as_it_says():
    x = pictures(400)
    sound = learn_quality_range(split(x), NORMALIZE, IMAGE, 2, seed=0)
    assert found_broken(x, sound, NORMALIZE, IMAGE).mean() <= 3 * ALIEN
    assert sound.low == sound.high == (None, None)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(3, 6, 5), (1, 1, 9), (4, 7), (8,), (2, 73, 96)]), st.integers(0, 2**32 - 1),
    st.floats(0.01, 100),
)  # fmt: skip
def test_statistics_by_hand(shape, seed, scale):
    x = (np.random.default_rng(seed).normal(size=(3, *shape)) * scale).astype(np.float32)
    found = quality.statistics(x)
    for one, statistics in zip(x.astype(np.float64), found, strict=True):
        planes = one.reshape((1,) * (3 - one.ndim) + one.shape)
        parts: list[list[float]] = [[], [], []]
        down, across = (max(2, side // 24) for side in planes.shape[1:])
        for plane in planes:
            for i in range(0, max(plane.shape[0] - 1, 1), down):
                for j in range(0, max(plane.shape[1] - 1, 1), across):
                    a = plane[i, j]
                    parts[0].append(a)
                    parts[1].append(plane[i, j + 1] - a if plane.shape[1] > 1 else 0)
                    parts[2].append(plane[i + 1, j] - a if plane.shape[0] > 1 else 0)
        spread = [np.abs(np.array(part) - np.mean(part)).mean() for part in parts]
        expected = [np.mean(parts[0]), *np.log(np.array(spread) + quality.FLOOR)]
        np.testing.assert_allclose(statistics, expected, rtol=2e-3, atol=2e-3)


def test_calibration_samples_are_at_the_usual_distance():
    values = np.random.default_rng(0).normal(size=(500, 4)) @ np.diag([1, 10, 0.1, 3.0]) + 5
    typical = quality.learn(values.astype(np.float32))
    away = (1 / quality.quality(values, typical) - 1) * 4  # d²
    assert away.mean() == pytest.approx(4, rel=0.05)
    centre = np.array([typical.centre])
    assert quality.quality(centre, typical)[0] == 1


def test_everything_is_typical_before_anything_was_learned():
    assert quality.quality(np.full((2, 4), 1e6), Typical()).tolist() == [1, 1]
