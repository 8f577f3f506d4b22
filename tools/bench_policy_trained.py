"""The parts of the policy's benchmark that train: MNIST and LeNet, a few minutes on one core."""

import os
import sys
from typing import Any

import numpy as np
from imagined import kept

from dripgate.data import Dataset, Split, infer_input, load, open_source
from dripgate.gate import Gate, Outputs
from dripgate.models import fit
from dripgate.policy import Policy, Rules
from dripgate.policy.drift import DriftAlarm
from dripgate.training.classifier import Classifier
from dripgate.training.first import train_first
from dripgate.training.train import Recipe
from dripgate.types import Array, Decision, ImageInput, Reason, Sample, Verdict

CODES = (Decision.DROP, Decision.KEEP, Decision.QUARANTINE)
SEEDS = int(os.environ.get("SEEDS", "3"))
#: Student's t for a 95 % interval of a mean, by degrees of freedom.
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 7: 2.36, 9: 2.26}


def dataset(
    name: str, x: Array, y: Array, test: tuple[Array, Array], spec: ImageInput, classes: int = 10
) -> Dataset:
    """Arrays as a data set."""

    def split(x: Array, y: Array, salt: str) -> Split:
        ids = np.array([f"{salt}{i}" for i in range(len(x))])
        return Split.of(x, y, ids, list(ids), np.full(len(x), x[0].nbytes))

    names = tuple(map(str, range(classes)))
    return Dataset(name, names, spec, split(x, y, "a"), split(*test, "b"), ())


def gate_of(x: Array, y: Array, spec: ImageInput) -> Gate:
    """A gate of an untrained ResNet-8: enough to measure time."""
    noise = dataset("noise", x, y, (x[:20], y[:20]), spec)
    return fit(
        train_first(noise, "resnet8", Recipe(steps=1)).classifier, noise, keep=0.4, force=True
    )


def mnist() -> Dataset:
    """All of it, decoded."""
    source = open_source("mnist")
    return load(source, infer_input(source))


def first(
    x: Array, y: Array, data: Dataset, seed: int, keep: float
) -> tuple[Classifier, Gate, Dataset]:
    """A model trained on these samples, its gate, and the data set that they are."""
    assert isinstance(data.input, ImageInput)  # noqa: S101
    initial = dataset("mnist", x, y, (data.test.x, data.test.y), data.input)
    model = train_first(initial, "lenet", Recipe(steps=300, lr=0.05, seed=seed)).classifier
    return model, fit(model, initial, keep=keep, seed=seed), initial


def observed(gate: Gate, x: Array) -> Outputs:
    """The gate's outputs on all samples."""
    parts = [gate(x[start : start + 64]) for start in range(0, len(x), 64)]
    return Outputs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def decided(gate: Gate, rules: Rules, out: Outputs) -> Array:
    """Which samples a policy keeps of what a gate saw, one a second; bool (n,)."""
    policy, size = Policy(rules, gate.info), 1000
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
    samples = [Sample(b"x" * size, "", float(i)) for i in range(len(verdicts))]
    found: list[Verdict] = []
    for start in range(0, len(verdicts), 64):
        part = slice(start, start + 64)
        found += policy(samples[part], verdicts[part], out.embedding[part])
    return kept(found)


def retrained(
    model: Classifier, initial: Dataset, x: Array, y: Array, seed: int, steps: int
) -> Classifier:
    """From scratch, on what the model began with and these samples."""
    part, _ = model.parts(initial)
    return model.trained(
        np.concatenate([part.x, x]), np.concatenate([part.y, y]),
        Recipe(steps=steps, lr=0.05, seed=seed),
    )  # fmt: skip


def paired(gaps: list[float]) -> dict[str, float]:
    """The mean of differences by seed, and half of its 95 % interval (Student's t)."""
    half = T95[len(gaps) - 1] * np.std(gaps, ddof=1) / len(gaps) ** 0.5
    return {"mean": round(float(np.mean(gaps)), 4), "half_of_95": round(float(half), 4)}


# Duplicates -------------------------------------------------------------------------------------


def duplicates(scenes: int = 600, copies: int = 20, seeds: int = SEEDS) -> dict[str, Any]:
    """A stream where each scene comes 20 times, jittered, four cameras interleaved.

    All samples are of one size, so counts are bytes. scenes_lost: of those stored without it, none
    of whose copies was stored with it. by_share: what other settings would have stored.
    """
    data = mnist()
    test = (data.test.x, data.test.y)
    rows, by_share = [], {}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(data.train))
        start, stream = np.split(order[: 1500 + scenes], [1500])
        model, gate, initial = first(data.train.x[start], data.train.y[start], data, seed, keep=0.5)
        scene = np.repeat(np.arange(scenes).reshape(-1, 4), copies, axis=0).ravel()
        x = jittered(data.train.x[stream][scene], rng)
        y, out = data.train.y[stream][scene], observed(gate, x)
        row: dict[str, Any] = {"initial_accuracy": round(model.accuracy(*test), 4)}
        known = set(scene[decided(gate, Rules(duplicates=0), out)].tolist())
        for name, rules in (("without", Rules(duplicates=0)), ("with", Rules())):
            there = decided(gate, rules, out)
            again = retrained(model, initial, x[there], y[there], seed, 400)
            row[name] = stored(scene, there, known) | {"accuracy": round(again.accuracy(*test), 4)}
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
        if not seed:
            for asked in (0.01, 0.02, 0.05, 0.1, 0.2):
                there = decided(gate, Rules(duplicates=asked), out)
                by_share[str(asked)] = stored(scene, there, known)
    return {"duplicate_bytes_ratio": {
        "ratio": [round(row["without"]["stored"] / row["with"]["stored"], 2) for row in rows],
        "scenes_lost": [row["with"]["lost"] for row in rows],
        "accuracy_gap": paired([r["with"]["accuracy"] - r["without"]["accuracy"] for r in rows]),
        "rows": rows, "scenes": scenes, "copies": copies, "by_share": by_share,
    }}  # fmt: skip


