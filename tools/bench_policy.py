"""What the policy holds and what it costs: docs/results/policy.json, by `make bench-policy`.

The parts that train use MNIST (under $DRIPGATE_DATA) and LeNet. PARTS="share audit" narrows it
down; what is not run again stays in the file. One thread throughout.
"""

import io
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from dripgate.data import Dataset, Split, infer_input, load, open_source
from dripgate.gate import Gate
from dripgate.gate_info import Calibration, GateInfo, Histogram, Parity, Provenance, TargetLayer
from dripgate.policy import Policy, Rules, Seen, estimate, parse_allowance
from dripgate.store import Store
from dripgate.stream.loop import run
from dripgate.training.first import train_first
from dripgate.training.fit import fit
from dripgate.training.train import Recipe
from dripgate.types import (
    Array,
    Decision,
    Identity,
    ImageInput,
    Reason,
    Sample,
    Thresholds,
    Verdict,
)  # fmt: skip

OUT = Path(__file__).parents[1] / "docs" / "results" / "policy.json"
CODES = (Decision.DROP, Decision.KEEP, Decision.QUARANTINE)
WARM_UP, WINDOW = 512, 5000


def main() -> None:
    """Run the parts and write the file after each."""
    torch.set_num_threads(1)
    parts = {"share": share, "audit": audit, "cost": cost, "overhead": overhead,
             "duplicates": duplicates, "long_tail": long_tail}  # fmt: skip
    for name in os.environ.get("PARTS", " ".join(parts)).split():
        started = time.perf_counter()
        new = parts[name]()
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        old = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
        OUT.write_text(json.dumps(old | new, indent=1, sort_keys=True) + "\n", encoding="utf-8")


# Streams of numbers -----------------------------------------------------------------------------


