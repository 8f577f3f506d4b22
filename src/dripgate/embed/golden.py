"""Samples that need no storage, and what onnxruntime says about them: the firmware's self-test."""

import numpy as np

from dripgate.gate import Gate, Outputs
from dripgate.types import Array, AudioInput, ImageInput

COUNT = 4
#: Relative tolerance of logits, and of the score in units of the largest calibration score.
TOLERANCE = 1e-4
#: Values that stay the same in a row, so that there is something to see or hear.
_HOLDS = {"uint8": 5, "int16": 7, "float32": 3}


def samples(gate: Gate) -> Array:
    """COUNT samples of the gate's input: the same as c/dripgate_selftest.c makes on the device."""
    spec = gate.info.input
    length = int(np.prod(spec.shape))
    made = [_made(seed, length, hold(gate)) for seed in range(1, COUNT + 1)]
    states = np.stack(made).reshape(COUNT, *spec.shape)
    if isinstance(spec, ImageInput):
        return (states >> 24).astype(np.uint8)
    if isinstance(spec, AudioInput):
        return ((states >> 18).astype(np.int32) - 8192).astype(np.int16)
    return ((states >> 16).astype(np.float32) / np.float32(32768) - 1).astype(np.float32)


def expression(gate: Gate) -> str:
    """The same conversion of a generator's state in C."""
    spec = gate.info.input
    if isinstance(spec, ImageInput):
        return "(uint8_t)((state) >> 24)"
    if isinstance(spec, AudioInput):
        return "(int16_t)((int32_t)((state) >> 18) - 8192)"
    return "((float)((state) >> 16) / 32768.0f - 1.0f)"


def hold(gate: Gate) -> int:
    """How many values in a row are the same."""
    return _HOLDS[gate.info.input.dtype.name]


def close(gate: Gate, out: Outputs, tolerance: float) -> Array:
    """Which verdicts, (N,), may come out otherwise: a number lies that near to a threshold.

    tolerance is relative to the threshold, and for the score to the largest calibration score as
    well; the two largest logits may be that near to each other.
    """
    bounds, info = gate.info.thresholds, gate.info
    near = np.zeros(len(out.score), bool)
    ranked = np.sort(out.logits, axis=1)
    near |= ranked[:, -1] - ranked[:, -2] <= tolerance * np.abs(ranked).max(axis=1)
    predicted = out.logits.argmax(axis=1)
    scale = score_scale(gate)
    for limits in (bounds.low, bounds.high):
        edge = np.array([np.nan if one is None else one for one in limits])[predicted]
        near |= np.abs(out.score - edge) <= tolerance * np.maximum(np.abs(edge), scale * 1e-3)
    if (least := bounds.quality_low) is not None:
        near |= np.abs(out.quality - least) <= tolerance * abs(least)
    return near & np.isfinite(out.score) & (len(info.classes) > 0)


def score_scale(gate: Gate) -> float:
    """The largest score seen in calibration: what differences are relative to."""
    edges = gate.info.calibration.score.edges
    return max(abs(edges[0]), abs(edges[-1]), 1e-30)


def _made(seed: int, length: int, held: int) -> Array:
    states, state = [], seed
    for _ in range(-(-length // held)):
        state = (state * 1664525 + 1013904223) % 2**32
        states.append(state)
    return np.repeat(np.array(states, np.uint32), held)[:length]
