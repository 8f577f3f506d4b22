"""Classifiers as people have them, as files: what becomes of each. docs/results/files.json.

Run it by ``make bench-files``. DRIPGATE_MODELS is the folder of the files (MLPerf Tiny's and
others, .onnx and .tflite), DRIPGATE_DATA that of the data sets. .tflite files are converted where
$DRIPGATE_TFLITE names an interpreter with tf2onnx and TensorFlow; the same interpreter then runs
the original for comparison. torch is not imported, which is checked at the end.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dripgate.data import Dataset, Split, load, open_source
from dripgate.errors import DripgateError
from dripgate.fitting import tflite
from dripgate.fitting.conventions import accuracy, run_in_batches
from dripgate.fitting.features import Features
from dripgate.fitting.fit import run_all
from dripgate.gate import Gate
from dripgate.graph.measure import session
from dripgate.graph.read import load as load_onnx
from dripgate.models import fit
from dripgate.types import Array, ArrayInput, ImageInput, InputSpec

OUT = Path(__file__).parents[1] / "docs" / "results" / "files.json"
MODELS = Path(os.environ.get("DRIPGATE_MODELS", Path(__file__).parents[2] / "shared" / "models"))
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WORDS = (
    "down",
    "go",
    "left",
    "no",
    "off",
    "on",
    "right",
    "stop",
    "up",
    "yes",
    "silence",
    "unknown",
)
MFCC = "mfcc window=30ms hop=20ms bins=40 coefficients=10 low=20 high=4000 fft=512 power=1"


def main() -> None:
    """A row per file, then ResNet-8 on all test pictures."""
    pictures = part("cifar10", ImageInput(height=32, width=32, channels=3), CIFAR)
    words = part("speechcommands", None, WORDS)
    how: dict[str, tuple[Callable[[], Dataset], dict[str, Any]]] = {
        "pretrainedResnet": (lambda: pictures, {"classes": CIFAR}),
        "kws": (lambda: words, {"classes": WORDS, "preprocessing": Features.parse(MFCC)}),
        "vww": (lambda: made_up(ImageInput(height=96, width=96, channels=3), 2), {"force": True}),
        "frigate": (lambda: made_up(ImageInput(height=224, width=224, channels=3), 5),
                    {"force": True, "preprocessing": "0-255"}),
        "ei_audio": (lambda: made_up(ArrayInput(shape=(650,)), 4), {"force": True}),
        "ei_fomo": (lambda: made_up(ImageInput(height=96, width=96, channels=3), 3), {}),
    }  # fmt: skip
    rows: dict[str, Any] = {}
    gates: dict[str, Gate] = {}
    for path in sorted([*MODELS.glob("*.onnx"), *MODELS.glob("*.tflite")]):
        data, options = next(value for name, value in how.items() if path.name.startswith(name))
        rows[path.name] = row(path, data(), options, gates)
        print(path.name, rows[path.name], file=sys.stderr, flush=True)
    found = {"files": rows, "resnet8": resnet8(pictures, gates), "torch": "torch" in sys.modules}
    OUT.write_text(json.dumps(found, indent=1) + "\n")


def row(path: Path, data: Dataset, options: dict[str, Any], gates: dict[str, Gate]) -> Any:
    """What became of one file."""
    started = time.process_time()
    try:
        gate = fit(path, data, **options)
    except DripgateError as error:
        return {"made": False, "why": str(error)}
    gates[path.name] = gate
    info = gate.info
    return {
        "made": True, "target": info.layer.shape, "operators_added": info.layer.added,
        "logits": info.parity.logits, "heatmap": info.parity.heatmap,
        "accuracy": round(info.calibration.accuracy, 4), "samples": info.calibration.samples,
        "forced": bool(options.get("force")), "kB": round(len(gate.data) / 1e3),
        "cpu_seconds": round(time.process_time() - started, 1),
    }  # fmt: skip


def part(name: str, spec: InputSpec | None, classes: tuple[str, ...]) -> Dataset:
    """A data set's test part as what a gate is fitted on; only the classes that a file knows."""
    data = load(open_source(name), spec)
    known = [label in classes for label in data.classes]
    names = tuple(label for label in data.classes if label in classes)
    place = np.cumsum(known) - 1

    def of(split: Split) -> Split:
        chosen = split.take(np.flatnonzero(np.array(known)[split.y]))
        return replace(chosen, y=place[chosen.y])

    test = of(data.test)
    return replace(data, classes=names, train=test, test=test)


