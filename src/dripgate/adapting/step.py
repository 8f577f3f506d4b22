"""One step of learning for the head, as a microcontroller does it: the reference of the C code.

float32 throughout, one sample at a time, no gradient buffer. The formulas are in docs/method.md,
"Learning on the device"; ``dripgate.adapting.solve`` is what machines with room use instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dripgate.types import Array

#: Length of a step in units of the features' size; how far a step goes back to the old head.
RATE, PULL = 0.1, 0.001
#: A sample counts for so many others of the stream at most.
MOST = 10.0
#: Labelled samples that one call of ``learn`` looks at.
STEPS = 16
#: The class of a ring's entry that has no label yet.
UNLABELLED = -1


@dataclass
class Head:
    """weight (C, D) and bias (C,), float32, as they learn, beside the deployed ones.

    kind: "softmax", or "sigmoid" where each logit stands alone; a head of one row is of the
    second kind, and its label is 0 or 1. inverse: 1 over the mean square of a feature.
    """

    weight: Array
    bias: Array
    first_weight: Array
    first_bias: Array
    kind: str
    inverse: np.float32

    @classmethod
    def of(cls, weight: Array, bias: Array, kind: str, scale2: float) -> "Head":
        """A head that has learned nothing yet."""
        w, b = weight.astype(np.float32), bias.astype(np.float32)
        kind = "sigmoid" if len(b) == 1 else kind
        return cls(w.copy(), b.copy(), w, b, kind, np.float32(1 / scale2))

    def step(self, feature: Array, label: int, amount: float | np.float32, pull: float) -> None:
        """Learn from one feature (D,) of class ``label``; amount: RATE times its weight."""
        h = feature.astype(np.float32)
        error = self._probabilities(self.weight @ h + self.bias)
        error -= self._target(label)
        share = np.float32(amount) / (1 + (h @ h) * self.inverse)
        back = np.float32(pull)
        self.weight -= (share * self.inverse * error)[:, None] * h + back * (
            self.weight - self.first_weight
        )
        self.bias -= share * error + back * (self.bias - self.first_bias)

    def _probabilities(self, z: Array) -> Array:
        if self.kind == "sigmoid":
            return np.asarray(1 / (1 + np.exp(-z)), np.float32)
        e = np.exp(z - z.max())
        return np.asarray(e / e.sum(), np.float32)

    def _target(self, label: int) -> Array:
        target = np.zeros(len(self.bias), np.float32)
        if len(target) == 1:
            target[0] = label == 1
        else:
            target[label] = 1
        return target


@dataclass
class Ring:
    """Features (n, D) of the last kept samples, their classes (UNLABELLED: none yet), weights.

    A weight is 1/propensity, at most MOST. cursor: the slot at which learning goes on; replay: the
    vector of the memory that comes next.
    """

    features: Array
    classes: Sequence[int]
    weights: Sequence[float]
    cursor: int = 0
    replay: int = 0


def learn(
    head: Head, ring: Ring, memory: tuple[Array, Array], steps: int = STEPS, rate: float = RATE,
    pull: float = PULL,
) -> int:  # fmt: skip
    """Learn from the next ``steps`` labelled entries, each followed by a vector of the memory.

    memory: vectors (M, D) and their classes (M,), M may be 0. Returns how many entries were
    learned from: 0 where none is labelled.
    """
    labelled = [slot for slot, c in enumerate(ring.classes) if c != UNLABELLED]
    if not labelled:
        return 0
    clipped = [np.float32(min(max(ring.weights[slot], 1.0), MOST)) for slot in labelled]
    mean = np.float32(sum(map(float, clipped)) / len(labelled))
    vectors, classes = memory
    for _ in range(steps):
        while ring.classes[ring.cursor] == UNLABELLED:
            ring.cursor = (ring.cursor + 1) % len(ring.classes)
        slot = ring.cursor
        weight = np.float32(min(max(ring.weights[slot], 1.0), MOST)) / mean
        head.step(ring.features[slot], ring.classes[slot], np.float32(rate) * weight, pull)
        ring.cursor = (ring.cursor + 1) % len(ring.classes)
        if len(vectors):
            head.step(vectors[ring.replay], int(classes[ring.replay]), rate, 0.0)
            ring.replay = (ring.replay + 1) % len(vectors)
    return steps