def imagined(scores: Array, classes: int = 10, width: int = 64) -> GateInfo:
    """What a gate would say that was calibrated on these scores."""
    counts, edges = np.histogram(scores, 40)
    histogram = Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))
    share = (len(scores) // classes,) * classes
    return GateInfo(
        schema=1, score="loss_mean", keep=0.4, classes=tuple(map(str, range(classes))),
        thresholds=Thresholds(
            low=(None,) * classes, high=(None,) * classes, quality_low=None, quality_high=None
        ),
        input=ImageInput(height=8, width=8, channels=1), preprocessing=Identity(),
        layer=TargetLayer(name="imagined", shape=(width, 4, 4), why=""),
        calibration=Calibration(
            samples=len(scores), accuracy=0.9, score=histogram, quality=histogram,
            predicted=share, kept=share, curve=(), full=0.9, why="",
        ),
        parity=Parity(logits=0, score=0, heatmap=0, samples=1, tolerance=1e-4),
        provenance=Provenance(
            dripgate="", torch="", onnx="", onnxruntime="", opset=1, data="", seed=0
        ),
    )  # fmt: skip


def through(
    policy: Policy, scores: Array, predicted: Array, codes: Array, embeddings: Array,
    times: Array | None = None,
) -> list[Verdict]:  # fmt: skip
    """The policy's verdicts, 64 at a time."""
    found: list[Verdict] = []
    rows = list(zip(scores.tolist(), predicted.tolist(), codes.tolist(), strict=True))
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        samples = [
            Sample(b"x" * 100, "", 0.0 if times is None else float(times[start + i]))
            for i in range(len(part))
        ]
        verdicts = [
            Verdict(
                decision=CODES[code], reason=Reason.QUALITY if code == 2 else Reason.BAND,
                score=score, quality=0.5, predicted=int(c), propensity=float(code > 0),
            )
            for score, c, code in part
        ]  # fmt: skip
        found += policy(samples, verdicts, embeddings[start : start + 64])
    return found


def kept(verdicts: list[Verdict]) -> Array:
    """Which were kept, bool (n,)."""
    return np.array([v.decision is Decision.KEEP for v in verdicts])


def drifting(seed: int, n: int) -> Array:
    """Five kinds of drift: waves, a walk, jumps, growth, and a changing number of ties."""
    rng = np.random.default_rng(seed)
    base, t = rng.gamma(0.5, size=n), np.arange(n)
    walk = np.cumsum(rng.normal(0, 0.01, n))
    streams = (
        lambda: base * np.exp(2 * np.sin(2 * np.pi * t / 30_000 + seed)),
        lambda: base * np.exp(walk),
        lambda: rng.normal(size=n) + np.repeat(rng.normal(0, 1.5, 10), n // 10),
        lambda: rng.normal(size=n) * (1 + 4 * t / n) + walk,
        lambda: np.where(rng.random(n) < 0.5 + 0.45 * np.sin(2 * np.pi * t / 40_000), 0, base),
    )
    return np.asarray(streams[seed % 5]().astype(np.float32))


def share(streams: int = 10, n: int = 100_000) -> dict[str, Any]:
    """The largest relative error of the kept share, over every window after the warm-up."""
    worst: dict[str, float] = {}
    nothing = np.zeros((n, 1), np.float32)
    for target in (0.01, 0.05, 0.2, 0.6):
        for seed in range(streams):
            scores = drifting(seed, n)
            predicted = np.random.default_rng(seed).integers(0, 10, n)
            policy = Policy(Rules(keep=target, duplicates=0), imagined(scores[:2000]))
            verdicts = through(policy, scores, predicted, np.ones(n, int), nothing)
            total = np.cumsum([0, *kept(verdicts)])[WARM_UP:]
            error = np.abs((total[WINDOW:] - total[:-WINDOW]) / WINDOW / target - 1).max()
            worst[str(target)] = max(worst.get(str(target), 0), round(float(error), 4))
    return {"share_error_max": worst | {"streams": streams, "samples": n, "window": WINDOW}}


def audit(streams: int = 2000, n: int = 1500) -> dict[str, Any]:
    """How often the 95 % intervals hold the truth of the stream, and how wide they are."""
    covered: dict[str, list[bool]] = {"classes": [], "accuracy": [], "dropped_accuracy": []}
    width, gaps = [], []
    nothing = np.zeros((n, 1), np.float32)
    info = imagined(np.random.default_rng(0).gamma(0.5, size=2000), 5)
    for seed in range(streams):
        rng = np.random.default_rng(seed)
        label = rng.choice(5, n, p=np.array([1, 2, 3, 4, 5]) / 15)
        hard = rng.random(n) < 0.3
        predicted = np.where(hard & (rng.random(n) < 0.5), (label + 1) % 5, label)
        scores = (rng.gamma(0.5, size=n) * np.where(hard, 3, 1)).astype(np.float32)
        policy = Policy(Rules(keep=0.2, audit=0.05, duplicates=0, seed=seed), info)
        verdicts = through(policy, scores, predicted, np.ones(n, int), nothing)
        there = kept(verdicts)
        seen = [
            Seen(int(label[i]), v.predicted, v.propensity)
            for i, v in enumerate(verdicts) if there[i]
        ]  # fmt: skip
        found = estimate(seen, policy.stream, 5)
        assert found is not None  # noqa: S101 - something is always kept
        chance = np.array([v.propensity < 1 for v in verdicts])
        for truth, interval in zip(np.bincount(label, minlength=5) / n, found.classes, strict=True):
            covered["classes"].append(interval.low <= truth <= interval.high)
        for name, truth in (
            ("accuracy", (label == predicted).mean()),
            ("dropped_accuracy", (label == predicted)[chance].mean()),
        ):
            interval = getattr(found, name)
            covered[name].append(interval.low <= truth <= interval.high)
        width.append(found.accuracy.high - found.accuracy.low)
        gaps.append(found.accuracy.value - (label == predicted).mean())
    result = {name: round(float(np.mean(hits)), 4) for name, hits in covered.items()}
    more = {"streams": streams, "samples": n, "width_accuracy": round(float(np.mean(width)), 4),
            "bias_accuracy": round(float(np.mean(gaps)), 5)}  # fmt: skip
    return {"audit_coverage": result | more}


# Cost -------------------------------------------------------------------------------------------


def cost(n: int = 12_800) -> dict[str, Any]:
    """Microseconds of the policy per sample at batch 64, the median and best of some runs."""
    rng = np.random.default_rng(0)
    scores = rng.gamma(0.5, size=n).astype(np.float32)
    embeddings = np.maximum(rng.normal(size=(n, 64)), 0).astype(np.float32)
    samples = [Sample(b"x" * 1000, "", 0.05 * i) for i in range(n)]
    verdicts = [
        Verdict(decision=Decision.KEEP if score > 0.3 else Decision.DROP, reason=Reason.BAND,
                score=score, quality=0.5, predicted=int(c), propensity=1.0)
        for score, c in zip(scores.tolist(), rng.integers(0, 10, n), strict=True)
    ]  # fmt: skip
    budgets = (parse_allowance("200/h"), parse_allowance("100MB/week"))
    result = {}
    for name, rules in (
        ("default", Rules()),
        ("keep", Rules(keep=0.05)),
        ("keep_and_two_budgets", Rules(keep=0.05, budgets=budgets)),
    ):
        spent, size = [], 0
        for _ in range(7):
            policy = Policy(rules, imagined(scores[:2000]))
            started = time.process_time()
            for i in range(0, n, 64):
                policy(samples[i : i + 64], verdicts[i : i + 64], embeddings[i : i + 64])
            spent.append((time.process_time() - started) / n * 1e6)
            size = len(policy.save())
        result[name] = {"median": round(float(np.median(spent)), 2),
                        "best": round(min(spent), 2), "state_bytes": size}  # fmt: skip
    return {"policy_us": result}


def overhead(n: int = 1920, repeats: int = 5) -> dict[str, Any]:
    """Seconds of the loop with and without a policy: ResNet-8, 32 × 32 RGB, PNG files, a store.

    An untrained net decides on noise: what is measured is time, which no weight changes.
    """
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (600, 32, 32, 3), np.uint8)
    gate = _gate(x, np.arange(600) % 10, "resnet8", ImageInput(height=32, width=32, channels=3))
    samples = []
    for i in range(n):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "PNG")
        samples.append(Sample(file.getvalue(), f"{i}.png", i * 0.1))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for ruled in (False, True):
                with Store(Path(folder, f"{repeat}{ruled}.db")) as store:
                    started = time.process_time()
                    run(gate, samples, store, rules=Rules() if ruled else None)
                    seconds[ruled].append(time.process_time() - started)
    without, ruled_ = min(seconds[False]), min(seconds[True])
    return {"run_overhead": {
        "share": round(ruled_ / without - 1, 4), "us_without": round(without / n * 1e6, 1),
        "us_with": round(ruled_ / n * 1e6, 1), "samples": n, "repeats": repeats,
        "measured": "CPU time, best of repeats",
    }}  # fmt: skip


