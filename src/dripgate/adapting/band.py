"""Thresholds and calibration for a new head, from the samples that are in the store.

Scores change with the head. Where the store holds samples that chance kept, what it holds stands
for the stream, and the band is laid so that the gate keeps the share that it was fitted for. Else
it holds only what was kept: then the new head keeps as large a part of that as the old one.
"""

from typing import NamedTuple

import msgspec
import numpy as np

from dripgate.adapting.gather import Used, rows_of, run_again
from dripgate.gate import Gate
from dripgate.gate_info import Calibration, GateInfo, Histogram
from dripgate.store import Browsing, Row
from dripgate.types import Array, Decision, Thresholds

#: Samples that the new scores are looked at of, chosen by their hash.
MOST = 1000
#: A class gets a bound of its own with so many; an audit, or a quality range, is one with so many.
ENOUGH = 50
#: Share of labelled samples that may still be taken for broken.
ALIEN = 0.01


class Scored(NamedTuple):
    """n samples under the new head: score, quality, predicted class, and how much each counts.

    old: score and predicted class as they are in the store. chance: whether some stand for others.
    """

    score: Array
    quality: Array
    predicted: Array
    weights: Array
    old: Array
    was: Array
    chance: bool


def look(gate: Gate, store: Browsing) -> Scored | None:
    """Run a part of the store through the new gate; None where there is nothing to run."""
    rows = [row for row in rows_of(store) if row.decision == Decision.KEEP]
    rows = sorted(rows, key=lambda row: row.id)[:MOST]
    found: list[tuple[Row, float, float, int]] = [
        (row, float(out.score[0]), float(out.quality[0]), int(out.logits[0].argmax()))
        for row, out in run_again(gate, store, rows, Used())
    ]
    found = [one for one in found if np.isfinite(one[1])]
    if not found:
        return None
    kept = [one[0] for one in found]
    propensity = np.array([row.propensity or 1.0 for row in kept])
    return Scored(
        score=np.array([one[1] for one in found]),
        quality=np.array([one[2] for one in found]),
        predicted=np.array([one[3] for one in found]),
        weights=1 / propensity,
        old=np.array([np.nan if row.score is None else row.score for row in kept]),
        was=np.array([row.predicted for row in kept]),
        chance=int((propensity < 1).sum()) >= ENOUGH,
    )  # fmt: skip


def learn(seen: Scored, info: GateInfo, classes: int) -> Thresholds:
    """The band for the new head; the quality range stays."""
    old = info.thresholds
    share = info.keep if seen.chance else _kept_before(seen, old)
    low = np.full(classes, _quantile(seen.score, seen.weights, 1 - share))
    for c in range(classes):
        of = seen.predicted == c
        if of.sum() >= ENOUGH:
            low[c] = _quantile(seen.score[of], seen.weights[of], 1 - share)
    known = np.isfinite(seen.old) & (seen.old != 0)
    change = float(np.median(seen.score[known]) / np.median(seen.old[known])) if known.any() else 1
    high = [None if bound is None else bound * change for bound in old.high]
    high += [None] * (classes - len(high))
    none = all(bound is None for bound in old.low)
    return msgspec.structs.replace(
        old, low=(None,) * classes if none else tuple(low.tolist()), high=tuple(high)
    )


def _kept_before(seen: Scored, old: Thresholds) -> float:
    """The share of what is stored that is inside the old band."""
    low = np.array([-np.inf if bound is None else bound for bound in old.low])
    inside = seen.old >= low[np.clip(seen.was, 0, len(low) - 1)]
    return float(seen.weights @ inside / seen.weights.sum())


def _quantile(values: Array, weights: Array, share: float) -> float:
    """Below it lies a share of the weight; between two values, so that rounding decides nothing."""
    order = np.argsort(values)
    below = np.cumsum(weights[order]) / weights.sum()
    at = int(np.searchsorted(below, share, "right"))
    if at >= len(order):
        at = len(order) - 1
    if at == 0:
        return float(np.nextafter(np.float32(values[order[0]]), np.float32(-np.inf)))
    return float((values[order[at - 1]] + values[order[at]]) / 2)


def quality_low(info: GateInfo, qualities: Array) -> float | None:
    """Lower where labelled samples say that what is in quarantine is the stream as it is now."""
    least = info.thresholds.quality_low
    if least is None or len(qualities) < ENOUGH:
        return least
    return min(least, float(np.quantile(qualities, ALIEN)))


def calibrate(
    old: Calibration, seen: Scored, thresholds: Thresholds, accuracy: float, labelled: int
) -> Calibration:
    """What the score looks like now. The trade-off stays that of the first fit, and says so."""
    classes = len(thresholds.low)
    inside = thresholds.inside(seen.score, seen.predicted)
    counted = [
        np.rint(np.bincount(seen.predicted[of], seen.weights[of], classes)).astype(int)
        for of in (np.ones(len(inside), bool), inside)
    ]
    why = f"learned again from {labelled:,} labels on the device; the curve is the first fit's"
    return msgspec.structs.replace(
        old, samples=len(seen.score), accuracy=accuracy, score=Histogram.of(seen.score),
        quality=Histogram.of(seen.quality), predicted=tuple(counted[0].tolist()),
        kept=tuple(counted[1].tolist()), why=why,
    )  # fmt: skip
