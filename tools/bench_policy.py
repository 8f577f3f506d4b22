"""What the policy holds and what it costs: docs/results/policy.json, by `make bench-policy`.

Here are the parts that need no trained model; tools/bench_policy_trained.py has the others, which
use MNIST (under $DRIPGATE_DATA) and LeNet. PARTS="share audit" narrows it down, SEEDS=5 trains
more often; what is not run again stays in the file. One thread throughout, and times are CPU
times of the process.
"""

import io
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bench_policy_trained as trained
import imagined
import numpy as np
import torch
from imagined import Stream, kept
from PIL import Image

from dripgate.gate_info import GateInfo
from dripgate.policy import Policy, Rules, Seen, estimate, parse_allowance
from dripgate.store import Store
from dripgate.stream.loop import run
from dripgate.types import Array, ImageInput, Sample

OUT = Path(__file__).parents[1] / "docs" / "results" / "policy.json"
WARM_UP, WINDOW = 512, 5000
HOUR = 3600.0


def main() -> None:
    """Run the parts and write the file after each."""
    torch.set_num_threads(1)
    parts = {"share": share, "budgets": budgets, "audit": audit, "cost": cost,
             "overhead": overhead, "duplicates": trained.duplicates,
             "long_tail": trained.long_tail, "new_class": trained.new_class}  # fmt: skip
    for name in os.environ.get("PARTS", " ".join(parts)).split():
        started = time.process_time()
        new = parts[name]()
        print(f"{name}: {time.process_time() - started:.0f} s of CPU", file=sys.stderr)
        old = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
        OUT.write_text(json.dumps(old | new, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def info_of(scores: Array, classes: int = 10) -> GateInfo:
    """A gate that was calibrated on these scores."""
    _, quality, predicted = imagined.drawn(np.random.default_rng(0), len(scores), classes)
    return imagined.info(imagined.calibrated(scores, quality, predicted, classes))


# Share and budgets ------------------------------------------------------------------------------


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
    for target in (0.01, 0.05, 0.2, 0.6):
        for seed in range(streams):
            scores = drifting(seed, n)
            predicted = np.random.default_rng(seed).integers(0, 10, n)
            stream = Stream(scores, predicted, embeddings=np.zeros((n, 1)))
            policy = Policy(Rules(keep=target, duplicates=0), info_of(scores[:2000]))
            total = np.cumsum([0, *kept(stream.through(policy))])[WARM_UP:]
            error = np.abs((total[WINDOW:] - total[:-WINDOW]) / WINDOW / target - 1).max()
            worst[str(target)] = max(worst.get(str(target), 0), round(float(error), 4))
    return {"share_error_max": worst | {"streams": streams, "samples": n, "window": WINDOW}}


def budgets(streams: int = 10, n: int = 40_000) -> dict[str, Any]:
    """Two byte budgets and one of samples: the fullest window of each, and how much was used.

    Gaps between samples are skewed, with an hour of silence now and then; sizes differ tenfold.
    """
    texts = ("100/h", "300kB/h", "2MB/day")
    asked = [parse_allowance(text) for text in texts]
    fullest, used = dict.fromkeys(texts, 0.0), []
    for seed in range(streams):
        rng = np.random.default_rng(seed)
        gaps = rng.gamma(0.3, 20, n) + HOUR * (rng.random(n) < 1e-3)
        times, sizes = np.cumsum(gaps), (2000 * 10 ** rng.random(n)).astype(int)
        scores = drifting(seed, n)
        stream = Stream(scores, times=times, sizes=sizes, band=float(np.quantile(scores, 0.4)))
        verdicts = stream.through(Policy(Rules(budgets=tuple(asked)), info_of(scores[:2000], 4)))
        there = np.array([v.stored for v in verdicts])
        for text, one in zip(texts, asked, strict=True):
            costs = sizes[there] if one.bytes else np.ones(there.sum())
            part = most_in_any(one.period, times[there], costs) / one.amount
            fullest[text] = max(fullest[text], round(float(part), 4))
        used.append(float(sizes[there].sum() / (2e6 * times[-1] / 86400)))
    return {"budgets": {
        "fullest_window": fullest, "streams": streams, "samples": n,
        "used_of_tightest": round(float(np.mean(used)), 3), "archive_of_10_s": archive(),
    }}  # fmt: skip


def most_in_any(period: float, times: Array, costs: Array) -> float:
    """The largest sum of costs in any half-open window of a period."""
    total = np.concatenate([[0], np.cumsum(costs)])
    ends = np.searchsorted(times, times + period, "left")
    return float(max((total[ends] - total[:-1]).max(), 0)) if len(times) else 0.0


def archive() -> dict[str, int]:
    """Samples stored of archives that are read in ten seconds, with a budget of 2,000 an hour."""
    found = {}
    for n in (300, 3000, 30_000):
        scores = np.random.default_rng(n).gamma(0.5, size=n)
        stream = Stream(scores, times=np.linspace(0, 10, n), band=0.2)
        rules = Rules(budgets=(parse_allowance("2000/h"),))
        found[str(n)] = int(kept(stream.through(Policy(rules, info_of(scores, 4)))).sum())
    return found


# Audit ------------------------------------------------------------------------------------------


def audit(streams: int = 2000, n: int = 1500) -> dict[str, Any]:
    """How often the 95 % intervals hold the truth of the stream, and how wide they are."""
    covered: dict[str, list[bool]] = {}
    width, gaps = [], []
    info = info_of(np.random.default_rng(0).gamma(0.5, size=2000), 5)
    for seed in range(streams):
        rng = np.random.default_rng(seed)
        label = rng.choice(5, n, p=np.array([1, 2, 3, 4, 5]) / 15)
        hard = rng.random(n) < 0.3
        predicted = np.where(hard & (rng.random(n) < 0.5), (label + 1) % 5, label)
        scores = rng.gamma(0.5, size=n) * np.where(hard, 3, 1)
        policy = Policy(Rules(keep=0.2, audit=0.05, duplicates=0, seed=seed), info)
        verdicts = Stream(scores, predicted, embeddings=np.zeros((n, 1))).through(policy)
        seen = [
            Seen(int(label[i]), v.predicted, v.propensity)
            for i, v in enumerate(verdicts) if v.stored
        ]  # fmt: skip
        found = estimate(seen, policy.stream, 5)
        assert found is not None  # noqa: S101 - something is always kept
        lost, right = np.array([v.propensity < 1 for v in verdicts]), label == predicted
        truths = [
            *(("classes", *pair) for pair in zip(
                np.bincount(label, minlength=5) / n, found.classes, strict=True
            )),
            ("accuracy", right.mean(), found.accuracy),
            ("dropped_accuracy", right[lost].mean(), found.dropped_accuracy),
            ("dropped_mistakes", lost[~right].mean(), found.dropped_mistakes),
        ]  # fmt: skip
        for name, truth, interval in truths:
            covered.setdefault(name, []).append(interval.low <= truth <= interval.high)
        width.append(found.accuracy.high - found.accuracy.low)
        gaps.append(found.accuracy.value - right.mean())
    result = {name: round(float(np.mean(hits)), 4) for name, hits in covered.items()}
    more = {"streams": streams, "samples": n, "width_accuracy": round(float(np.mean(width)), 4),
            "bias_accuracy": round(float(np.mean(gaps)), 5)}  # fmt: skip
    return {"audit_coverage": result | more}


# Cost -------------------------------------------------------------------------------------------


def cost(n: int = 12_800, repeats: int = 15) -> dict[str, Any]:
    """Microseconds of the policy per sample at batch 64: the median and the best of some runs."""
    rng = np.random.default_rng(0)
    scores = rng.gamma(0.5, size=n)
    stream = Stream(
        scores, rng.integers(0, 10, n), times=0.05 * np.arange(n), sizes=np.full(n, 1000),
        embeddings=np.maximum(rng.normal(size=(n, 64)), 0), band=0.3,
    )  # fmt: skip
    asked = (parse_allowance("200/h"), parse_allowance("100MB/week"))
    result = {}
    for name, rules in (
        ("default", Rules()),
        ("keep", Rules(keep=0.05)),
        ("keep_and_two_budgets", Rules(keep=0.05, budgets=asked)),
    ):
        spent, size = [], 0
        for _ in range(repeats):
            policy = Policy(rules, info_of(scores[:2000]))
            started = time.process_time()
            stream.through(policy)
            spent.append((time.process_time() - started) / n * 1e6)
            size = len(policy.save())
        result[name] = {"median": round(float(np.median(spent)), 2),
                        "best": round(min(spent), 2), "state_bytes": size}  # fmt: skip
    return {"policy_us": result}


def overhead(n: int = 640, repeats: int = 31) -> dict[str, Any]:
    """Seconds of the loop with and without a policy: ResNet-8, 32 × 32 RGB, PNG files, a store.

    An untrained net decides on noise: what is measured is time, which no weight changes.
    """
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (600, 32, 32, 3), np.uint8)
    gate = trained.gate_of(x, np.arange(600) % 10, ImageInput(height=32, width=32, channels=3))
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
    ratios = np.array(seconds[True]) / np.array(seconds[False]) - 1
    return {"run_overhead": {
        "share": round(float(np.median(ratios)), 4),
        "middle_half": [round(float(one), 4) for one in np.quantile(ratios, [0.25, 0.75])],
        "us_without": round(min(seconds[False]) / n * 1e6, 1),
        "us_with": round(min(seconds[True]) / n * 1e6, 1), "samples": n, "repeats": repeats,
        "measured": "CPU time, median of paired repeats",
    }}  # fmt: skip


if __name__ == "__main__":
    main()
