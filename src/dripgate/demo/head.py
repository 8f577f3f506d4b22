"""The last layer, learned anew on embeddings: what retraining gives, at no price, without torch.

Multinomial logistic regression with a little weight decay, in NumPy, by Nesterov's accelerated
gradient with the step that its curvature allows: no rate to choose, and no chance in it. The
classifier's trunk stays as it is, so this is less than training the whole net would give.
"""

from typing import NamedTuple

import numpy as np

from dripgate.types import Array

DECAY, STEPS = 1e-3, 300


class Head(NamedTuple):
    """mean, scale: of the embeddings (D,). weights: (D + 1, classes), the bias last."""

    mean: Array
    scale: Array
    weights: Array

    def predict(self, embeddings: Array) -> Array:
        """Class indices (N,) for embeddings (N, D)."""
        classes: Array = (_with_one((embeddings - self.mean) / self.scale) @ self.weights).argmax(1)
        return classes


def learn(embeddings: Array, labels: Array, classes: int) -> Head:
    """The head for embeddings (N, D) with class indices (N,)."""
    mean, scale = embeddings.mean(0, dtype=np.float64), embeddings.std(0, dtype=np.float64) + 1e-6
    x, targets = _with_one((embeddings - mean) / scale), np.eye(classes)[labels]
    n = len(x)
    steepest = float(np.linalg.eigvalsh(x.T @ x / n)[-1]) / 2 + DECAY
    weights = ahead = np.zeros((x.shape[1], classes))
    pace = 1.0
    for _ in range(STEPS):
        gradient = x.T @ (_softmax(x @ ahead) - targets) / n
        gradient[:-1] += DECAY * ahead[:-1]
        before, weights = weights, ahead - gradient / steepest
        pace, last = (1 + (1 + 4 * pace**2) ** 0.5) / 2, pace
        ahead = weights + (last - 1) / pace * (weights - before)
    return Head(mean, scale, weights)


def _with_one(x: Array) -> Array:
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: Array = powers / powers.sum(1, keepdims=True)
    return shares
