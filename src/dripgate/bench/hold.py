"""Holding a share of the stream by a scalar, the same for every rule that has one.

A sample is kept if it ranks in the upper part of the last scores, and the bar follows what was
kept so far. These are the ideas of the product's tracker (``policy.share``), in a form of the
benchmark's own: its rows must not change when the product does.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from math import exp

import numpy as np

from dripgate.types import Array

#: Scores remembered, and how many of them the calibration scores are worth in the beginning.
SIZE, SEEDED = 512, 256
#: Largest correction of the bar, as an exponent.
_MOST = 3.0


class Hold:
    """Keeps a share of whatever comes; decisions are made one by one.

    calibration: scores to begin with, may be empty.
    """

    def __init__(self, keep: float, calibration: Array) -> None:
        self.keep = keep
        self._gain = min(max(0.005 / keep, 0.02), 0.4)
        self._recent = deque(_quantiles(calibration), SIZE)
        self._sorted = sorted(self._recent)
        self._debt = 0.0

    def __call__(self, score: float, coin: float, cost: float = 1.0) -> bool:
        """Whether to keep a score; ``coin`` in 0 … 1 decides between equal ones, and 1 is no.

        cost: of keeping it, in units of which ``keep`` is a share: a sample, or its mean size.
        """
        size = len(self._sorted) + 1
        low = bisect_left(self._sorted, score)
        high = bisect_right(self._sorted, score, low) + 1
        bar = 1 - min(self.keep * exp(-self._gain * self._debt), 1.0)
        if self._debt * self._gain >= _MOST:
            bar = 1.0
        chance = (high / size - bar) / (high / size - low / size)
        kept = coin < min(max(chance, 0.0), 1.0)
        self._remember(score)
        self._debt = max(self._debt + kept * cost - self.keep, -_MOST / self._gain)
        return kept

    def _remember(self, score: float) -> None:
        if len(self._recent) == SIZE:
            del self._sorted[bisect_left(self._sorted, self._recent[0])]
        self._recent.append(score)
        insort(self._sorted, score)


def _quantiles(scores: Array) -> list[float]:
    """SEEDED quantiles, in an order that does not favour any end; none where there is nothing."""
    if not len(scores):
        return []
    counts, edges = np.histogram(scores.astype(np.float64), 256)
    cumulative = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    levels = (np.arange(SEEDED) * 0.6180339887498949) % 1
    values: list[float] = np.interp(levels, cumulative, edges).astype(np.float32).tolist()
    return values


def held(values: Array, calibration: Array, keep: float, rng: np.random.Generator) -> Array:
    """Which of ``values`` (n,), as they come, rank in the upper share ``keep``; bool (n,)."""
    hold, coins = Hold(keep, calibration), rng.random(len(values))
    scores = values.astype(np.float32).tolist()
    return np.array([hold(score, coin) for score, coin in zip(scores, coins, strict=True)])
