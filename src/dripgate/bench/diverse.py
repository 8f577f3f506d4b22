"""Baselines that look for variety among embeddings: each decides at once, in bounded memory."""

import numpy as np

from dripgate.bench.hold import Hold
from dripgate.types import Array, FloatArray

#: Kept embeddings that novelty is measured against.
MEMORY = 256
#: Samples in one window of the sieve; its objective looks no further back.
WINDOW = 200
#: Directions that gradient embeddings are projected on.
PROJECTED = 64


def _scaled(embedding: Array) -> FloatArray:
    """Rows of length 1: what differs in direction is different, however strong."""
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    return np.asarray(embedding / np.maximum(length, 1e-9), np.float32)


def novelty(embedding: Array, keep: float, rng: np.random.Generator) -> Array:
    """Keep what is farthest from what was kept: distance to the nearest of a random MEMORY."""
    points, kept = _scaled(embedding), np.zeros(len(embedding), bool)
    memory = np.zeros((MEMORY, points.shape[1]), np.float32)
    hold, stored = Hold(keep, np.zeros(0)), 0
    ties = rng.random(len(points))
    for i, point in enumerate(points):
        near = float((memory[: min(stored, MEMORY)] @ point).max(initial=-1.0))
        kept[i] = hold(-near, ties[i])
        if kept[i]:  # a reservoir: every kept sample is remembered with the same chance
            at = stored if stored < MEMORY else int(rng.integers(stored + 1))
            if at < MEMORY:
                memory[at] = point
            stored += 1
    return kept


def three_sieves(embedding: Array, calibration: Array, keep: float) -> Array:
    """ThreeSieves (Buschjäger et al., ECML 2021) on log det(I + kernel), window by window.

    A sieve accepts what adds at least its threshold; the threshold falls by a tenth after T
    refusals in a row, T being what the window and the quota allow.
    """
    points, kept = _scaled(embedding), np.zeros(len(embedding), bool)
    known = _scaled(calibration)
    width = float(np.median(1 - known @ known.mean(axis=0))) + 1e-6
    for start in range(0, len(points), WINDOW):
        window = points[start : start + WINDOW]
        kept[start : start + WINDOW] = _sieve(window, round(keep * len(window)), width)
    return kept


def _sieve(points: Array, quota: int, width: float) -> Array:
    kernel = np.exp(-(1 - points @ points.T) / width)
    kept: list[int] = []
    threshold, refused, least = float(np.log(2)), 0, float(np.log(2)) / 100
    patience = max(1, len(points) // 20)
    inverse: Array = np.zeros((0, 0))
    for i in range(len(points)):
        if len(kept) == quota:
            break
        row = kernel[i, kept]
        gain = float(np.log(max(1 + kernel[i, i] - row @ inverse @ row, 1e-12)))
        owed = quota - len(kept) >= len(points) - i  # else the quota would not be filled
        if gain >= threshold or owed:
            kept.append(i)
            inverse = np.linalg.inv(np.eye(len(kept)) + kernel[np.ix_(kept, kept)])
            refused = 0
        else:
            refused += 1
            if refused >= patience:
                threshold, refused = max(threshold * 0.9, least), 0
    chosen = np.zeros(len(points), bool)
    chosen[kept] = True
    return chosen


def vessal(embedding: Array, p: Array, keep: float, rng: np.random.Generator) -> Array:
    """VeSSAL (Saran et al., ICML 2023): chance ∝ gᵀ Σ⁻¹ g / tr(Σ⁻¹ A), at most 1.

    g is the gradient embedding of the predicted class, (p - onehot(ŷ)) ⊗ embedding, on PROJECTED
    random directions; Σ is summed over what was kept, A is the mean over all that passed. Where a
    few samples have most of the volume, chances of 1 would leave the share unfilled: the factor,
    ``keep`` in the paper, follows what was kept.
    """
    error = p - np.eye(p.shape[1])[p.argmax(axis=1)]
    left = rng.normal(size=(p.shape[1], PROJECTED))
    right = rng.normal(size=(embedding.shape[1], PROJECTED))
    # A random direction of rank one meets u ⊗ v in the product of two sums.
    gradients = (error @ left) * (_scaled(embedding) @ right) / np.sqrt(PROJECTED)
    inverse, passed = np.eye(PROJECTED) / 0.01, np.zeros((PROJECTED, PROJECTED))
    factor, kept = keep, np.zeros(len(gradients), bool)
    for i, (g, coin) in enumerate(zip(gradients, rng.random(len(gradients)), strict=True)):
        towards = inverse @ g
        volume = float(g @ towards)
        passed += np.outer(g, g)
        usual = float((inverse * passed).sum()) / (i + 1)
        kept[i] = coin < factor * volume / max(usual, 1e-30)
        factor *= float(np.exp(0.1 * (keep - kept[i])))
        if kept[i]:
            inverse -= np.outer(towards, towards) / (1 + volume)
    return kept
