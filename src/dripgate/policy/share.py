"""A target share of the stream, held although the scores drift.

A score is turned into its rank among the last SIZE scores: a number that is uniform in (0, 1)
whatever the distribution is, as long as it moves slowly (a smoothed conformal p-value; Vovk et
al., 2005). Kept is what ranks above a bar, and the bar is corrected by what was kept so far, as
in adaptive conformal inference (Gibbs and Candès, 2021): while the debt is bounded, kept share
and target differ by at most a constant number of samples, for *any* sequence of scores.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable
from math import exp

import msgspec
import numpy as np

from dripgate.gate_info import Histogram

#: Scores remembered; also the warm-up, in samples.
SIZE = 512
#: Scores that the calibration histogram is worth in the beginning.
SEEDED = 256
#: Largest debt, in units of 1/gain: beyond it nothing is kept; below it nothing is remembered.
_MOST = 3.0


class Ranks:
    """The last SIZE scores, as they came and in order. float32 in, float32 remembered."""

    def __init__(self, recent: Iterable[float] = ()) -> None:
        self.recent = deque(recent, SIZE)
        self._sorted = sorted(self.recent)

    @classmethod
    def seeded(cls, histogram: Histogram) -> "Ranks":
        """Begin with quantiles of a histogram, in an order that does not favour any end."""
        total = sum(histogram.counts)
        if not total:
            return cls()
        cumulative = np.concatenate([[0], np.cumsum(histogram.counts)]) / total
        levels = (np.arange(SEEDED) * 0.6180339887498949) % 1
        values = np.interp(levels, cumulative, histogram.edges)
        return cls(values.astype(np.float32).tolist())

    def rank(self, score: float) -> tuple[float, float]:
        """The score's place among those remembered: anywhere in low … high, left to chance."""
        size = len(self._sorted) + 1
        low = bisect_left(self._sorted, score)
        return low / size, (bisect_right(self._sorted, score, low) + 1) / size

    def add(self, score: float) -> None:
        """Remember a score, forget the oldest."""
        if len(self.recent) == SIZE:
            del self._sorted[bisect_left(self._sorted, self.recent[0])]
        self.recent.append(score)
        insort(self._sorted, score)

    def pack(self) -> bytes:
        """All that is remembered."""
        return np.array(self.recent, np.float32).tobytes()

    @classmethod
    def unpack(cls, data: bytes) -> "Ranks":
        """The inverse of ``pack``."""
        return cls(np.frombuffer(data, np.float32).tolist())


def above(low: float, high: float, bar: float) -> float:
    """The probability that a rank, anywhere in low … high, is above ``bar``."""
    if bar >= high:
        return 0.0
    return 1.0 if bar <= low else (high - bar) / (high - low)


class Share(msgspec.Struct, forbid_unknown_fields=True):
    """The bar. debt: samples kept beyond the target so far, bounded on both sides."""

    debt: float = 0.0

    def bar(self, target: float) -> float:
        """The rank above which to keep, 0 … 1."""
        if target >= 1:
            return 0.0
        push = self.debt * _gain(target)
        if push >= _MOST:
            return 1.0
        bar = 1 - target * exp(-push)
        return bar if bar > 0 else 0.0

    def note(self, target: float, kept: bool) -> None:
        """Count one sample. What could not be kept for long is not made up for without end."""
        debt, least = self.debt + kept - target, -_MOST / _gain(target)
        self.debt = debt if debt > least else least


def _gain(target: float) -> float:
    """How strongly the bar answers: small shares have few samples in a window to be wrong by."""
    if target > 0.5:
        return 0.02
    return 0.01 / target if target > 0.0125 else 0.8