def made_up(spec: InputSpec, classes: int) -> Dataset:
    """Random samples, for files that come without data: whether a gate can be made at all."""
    rng = np.random.default_rng(0)
    n = 64
    x = rng.integers(0, 256, (n, *spec.shape)).astype(spec.dtype)
    if isinstance(spec, ArrayInput):
        x = rng.normal(0, 20, (n, *spec.shape)).astype(np.float32)
    ids = np.array([f"{i:064x}" for i in range(n)])
    split = Split.of(x, np.arange(n) % classes, ids, [""] * n, np.ones(n, np.int64))
    return Dataset("random samples", tuple(map(str, range(classes))), spec, split, split, ())


def resnet8(pictures: Dataset, gates: dict[str, Gate]) -> Any:
    """Accuracy of file and gate on all test pictures, and the scores' rank correlation."""
    pixels, truth = pictures.train.x, pictures.train.y
    found: dict[str, Any] = {"samples": len(truth)}
    scores = {}
    for name in ("pretrainedResnet.onnx", "pretrainedResnet_quant.onnx"):
        outputs = run_all(gates[name], pictures.train)
        scores[name] = outputs.score
        found[name] = {
            "gate": round(accuracy(outputs.logits, truth), 4),
            "file in onnxruntime": round(in_onnxruntime(MODELS / name, pixels, truth), 4),
            "scores_distinct": len(np.unique(outputs.score)),
        }
        lite = in_litert((MODELS / name).with_suffix(".tflite"), pixels, truth)
        if lite is not None:
            found[name]["file in LiteRT"] = round(lite, 4)
    ranks = [np.argsort(np.argsort(values)) for values in scores.values()]
    found["spearman_float_int8"] = round(float(np.corrcoef(*ranks)[0, 1]), 4)
    return found


def _values(name: str, pixels: Array) -> Array:
    """What MLPerf Tiny's README feeds: pixels from 0 to 255, or minus 128 as int8."""
    if "quant" in name:
        return (pixels.astype(np.int16) - 128).astype(np.int8)
    return pixels.astype(np.float32)


def in_onnxruntime(path: Path, pixels: Array, truth: Array) -> float:
    """The file's own accuracy."""
    model = load_onnx(path)
    given, output = model.graph.input[0].name, model.graph.output[0].name
    values = _values(path.name, pixels)
    return accuracy(run_in_batches(session(path.read_bytes()), given, values, output), truth)


LITERT = """
import sys, numpy as np, tensorflow as tf
x = np.load(sys.argv[2]); run = tf.lite.Interpreter(sys.argv[1], num_threads=1)
run.allocate_tensors(); i = run.get_input_details()[0]["index"]
o = run.get_output_details()[0]["index"]; out = []
for one in x:
    run.set_tensor(i, one[None]); run.invoke(); out.append(run.get_tensor(o)[0])
np.save(sys.argv[3], np.array(out))
"""


def in_litert(path: Path, pixels: Array, truth: Array) -> float | None:
    """The original's accuracy in its own runtime; None without one."""
    python = os.environ.get(tflite.VARIABLE)
    if python is None:
        return None
    with TemporaryDirectory() as folder:
        given, out = Path(folder, "in.npy"), Path(folder, "out.npy")
        np.save(given, _values(path.name, pixels))
        subprocess.run([python, "-c", LITERT, path, given, out], check=True)  # noqa: S603
        return accuracy(np.load(out), truth)


if __name__ == "__main__":
    main()
