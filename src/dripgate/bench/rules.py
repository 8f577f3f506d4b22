"""Who decides what is kept. Every rule that needs no labels decides in one pass, in bounded memory.

A rule is a function of a Task. Rules that need no labels are given none, and a test holds that
what comes later changes nothing in their decisions. Rules with a scalar score keep a share of
the stream by one tracker (``hold``), so that all of them keep as many samples, and differ in which.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np
from scipy.special import logsumexp
from scipy.stats import entropy
from skactiveml.stream.budgetmanager import BalancedIncrementalQuantileFilter

from dripgate.bench import diverse
from dripgate.bench.hold import held
from dripgate.bench.observe import Seen
from dripgate.fitting.thresholds import learn
from dripgate.heatmap import SCORES
from dripgate.policy import Policy, Rules
from dripgate.types import Array, Decision, Sample, Thresholds


class Task(NamedTuple):
    """A stream to be decided: ``keep`` is the share asked for.

    calibration, truth: held-out samples of the initial part and their classes, which are known.
    labels: true classes of the stream (n,) for references; all -1 for everyone else.
    """

    calibration: Seen
    truth: Array
    stream: Seen
    keep: float
    seed: int
    labels: Array

    @property
    def rng(self) -> np.random.Generator:
        """Chance, the same for every rule that needs some."""
        return np.random.default_rng([self.seed, 17])


Choose = Callable[[Task], Array]


class Rule(NamedTuple):
    """choose: Task → which samples are kept, bool (n,).

    passes: how often it has to see the stream. needs_labels: whether it must know the classes of
    samples before it decides whether to keep them, which no device does.
    """

    choose: Choose
    needs_labels: bool = False
    passes: int = 1


# Scalars: higher is more worth keeping ----------------------------------------------------------


def margin(seen: Seen) -> Array:
    """1 - (p of the first class - p of the second)."""
    ordered = np.sort(seen.p, axis=1)
    return np.asarray(1 - (ordered[:, -1] - ordered[:, -2]))


SCALARS: dict[str, Callable[[Seen], Array]] = {
    "max_softmax": lambda seen: -seen.p.max(axis=1),
    "entropy": lambda seen: np.asarray(entropy(seen.p, axis=1)),
    "margin": margin,
    "max_logit": lambda seen: -seen.logits.max(axis=1),
    "energy": lambda seen: -logsumexp(seen.logits, axis=1),
}
SCALARS |= {name: partial(lambda name, seen: seen.score(name), name) for name in SCORES}


def _scalar(score: Callable[[Seen], Array], task: Task) -> Array:
    return held(score(task.stream), score(task.calibration), task.keep, task.rng)


# Ours -------------------------------------------------------------------------------------------


def _dripgate(task: Task) -> Array:
    """The gate's verdicts, and what ``dripgate run --keep`` makes of them.

    Audit and the memory of duplicates are off: both are measured on their own, by
    ``make bench-policy``.
    """
    rules = Rules(keep=task.keep, audit=0, duplicates=0, seed=task.seed)
    policy = Policy(rules, task.stream.gate.info)
    samples = [Sample(b"", time=float(i)) for i in range(len(task.stream.x))]
    verdicts = policy(samples, task.stream.verdicts, task.stream.embedding)
    return np.array([verdict.decision is Decision.KEEP for verdict in verdicts])


def _banded(score: str, task: Task) -> Array:
    """The learned band of a score and the quality range: what a gate fitted to it would keep."""
    band = learn(task.calibration.observed(score, task.truth), task.keep, task.seed).thresholds
    sound = task.stream.gate.info.thresholds
    thresholds = msgspec.structs.replace(sound, low=band.low, high=band.high)
    return inside(thresholds, task.stream, score)


def inside(thresholds: Thresholds, seen: Seen, score: str) -> Array:
    """Which samples a graph with these thresholds keeps, bool (n,)."""
    low, high = (
        np.array([end if bound is None else bound for bound in bounds], np.float32)
        for bounds, end in ((thresholds.low, -np.inf), (thresholds.high, np.inf))
    )
    least = -np.inf if thresholds.quality_low is None else thresholds.quality_low
    good = seen.quality >= np.float32(least)
    value = seen.score(score)
    return np.asarray(good & (value >= low[seen.predicted]) & (value <= high[seen.predicted]))


# Baselines --------------------------------------------------------------------------------------


def _everything(task: Task) -> Array:
    return np.ones(len(task.stream.x), bool)


def _random(task: Task) -> Array:
    values = task.rng.random(len(task.stream.x))
    return held(values, np.linspace(0, 1, 257), task.keep, task.rng.spawn(1)[0])


def _every_nth(task: Task) -> Array:
    """Every n-th, also where n is no whole number: as a device without a model thins its stream."""
    turns = np.arange(len(task.stream.x) + 1) * task.keep
    return np.asarray(np.diff(np.floor(turns + 1e-9)) > 0)


def _class_random(task: Task) -> Array:
    """At random, with a chance that makes the predicted classes equally frequent in what is kept.

    The classes' shares are those of the calibration part, counted on as the stream passes.
    """
    classes = task.stream.logits.shape[1]
    counts = np.bincount(task.calibration.predicted, minlength=classes) + 1.0
    coins, kept = task.rng.random(len(task.stream.x)), []
    for predicted, coin in zip(task.stream.predicted, coins, strict=True):
        counts[predicted] += 1
        kept.append(coin < _even(counts / counts.sum(), task.keep)[predicted])
    return np.array(kept)


def _even(shares: Array, keep: float) -> Array:
    """The chance of each class (C,), at most 1, by which ``keep`` is spread evenly over classes.

    A class too rare for its part is kept whole and leaves the rest to the others.
    """
    quota = np.sort(shares)
    left = keep
    for i, share in enumerate(quota):
        if share >= left / (len(quota) - i):
            return np.asarray(np.minimum(left / (len(quota) - i) / shares, 1))
        left -= share
    return np.ones(len(shares))


def _biqf(task: Task) -> Array:
    """Margin by a balanced incremental quantile filter (Kottke et al., 2015; scikit-activeml)."""
    values = margin(task.stream).astype(np.float64)
    manager = BalancedIncrementalQuantileFilter(budget=task.keep)
    kept = np.zeros(len(values), bool)
    for i, value in enumerate(values[:, None]):
        chosen = manager.query_by_utility(value)
        manager.update(value, chosen, value)
        kept[i] = bool(chosen)
    return kept


# References -------------------------------------------------------------------------------------


def el2n(p: Array, labels: Array) -> Array:
    """Length of the error vector, (n,) (Paul et al., 2021, with one model instead of ten)."""
    return np.asarray(np.linalg.norm(p - np.eye(p.shape[1])[labels], axis=1))


def _el2n(task: Task) -> Array:
    values = el2n(task.stream.p, task.labels)
    return held(values, el2n(task.calibration.p, task.truth), task.keep, task.rng)


def _coverage(task: Task, hardest: float = 0.1, bins: int = 50) -> Array:
    """Coverage-centric selection (Zheng et al., ICLR 2023): cut the hardest, then even strata."""
    values = el2n(task.stream.p, task.labels)
    wanted = round(task.keep * len(values))
    order = np.argsort(values)[: max(len(values) - int(hardest * len(values)), wanted)]
    edges = np.linspace(values[order].min(), values[order].max(), bins + 1)[1:-1]
    strata = [order[np.digitize(values[order], edges) == b] for b in range(bins)]
    kept = np.zeros(len(values), bool)
    for i, stratum in enumerate(sorted(strata, key=len)):
        part = min(len(stratum), wanted // (bins - i))
        kept[task.rng.permutation(stratum)[:part]] = True
        wanted -= part
    return kept


def _novelty(task: Task) -> Array:
    return diverse.novelty(task.stream.embedding, task.keep, task.rng)


def _sieve(task: Task) -> Array:
    return diverse.three_sieves(task.stream.embedding, task.calibration.embedding, task.keep)


def _vessal(task: Task) -> Array:
    return diverse.vessal(task.stream.embedding, task.stream.p, task.keep, task.rng)


#: The name of the rule that ships: its rows stand for the product.
DEFAULT = "dripgate"

RULES: dict[str, Rule] = {
    "full": Rule(_everything),
    "random": Rule(_random),
    "every_nth": Rule(_every_nth),
    "class_random": Rule(_class_random),
    **{name: Rule(partial(_scalar, score)) for name, score in SCALARS.items()},
    **{f"{name}_band": Rule(partial(_banded, name)) for name in SCORES},
    "novelty": Rule(_novelty),
    "sieve": Rule(_sieve),
    "vessal": Rule(_vessal),
    "biqf_margin": Rule(_biqf),
    "el2n": Rule(_el2n, needs_labels=True),
    "coverage": Rule(_coverage, needs_labels=True, passes=2),
    DEFAULT: Rule(_dripgate),
}
