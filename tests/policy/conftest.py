"""Gates that are nothing but calibration, and streams of scores, without a model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dripgate.gate_info import (
    Calibration,
    GateInfo,
    Histogram,
    Parity,
    Provenance,
    TargetLayer,
)
from dripgate.policy import Policy
from dripgate.types import (
    Decision,
    Identity,
    ImageInput,
    Reason,
    Sample,
    Thresholds,
    Verdict,
)

CLASSES = 4


def histogram(values: Any) -> Histogram:
    counts, edges = np.histogram(values, 40)
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def calibration(scores: Any, qualities: Any, predicted: Any) -> Calibration:
    counts = tuple(np.bincount(predicted, minlength=CLASSES).tolist())
    return Calibration(
        samples=len(scores), accuracy=0.9, score=histogram(scores), quality=histogram(qualities),
        predicted=counts, kept=counts, curve=(), full=0.9, why="",
        apart=tuple((np.arange(101) / 50).tolist()),
    )  # fmt: skip


def drawn(rng: np.random.Generator, n: int) -> tuple[Any, Any, Any]:
    """Scores as skewed as the default score's, qualities, and predicted classes."""
    return rng.gamma(0.5, size=n), rng.beta(5, 5, n), rng.integers(0, CLASSES, n)


@pytest.fixture(scope="session")
def make_info() -> Callable[..., GateInfo]:
    def make(found: Calibration | None = None, keep: float = 0.4) -> GateInfo:
        return GateInfo(
            schema=1, score="loss_mean", keep=keep, classes=tuple("abcd"),
            thresholds=Thresholds(
                low=(None,) * CLASSES, high=(None,) * CLASSES, quality_low=None, quality_high=None
            ),
            input=ImageInput(height=8, width=8, channels=1), preprocessing=Identity(),
            layer=TargetLayer(name="a", shape=(8, 4, 4), why=""),
            calibration=found or calibration(*drawn(np.random.default_rng(99), 2000)),
            parity=Parity(logits=0, score=0, heatmap=0, samples=1, tolerance=1e-4),
            provenance=Provenance(
                dripgate="", torch="", onnx="", onnxruntime="", opset=1, data="", seed=0
            ),
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def info(make_info) -> GateInfo:
    return make_info()


class Stream:
    """Samples with the gate's verdicts and embeddings, in order."""

    def __init__(self, scores, predicted=None, *, times=None, sizes=None, embeddings=None,
                 qualities=None, band=0.6, alien=(), broken=()):  # fmt: skip
        n = len(scores)
        rng = np.random.default_rng(n)
        scores = np.asarray(scores, np.float32).tolist()
        predicted = rng.integers(0, CLASSES, n) if predicted is None else predicted
        qualities = rng.beta(5, 5, n) if qualities is None else qualities
        times = np.arange(n) if times is None else times
        sizes = [100] * n if sizes is None else sizes
        self.samples = [
            Sample(b"x" * size, str(i), float(t))
            for i, (t, size) in enumerate(zip(times, sizes, strict=True))
        ]
        self.verdicts = []
        for i in range(n):
            decision = Decision.KEEP if scores[i] >= band else Decision.DROP
            reason = Reason.BAND
            if i in alien:
                decision, reason = Decision.QUARANTINE, Reason.QUALITY
            if i in broken:
                decision, reason = Decision.DROP, Reason.UNREADABLE
            self.verdicts.append(Verdict(
                decision=decision, reason=reason, score=scores[i], quality=float(qualities[i]),
                predicted=-1 if i in broken else int(predicted[i]), propensity=1.0,
            ))  # fmt: skip
        if embeddings is None:
            embeddings = rng.normal(size=(n, 8))
        self.embeddings = np.asarray(embeddings, np.float32)

    def __len__(self) -> int:
        return len(self.samples)

    def through(self, policy: Policy, batch: int = 64, start: int = 0, stop: int | None = None):
        stop = len(self) if stop is None else stop
        found: list[Verdict] = []
        for i in range(start, stop, batch):
            part = slice(i, min(i + batch, stop))
            found += policy(self.samples[part], self.verdicts[part], self.embeddings[part])
        return found


@pytest.fixture(scope="session")
def stream_of() -> type[Stream]:
    return Stream


@pytest.fixture(scope="session")
def calibrated() -> Callable[..., Calibration]:
    return calibration
