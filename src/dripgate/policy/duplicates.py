"""What differs little from something recently kept, by the classifier's own embedding.

The memory holds SIZE kept embeddings; what is recognised moves to the front, so a scene that
stays in view is not forgotten however much else is kept meanwhile. How near is the same scene
depends on the classifier, so it is asked for as a share: that of distinct calibration samples
which are as near to one of SIZE others, and would be lost. At the front is what was in view last:
it is one, not SIZE, that a sample could be taken for by chance, so for the same loss it may be
recognised from much farther away, moved and in another light. Long embeddings are folded
into WIDTH sums with random signs (count sketch; Charikar et al., 2002): squared distances are
kept on average, and the memory takes 4 kB for any classifier.
"""

from collections.abc import Sequence
from functools import cache
from math import inf, isfinite

import numpy as np

from dripgate.gate_info import GateInfo
from dripgate.types import Array

SIZE = 64
WIDTH = 32


#: What is compared of a sample, (d,) with d up to WIDTH, and its squared length.
Point = tuple[Array, float]


class Duplicates:
    """Kept embeddings, at most SIZE, as float32 whose lower 16 bits are zero (bfloat16).

    nearness: largest ‖a - b‖ / sqrt((‖a‖² + ‖b‖²) / 2) of two that count as the same; 0 is off.
    view: the same of one and what was kept or recognised last; by default not another.
    """

    def __init__(self, nearness: float, view: float = 0.0) -> None:
        self.nearness = nearness
        self._half, self._view = nearness**2 / 2, max(view, nearness) ** 2 / 2
        self._empty(0)

    def points(self, embeddings: Array) -> list[Point]:
        """What is compared of embeddings (N, D): each folded and rounded, and its squared length.

        Row by row the same as alone: sums run along the rows, and nothing is left to BLAS.
        """
        n, size = embeddings.shape
        if size > WIDTH:
            folds = -(-size // WIDTH)
            signed = np.zeros((n, folds * WIDTH), np.float32)
            signed[:, :size] = embeddings * _signs(size)
            embeddings = signed.reshape(n, folds, WIDTH).sum(axis=1)
        bits = np.ascontiguousarray(embeddings, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
        points = bits.view(np.float32)
        return list(zip(points, (points * points).sum(axis=1).tolist(), strict=True))

    def find(self, point: Array, squared: float) -> int | None:
        """The row of what is the same scene; None where nothing is."""
        if not self.nearness:
            return None
        if self._doubled.shape[1] != len(point):  # first use, or another gate
            self._empty(len(point))
        distance = self._squared - self._doubled.dot(point)
        row = int(distance.argmin())
        # Of a row not in use this is infinite, and of what is no number never true.
        allowed = self._half * (self._squared.item(row) + squared)
        if distance.item(row) + squared <= allowed < inf:
            return row
        last = self._order[-1]
        allowed = self._view * (self._squared.item(last) + squared)
        return last if distance.item(last) + squared <= allowed < inf else None

    def renew(self, row: int) -> None:
        """Move what was recognised to the front."""
        self._order.remove(row)
        self._order.append(row)

    def add(self, point: Array, squared: float) -> None:
        """Remember what is kept instead of what was used longest ago; after a ``find``."""
        if not self.nearness or not isfinite(squared):
            return
        row = self._order[0]
        self.renew(row)
        self._doubled[row] = 2 * point
        self._squared[row] = squared

    def pack(self) -> tuple[int, bytes, bytes]:
        """(width, rows in order of use, upper halves of the values of the rows in use)."""
        used = int((self._squared < np.inf).sum())
        values = (self._doubled[:used] / 2).view(np.uint32) >> 16
        return self._doubled.shape[1], bytes(self._order), values.astype("<u2").tobytes()

    def unpack(self, width: int, order: bytes, values: bytes) -> None:
        """Become what was packed; raises ValueError where it does not fit together."""
        rows = np.frombuffer(values, "<u2").astype(np.uint32).reshape(-1, max(width, 1))
        if sorted(order) != list(range(SIZE)) or len(rows) > SIZE:
            raise ValueError("the remembered embeddings are damaged")
        self._empty(width)
        self._order = list(order)
        if width:
            points = (rows << 16).view(np.float32)
            self._doubled[: len(rows)] = 2 * points
            self._squared[: len(rows)] = (points * points).sum(axis=1)

    def _empty(self, width: int) -> None:
        self._doubled = np.zeros((SIZE, width), np.float32)
        self._squared = np.full(SIZE, np.inf, np.float32)
        self._order = list(range(SIZE))  # rows, the one used longest ago first


def distances(embeddings: Array) -> tuple[float, ...]:
    """Percentiles 0 … 100 of the distance from each of (N, D) to the nearest of SIZE others.

    As ``Duplicates`` measures it, and in a random order, as if the memory held distinct scenes
    alone. Empty for fewer than two.
    """
    n = len(embeddings)
    if n < 2:
        return ()
    order = np.random.Generator(np.random.Philox(n)).permutation(n)
    folded, lengths = zip(*Duplicates(0.0).points(embeddings[order]), strict=True)
    points, squared = np.stack(folded).astype(np.float64), np.array(lengths)
    nearest = np.full(n, np.inf)
    for step in range(1, min(SIZE, n - 1) + 1):
        gaps = ((points - np.roll(points, step, axis=0)) ** 2).sum(axis=1)
        mean = (squared + np.roll(squared, step)) / 2
        nearest = np.minimum(nearest, gaps / np.maximum(mean, np.finfo(np.float64).tiny))
    return tuple(float(f"{one:.4g}") for one in np.percentile(nearest**0.5, range(101)))


def radius(distances: Sequence[float], share: float, others: int = SIZE) -> float:
    """The distance below which that share of distinct samples would be taken for the same.

    others: how many each is compared with. ``distances`` was measured with SIZE; among more of them
    the nearest is nearer. Below the first percentile the distance falls as a power of the share,
    as it does among points that fill as many dimensions as the percentiles 1 and 20 show.
    """
    if not (distances and share):
        return 0.0
    percent = 100 * (1 - (1 - share) ** (SIZE / max(others, SIZE)))
    low, high = distances[1], distances[20]
    if percent >= 1 or not 0 < low < high:
        return float(np.interp(percent, range(101), distances)) if percent >= 1 else 0.0
    return float(low * percent ** (np.log(high / low) / np.log(20)))


def in_view(distances: Sequence[float], share: float) -> float:
    """The distance below which that share of distinct samples would be taken for *one* other.

    Of SIZE others, each as near as that by chance, the nearest is so for many more samples.
    """
    if not (distances and share):
        return 0.0
    return float(np.interp(100 * (1 - (1 - share) ** SIZE), range(101), distances))


def memory(info: GateInfo, share: float) -> Duplicates:
    """An empty memory for a gate by which at most this share of distinct scenes is lost: half to
    what was in view last, half to all others.
    """
    known = info.calibration.distances
    return Duplicates(radius(known, share / 2), in_view(known, share / 2))


@cache
def _signs(size: int) -> Array:
    """Random, and the same for ever: (size,) of ±1."""
    return (
        np.random.Generator(np.random.Philox(size)).integers(0, 2, size).astype(np.float32) * 2 - 1
    )
