"""A linear classifier on the model's features: how much more labelled samples teach.

It stands in for retraining, which takes too long and, for a foreign ONNX file, cannot be done
here: a ridge regression onto onehot targets, solved in milliseconds (the cheap proxy of BWS,
ICML 2024), on nested parts of the calibration samples.
"""

from collections.abc import Callable

import numpy as np

from dripgate.types import Array

#: Features of the probe: of more, the main directions are taken.
MOST = 256
#: Parts of the calibration samples that it learns from; it is tested on the last third.
PARTS = (1 / 6, 1 / 3, 2 / 3)


def learning_curve(
    features: Array, labels: Array, seed: int, repeats: int = 20
) -> Callable[..., Array]:
    """L: random share f in 0…1 → expected accuracy of the probe, never falling.

    features (n, D), labels int (n,). At 0 it has learned from a third of them, at 1 from two.
    """
    x, y = _prepared(features, labels, seed)
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


def exponents(features: Array, labels: Array, seed: int, repeats: int = 20) -> Array:
    """How fast the probe's error falls: b of error ∝ samples^-b, once per split, (repeats,).

    A power law fitted by least squares to log error over log samples, on nested parts.
    """
    x, y = _prepared(features, labels, seed)
    sizes = [max(round(part * len(x)), 1) for part in PARTS]
    found = []
    for repeat in range(repeats):
        order = np.random.default_rng([seed, repeat]).permutation(len(x))
        test = order[sizes[-1] :]
        # Half a sample more is wrong, so that none wrong has a logarithm.
        wrong = [1 - probe_accuracy(x, y, order[:n], test) + 0.5 / len(test) for n in sizes]
        found.append(-np.polyfit(np.log(sizes), np.log(wrong), 1)[0])
    return np.maximum(found, 0.0)


def _prepared(features: Array, labels: Array, seed: int) -> tuple[Array, Array]:
    """Standardised features and a column of ones, (n, D + 1); onehot targets (n, C)."""
    x = features - features.mean(axis=0)
    x = _main_directions((x / (x.std(axis=0) + 1e-6)).astype(np.float64), seed)
    return np.c_[x, np.ones(len(x))], np.eye(int(labels.max()) + 1)[labels]


def _main_directions(x: Array, seed: int) -> Array:
    """x (n, D) along its MOST largest principal directions, where it has more than that.

    A probe of 2,048 features would be solved 280 times. Source: Halko, Martinsson, Tropp,
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
