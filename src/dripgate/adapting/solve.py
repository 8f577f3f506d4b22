"""Weighted logistic regression of the head, held back by a pull towards the deployed one.

Minimised by L-BFGS (Nocedal and Wright, "Numerical Optimization", algorithm 7.4) with steps halved
until the loss falls enough. The base install has no scipy, and forty lines do.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dripgate.gate_tensors import Linear
from dripgate.types import Array

#: How strongly the new head is held to the old one at least where there is no memory, in samples.
PULL_ALONE = 30.0
#: Of a row that the old head does not have, towards 0.
PULL_NEW = 1.0
_ITERATIONS, _HISTORY, _ENOUGH = 150, 10, 1e-4


class Examples(NamedTuple):
    """features float32 (n, D), classes int (n,), and for how many samples each counts, (n,)."""

    features: Array
    classes: Array
    weights: Array

    def take(self, rows: Array) -> "Examples":
        """Those of these rows."""
        return Examples(*(part[rows] for part in self))

    def and_(self, other: "Examples") -> "Examples":
        """Both together."""
        pairs = zip(self, other, strict=True)
        return Examples(*(np.concatenate(pair) for pair in pairs))


class Problem(NamedTuple):
    """The head as deployed; kind: "softmax" or "sigmoid". scale2: mean square of a feature.

    known: rows that the deployed head has; what stands behind them are new classes.
    """

    start: Linear
    kind: str
    scale2: float
    pull: float
    known: int


def solve(problem: Problem, examples: Examples) -> Linear:
    """The head with the least loss on the examples, float32.

    A head of one row is a binary one: classes are 0 and 1.
    """
    scale = np.float32(problem.scale2**0.5)
    start = np.c_[problem.start.weight * scale, problem.start.bias].astype(np.float64)
    x = np.c_[examples.features / scale, np.ones(len(examples.classes))].astype(np.float32)
    loss = _loss(problem, start, x, examples)
    found = minimise(loss, start.ravel()).reshape(start.shape)
    return Linear((found[:, :-1] / scale).astype(np.float32), found[:, -1].astype(np.float32))


def _loss(
    problem: Problem, start: Array, x: Array, examples: Examples
) -> Callable[[Array], tuple[float, Array]]:
    rows = len(start)
    target = targets(examples.classes, rows)
    weights = examples.weights.astype(np.float64)
    total = max(float(weights.sum()), 1.0)
    pull = np.where(np.arange(rows) < problem.known, problem.pull, PULL_NEW)[:, None]

    def loss(flat: Array) -> tuple[float, Array]:
        head = flat.reshape(start.shape)
        z = x @ head.T.astype(np.float32)
        losses, error = _error(z.astype(np.float64), target, problem.kind)
        away = head - start
        gradient = (error * weights[:, None]).astype(np.float32).T @ x
        value = float(weights @ losses) + float((pull * away**2).sum()) / 2
        return value / total, np.asarray((gradient + pull * away).ravel() / total)

    return loss


def targets(classes: Array, rows: int) -> Array:
    """What the probabilities should be, (n, rows): 1 at the class, but one number for two."""
    if rows == 1:
        return np.asarray(classes == 1, float)[:, None]
    return np.asarray(np.eye(rows)[classes])


def _error(z: Array, target: Array, kind: str) -> tuple[Array, Array]:
    """Cross-entropy (n,) and its gradient by the logits, (n, C): p - target."""
    if kind == "sigmoid" or z.shape[1] == 1:
        p = 1 / (1 + np.exp(-np.clip(z, -60, 60)))
        value = np.logaddexp(0, z) - target * z
        return value.sum(axis=1), p - target
    z = z - z.max(axis=1, keepdims=True)
    p = np.exp(z)
    sums = p.sum(axis=1, keepdims=True)
    value = np.log(sums[:, 0]) - (target * z).sum(axis=1)
    return value, p / sums - target


def minimise(loss: Callable[[Array], tuple[float, Array]], x: Array) -> Array:
    """Where a smooth convex function of x (n,), which gives value and gradient, is least."""
    value, slope = loss(x)
    steps: list[tuple[Array, Array]] = []
    for _ in range(_ITERATIONS):
        if np.abs(slope).max() < _ENOUGH * max(1.0, abs(value)):
            break
        way, size = _direction(slope, steps), 1.0
        while True:
            tried = x - size * way
            new_value, new_slope = loss(tried)
            if new_value <= value - 1e-4 * size * (slope @ way):
                break
            size /= 2
            if size < 1e-6:
                return x
        step, change = tried - x, new_slope - slope
        if step @ change > 0:
            steps = [*steps[1 - _HISTORY :], (step, change)]
        x, value, slope = tried, new_value, new_slope
    return x


def _direction(slope: Array, steps: list[tuple[Array, Array]]) -> Array:
    """The inverse Hessian, as the last steps show it, times the slope."""
    way, shares = slope.copy(), []
    for step, change in reversed(steps):
        share = (step @ way) / (step @ change)
        way -= share * change
        shares.append(share)
    if steps:
        step, change = steps[-1]
        way *= (step @ change) / (change @ change)
    else:
        way /= max(1.0, float(np.linalg.norm(slope)))
    for (step, change), share in zip(steps, reversed(shares), strict=True):
        way += step * (share - (change @ way) / (step @ change))
    return way


def logits(head: Linear, features: Array) -> Array:
    """As the gate gives them, (n, C): of a head of one row 0 and its number."""
    z = features @ head.weight.T + head.bias
    return np.c_[np.zeros(len(z)), z] if len(head.bias) == 1 else np.asarray(z)
