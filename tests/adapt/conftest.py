"""Stores of a drifting stream of digits, labelled, and the gate that met it."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dripgate.gate import Gate
from dripgate.store import Store
from dripgate.types import Decision, Reason, Sample, Verdict
from loops import gate, loop, stream

__all__ = ["gate", "loop", "stream"]  # of a classifier that has something to forget


@pytest.fixture
def dark() -> Callable[[bytes], bytes]:
    """A changed camera."""
    return _dark


def _dark(payload: bytes) -> bytes:
    """The picture as another camera sees it: turned to a negative, and dull."""
    pixels = np.asarray(Image.open(io.BytesIO(payload))).astype(float)
    file = io.BytesIO()
    Image.fromarray((200 - 0.6 * pixels).clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _verdict(propensity: float = 1.0, predicted: int = 0, score: float = 0.1) -> Verdict:
    reason = Reason.BAND if propensity == 1 else Reason.AUDIT
    return Verdict(
        decision=Decision.KEEP, reason=reason, score=score, quality=0.5, predicted=predicted,
        propensity=propensity,
    )  # fmt: skip


@pytest.fixture
def filled(tmp_path: Path, gate: Gate, stream) -> Callable[..., tuple[Path, list[str], list[str]]]:
    """Makes a store of so many samples of the stream; gives (path, ids, true classes)."""

    def fill(
        n: int = 300, *, change=lambda payload: payload, label: bool = True, audit: int = 0,
        embeddings: bool = True, wanted=lambda name: True, name: str = "kept.db",
    ):  # fmt: skip
        path, ids, truths = tmp_path / name, [], []
        chosen = [(name, data) for name, data in stream if wanted(name.split("/")[-2])][:n]
        random.Random(0).shuffle(chosen)
        with Store(path) as store:
            for i in range(0, len(chosen), 50):
                part = chosen[i : i + 50]
                samples = [Sample(payload=change(data), source=f"{k}.png")
                           for k, (_, data) in enumerate(part, i)]  # fmt: skip
                given, _, features = gate.observe_features(samples)
                pairs = [
                    (sample, _verdict(0.1 if i + k < audit else 1.0, one.predicted, one.score))
                    for k, (sample, one) in enumerate(zip(samples, given, strict=True))
                ]
                known = {s.id: f for s, f in zip(samples, features, strict=True)}
                classes = [name.split("/")[-2] for name, _ in part]
                store.put_many(
                    pairs, embeddings=known if embeddings else None,
                    gates={s.id: gate.id for s in samples},
                    labels={s.id: c for s, c in zip(samples, classes, strict=True) if label},
                )  # fmt: skip
                ids += [sample.id for sample in samples]
                truths += classes
        return path, ids, truths

    return fill
