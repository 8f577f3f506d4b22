"""One share for a fleet, with an interval that respects that devices differ.

Samples of one device resemble each other more than those of two, so a device is a cluster: the
ratio estimator of a sample of clusters, with the variance between them (the "ultimate cluster",
Hansen, Hurwitz and Madow, 1953), Student's t with one degree of freedom less than devices, on the
scale of the log-odds, which keeps it between 0 and 1. Never narrower than what the devices' own
intervals give (MOVER): few devices may look alike by chance.
"""

import math
from collections.abc import Sequence

from dripgate.policy import Interval
from dripgate.policy.estimate import mover, student


def together(parts: Sequence[tuple[int, Interval]]) -> Interval | None:
    """The share in the streams of all devices, from (samples that passed, interval) of each.

    It speaks for devices like these, not only for these. None where no device has an estimate; of
    one device it is that device's own.
    """
    parts = [part for part in parts if part[0] > 0]
    if not parts:
        return None
    own = mover(parts)
    if len(parts) == 1:
        return own
    total, m = sum(size for size, _ in parts), len(parts)
    p = own.value
    squares = sum((size / total * (one.value - p)) ** 2 for size, one in parts)
    spread = math.sqrt(m / (m - 1) * squares) * student(m - 1)
    if not 0 < p < 1:
        return own
    odds, width = math.log(p / (1 - p)), spread / (p * (1 - p))
    low, high = (1 / (1 + math.exp(-min(max(odds + w, -700), 700))) for w in (-width, width))
    return Interval(p, min(low, own.low), max(high, own.high))
