"""Grad-CAM and the scores, in NumPy: the reference that torch, ONNX and C must match.

A heatmap is ReLU(sign · Σ_k α_k A_k) with α_k the spatial mean of ∂objective/∂A_k (Selvaraju et
al., "Grad-CAM", ICCV 2017, eq. 1 and 2), never min-max normalised: its magnitude is what is
scored. See docs/method.md for the equations and why these scores.
"""

from typing import Literal, NamedTuple

import numpy as np

from dripgate.types import Array, FloatArray

Objective = Literal["evidence", "loss"]
Statistic = Literal["mean", "max", "area"]


class ScoreSpec(NamedTuple):
    """A named score: ``direction`` · statistic(ReLU(``sign`` · Σ_k α_k A_k)) of one objective.

    objective: ``evidence`` is the predicted class's logit, ``loss`` is -log p of that class.
    sign: +1 shows what raises the objective, -1 what lowers it.
    direction: +1 or -1, so that a higher score is always more worth keeping.
    """

    objective: Objective
    statistic: Statistic
    sign: int
    direction: int


#: The registry. Names are what `--score`, gate metadata and benchmark rows say.
SCORES: dict[str, ScoreSpec] = {
    "loss_mean": ScoreSpec("loss", "mean", -1, +1),
    "loss_max": ScoreSpec("loss", "max", -1, +1),
    "loss_rise_mean": ScoreSpec("loss", "mean", +1, +1),
    "evidence_mean": ScoreSpec("evidence", "mean", +1, -1),
    "evidence_max": ScoreSpec("evidence", "max", +1, -1),
    "evidence_area": ScoreSpec("evidence", "area", +1, +1),
}
DEFAULT_SCORE = "loss_mean"

#: Below this maximum a heatmap counts as empty: its area is 0, not 0/0. The loss objective's maps
#: shrink with 1 - p, so it lies far below what a confident sample reaches.
EMPTY = 1e-30


def softmax(logits: Array) -> FloatArray:
    """Class probabilities, (N, C) from logits (N, C)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)


def probabilities(logits: Array, head: str) -> FloatArray:
    """(N, C) from logits (N, C): by a softmax, or by a sigmoid each."""
    if head == "softmax":
        return softmax(logits)
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))), np.float32)


def objective_gradient(logits: Array, objective: Objective, head: str = "softmax") -> FloatArray:
    """∂objective/∂logits at what is predicted, (N, C); ŷ is the class with the largest logit.

    evidence: onehot(ŷ). loss: p - onehot(ŷ), the gradient of -log p_ŷ, where p_ŷ - 1 is taken
    as minus the sum of the others: 1 - p would be all rounding for a confident sample. For a
    sigmoid each, the loss is binary cross-entropy at the predicted labels z > 0, and its gradient
    p - [z > 0] = -sign(z) · sigmoid(-|z|).
    """
    onehot: FloatArray = np.eye(logits.shape[1], dtype=np.float32)[logits.argmax(axis=1)]
    if objective == "evidence":
        return onehot
    if head == "sigmoid":
        return np.asarray(-np.sign(logits) * probabilities(-np.abs(logits), head), np.float32)
    others = softmax(logits) * (1 - onehot)
    return np.asarray(others - onehot * others.sum(axis=1, keepdims=True), np.float32)


def heatmap(activations: Array, gradients: Array, sign: int) -> FloatArray:
    """ReLU(sign · Σ_k α_k A_k), (N, h, w), from activations and gradients (N, K, h, w)."""
    alpha = gradients.mean(axis=(2, 3))
    weighted = np.einsum("nk,nkhw->nhw", alpha, activations)
    return np.asarray(np.maximum(sign * weighted, 0), np.float32)


def heatmap_of_linear_head(
    activations: Array, weight: Array, bias: Array, objective: Objective, sign: int
) -> FloatArray:
    """The closed form for a global-average-pool + linear head, with no gradient at all.

    There ∂logit_c/∂A_khw = W_ck/(h·w), so α = (∂objective/∂logits · W) / (h·w).
    activations (N, K, h, w), weight (C, K), bias (C,) → (N, h, w).
    """
    logits = activations.mean(axis=(2, 3)) @ weight.T + bias
    h, w = activations.shape[2:]
    alpha = objective_gradient(logits, objective) @ weight / (h * w)
    weighted = np.einsum("nk,nkhw->nhw", alpha, activations)
    return np.asarray(np.maximum(sign * weighted, 0), np.float32)


def statistic(heatmaps: Array, name: Statistic) -> FloatArray:
    """One number per heatmap, (N,) from (N, h, w).

    area is mean/max, the active share of the map: 1 where it is flat, 1/(h·w) where one cell
    holds everything, 0 where it is empty.
    """
    flat = heatmaps.reshape(len(heatmaps), -1)
    if name == "mean":
        return np.asarray(flat.mean(axis=1), np.float32)
    if name == "max":
        return np.asarray(flat.max(axis=1), np.float32)
    return np.asarray(flat.mean(axis=1) / np.maximum(flat.max(axis=1), EMPTY), np.float32)


def score(heatmaps: Array, spec: ScoreSpec) -> FloatArray:
    """The DRIP score, (N,): higher is more worth keeping."""
    return np.asarray(spec.direction * statistic(heatmaps, spec.statistic), np.float32)
