"""What the deployed model says about samples, in the order they come."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from dripgate import heatmap
from dripgate.bench.gradcam import GradCam
from dripgate.fitting.thresholds import Observed
from dripgate.gate import Gate
from dripgate.training.classifier import Classifier
from dripgate.training.preprocess import build
from dripgate.types import Array, Verdict

_BATCH = 256


class Deployed(Protocol):
    """A classifier and its gate."""

    @property
    def classifier(self) -> Classifier:
        """The model."""

    @property
    def gate(self) -> Gate:
        """Fitted to it."""


@dataclass(frozen=True, eq=False)
class Seen:
    """n samples x (n, …) as a deployed model and its gate see them, asked when first needed."""

    deployed: Deployed
    x: Array

    @property
    def gate(self) -> Gate:
        """The gate."""
        return self.deployed.gate

    @cached_property
    def _outputs(self) -> tuple[Array, ...]:
        parts = [self.gate(self.x[i : i + _BATCH]) for i in range(0, len(self.x), _BATCH)]
        columns = [(part.logits, part.embedding, part.score, part.quality) for part in parts]
        return tuple(np.concatenate(column) for column in zip(*columns, strict=True))

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The gate's own."""
        starts = range(0, len(self.x), _BATCH)
        parts = [self.gate.decide_batch(list(self.x[i : i + _BATCH])) for i in starts]
        return [verdict for part in parts for verdict in part]

    @property
    def logits(self) -> Array:
        """(n, C)."""
        return self._outputs[0]

    @property
    def embedding(self) -> Array:
        """(n, D), the pooled target activations."""
        return self._outputs[1]

    @property
    def quality(self) -> Array:
        """(n,)."""
        return self._outputs[3]

    @property
    def predicted(self) -> Array:
        """Predicted classes, int (n,)."""
        return np.asarray(self.logits.argmax(axis=1))

    @cached_property
    def p(self) -> Array:
        """Class probabilities, (n, C)."""
        return heatmap.softmax(self.logits)

    def score(self, name: str) -> Array:
        """A heatmap score by its name in the registry, (n,); the gate's own is its output."""
        return self._outputs[2] if name == self.gate.info.score else self._scores[name]

    @cached_property
    def _scores(self) -> dict[str, Array]:
        """Every score of the registry, by hooks and autograd."""
        classifier = self.deployed.classifier
        info = classifier.info
        prepare = build(info.preprocessing, info.input)
        found: dict[str, list[Array]] = {name: [] for name in heatmap.SCORES}
        with GradCam(classifier.model, self.gate.info.layer.module) as gradcam:
            for i in range(0, len(self.x), _BATCH):
                with torch.no_grad():
                    batch = prepare(torch.from_numpy(np.ascontiguousarray(self.x[i : i + _BATCH])))
                for name, spec in heatmap.SCORES.items():
                    found[name].append(gradcam(batch, spec).score.numpy())
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def observed(self, score: str, labels: Array) -> Observed:
        """As ``thresholds.learn`` takes it, with the true classes (n,)."""
        return Observed(self.score(score), self.logits, self.embedding, labels)
