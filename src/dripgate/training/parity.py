"""Does the exported graph say what autograd says? Asked of every gate, on real samples."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from dripgate.errors import ModelError, ParityError
from dripgate.gate_info import INPUT_NAME, Parity
from dripgate.heatmap import SCORES
from dripgate.training.gradcam import Cam, GradCam
from dripgate.training.preprocess import Deployed, build
from dripgate.types import Array, InputSpec, Preprocessing

TOLERANCE = 1e-4
#: Below this share of the gradient's mean magnitude, its mean is rounding: the plane cancels out.
CANCELLED = 1e-5
BATCH = 64
COMPARED = ("logits", "score", "heatmap")


def check_parity(
    graph: bytes,
    model: nn.Module,
    preprocessing: Preprocessing,
    input_spec: InputSpec,
    layer: str,
    score: str,
    samples: Array,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compare onnxruntime with autograd on raw samples (N, …): the first alone, then batches.

    The differences are relative to the largest magnitude of each output. Samples whose two best
    logits tie within the tolerance are left out: there either class is right.

    Raises ParityError beyond ``tolerance``, and ModelError where the score has no spread, as
    with an InstanceNorm right behind the target layer: no threshold can tell samples apart then.
    """
    batches = [samples[:1], *_batches(samples[1:])]
    deployed = Deployed(model, build(preprocessing, input_spec))
    with GradCam(deployed, f"model.{layer}") as gradcam:
        cams = [gradcam(torch.from_numpy(batch), SCORES[score]) for batch in batches]
    _refuse_no_spread(cams, layer)
    expected = {name: np.concatenate([_numpy(cam, name) for cam in cams]) for name in COMPARED}
    found = _run(graph, batches)
    clear = _clear(expected["logits"], tolerance)
    worst = {name: _difference(found[name][clear], expected[name][clear]) for name in COMPARED}
    # A NaN must fail, so it is asked whether all is well rather than whether something is not.
    if not all(value <= tolerance for value in worst.values()):
        listed = ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
        raise ParityError(
            f"the graph of {type(model).__name__} differs from autograd at layer '{layer}': "
            f"{listed}, expected at most {tolerance:.0e} of each output's largest value; "
            "try another --layer, and please report this model's head"
        )
    return Parity(samples=int(clear.sum()), tolerance=tolerance, **worst)


def _batches(samples: Array) -> Iterator[Array]:
    for start in range(0, len(samples), BATCH):
        yield samples[start : start + BATCH]


def _numpy(cam: Cam, name: str) -> Array:
    values: Array = getattr(cam, name).numpy()
    return values


def _run(graph: bytes, batches: list[Array]) -> dict[str, Array]:
    session: Any = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    results = [session.run(list(COMPARED), {INPUT_NAME: batch}) for batch in batches]
    return {
        name: np.concatenate(parts)
        for name, parts in zip(COMPARED, zip(*results, strict=True), strict=True)
    }


def _clear(logits: Array, tolerance: float) -> Array:
    second, best = np.sort(logits, axis=1)[:, -2:].T
    clear: Array = best - second > tolerance * np.abs(logits).max()
    return clear if clear.any() else ~clear


def _difference(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def _refuse_no_spread(cams: list[Cam], layer: str) -> None:
    gradients = torch.cat([cam.gradients for cam in cams])
    scores = torch.cat([cam.score for cam in cams])
    mean, size = gradients.mean((2, 3)).abs().max(), gradients.abs().mean((2, 3)).max()
    if mean <= CANCELLED * size or (len(scores) > 1 and bool((scores == scores[0]).all())):
        raise ModelError(
            f"layer '{layer}': the score has no spread over {len(scores)} samples, as the mean "
            "gradient vanishes (an InstanceNorm right behind the layer does that) or the heatmaps "
            "are empty; choose another layer with --layer"
        )
