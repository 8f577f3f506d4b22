"""Which score, and which proxy for the kept fraction: docs/results/score_study.json.

One first model per data set, its held-out calibration samples, and no retraining: rank correlation
of every score with the true-label EL2N, the share of the learning signal in its top 61 / 30 / 10 %,
accuracy of a ridge probe trained on those parts, and how well quality tells noise from samples.
Run it by `make score-study` with $DRIPGATE_DATA set.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from dripgate import heatmap
from dripgate.data import Dataset, infer_input, load, open_source
from dripgate.training.classifier import Classifier
from dripgate.training.first import train_first
from dripgate.training.gradcam import GradCam
from dripgate.training.layer import choose_layer
from dripgate.training.preprocess import build
from dripgate.training.thresholds import probe_accuracy
from dripgate.training.train import Recipe
from dripgate.types import Array

OUT = Path(__file__).parents[1] / "docs" / "results" / "score_study.json"
KEEPS = (0.61, 0.3, 0.1)
SPLITS = 20


def main() -> None:
    """Study both data sets and write the rows."""
    rows = [row for name in ("cifar10", "plantvillage") for row in study(name)]
    OUT.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")


def study(name: str) -> list[dict[str, Any]]:
    """The rows of one data set."""
    source = open_source(name)
    spec = msgspec.structs.replace(infer_input(source), height=32, width=32)
    dataset = load(source, spec)
    dataset = Dataset(
        name, dataset.classes, spec, dataset.train.by_hash(10_000 / len(dataset.train))[0],
        dataset.test, (),
    )  # fmt: skip
    first = train_first(dataset, "resnet8", Recipe(steps=600, lr=0.1, flip=True))
    _, held = first.classifier.parts(dataset)
    noise = np.random.default_rng(0).integers(0, 256, (500, *spec.shape), np.uint8)
    logits, features, maps = observe(first.classifier, held.x)
    _, _, noisy = observe(first.classifier, noise)
    p = heatmap.softmax(logits)
    el2n = np.linalg.norm(p - np.eye(p.shape[1])[held.y], axis=1)
    common = {"data": name, "test_accuracy": round(first.accuracy, 4), "n": len(held)}
    rows = []
    for score, values in scores(p, maps).items():
        rho = float(spearmanr(values, el2n).statistic)
        share = signal_shares(values, el2n)
        probe = ridge(features, held.y, values)
        rows.append(
            common | {"score": score, "rho": round(rho, 3), "signal": share, "ridge": probe}
        )
    rows.append(common | {"score": "random", "ridge": ridge(features, held.y, None)})
    for spec_name in ("loss_mean", "evidence_mean", "loss_rise_mean"):
        areas = [heatmap.quality(kind[spec_name]) for kind in (noisy, maps)]
        truth = np.repeat([1, 0], [len(part) for part in areas])
        auroc = float(roc_auc_score(truth, np.concatenate(areas)))
        rows.append(common | {"quality_of": spec_name, "noise_auroc": round(auroc, 3)})
    return rows


def observe(classifier: Classifier, x: Array) -> tuple[Array, Array, dict[str, Array]]:
    """Logits (n, C), pooled activations (n, K) and each score's heatmaps (n, h, w)."""
    module = build(classifier.info.preprocessing, classifier.info.input)
    inputs = module(torch.from_numpy(np.ascontiguousarray(x)))
    layer = choose_layer(classifier.model, inputs[:4]).name
    maps, logits, features = {}, [], []
    with GradCam(classifier.model, layer) as gradcam:
        for name, spec in heatmap.SCORES.items():
            cams = [gradcam(inputs[i : i + 256], spec) for i in range(0, len(inputs), 256)]
            maps[name] = np.concatenate([cam.heatmap.detach().numpy() for cam in cams])
            logits = [cam.logits.detach().numpy() for cam in cams]
            features = [cam.embedding.detach().numpy() for cam in cams]
    return np.concatenate(logits), np.concatenate(features), maps


def scores(p: Array, maps: dict[str, Array]) -> dict[str, Array]:
    """Every score, (n,), higher is more worth keeping; confidence rules beside ours."""
    ordered = np.sort(p, axis=1)
    found = {
        "margin": ordered[:, -2] - ordered[:, -1],
        "entropy": -(p * np.log(p + 1e-9)).sum(axis=1),
        "max_softmax": -ordered[:, -1],
    }
    return found | {name: heatmap.score(maps[name], spec) for name, spec in heatmap.SCORES.items()}


def signal_shares(values: Array, el2n: Array) -> list[float]:
    """Share of EL2N² in the top KEEPS."""
    ranked = (el2n**2)[np.argsort(-values)]
    return [round(float(ranked[: int(k * len(ranked))].sum() / ranked.sum()), 3) for k in KEEPS]


def ridge(features: Array, y: Array, values: Array | None) -> dict[str, Any]:
    """Probe accuracy after keeping all and the top KEEPS, and the largest standard error."""
    x = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    x, targets = np.c_[x, np.ones(len(x))].astype(np.float64), np.eye(int(y.max()) + 1)[y]
    rows = []
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(len(x))
        base, stream, test = np.split(order, [len(x) // 5, 7 * len(x) // 10])
        ranked = stream if values is None else stream[np.argsort(-values[stream])]
        rows.append([
            probe_accuracy(x, targets, np.r_[base, ranked[: int(k * len(ranked))]], test)
            for k in (1.0, *KEEPS)
        ])  # fmt: skip
    table = np.array(rows)
    error = (table - table[:, :1]).std(axis=0).max() / np.sqrt(SPLITS)
    return {"accuracy": table.mean(axis=0).round(4).tolist(), "error": round(float(error), 4)}


if __name__ == "__main__":
    main()
