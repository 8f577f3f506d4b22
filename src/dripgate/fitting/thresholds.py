"""Learning the thresholds on held-out calibration data, without retraining for every candidate.

Three cheap measurements replace the retraining (docs/method.md says what else was tried, and why
it was dropped):

* the **learning signal** of a sample is EL2N², the squared length of p - onehot(label) (Paul et
  al., "Deep Learning on a Data Diet", NeurIPS 2021): the gradient it sends into the logits.
  A band that keeps a share s of the whole signal is taken to be worth a random share s.
* the **learning curve** L(f) of a linear probe (``probe``). So L(s(k)) is the accuracy expected
  of keeping k, and L(k) is random's, on the same scale. The probe is optimistic about small
  fractions, because a linear head needs few samples: it draws the curve and does not decide.
* what **dropping costs** (``scarcity``): from the model's own error and how fast the probe's
  falls. ``auto`` is the largest saving that costs no more than half a point by its upper end, and
  no larger than the break-even, where a further sample carries the average signal.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dripgate.errors import UserError
from dripgate.fitting import scarcity
from dripgate.fitting.probe import exponents, learning_curve
from dripgate.gate_info import CurvePoint
from dripgate.heatmap import probabilities
from dripgate.types import Array, Thresholds

Keep = float | Literal["auto"]

#: Kept fractions that are tried; the finest step a thousand calibration samples can tell apart.
GRID = np.arange(1, 101) / 100
#: Shares of the highest scores that a band may leave out.
TOPS = (0.0, 0.02, 0.05)
#: Accuracy that ``auto`` may lose, by the upper end of what is expected.
ALLOWED = 0.005
#: Above this share ``auto`` keeps everything: so little saved is worth no risk.
NEARLY_ALL = 0.9
#: A predicted class gets its own band only with this many calibration samples behind it.
ENOUGH = 50


@dataclass(frozen=True)
class Observed:
    """What the model said about n held-out samples, and what they really are."""

    score: Array  # float (n,)
    logits: Array  # float (n, C)
    features: Array  # float (n, D)
    labels: Array  # int (n,)
    head: str = "softmax"  # or "sigmoid": what makes the logits probabilities

    @property
    def predicted(self) -> Array:
        """Predicted class, int (n,)."""
        return np.asarray(self.logits.argmax(axis=1))

    @property
    def signal(self) -> Array:
        """Each sample's share of the whole learning signal (EL2N²), (n,), summing to 1."""
        errors = probabilities(self.logits, self.head) - np.eye(self.logits.shape[1])[self.labels]
        squared = (errors**2).sum(axis=1) + 1e-12
        return np.asarray(squared / squared.sum())


@dataclass(frozen=True)
class Learned:
    """The thresholds and the ground for them."""

    thresholds: Thresholds
    keep: float
    curve: tuple[CurvePoint, ...]
    full: float
    why: str


@dataclass(frozen=True)
class _Band:
    """A way to cut: per class or not, with a share of the top left out."""

    per_class: bool
    top: float

    def groups(self, seen: Observed) -> Array:
        """The group each sample is ranked in, (n,): -1 for those without a band of their own."""
        counts = np.bincount(seen.predicted, minlength=seen.logits.shape[1])
        own = self.per_class & (counts[seen.predicted] >= ENOUGH)
        return np.where(own, seen.predicted, -1)

    def shares(self, seen: Observed) -> Array:
        """The share of the learning signal that stays at every kept fraction of GRID."""
        groups = self.groups(seen)
        rank = np.empty(len(groups))
        for group in np.unique(groups):
            of = np.flatnonzero(groups == group)
            # A group that is no class of its own is still ranked among all samples.
            ordered = np.sort(seen.score if group < 0 else seen.score[of])
            rank[of] = 1 - np.searchsorted(ordered, seen.score[of], "right") / len(ordered)
        first = np.minimum(self.top, 1 - GRID)
        inside = (rank[:, None] >= first) & (rank[:, None] < first + GRID)
        return np.asarray(seen.signal @ inside)

    def bounds(self, seen: Observed, keep: float) -> tuple[Array, Array]:
        """(low, high), each (C,), infinite where there is no bound, that keep a share of seen."""
        classes = seen.logits.shape[1]
        low, high = _cut(seen.score, keep, self.top)
        lows, highs = np.full(classes, low), np.full(classes, high)
        for c in np.unique(self.groups(seen)):
            if c >= 0:
                lows[c], highs[c] = _cut(seen.score[seen.predicted == c], keep, self.top)
        return lows, highs


