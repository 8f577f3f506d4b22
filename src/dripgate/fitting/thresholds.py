"""Learning the thresholds on held-out calibration data, without retraining for every candidate.

Two cheap measurements replace the retraining (docs/method.md says what else was tried, and why
it was dropped):

* the **learning signal** of a sample is EL2N², the squared length of p - onehot(label) (Paul et
  al., "Deep Learning on a Data Diet", NeurIPS 2021): the gradient it sends into the logits.
  A band that keeps a share s of the whole signal is taken to be worth a random share s.
* the **learning curve** L(f): accuracy of a ridge probe on penultimate features, trained on a
  base and a random share f of as many samples again (the cheap proxy of BWS, ICML 2024).

So L(s(k)) is the accuracy expected of keeping k, and L(k) is random's, on the same scale. The
probe is optimistic about small fractions, because a linear head needs few samples, so it draws
the curve but does not decide: ``auto`` is where the gain on random, s(k) - k, is largest, within
one standard error. Beyond that break-even a further sample carries less than the average signal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dripgate.errors import UserError
from dripgate.gate_info import CurvePoint
from dripgate.heatmap import probabilities
from dripgate.types import Array, Thresholds

Keep = float | Literal["auto"]

#: Kept fractions that are tried; the finest step a thousand calibration samples can tell apart.
GRID = np.arange(1, 101) / 100
#: Shares of the highest scores that a band may leave out.
TOPS = (0.0, 0.02, 0.05)
#: Features of the probe: of more, the main directions are taken.
MOST = 256
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

    keep: the fraction to keep, or "auto": the smallest that gains as much on random as any, within
    one standard error.
    Raises UserError for a fraction outside 0…1.
    """
    if keep != "auto" and not 0 < keep <= 1:
        raise UserError(f"keep is {keep}, expected a fraction above 0 and up to 1, or 'auto'")
    probe = learning_curve(seen, seed)
    shares = {band: band.shares(seen) for band in _bands()}
    best = np.max(list(shares.values()), axis=0)
    full = float(probe(1.0))
    wanted = _break_even(best, len(seen.labels)) if keep == "auto" else keep
    nearest = int(np.abs(GRID - wanted).argmin())
    band = _preferred(shares, nearest, len(seen.labels))
    signal = shares[band]
    why = "asked for" if keep != "auto" else "the break-even between a sample's signal and its cost"
    curve = tuple(
        CurvePoint(keep=float(k), expected=float(probe(s)), random=float(probe(k)), signal=float(s))
        for k, s in zip(GRID[4::5], signal[4::5], strict=True)
    )
    why += f"; it holds {signal[nearest]:.0%} of the learning signal"
    return Learned(_thresholds(seen, band, wanted), wanted, curve, full, why)


def learning_curve(seen: Observed, seed: int, repeats: int = 20) -> Callable[..., Array]:
    """L: random share f in 0…1 → expected accuracy of the ridge probe, never falling."""
    x = seen.features - seen.features.mean(axis=0)
    x = _main_directions((x / (x.std(axis=0) + 1e-6)).astype(np.float64), seed)
    x = np.c_[x, np.ones(len(x))]
    y = np.eye(seen.logits.shape[1])[seen.labels]
    fractions = np.linspace(0, 1, 11)
    rows = []
    for repeat in range(repeats):
        order = np.random.default_rng([seed, repeat]).permutation(len(x))
        base, stream, test = np.array_split(order, 3)
        rows.append([
            probe_accuracy(x, y, np.r_[base, stream[: round(f * len(stream))]], test)
            for f in fractions
        ])  # fmt: skip
    accuracy = np.maximum.accumulate(np.mean(rows, axis=0))
    return lambda share: np.asarray(np.interp(share, fractions, accuracy))


def _main_directions(x: Array, seed: int) -> Array:
    """x (n, D) along its MOST largest principal directions, where it has more than that.

    A probe of 2,048 features would be solved 220 times. Source: Halko, Martinsson, Tropp,
    "Finding structure with randomness" (2011), algorithm 4.4, two power iterations.
    """
    if x.shape[1] <= MOST:
        return x
    basis = np.random.default_rng([seed, 4]).normal(size=(x.shape[1], MOST))
    for _ in range(2):
        basis, _ = np.linalg.qr(x.T @ (x @ basis))
    return np.asarray(x @ basis)


def probe_accuracy(x: Array, y: Array, train: Array, test: Array, ridge: float = 3.0) -> float:
    """Accuracy on ``test`` of a linear classifier fitted to onehot targets y (n, C) on ``train``.

    x (n, D) holds standardised features and a column of ones; ``ridge`` is the penalty.
    """
    a = x[train]
    weights = np.linalg.solve(a.T @ a + ridge * np.eye(x.shape[1]), a.T @ y[train])
    return float(((x[test] @ weights).argmax(axis=1) == y[test].argmax(axis=1)).mean())


def _bands() -> list[_Band]:
    """All that are tried, in order of preference: bands per class keep the mix of classes."""
    return [_Band(per_class, top) for top in TOPS for per_class in (True, False)]


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