def stored(scene: Array, there: Array, known: set[int]) -> dict[str, Any]:
    """Samples and scenes among those stored, and the share of known scenes that is not."""
    found = set(scene[there].tolist())
    lost = round(len(known - found) / len(known), 4)
    return {"stored": int(there.sum()), "scenes": len(found), "lost": lost}


def jittered(x: Array, rng: np.random.Generator) -> Array:
    """Brightness ± 5 %, noise of 6 grey levels, and for half of them a shift by one pixel."""
    bright = x * rng.normal(1, 0.05, (len(x), 1, 1, 1)) + rng.normal(0, 6, x.shape)
    moved = np.where(rng.random((len(x), 1, 1, 1)) < 0.25, np.roll(bright, 1, axis=1), bright)
    moved = np.where(rng.random((len(x), 1, 1, 1)) < 0.25, np.roll(moved, 1, axis=2), moved)
    return np.asarray(moved.clip(0, 255).astype(np.uint8))


# Classes ----------------------------------------------------------------------------------------


def long_tail(seeds: int = SEEDS, keep: float = 0.1) -> dict[str, Any]:
    """Classes from 5,000 samples down to 250; a balanced test; the same number of steps.

    Against a random choice of as many samples.
    """
    data = mnist()
    test = (data.test.x, data.test.y)
    sizes = (5000 * 0.05 ** (np.arange(10) / 9)).astype(int)
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(np.concatenate([
            rng.permutation(np.flatnonzero(data.train.y == c))[: sizes[c]] for c in range(10)
        ]))  # fmt: skip
        start, stream = np.split(chosen, [len(chosen) // 10])
        model, gate, initial = first(data.train.x[start], data.train.y[start], data, seed, 0.5)
        x, y = data.train.x[stream], data.train.y[stream]
        out = observed(gate, x)
        masks = {"policy": decided(gate, Rules(keep=keep), out)}
        masks["random"] = np.isin(
            np.arange(len(x)), rng.permutation(len(x))[: masks["policy"].sum()]
        )
        without = decided(gate, Rules(keep=keep, floor=0), out)
        row: dict[str, Any] = {
            "stream": len(x), "initial": by_class(model, test),
            "rarest_kept_without_floor": int((y[without] == 9).sum()),
        }  # fmt: skip
        for name, mask in masks.items():
            again = retrained(model, initial, x[mask], y[mask], seed, 500)
            row[name] = by_class(again, test) | {
                "kept": int(mask.sum()), "rarest_kept": int((y[mask] == 9).sum())
            }  # fmt: skip
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    gaps = {
        f"{what}_policy_minus_random": paired([r["policy"][what] - r["random"][what] for r in rows])
        for what in ("accuracy", "worst_class")
    }
    return {"long_tail": gaps | {"rows": rows, "keep": keep}}


def by_class(model: Classifier, test: tuple[Array, Array]) -> dict[str, float]:
    """Accuracy on all test samples, and on those of the class that does worst."""
    right = model.logits(test[0]).argmax(axis=1) == test[1]
    worst = min(float(right[test[1] == c].mean()) for c in range(10))
    return {"accuracy": round(float(right.mean()), 4), "worst_class": round(worst, 4)}


def new_class(digits: tuple[int, ...] = (0, 4, 9), n: int = 10_000) -> dict[str, Any]:
    """A digit the model never saw, as a tenth of the stream: kept, quarantined, alarmed?"""
    data = mnist()
    assert isinstance(data.input, ImageInput)  # noqa: S101
    rows = []
    for new in digits:
        order = np.random.default_rng(new).permutation(len(data.train))
        label = np.where(data.train.y > new, data.train.y - 1, data.train.y)
        known, tested = order[data.train.y[order] != new][:3000], data.test.y != new
        test_y = np.where(data.test.y > new, data.test.y - 1, data.test.y)[tested]
        part = dataset("mnist", data.train.x[known], label[known], (data.test.x[tested], test_y),
                       data.input, 9)  # fmt: skip
        model = train_first(part, "lenet", Recipe(steps=300, lr=0.05)).classifier
        gate = fit(model, part, keep=0.5)
        stream = np.setdiff1d(order[: n + 3000], known)[:n]
        out, strange = observed(gate, data.train.x[stream]), data.train.y[stream] == new
        drift = DriftAlarm(gate.info.calibration)
        drift.note(out.score, out.quality, out.logits.argmax(axis=1), np.arange(len(stream)))
        rows.append({
            "digit": new, "share": round(float(strange.mean()), 3),
            "kept": round(float((out.verdict[strange] == 1).mean()), 3),
            "kept_of_others": round(float((out.verdict[~strange] == 1).mean()), 3),
            "quarantined": round(float((out.verdict[strange] == 2).mean()), 4),
            "alarms": {one.what: int(one.since) for one in drift.alarms},
        })  # fmt: skip
    return {"new_class": rows}
