"""The picture in the README: `make readme-picture` writes docs/decided.png.

A real run: a classifier is trained on scikit-learn's digits, as a camera of 32 × 32 pixels sees
them; a gate is fitted; a stream with one broken frame in ten is decided. The picture shows the
first six of each verdict, in the order in which they came.
"""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

from dripgate.gate import Gate
from dripgate.report.pictures import colours, smooth
from dripgate.types import Array, Decision, Sample, Verdict

mpl.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).parents[1] / "docs" / "decided.png"
WORK = Path("build/readme-picture")
SIDE, SHOWN, BROKEN = 32, 6, 0.1
ROWS = (
    (Decision.KEEP, "kept", "it would teach the model something"),
    (Decision.DROP, "dropped", "the model is sure, and need not see it again"),
    (Decision.QUARANTINE, "set aside", "unlike anything the gate was made with: broken, or new"),
)


def main() -> None:
    """Train, fit, decide, draw."""
    shutil.rmtree(WORK, ignore_errors=True)
    rng = np.random.default_rng(0)
    digits = load_digits()
    order = rng.permutation(len(digits.images))
    for i in order[:700]:
        folder = WORK / "labelled" / str(digits.target[i])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(png(seen(digits.images[i], rng)))
    command("train", WORK / "labelled", "--steps", 150, "--out", WORK / "model.safetensors",
            "--onnx", WORK / "net.onnx")  # fmt: skip
    command("fit", WORK / "labelled", "--model", WORK / "net.onnx", "--out", WORK / "gate.onnx")
    gate = Gate.load(WORK / "gate.onnx")
    stream = [broken(frame, rng) if rng.random() < BROKEN else frame
              for frame in (seen(digits.images[i], rng) for i in order[700:])]  # fmt: skip
    samples = [Sample(png(frame)) for frame in stream]
    draw(gate, samples, [gate.decide(sample) for sample in samples])


def command(*arguments: object) -> None:
    """One of dripgate's own commands, in a process of its own."""
    subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-m", "dripgate", *map(str, arguments)], check=True, env=os.environ
    )


def seen(digit: Array, rng: np.random.Generator) -> Array:
    """A digit (8, 8) of 0 to 16 as a camera sees it, (32, 32) uint8: its light, and its noise."""
    large = Image.fromarray((digit * 15).astype(np.uint8)).resize((SIDE, SIDE), Image.BICUBIC)
    light = rng.uniform(0.7, 1.0)
    return pixels(20 + np.asarray(large, np.float64) * light + rng.normal(0, 4, (SIDE, SIDE)))


def broken(frame: Array, rng: np.random.Generator) -> Array:
    """Noise, a covered lens, too much light, or out of focus."""
    values = frame.astype(np.float64)
    return pixels((
        128 + 0.1 * (values - 128) + rng.normal(0, 60, values.shape),
        rng.normal(2, 2, values.shape),
        values * 8 + 64,
        gaussian_filter(values, SIDE / 6),
    )[rng.integers(4)])  # fmt: skip


def pixels(values: Array) -> Array:
    """uint8, cut off at both ends."""
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def png(image: Array) -> bytes:
    """The bytes of a PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def draw(gate: Gate, samples: list[Sample], verdicts: list[Verdict]) -> None:
    """Three rows of pictures, each with its heatmap beside it."""
    size = 96
    figure, axes = plt.subplots(3, SHOWN, figsize=(9, 4.2),
                                gridspec_kw={"wspace": 0.06, "hspace": 0.9})  # fmt: skip
    for row, (decision, word, why) in enumerate(ROWS):
        chosen = [i for i, verdict in enumerate(verdicts) if verdict.decision == decision]
        share = len(chosen) / len(verdicts)
        for column, axis in enumerate(axes[row]):
            axis.axis("off")
            if column < len(chosen):
                array = gate.decode(samples[chosen[column]])
                grey = np.asarray(Image.fromarray(array[..., 0]).resize((size, size)))
                heat = smooth(gate(array[None]).heatmap[0], (size, size))
                alpha = (0.85 * heat**0.75)[..., None]
                ground = grey[..., None].repeat(3, axis=2)
                mapped = ground * (1 - alpha) + colours(heat) * alpha
                axis.imshow(np.concatenate([ground, mapped], axis=1).astype(np.uint8))
                digit = gate.info.classes[verdicts[chosen[column]].predicted]
                axis.set_title(f"taken for a {digit}", fontsize=8, color="#555555", pad=3)
        axes[row][0].text(
            0, 1.4, f"{word}: {share:.0%} of {len(verdicts):,}", fontsize=12, fontweight="bold",
            transform=axes[row][0].transAxes,
        )  # fmt: skip
        axes[row][2].text(0, 1.4, why, fontsize=10, color="#555555",
                          transform=axes[row][2].transAxes)  # fmt: skip
    figure.savefig(OUT, dpi=110, bbox_inches="tight", facecolor="white",
                   metadata={"Software": None})  # fmt: skip
    print(f"{OUT}: {OUT.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
