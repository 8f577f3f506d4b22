"""What `run` costs beside bare onnxruntime, and what commits cost: `make bench-run`.

A resnet8 gate for 32×32 images that keeps 5 % is fitted to digits; the stream is digits with noise,
as PNG. Bare: a session of the same file and threads over the same batches, decoded beforehand, the
same four outputs. Both are measured in turn, round by round, in CPU time of the process. Rows go to
docs/results/reliability.json.
"""

import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image

from dripgate.data import load, open_source
from dripgate.gate import Gate
from dripgate.gate_info import INPUT_NAME
from dripgate.models import fit
from dripgate.policy import Rules
from dripgate.store import Store
from dripgate.stream.loop import BATCH, run
from dripgate.training.first import train_first
from dripgate.training.train import Recipe
from dripgate.types import Decision, ImageInput, Reason, Sample, Verdict

OUT = Path(__file__).parents[1] / "docs" / "results" / "reliability.json"
SAMPLES, ROUNDS, KEEP = 1024, 5, 0.05
OUTPUTS = ["logits", "score", "verdict", "quality"]


def main() -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="store-bench-") as folder:
        gate, stream = made()
        found = {
            "throughput": throughput(gate, stream, Path(folder)),
            "commits": commits(gate, stream, Path(folder)),
        }
    old = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    OUT.write_text(json.dumps(old | found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    json.dump(found, sys.stdout, indent=1)


def made() -> tuple[Gate, list[Sample]]:
    """The gate, and a stream of different samples."""
    source = open_source("digits")
    dataset = load(source, ImageInput(height=32, width=32, channels=1))
    trained = train_first(dataset, "resnet8", Recipe(steps=30, batch=64, lr=0.1, seed=0))
    gate = fit(trained.classifier, dataset, keep=KEEP, seed=0, log=None)
    rng = np.random.default_rng(0)
    pixels = np.asarray(dataset.test.x)
    return gate, [noisy(rng, pixels, i) for i in range(SAMPLES)]


def noisy(rng: np.random.Generator, pixels: Any, i: int) -> Sample:
    """A digit with noise, as PNG."""
    image = np.asarray(pixels[i % len(pixels)]).reshape(32, 32).astype(np.int16)
    image = (image + rng.integers(-12, 13, image.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return Sample(file.getvalue(), f"{i}.png", time=float(i))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of CPU and of the clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


class Decoded(Gate):
    """A gate that is given its arrays: what `run` costs beside decoding."""

    arrays: dict[str, Any]

    def decode(self, sample: Sample) -> Any:
        """The array it was given."""
        return self.arrays[sample.source]


def throughput(gate: Gate, stream: list[Sample], folder: Path) -> dict[str, Any]:
    """Samples per CPU second of `run` as a share of bare onnxruntime's, round by round.

    decoded: both get arrays. received: both decode the payloads first, with the same code.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(gate.data, options, providers=["CPUExecutionProvider"])
    spared = Decoded(gate.data, "bench")
    spared.arrays = {sample.source: gate.decode(sample) for sample in stream}

    def bare(opened: Gate) -> None:
        for at in range(0, len(stream), BATCH):
            arrays = np.stack([opened.decode(one) for one in stream[at : at + BATCH]])
            session.run(OUTPUTS, {INPUT_NAME: arrays})

    cases = {
        "decoded": (spared, None),
        "decoded_with_policy": (spared, Rules(keep=KEEP)),
        "received": (gate, None),
    }
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in cases}
    kept = {}
    for n in range(ROUNDS + 1):
        for name, (opened, rules) in cases.items():
            alone = timed(lambda g=opened: bare(g))
            with Store(folder / f"{name}{n}.db", "50MB") as store:
                whole = timed(lambda g=opened, s=store, r=rules: run(g, stream, s, rules=r))
                kept[name] = len(store) / len(stream)
            if n:  # the first round warms up
                rows[name].append((*alone, *whole))
    found: dict[str, Any] = {"samples": SAMPLES, "batch": BATCH, "rounds": ROUNDS}
    for name in cases:
        alone_cpu, alone_wall, cpu, wall = zip(*rows[name], strict=True)
        shares = [a / b for a, b in zip(alone_cpu, cpu, strict=True)]
        found[name] = {
            "kept": round(kept[name], 4),
            "share_of_bare": round(statistics.median(shares), 4),
            "share_of_bare_rounds": [round(one, 4) for one in shares],
            "share_of_bare_wall": round(sum(alone_wall) / sum(wall), 4),
            "bare_us_per_sample": round(1e6 * min(alone_cpu) / SAMPLES, 1),
            "run_us_per_sample": round(1e6 * min(cpu) / SAMPLES, 1),
        }
    return found


def commits(gate: Gate, stream: list[Sample], folder: Path) -> dict[str, Any]:
    """Every sample kept, on this disk: samples per second of the clock and of the CPU."""
    verdict = Verdict(
        decision=Decision.KEEP, reason=Reason.BAND, score=1.0, quality=0.5, predicted=0,
        propensity=1.0,
    )  # fmt: skip
    found = {}
    for group in (1, 8, 64):
        part = stream[: min(SAMPLES, 128 * group)]
        with Store(folder / f"all{group}.db", "50MB") as store:

            def work(size: int = group, some: list[Sample] = part, s: Store = store) -> None:
                for at in range(0, len(some), size):
                    s.put_many([(one, verdict) for one in some[at : at + size]])

            cpu, wall = timed(work)
        found[f"by_{group}"] = {
            "samples_per_s": round(len(part) / wall),
            "commits_per_s": round(len(part) / group / wall),
            "samples_per_cpu_s": round(len(part) / cpu),
            "bytes": sum(len(one.payload) for one in part) // len(part),
        }
    return found


if __name__ == "__main__":
    main()