def _dataset(name: str, x: Array, y: Array, test: tuple[Array, Array], spec: ImageInput) -> Dataset:
    def split(x: Array, y: Array, salt: str) -> Split:
        ids = np.array([f"{salt}{i}" for i in range(len(x))])
        sizes = np.full(len(x), x[0].nbytes)
        return Split.of(x, y, ids, list(ids), sizes)

    classes = tuple(map(str, range(10)))
    return Dataset(name, classes, spec, split(x, y, "a"), split(*test, "b"), ())


def _gate(x: Array, y: Array, arch: str, spec: ImageInput) -> Gate:
    dataset = _dataset("noise", x, y, (x[:20], y[:20]), spec)
    return fit(train_first(dataset, arch, Recipe(steps=1)).classifier, dataset, keep=0.4)


# Retraining -------------------------------------------------------------------------------------


def _mnist() -> tuple[Dataset, ImageInput]:
    source = open_source("mnist")
    spec = infer_input(source)
    assert isinstance(spec, ImageInput)  # noqa: S101
    return load(source, spec), spec


def _decide(gate: Gate, rules: Rules, x: Array) -> list[Verdict]:
    policy, found = Policy(rules, gate.info), []
    for start in range(0, len(x), 64):
        part = x[start : start + 64]
        out = gate(part)
        samples = [Sample(row.tobytes(), "", float(start + i)) for i, row in enumerate(part)]
        verdicts = [
            Verdict(
                decision=CODES[code], reason=Reason.QUALITY if code == 2 else Reason.BAND,
                score=score, quality=quality, predicted=predicted, propensity=float(code > 0),
            )
            for code, score, quality, predicted in zip(
                out.verdict.tolist(), out.score.tolist(), out.quality.tolist(),
                out.logits.argmax(axis=1).tolist(), strict=True,
            )
        ]  # fmt: skip
        found += policy(samples, verdicts, out.embedding)
    return found


