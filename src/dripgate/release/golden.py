"""Golden samples: what a gate made of a few samples where it was released, and makes of them here.

Another processor, another onnxruntime or another decoder may give other numbers. How much other is
the release's to say (``Limits.tolerance``), and every output counts against its largest value.
"""

import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from dripgate.errors import ReleaseError, UnreadableError
from dripgate.gate import Gate
from dripgate.media import encode_png, encode_wav
from dripgate.release.manifest import LARGEST_GOLDEN, Golden
from dripgate.types import Array, AudioInput, ImageInput, InputSpec, Sample

#: Samples that are made up where none are given.
MADE_UP = 16
#: How often golden samples are decided to measure the time they take; the shortest counts.
_REPEATS = 5


def made_up(spec: InputSpec, count: int = MADE_UP) -> list[bytes]:
    """Payloads that a gate can decode: noise of several grains, the same everywhere."""
    rng = np.random.default_rng(0)
    return [_payload(rng, 1 << i % 4, spec) for i in range(count)]


def _payload(rng: np.random.Generator, grain: int, spec: InputSpec) -> bytes:
    coarse = tuple(max(1, size // grain) for size in spec.shape)
    if isinstance(spec, ImageInput):
        coarse = (*coarse[:2], spec.channels)
    values = rng.random(coarse)
    for axis, size in enumerate(spec.shape):
        values = values.take(np.arange(size) * values.shape[axis] // size, axis=axis)
    if isinstance(spec, ImageInput):
        return encode_png((values * 255).astype(np.uint8))
    if isinstance(spec, AudioInput):
        return encode_wav(((values - 0.5) * 30_000).astype(np.int16), spec.rate)
    file = io.BytesIO()
    np.save(file, (2 * values - 1).astype(np.float32), allow_pickle=False)
    return file.getvalue()


def record(gate: Gate, payloads: Sequence[bytes]) -> list[Golden]:
    """What the gate makes of these. Raises ReleaseError where it cannot decode one."""
    arrays = [_decoded(gate, payload, "a golden sample") for payload in payloads]
    found = gate(np.stack(arrays))
    rows = zip(payloads, found.logits, found.score, found.verdict, found.quality, strict=True)
    golden = [
        Golden(payload=payload, logits=tuple(logits.tolist()), score=float(score),
               quality=float(quality), verdict=int(verdict))  # type: ignore[arg-type]
        for payload, logits, score, verdict, quality in rows
    ]  # fmt: skip
    if not all(np.isfinite([*one.logits, one.score, one.quality]).all() for one in golden):
        raise ReleaseError(f"{gate.name}: gives what is no number on a golden sample; fit it again")
    return golden


def check(gate: Gate, golden: Sequence[Golden], tolerance: float, name: str) -> float:
    """The largest difference here, as a part of each output's largest value.

    Raises ReleaseError where it is above the tolerance, where a verdict differs that no threshold
    is near to, and where a sample cannot be decoded.
    """
    classes = len(gate.info.classes)
    if any(len(one.logits) != classes for one in golden):
        raise ReleaseError(
            f"{name}: golden samples with another number of classes than the gate's {classes}; "
            "make the release again"
        )
    arrays = np.stack([_decoded(gate, one.payload, f"{name}: a golden sample") for one in golden])
    found = gate(arrays)
    pairs: dict[str, tuple[Array, Sequence[Any]]] = {
        "logits": (found.logits, [one.logits for one in golden]),
        "score": (found.score, [one.score for one in golden]),
        "quality": (found.quality, [one.quality for one in golden]),
    }
    apart = {what: _apart(here, there) for what, (here, there) in pairs.items()}
    what, worst = max(apart.items(), key=lambda one: one[1])
    if not worst <= tolerance:
        raise ReleaseError(
            f"{name}: its golden samples come out otherwise on this hardware: {what} by "
            f"{worst:.2g} of the largest value, {tolerance:.2g} is allowed; not activated"
        )
    codes = np.array([one.verdict for one in golden])
    if differing := int((codes != found.verdict).sum() - _near(gate, golden, codes, found, worst)):
        raise ReleaseError(
            f"{name}: {differing} of {len(golden)} golden samples have another verdict on this "
            "hardware; not activated"
        )
    return worst


def seconds(gate: Gate, golden: Sequence[Golden]) -> float:
    """That the gate takes for one sample on this machine, decoding included."""
    samples, best = [Sample(one.payload) for one in golden], float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        gate.decide_batch(samples)
        best = min(best, time.perf_counter() - started)
    return best / len(samples)


def _decoded(gate: Gate, payload: bytes, what: str) -> Array:
    if len(payload) > LARGEST_GOLDEN:
        raise ReleaseError(f"{what} has {len(payload):,} bytes, at most {LARGEST_GOLDEN:,} fit")
    try:
        return gate.decode(Sample(payload))
    except UnreadableError as error:
        raise ReleaseError(f"{what} cannot be decoded ({error!s:.200}); not activated") from None


def _apart(here: Array, there: Sequence[Any]) -> float:
    expected = np.asarray(there, np.float64)
    if not np.isfinite(here).all():
        return float("inf")
    return float(np.abs(here - expected).max() / max(np.abs(expected).max(), 1e-9))


def _near(gate: Gate, golden: Sequence[Golden], codes: Array, found: Any, worst: float) -> int:
    """How many verdicts may differ: those whose score or quality is as near to a threshold as
    the numbers differ here.
    """
    bounds, near = gate.info.thresholds, 0
    verdict: Array = found.verdict
    scores = max(1e-9, *(abs(one.score) for one in golden)) * worst
    for one, code, here in zip(golden, codes, verdict, strict=True):
        if code == here:
            continue
        predicted = int(np.argmax(one.logits))
        sides = [(one.score, bounds.low[predicted], scores), (one.score, bounds.high[predicted],
                 scores), (one.quality, bounds.quality_low, worst)]  # fmt: skip
        near += any(b is not None and abs(value - b) <= room for value, b, room in sides)
    return near
