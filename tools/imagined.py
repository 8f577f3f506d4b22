"""Gates that are nothing but calibration, and streams of numbers: a policy without a model.

For the tests and the benchmark of the policy; pytest finds it by ``pythonpath`` in pyproject.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from dripgate.gate_info import Calibration, GateInfo, Histogram, Parity, Provenance, TargetLayer
from dripgate.policy import Policy
from dripgate.types import (
    Array,
    Decision,
    Identity,
    ImageInput,
    Reason,
    Sample,
    Thresholds,
    Verdict,
)


def drawn(rng: np.random.Generator, n: int, classes: int = 4) -> tuple[Array, Array, Array]:
    """Scores as skewed as the default score's, qualities, and predicted classes, (n,) each."""
    return rng.gamma(0.5, size=n), rng.beta(5, 5, n), rng.integers(0, classes, n)


def calibrated(scores: Any, qualities: Any, predicted: Any, classes: int = 4) -> Calibration:
    """What a calibration on these would have noted. The distance of scenes is even in 0 … 2."""
    counts = tuple(np.bincount(predicted, minlength=classes).tolist())
    return Calibration(
        samples=len(scores), accuracy=0.9, score=Histogram.of(scores),
        quality=Histogram.of(qualities), predicted=counts, kept=counts, curve=(), full=0.9, why="",
        distances=tuple((0.09 + np.arange(101) / 500).tolist()),
    )  # fmt: skip


def info(calibration: Calibration, keep: float = 0.4) -> GateInfo:
    """What a gate would say of itself that keeps by that calibration."""
    classes = len(calibration.predicted)
    none = (None,) * classes
    return GateInfo(
        schema=1, score="loss_mean", keep=keep, classes=tuple("abcdefghij"[:classes]),
        thresholds=Thresholds(low=none, high=none, quality_low=None),
        input=ImageInput(height=8, width=8, channels=1), preprocessing=Identity(),
        layer=TargetLayer(name="imagined", shape=(8, 4, 4), why=""), calibration=calibration,
        parity=Parity(logits=0, score=0, heatmap=0, samples=1, tolerance=1e-4),
        provenance=Provenance(
            dripgate="", torch="", onnx="", onnxruntime="", opset=1, data="", seed=0
        ),
    )  # fmt: skip


class Stream:
    """Samples with the gate's verdicts and embeddings, in order.

    band: scores from here on are inside. alien, broken: positions of samples that are. What is not
    given is drawn from ``drawn``, one sample per second of 100 bytes each.
    """

    def __init__(
        self, scores: Any, predicted: Any = None, *, times: Any = None, sizes: Any = None,
        embeddings: Any = None, qualities: Any = None, band: float = 0.6,
        alien: Collection[int] = (), broken: Collection[int] = (),
    ) -> None:  # fmt: skip
        n = len(scores)
        rng = np.random.default_rng(n)
        _, beta, even = drawn(rng, n)
        values = np.asarray(scores, np.float32).tolist()
        predicted = even if predicted is None else predicted
        qualities = beta if qualities is None else qualities
        times = np.arange(n) if times is None else times
        sizes = [100] * n if sizes is None else sizes
        self.samples = [
            Sample(b"x" * size, str(i), float(t))
            for i, (t, size) in enumerate(zip(times, sizes, strict=True))
        ]
        self.verdicts = []
        for i in range(n):
            decision = Decision.KEEP if values[i] >= band else Decision.DROP
            reason = Reason.BAND
            if i in alien:
                decision, reason = Decision.QUARANTINE, Reason.QUALITY
            if i in broken:
                decision, reason = Decision.DROP, Reason.UNREADABLE
            self.verdicts.append(Verdict(
                decision=decision, reason=reason, score=values[i], quality=float(qualities[i]),
                predicted=-1 if i in broken else int(predicted[i]), propensity=1.0,
            ))  # fmt: skip
        if embeddings is None:
            embeddings = rng.normal(size=(n, 8))
        self.embeddings = np.asarray(embeddings, np.float32)

    def __len__(self) -> int:
        return len(self.samples)

    def through(
        self, policy: Policy, batch: int = 64, start: int = 0, stop: int | None = None
    ) -> list[Verdict]:
        """The policy's verdicts on a part of the stream, ``batch`` at a time."""
        stop = len(self) if stop is None else stop
        found: list[Verdict] = []
        for i in range(start, stop, batch):
            part = slice(i, min(i + batch, stop))
            found += policy(self.samples[part], self.verdicts[part], self.embeddings[part])
        return found


def kept(verdicts: Sequence[Verdict]) -> Array:
    """Which were kept, bool (n,)."""
    return np.array([v.decision is Decision.KEEP for v in verdicts])
