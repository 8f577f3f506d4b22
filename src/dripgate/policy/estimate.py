"""What the whole stream was like, from the samples that are stored, with 95 % intervals.

Each stored sample stands for 1/propensity samples of the stream (Horvitz and Thompson, 1952).
Samples kept for certain and samples kept by chance are two strata of known sizes, because the
policy counts them as they pass: the first are known exactly once labelled, only the second are
uncertain. The interval of a stratum is Wilson's (1927) with Kish's effective sample size and the
correction for finite populations; two strata are combined by MOVER (Zou and Donner, 2008).
"""

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from dripgate.types import Array

_Z2 = 1.959963984540054**2
#: Student's t, 97.5 %, for 1 to 30 degrees of freedom.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """How many readable samples passed: kept for certain, by chance, and with no chance at all."""

    certain: int
    chance: int
    blind: int


class Seen(msgspec.Struct, frozen=True):
    """A labelled stored sample: class indices, and the probability with which it was kept."""

    label: int
    predicted: int
    propensity: float


class Interval(msgspec.Struct, frozen=True):
    """An estimate between 0 and 1, and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float


class Estimates(msgspec.Struct, frozen=True, kw_only=True):
    """The stream as the audit shows it.

    classes: share of each class, by label. accuracy: the deployed model's. labelled: samples these
    rest on. by_chance: those of them that stand for others. covered: share of the stream they
    speak for; a budget that ran out leaves the rest unseen.

    What the dropped part would have been worth, that is the part not kept for certain:
    dropped_accuracy: the model's accuracy there; where it is high there was little to learn.
    dropped_mistakes: share of all the model's mistakes that lie there and are not stored.
    """

    classes: list[Interval]
    accuracy: Interval
    dropped_accuracy: Interval
    dropped_mistakes: Interval
    labelled: int
    by_chance: int
    covered: float


def estimate(seen: Iterable[Seen], stream: Stream, classes: int) -> Estimates | None:
    """Estimates from labelled stored samples, in any order; None where there are none.

    stream: what passed while they were collected, from ``Policy.stream``. Every stored sample
    must be as likely to be labelled as any other of its stratum, and to be left by evictions.
    """
    numbers = ((one.label, one.predicted, one.propensity) for one in seen)
    rows: Array = np.fromiter(numbers, np.dtype((float, 3)))  # a million are 24 MB
    if not len(rows):
        return None
    label, right, weight = rows[:, 0], rows[:, 0] == rows[:, 1], 1 / rows[:, 2]
    by_chance = weight > 1
    strata = [(~by_chance, stream.certain), (by_chance, stream.chance)]

    def share(what: Array) -> Interval:
        parts = [(size, wilson(what[of], weight[of], size)) for of, size in strata]
        return mover(parts)

    kept, dropped = (wilson(~right[of], weight[of], size) for of, size in strata)
    covered = stream.certain + stream.chance
    return Estimates(
        classes=[share(label == c) for c in range(classes)],
        accuracy=share(right),
        dropped_accuracy=_scaled(dropped, -1, 1),
        dropped_mistakes=_part(_scaled(dropped, stream.chance), _scaled(kept, stream.certain)),
        labelled=len(rows),
        by_chance=int(by_chance.sum()),
        covered=covered / max(covered + stream.blind, 1),
    )


def wilson(hits: Array, weights: Array, population: int) -> Interval:
    """The share of hits in a population of which ``hits`` (n,) bool was drawn, n of 1/weights."""
    n = len(hits)
    if not n:
        return Interval(0.5, 0.0, 1.0)
    value = float(weights @ hits / weights.sum())
    rest = 1 - n / max(population, n)
    if not rest:
        return Interval(value, value, value)
    effective = float(weights.sum() ** 2 / (weights @ weights)) / rest
    middle = (value + _Z2 / (2 * effective)) / (1 + _Z2 / effective)
    square = value * (1 - value) / effective + _Z2 / (4 * effective**2)
    half = (_Z2 * square) ** 0.5 / (1 + _Z2 / effective)
    return Interval(value, min(max(middle - half, 0.0), value), max(min(middle + half, 1.0), value))


def _scaled(one: Interval, factor: float, shift: float = 0.0) -> Interval:
    value, *ends = (shift + factor * end for end in (one.value, one.low, one.high))
    return Interval(value, min(ends), max(ends))


def _part(one: Interval, other: Interval) -> Interval:
    """one / (one + other); conservative where both are uncertain."""
    value, low, high = (
        a / (a + b) if a + b else unknown
        for a, b, unknown in (
            (one.value, other.value, 0.0), (one.low, other.high, 0.0), (one.high, other.low, 1.0),
        )
    )  # fmt: skip
    return Interval(value, low, high)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    return _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.4 / freedom


def mover(parts: Sequence[tuple[int, Interval]]) -> Interval:
    """The share in several strata together, from (size, interval) of each."""
    total = max(sum(size for size, _ in parts), 1)
    value = sum(size * part.value for size, part in parts) / total
    below = sum((size * (part.value - part.low)) ** 2 for size, part in parts) ** 0.5 / total
    above = sum((size * (part.high - part.value)) ** 2 for size, part in parts) ** 0.5 / total
    return Interval(value, max(value - below, 0.0), min(value + above, 1.0))