def duplicates(scenes: int = 1000, copies: int = 20, seeds: int = 3) -> dict[str, Any]:
    """A stream where each scene comes 20 times, jittered, in bursts, four cameras interleaved."""
    data, spec = _mnist()
    band = Rules(audit=0, floor=0, duplicates=0, quarantine=0)
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(data.train))
        first, stream = np.split(order[: 1500 + scenes], [1500])
        test = (data.test.x, data.test.y)
        initial = _dataset("mnist", data.train.x[first], data.train.y[first], test, spec)
        model = train_first(initial, "lenet", Recipe(steps=400, lr=0.05, seed=seed)).classifier
        gate = fit(model, initial, keep=0.5, seed=seed)
        scene = np.repeat(np.arange(scenes).reshape(-1, 4), copies, axis=0).ravel()
        x = jittered(data.train.x[stream][scene], rng)
        y = data.train.y[stream][scene]
        part, _ = model.parts(initial)
        row: dict[str, Any] = {}
        for name, rules in (("without", band), ("with", Rules())):
            there = kept(_decide(gate, rules, x))
            trained = model.trained(
                np.concatenate([part.x, x[there]]), np.concatenate([part.y, y[there]]),
                Recipe(steps=600, lr=0.05, seed=seed),
            )  # fmt: skip
            row[name] = {"stored": int(there.sum()), "scenes": len(np.unique(scene[there])),
                         "accuracy": round(trained.accuracy(*test), 4)}  # fmt: skip
        row["initial_accuracy"] = round(model.accuracy(*test), 4)
        rows.append(row)
    ratio = [row["without"]["stored"] / row["with"]["stored"] for row in rows]
    lost = [1 - row["with"]["scenes"] / row["without"]["scenes"] for row in rows]
    gap = [row["with"]["accuracy"] - row["without"]["accuracy"] for row in rows]
    return {"duplicate_bytes_ratio": {
        "ratio": [round(one, 2) for one in ratio], "scenes_lost": [round(one, 4) for one in lost],
        "accuracy_gap": [round(one, 4) for one in gap], "rows": rows, "scenes": scenes,
        "copies": copies,
    }}  # fmt: skip


def jittered(x: Array, rng: np.random.Generator) -> Array:
    """Brightness ± 5 %, noise of 6 grey levels, and for half of them a shift by one pixel."""
    bright = x * rng.normal(1, 0.05, (len(x), 1, 1, 1)) + rng.normal(0, 6, x.shape)
    moved = np.where(rng.random((len(x), 1, 1, 1)) < 0.25, np.roll(bright, 1, axis=1), bright)
    moved = np.where(rng.random((len(x), 1, 1, 1)) < 0.25, np.roll(moved, 1, axis=2), moved)
    return np.asarray(moved.clip(0, 255).astype(np.uint8))


def long_tail(seeds: int = 3, keep: float = 0.1) -> dict[str, Any]:
    """Classes from 5,000 samples down to 250; a balanced test; the same number of steps."""
    data, spec = _mnist()
    test = (data.test.x, data.test.y)
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        sizes = (5000 * 0.05 ** (np.arange(10) / 9)).astype(int)
        chosen = np.concatenate([
            rng.permutation(np.flatnonzero(data.train.y == c))[: sizes[c]] for c in range(10)
        ])  # fmt: skip
        chosen = rng.permutation(chosen)
        first, stream = np.split(chosen, [len(chosen) // 10])
        initial = _dataset("tail", data.train.x[first], data.train.y[first], test, spec)
        model = train_first(initial, "lenet", Recipe(steps=400, lr=0.05, seed=seed)).classifier
        gate = fit(model, initial, seed=seed)
        x, y = data.train.x[stream], data.train.y[stream]
        there = kept(_decide(gate, Rules(keep=keep), x))
        random = np.isin(np.arange(len(x)), rng.permutation(len(x))[: there.sum()])
        part, _ = model.parts(initial)
        row: dict[str, Any] = {"stream": len(x), "kept": int(there.sum())}
        for name, mask in (("initial", None), ("policy", there), ("random", random)):
            trained = model if mask is None else model.trained(
                np.concatenate([part.x, x[mask]]), np.concatenate([part.y, y[mask]]),
                Recipe(steps=800, lr=0.05, seed=seed),
            )  # fmt: skip
            right = trained.logits(test[0]).argmax(axis=1) == test[1]
            row[name] = {
                "accuracy": round(float(right.mean()), 4),
                "worst_class": round(min(float(right[test[1] == c].mean()) for c in range(10)), 4),
                "rarest_kept": None if mask is None else int((y[mask] == 9).sum()),
            }
        rows.append(row)
    means = {
        f"{what}_policy_minus_random": round(
            float(np.mean([row["policy"][what] - row["random"][what] for row in rows])), 4
        )
        for what in ("accuracy", "worst_class")
    }
    return {"long_tail": means | {"rows": rows, "keep": keep}}


if __name__ == "__main__":
    main()