def learn(seen: Observed, keep: Keep, seed: int) -> Learned:
    """Choose the band; the quality range is left open (see fit.reference).

    keep: the fraction to keep, or "auto": the smallest that should cost at most ALLOWED.
    Raises UserError for a fraction outside 0…1.
    """
    if keep != "auto" and not 0 < keep <= 1:
        raise UserError(f"keep is {keep}, expected a fraction above 0 and up to 1, or 'auto'")
    probe = learning_curve(seen.features, seen.labels, seed)
    shares = {band: band.shares(seen) for band in _bands()}
    best = np.max(list(shares.values()), axis=0)
    full = float(probe(1.0))
    wanted, why = _affordable(seen, best, seed) if keep == "auto" else (keep, "asked for")
    nearest = int(np.abs(GRID - wanted).argmin())
    band = _preferred(shares, nearest, len(seen.labels))
    signal = shares[band]
    curve = tuple(
        CurvePoint(keep=float(k), expected=float(probe(s)), random=float(probe(k)), signal=float(s))
        for k, s in zip(GRID[4::5], signal[4::5], strict=True)
    )
    why += f"; it holds {signal[nearest]:.0%} of the learning signal"
    return Learned(_thresholds(seen, band, wanted), wanted, curve, full, why)


def _bands() -> list[_Band]:
    """All that are tried, in order of preference: bands per class keep the mix of classes."""
    return [_Band(per_class, top) for top in TOPS for per_class in (True, False)]


def _affordable(seen: Observed, signal: Array, seed: int) -> tuple[float, str]:
    """The fraction that ``auto`` keeps, and why not less; signal: the best band's, on GRID."""
    n, wrong = len(seen.labels), int((seen.predicted != seen.labels).sum())
    effective = 1 / float((seen.signal**2).sum())
    falls = exponents(seen.features, seen.labels, seed)
    expected, upper = scarcity.loss(wrong, n, GRID, signal, effective, falls, seed)
    dear = np.flatnonzero(upper > ALLOWED)
    at = int(dear[-1]) + 1 if len(dear) else 0
    known = f"the model is wrong on {wrong} of {n} samples held out"
    if GRID[at] > NEARLY_ALL:
        at = int(np.abs(GRID - NEARLY_ALL).argmin())
        return 1.0, (
            f"more data still teaches, and nothing is dropped: {known}; to drop a tenth may cost "
            f"{100 * upper[at]:.1f} points ({100 * expected[at]:.1f} expected); --keep overrules it"
        )
    even = _break_even(signal, n)
    if even > GRID[at]:
        return even, f"the break-even between a sample's signal and its cost, as {known}"
    return float(GRID[at]), (
        f"the largest saving that should cost at most {100 * ALLOWED:.1f} points "
        f"({100 * expected[at]:.1f} expected), as {known}"
    )


def _break_even(signal: Array, n: int) -> float:
    """The smallest fraction whose gain on random is within one standard error of the largest.

    The gain is flat around its largest value, whose place is therefore mostly chance.
    """
    gain = signal - GRID
    at = int(gain.argmax())
    error = np.sqrt(signal[at] * max(1 - signal[at], 0) / n)
    return float(GRID[int((gain >= gain[at] - error).argmax())])


def _preferred(shares: dict[_Band, Array], at: int, n: int) -> _Band:
    """The first of the bands that holds as much signal as the best one, within its noise."""
    best = max(share[at] for share in shares.values())
    noise = np.sqrt(best * max(1 - best, 0) / n)
    return next(band for band, share in shares.items() if share[at] >= best - noise)


def _cut(score: Array, keep: float, top: float) -> tuple[float, float]:
    """Bounds that keep a share of ``score``, leaving out the highest ``top``, as far as it fits.

    Halfway between neighbours, so that rounding to float32 decides nothing.
    """
    ordered = np.sort(score.astype(np.float64))[::-1]
    n = len(ordered)
    first = min(int(top * n), n - max(1, round(keep * n)))
    last = first + max(1, round(keep * n))
    high = np.inf if first == 0 else (ordered[first - 1] + ordered[first]) / 2
    low = -np.inf if last >= n else (ordered[last - 1] + ordered[last]) / 2
    return low, high


def _thresholds(seen: Observed, band: _Band, keep: float) -> Thresholds:
    low, high = band.bounds(seen, keep)
    return Thresholds(low=_finite(low), high=_finite(high), quality_low=None)


def _finite(bounds: Array) -> tuple[float | None, ...]:
    return tuple(float(b) if np.isfinite(b) else None for b in bounds)
