"""Is the new head any better? Asked of labels and of a memory that it has not learned from.

Each label is judged by a head that was learned from the other four fifths; which fifth it is in is
decided by the hash of its sample. How strongly the head is held to the old one is chosen by the
same heads: the strongest pull whose loss cannot be told from the least.
"""

from typing import NamedTuple

import msgspec
import numpy as np

from dripgate.adapting.memory import draw, weights
from dripgate.adapting.solve import Examples, Problem, logits, solve
from dripgate.gate_info import Memory
from dripgate.gate_tensors import Linear, Remembered
from dripgate.heatmap import probabilities
from dripgate.policy.estimate import Interval, wilson
from dripgate.types import Array

#: Pulls that are tried, in samples.
PULLS = (10.0, 30.0, 100.0, 300.0, 1000.0)
FOLDS = 5
#: What the memory may lose where the labels do not: the world has changed, and it has not.
ALLOWED = 0.05
#: How much more the memory of a class counts that no label speaks for: with 2, most of what else
#: was forgotten stayed, and nothing was lost elsewhere (docs/adapt.md).
ABSENT = 2.0
#: Made-up samples of each class that a memory of means is asked with.
DRAWN = 50
#: A label is doubtful where the old head is as sure as this of another class.
SURE = 0.95
#: Samples that stand for a stream without end.
_ALL = 10**12


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy of the old and the new head with 95 % intervals, on ``samples`` samples.

    gain: after - before, of the same samples, and its half width. enough: how many samples it would
    take for the gain to be more than chance, as far as it can be told; 0 where there are enough.
    """

    samples: int
    before: Interval
    after: Interval
    gain: float
    half: float
    enough: int


class ClassChange(msgspec.Struct, frozen=True):
    """Labels of a class, and the share of them that each head knows."""

    name: str
    labels: int
    before: float
    after: float


class Judged(NamedTuple):
    """Logits of the samples, each by a head that has not learned from it: old and new, (n, C)."""

    pull: float
    before: Array
    after: Array


def judge(
    problem: Problem, examples: Examples, folds: Array, beside: Examples, pulls: tuple[float, ...]
) -> Judged:
    """The pull that does best, and its heads' logits.

    beside: what is learned from in every fold, such as the memory.
    """
    before = logits(problem.start, examples.features)
    found = {}
    for pull in pulls:
        after = np.zeros_like(before)
        for fold in np.unique(folds):
            inside = folds == fold
            head = solve(problem._replace(pull=pull), examples.take(~inside).and_(beside))
            after[inside] = logits(head, examples.features[inside])
        found[pull] = after
    losses = {pull: _losses(after, examples.classes, problem.kind) for pull, after in found.items()}
    weight = examples.weights / examples.weights.sum()
    best = min(losses, key=lambda pull: float(weight @ losses[pull]))
    for pull in sorted(losses, reverse=True):
        apart = losses[pull] - losses[best]
        mean = float(weight @ apart)
        if mean <= float((weight**2 @ (apart - mean) ** 2) ** 0.5):
            best = pull
            break
    return Judged(best, before, found[best])


def _losses(z: Array, classes: Array, kind: str) -> Array:
    p = probabilities(z, kind)[np.arange(len(z)), classes]
    return np.asarray(-np.log(np.maximum(p, 1e-9)))


def compare(before: Array, after: Array, classes: Array, weights: Array) -> Compared:
    """Of logits (n, C) by the old and the new head."""
    right = [z.argmax(axis=1) == classes for z in (before, after)]
    share = weights / weights.sum()
    difference = right[1].astype(float) - right[0]
    gain = float(share @ difference)
    half = 1.96 * float((share**2 @ (difference - gain) ** 2) ** 0.5)
    few = abs(gain) < half
    enough = int(len(classes) * (half / max(abs(gain), 0.005)) ** 2) if few else 0
    return Compared(
        samples=len(classes), before=wilson(right[0], weights, _ALL),
        after=wilson(right[1], weights, _ALL), gain=gain, half=half, enough=enough,
    )  # fmt: skip


def by_class(judged: Judged, classes: Array, names: tuple[str, ...]) -> list[ClassChange]:
    """Each class that has labels."""
    right = [z.argmax(axis=1) == classes for z in (judged.before, judged.after)]
    return [
        ClassChange(name, int(of.sum()), float(right[0][of].mean()), float(right[1][of].mean()))
        for c, name in enumerate(names) if (of := classes == c).any()
    ]  # fmt: skip


def doubtful(judged: Judged, classes: Array, kind: str) -> Array:
    """Rows whose label both heads contradict: the old one is sure of another, which the new one,
    that has not learned from it, says too.
    """
    old = probabilities(judged.before, kind)
    said = old.argmax(axis=1)
    sure = (old.max(axis=1) > SURE) & (judged.after.argmax(axis=1) == said)
    return np.flatnonzero(sure & (said != classes))


def of_memory(about: Memory, memory: Remembered, old: Linear, new: Linear) -> Compared:
    """On samples that the memory makes up, or on those that it holds."""
    features, classes = draw(memory, DRAWN)
    counts = np.array(about.counts, float)[classes]
    each = np.bincount(classes, minlength=len(about.counts))[classes]
    before, after = logits(old, features), logits(new, features)
    return compare(before, after, classes, counts / each)


def examples_of(
    about: Memory | None, memory: Remembered | None, width: int, labelled: Array
) -> Examples:
    """The memory as something to learn from; none where there is none.

    labelled: the classes (n,) of the labels beside. A class without a label is spoken for by the
    memory alone, against all labels: there it counts ABSENT times for the labels too.
    """
    if about is None or memory is None:
        empty = np.zeros(0)
        return Examples(np.zeros((0, width), np.float32), empty.astype(int), empty)
    classes, counts = memory.classes.astype(int), weights(about, memory)
    more = ABSENT * (1 + len(labelled) / max(float(counts.sum()), 1.0))
    counts = np.where(np.isin(classes, labelled), counts, counts * more)
    return Examples(memory.features.astype(np.float32), classes, counts)
