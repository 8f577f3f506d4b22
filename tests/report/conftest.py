"""A small but complete report, to be changed by the tests with ``replace``."""

import numpy as np
import pytest

from dripgate import gate_info, types
from dripgate.report import ClassShare, Example, Outcome, Report, StreamHistogram, Unreadable
from dripgate.types import Decision, Reason, Verdict

CLASSES = ("cat", "dog", "owl")
ACCURACY = {"initial": 0.902, "full": 0.949, "dripgate": 0.951, "random": 0.940, "margin": 0.947}


def make_gate(
    classes=CLASSES, low=(0.02,), high=(None,), keep=0.3, curve=None, score_edges=(0.0, 0.05, 0.1)
):
    shares = (0.1, 0.3, 0.6, 1.0)
    curve = curve or tuple(
        gate_info.CurvePoint(
            keep=k, expected=0.95 - 0.02 * (1 - k), random=0.95 - 0.04 * (1 - k), signal=k**0.5
        )
        for k in shares
    )
    return gate_info.GateInfo(
        schema=gate_info.SCHEMA,
        score="loss_mean",
        thresholds=types.Thresholds(
            low=low * (len(classes) // len(low)),
            high=high * (len(classes) // len(high)),
            quality_low=0.05,
        ),
        keep=keep,
        classes=classes,
        input=types.ImageInput(height=8, width=8, channels=1),
        preprocessing=types.Identity(),
        layer=gate_info.TargetLayer(
            name="blocks.2.relu", shape=(32, 4, 4), why="the last layer with a spatial extent"
        ),
        calibration=gate_info.Calibration(
            samples=500,
            accuracy=0.91,
            score=gate_info.Histogram(
                edges=score_edges, counts=(30,) + (10,) * (len(score_edges) - 2)
            ),
            quality=gate_info.Histogram(edges=(0.0, 0.5, 1.0), counts=(20, 20)),
            predicted=(14,) * len(classes),
            kept=(5,) * len(classes),
            curve=curve,
            full=0.95,
            why="smallest fraction expected within one standard error of everything",
        ),
        parity=gate_info.Parity(
            logits=2e-6, score=3.1e-6, heatmap=4.2e-6, samples=32, tolerance=1e-4
        ),
        provenance=gate_info.Provenance(
            dripgate="0.1.0", torch="2.13.0", onnx="1.23.2", onnxruntime="1.32.0", opset=18,
            data="ab" * 32, seed=7,
        ),
    )  # fmt: skip


def make_verdict(decision=Decision.KEEP, reason=Reason.BAND, **changes):
    values = {"score": 0.0312, "quality": 0.42, "predicted": 0, "propensity": 1.0}
    return Verdict(decision=decision, reason=reason, **(values | changes))


def make_outcome(**changes):
    values = {
        "accuracy": ACCURACY, "steps": 600, "stream": 1000, "kept": 290, "quarantined": 20,
        "bytes_seen": 2_000_000, "bytes_kept": 500_000,
        "seconds": {"train": 20.4, "fit": 3.2, "run": 1.9, "retrain": 83.0},
    }  # fmt: skip
    return Outcome(**(values | changes))


@pytest.fixture
def gate():
    return make_gate


@pytest.fixture
def verdict():
    return make_verdict


@pytest.fixture
def outcome():
    return make_outcome


@pytest.fixture
def report():
    """A function that makes a Report, complete but for the fields given."""

    def make(**changes):
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (8, 8, 1), np.uint8)
        heat = rng.random((4, 4), np.float32) * 0.05
        values = {
            "title": "Digits, kept by their heatmaps",
            "data": "digits",
            "seed": 7,
            "command": "dripgate demo --data digits --seed 7",
            "outcome": make_outcome(),
            "gate": make_gate(),
            "scores": StreamHistogram(
                edges=(0.0, 0.02, 0.04, 0.06), kept=(0, 200, 90), dropped=(690, 0, 0),
                quarantined=(15, 5, 0),
            ),
            "classes": [
                ClassShare("cat", 400, 100, 12), ClassShare("dog", 600, 190, 8),
                ClassShare("owl", 0, 0, 0),
            ],
            "examples": [
                Example(source=f"{decision}/{i}.png", array=image, heatmap=heat, label="cat",
                        verdict=make_verdict(decision))
                for decision in Decision for i in range(2)
            ],
            "reasons": {
                (Decision.KEEP, Reason.BAND): 290, (Decision.DROP, Reason.BAND): 690,
                (Decision.QUARANTINE, Reason.QUALITY): 18,
                (Decision.QUARANTINE, Reason.UNREADABLE): 2,
            },
            "unreadable": [
                Unreadable("bad/1.png", "truncated"), Unreadable("bad/2.png", "not an image"),
            ],
        }  # fmt: skip
        return Report(**(values | changes))

    return make
