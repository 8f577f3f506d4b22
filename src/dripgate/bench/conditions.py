"""What is done to a stream: the same kinds of trouble for images and audio, drawn from one seed.

All of them change arrays as a device decodes them, so that every data set has them. Labels that
come back are the scene's: a black frame that was kept is trained on with the label it would have
had, which is what makes keeping it harmful.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal
from zlib import crc32

import numpy as np
from scipy.ndimage import gaussian_filter

from dripgate.data import Split
from dripgate.types import Array

Condition = Literal[
    "clean", "broken10", "broken30", "label_noise", "long_tail", "duplicates", "new_class", "drift"
]
#: Conditions that the first model has met too: it is another one.
OTHER_BEGINNING: tuple[Condition, ...] = ("long_tail", "new_class")
NOISY_LABELS = 0.1
#: The rarest class of the long tail has this share of the samples of the commonest.
RAREST = 0.05
COPIES = 5


@dataclass(frozen=True, eq=False)
class Part:
    """Samples x (n, …) with their true classes y (n,)."""

    x: Array
    y: Array


@dataclass(frozen=True, eq=False)
class Scene:
    """The initial labelled part, the stream as it arrives, and the test part.

    returned: the label that each stream sample comes back with, (n,). broken: whether it is a
    broken frame. scene: samples of the same number show the same thing. sizes: payload bytes.
    """

    initial: Part
    stream: Part
    test: Part
    returned: Array
    broken: Array
    scene: Array
    sizes: Array


def arrange(condition: Condition, initial: Split, stream: Split, test: Split, seed: int) -> Scene:
    """The three parts under a condition, the same for the same seed."""
    rng = np.random.default_rng([seed, crc32(condition.encode())])
    classes = int(test.y.max()) + 1
    if condition == "long_tail":
        shares = RAREST ** (rng.permutation(classes) / (classes - 1))
        initial, stream = (_thinned(part, shares, rng) for part in (initial, stream))
    elif condition == "new_class":
        initial = initial.take(initial.y != rng.integers(classes))
    elif condition == "duplicates":
        stream = stream.take(np.arange(len(stream) // COPIES).repeat(COPIES))
    scene = _plain(initial, stream, test)
    change = _CHANGES.get(condition)
    return change(scene, rng) if change else scene


def _plain(initial: Split, stream: Split, test: Split) -> Scene:
    return Scene(
        Part(initial.x, initial.y), Part(stream.x, stream.y), Part(test.x, test.y),
        returned=stream.y, broken=np.zeros(len(stream), bool),
        scene=np.unique(stream.rows, return_inverse=True)[1], sizes=stream.sizes,
    )  # fmt: skip


def _thinned(part: Split, shares: Array, rng: np.random.Generator) -> Split:
    """Each class cut down to its share, ``shares`` (C,) relative to the fullest."""
    return part.take(rng.random(len(part)) < shares[part.y])


def _relabelled(scene: Scene, rng: np.random.Generator) -> Scene:
    """A tenth of the labels come back as another class, any of them alike."""
    classes = int(scene.test.y.max()) + 1
    wrong = rng.random(len(scene.returned)) < NOISY_LABELS
    other = (scene.returned + rng.integers(1, classes, len(wrong))) % classes
    return replace(scene, returned=np.where(wrong, other, scene.returned))


def _broken(share: float) -> Callable[[Scene, np.random.Generator], Scene]:
    def change(scene: Scene, rng: np.random.Generator) -> Scene:
        broken = rng.random(len(scene.stream.y)) < share
        x = scene.stream.x.copy()
        kinds = AUDIO_FAULTS if x.ndim == 2 else IMAGE_FAULTS
        names = list(kinds)
        for i in np.flatnonzero(broken):
            x[i] = kinds[names[rng.integers(len(names))]](x[i], rng)
        return replace(scene, stream=replace(scene.stream, x=x), broken=broken)

    return change


def _jittered(scene: Scene, rng: np.random.Generator) -> Scene:
    """Every copy as a camera or microphone sees it: moved a little, a little brighter, noisy."""
    x = np.stack([jitter(one, rng) for one in scene.stream.x])
    return replace(scene, stream=replace(scene.stream, x=x))


def _drifting(scene: Scene, rng: np.random.Generator) -> Scene:
    """The world changes from the first sample to the last; the test part is of all its times."""
    n, tested = len(scene.stream.y), len(scene.test.y)
    stream = drifted(scene.stream.x, np.arange(n) / n, rng)
    test = drifted(scene.test.x, rng.random(tested), rng)
    return replace(scene, stream=replace(scene.stream, x=stream), test=replace(scene.test, x=test))


_CHANGES: dict[str, Callable[[Scene, np.random.Generator], Scene]] = {
    "broken10": _broken(0.1),
    "broken30": _broken(0.3),
    "label_noise": _relabelled,
    "duplicates": _jittered,
    "drift": _drifting,
}


# One sample at a time ---------------------------------------------------------------------------

Fault = Callable[[Array, np.random.Generator], Array]


def _pixels(values: Array) -> Array:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _pcm(values: Array) -> Array:
    return np.clip(np.round(values), -32768, 32767).astype(np.int16)


def _sensor_noise(image: Array, rng: np.random.Generator) -> Array:
    """The picture drowns in noise: a tenth of its contrast is left."""
    return _pixels(128 + 0.1 * (image - 128.0) + rng.normal(0, 60, image.shape))


def _black(image: Array, rng: np.random.Generator) -> Array:
    """A covered lens: dark current and read noise only."""
    return _pixels(rng.normal(2, 2, image.shape))


def _saturated(image: Array, rng: np.random.Generator) -> Array:
    """Against the sun: exposed eight times too long."""
    return _pixels(image * 8.0 + 64)


def _blurred(image: Array, rng: np.random.Generator) -> Array:
    """Out of focus, by a sixth of the picture."""
    sigma = image.shape[0] / 6
    return _pixels(gaussian_filter(image.astype(np.float64), (sigma, sigma, 0)))


IMAGE_FAULTS: dict[str, Fault] = {
    "sensor_noise": _sensor_noise,
    "black": _black,
    "saturated": _saturated,
    "blurred": _blurred,
}


def _hiss(audio: Array, rng: np.random.Generator) -> Array:
    """A loose cable: the recording drowns in white noise."""
    return _pcm(0.1 * audio + rng.normal(0, 3000, audio.shape))


def _silence(audio: Array, rng: np.random.Generator) -> Array:
    """A muted microphone: one or two bits of noise."""
    return _pcm(rng.normal(0, 1, audio.shape))


def _clipped(audio: Array, rng: np.random.Generator) -> Array:
    """Gain far too high: the peak is cut off at a fortieth."""
    peak = max(float(np.abs(audio.astype(np.float64)).max()), 1.0)
    return _pcm(audio * (40 * 32767 / peak))


def _truncated(audio: Array, rng: np.random.Generator) -> Array:
    """Cut off after a tenth to three tenths of its length."""
    cut = audio.copy()
    cut[int(len(audio) * rng.uniform(0.1, 0.3)) :] = 0
    return cut


AUDIO_FAULTS: dict[str, Fault] = {
    "hiss": _hiss,
    "silence": _silence,
    "clipped": _clipped,
    "truncated": _truncated,
}


def jitter(sample: Array, rng: np.random.Generator) -> Array:
    """A sample (h, w, C) or (T,) slightly changed: by a cell or 10 ms, 5 % gain, some noise."""
    gain = rng.uniform(0.95, 1.05)
    if sample.ndim == 1:
        moved = np.roll(sample, rng.integers(-len(sample) // 100, len(sample) // 100 + 1))
        return _pcm(moved * gain + rng.normal(0, 30, sample.shape))
    down, right = rng.integers(-1, 2, 2)
    rows = (np.arange(sample.shape[0]) + down).clip(0, sample.shape[0] - 1)
    cols = (np.arange(sample.shape[1]) + right).clip(0, sample.shape[1] - 1)
    return _pixels(sample[rows][:, cols] * gain + rng.normal(0, 2.5, sample.shape))


def drifted(x: Array, time: Array, rng: np.random.Generator) -> Array:
    """Images to 40 % of their brightness, audio to noise of -10 dB, as time (n,) goes 0 … 1."""
    drifted = np.empty_like(x)
    for i, t in enumerate(time):
        if x.ndim == 2:
            level = float(np.sqrt(np.square(x[i], dtype=np.float64).mean()))
            drifted[i] = _pcm(x[i] + rng.normal(0, 0.32 * t * level + 1e-9, x[i].shape))
        else:
            drifted[i] = _pixels(x[i] * (1 - 0.6 * t))
    return drifted
