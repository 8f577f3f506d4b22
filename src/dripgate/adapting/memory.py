"""What a gate remembers of its calibration samples' features, so that its head does not forget.

Class means alone forget least per byte (docs/adapt.md has the measurement): ten classes of 64
features are 1.3 kB. Their standard deviations, as much again, serve the check of a new head, which
needs samples that it has not learned from.
"""

from typing import Literal

import numpy as np

from dripgate.errors import UserError
from dripgate.gate_info import Memory
from dripgate.gate_tensors import Remembered
from dripgate.types import Array

Form = Literal["none", "stats"] | int
#: What ``fit`` takes where nobody says.
DEFAULT: Form = "stats"
#: Most feature vectors of a class.
MOST = 10_000
#: Least positive size of float16, so that a spread is never rounded to nothing.
_LEAST, _LARGEST = 6e-8, 65504.0


def parse(text: str) -> Form:
    """'none', 'stats' or a number of vectors per class. Raises UserError."""
    if text in ("none", "stats"):
        return text  # type: ignore[return-value]
    if text.isascii() and text.isdigit() and 0 < int(text) <= MOST:
        return int(text)
    raise UserError(
        f"--memory is '{text}', expected none, stats, or so many feature vectors of each class "
        f"(1 to {MOST:,})"
    )


def remember(
    features: Array, labels: Array, classes: int, form: Form, seed: int = 0
) -> tuple[Memory, Remembered] | None:
    """The memory of features (n, D) with their classes (n,); None where ``form`` is "none".

    Raises UserError for a number of vectors that is none.
    """
    if form == "none" or not len(features):
        return None
    counts = np.bincount(labels, minlength=classes)
    if form == "stats":
        made = _stats(features, labels, counts)
    elif isinstance(form, int) and 0 < form <= MOST:
        made = _vectors(features, labels, classes, form, seed)
    else:
        raise UserError(f"memory is {form!r}, expected 'none', 'stats' or 1 to {MOST:,}")
    about = Memory(
        form="stats" if form == "stats" else "vectors", samples=len(features),
        counts=tuple(counts.tolist()), each=0 if form == "stats" else int(form),
    )  # fmt: skip
    return about, made


def _stats(features: Array, labels: Array, counts: Array) -> Remembered:
    known = np.flatnonzero(counts)
    groups = [features[labels == c].astype(np.float64) for c in known]
    means = np.stack([group.mean(axis=0) for group in groups])
    spread = np.stack([group.std(axis=0) for group in groups])
    return Remembered(_half(means), known.astype(np.int32), _half(np.maximum(spread, _LEAST)))


def _vectors(features: Array, labels: Array, classes: int, each: int, seed: int) -> Remembered:
    """Chosen by chance, classes taking turns: whoever stops early has seen all of them."""
    order = np.random.default_rng([seed, 5]).permutation(len(labels))
    turns = [order[labels[order] == c][:each] for c in range(classes)]
    rows = np.array([turn[i] for i in range(each) for turn in turns if i < len(turn)], int)
    return Remembered(_half(features[rows]), labels[rows].astype(np.int32))


def _half(values: Array) -> Array:
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float16)


def weights(about: Memory, memory: Remembered) -> Array:
    """How many samples each of its features counts for, (M,): a mean for all of its class.

    A single feature counts for itself: a few that stood for hundreds would be learned by heart.
    """
    if memory.spread is None:
        return np.ones(len(memory.classes))
    return np.array([about.counts[c] for c in memory.classes], float)


def draw(memory: Remembered, each: int, seed: int = 0) -> tuple[Array, Array]:
    """(features float32 (n, D), classes (n,)) to test a head on: ``each`` made-up ones per class.

    Normal, with the class's mean and standard deviations; never below 0 where no mean is: behind a
    ReLU nothing is. Of a memory of single features it is those.
    """
    means = memory.features.astype(np.float32)
    if memory.spread is None:
        return means, memory.classes
    rng = np.random.default_rng([seed, 6])
    noise = rng.standard_normal((each, *means.shape), np.float32)
    made = (means + noise * memory.spread.astype(np.float32)).reshape(-1, means.shape[1])
    if (means >= 0).all():
        made = np.maximum(made, 0)
    return made, np.tile(memory.classes, each)
