"""A stream as a device sees it, made of scikit-learn's digits.

A camera looks at a counter. One reading stays in view for a while and changes little from frame
to frame (it shakes, the sensor is noisy); then comes the next. Light follows the day: mornings and
evenings are dim, and the classifier was trained at noon. Some digits are rare. Now and then the
camera breaks for a few frames: black, white, snow, or a torn picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from PIL import Image

from dripgate.data.packed import read_digits
from dripgate.media import encode_png
from dripgate.types import Array

SIDE = 16
#: How often a scene shows each digit: nine is seen a twentieth as often as zero.
SHARES = (0.16, 0.15, 0.15, 0.14, 0.13, 0.12, 0.08, 0.04, 0.02, 0.01)
BROKEN = "broken"
#: Frames in a day, in a scene on average, and in a fault on average; share of broken frames.
DAY, SCENE, FAULT, FAULTY = 3000, 10, 4, 0.03
#: Of scikit-learn's digits: what the classifier learned from, what the gate is fitted on, and
#: what test frames show. The rest comes in as a stream.
LEARNED, FITTED, TESTED = 400, 400, 450


@dataclass(frozen=True)
class Frame:
    """One picture. label: the digit, or BROKEN."""

    label: str
    payload: bytes


@dataclass(frozen=True)
class Digits:
    """Images (N, 8, 8) uint8 of 0 … 16, and labels (N,) uint8."""

    images: Array
    labels: Array


def digits(part: str) -> Digits:
    """``learned``, ``fitted``, ``tested`` or ``streamed``: four parts that share no digit."""
    images, labels = read_digits()
    order = np.random.default_rng(2025).permutation(len(labels))
    ends = np.cumsum([0, LEARNED, FITTED, TESTED, len(labels) - LEARNED - FITTED - TESTED])
    place = ("learned", "fitted", "tested", "streamed").index(part)
    chosen = order[ends[place] : ends[place + 1]]
    return Digits(images[chosen], labels[chosen])


def day(seed: int, frames: int = DAY) -> Iterator[Frame]:
    """The frames of one day, in order; the same for the same seed."""
    rng = np.random.default_rng([seed, 1])
    source = digits("streamed")
    number = 0
    while number < frames:
        label = int(rng.choice(10, p=SHARES))
        image = source.images[rng.choice(np.flatnonzero(source.labels == label))]
        look = _Look.any(rng)
        for _ in range(min(1 + rng.poisson(SCENE - 1), frames - number)):
            pixels = look.shaken(rng).at(image, light(number / frames), rng)
            yield Frame(str(label), encode_png(pixels))
            number += 1
        if rng.random() < FAULTY * SCENE / FAULT:
            for broken in _fault(pixels, min(1 + rng.poisson(FAULT - 1), frames - number), rng):
                yield Frame(BROKEN, encode_png(broken))
                number += 1


def apart(
    part: str, seed: int, *, copies: int = 1, lit: bool = False, skewed: bool = True
) -> list[Frame]:
    """Single frames of a part's digits, each its own scene.

    copies: looks at each digit. lit: at noon alone, else at any time of the day. skewed: digits
    are as frequent as in the stream, else as in scikit-learn's set, all alike.
    """
    rng = np.random.default_rng([seed, 2])
    source = digits(part)
    rows = np.arange(len(source.labels))
    if skewed:  # as many as there are of the commonest, and of the others their share of that
        of = [rows[source.labels == k] for k in range(10)]
        counts = [max(3, round(s / SHARES[0] * len(of[k]))) for k, s in enumerate(SHARES)]
        kept = [of[k][:count] for k, count in enumerate(counts)]
        rows = rng.permutation(np.concatenate(kept))
    frames = []
    for row in np.tile(rows, copies):
        at = rng.uniform(0.3, 0.7) if lit else rng.uniform()
        pixels = _Look.any(rng).at(source.images[row], light(at), rng)
        frames.append(Frame(str(source.labels[row]), encode_png(pixels)))
    return frames


def light(time: float) -> float:
    """Of 1 at noon, by the time of the day from 0 to 1."""
    return 0.35 + 0.65 * sin(pi * time)


@dataclass(frozen=True)
class _Look:
    """How a digit is seen: turned (radians), moved (pixels), at a scale."""

    turn: float
    across: float
    down: float
    scale: float

    @classmethod
    def any(cls, rng: np.random.Generator) -> "_Look":
        turn, across, down = rng.normal(0, (0.14, 1.0, 1.0))
        return cls(turn, across, down, rng.uniform(0.85, 1.1))

    def shaken(self, rng: np.random.Generator) -> "_Look":
        turn, across, down = rng.normal(0, (0.02, 0.25, 0.25))
        return _Look(self.turn + turn, self.across + across, self.down + down, self.scale)

    def at(self, image: Array, light: float, rng: np.random.Generator) -> Array:
        """(SIDE, SIDE) uint8 in that light, with the sensor's noise."""
        large = Image.fromarray((image * 15).astype(np.uint8)).resize((SIDE, SIDE))
        c, s, half = cos(self.turn) / self.scale, sin(self.turn) / self.scale, (SIDE - 1) / 2
        right, low = half + self.across, half + self.down
        back = (c, s, half - c * right - s * low, -s, c, half + s * right - c * low)
        turned = large.transform(
            (SIDE, SIDE), Image.Transform.AFFINE, back, Image.Resampling.BILINEAR
        )
        lit = 15 + (10 + 0.85 * np.asarray(turned, np.float32)) * light
        return np.clip(lit + rng.normal(0, 7, lit.shape), 0, 255).astype(np.uint8)


def _fault(last: Array, frames: int, rng: np.random.Generator) -> Iterator[Array]:
    """What a broken camera sends instead of ``last``, of one kind for a few frames."""
    kind = rng.integers(4)
    for _ in range(frames):
        if kind == 0:
            yield np.full_like(last, rng.integers(0, 3))
        elif kind == 1:
            yield np.full_like(last, 255 - rng.integers(0, 3))
        elif kind == 2:
            yield rng.integers(0, 256, last.shape, np.uint8)
        else:
            torn = last.copy()
            torn[rng.integers(3, 10) :] = 255 * rng.integers(0, 2)
            yield torn
