"""LiteRT beside onnxruntime, in floats and in int8: adds "litert" to docs/results/price.json.

Run it by `make bench-litert` with $DRIPGATE_DATA set; it needs a few gigabytes for an environment
of its own. ResNet-8 and DS-CNN, from the net's input (log-mel is made beforehand) to logits and
target activations; for a linear head the score is a closed form of those, taken in NumPy for every
runtime alike. One process, one thread, batch 1, process CPU time, interleaved rounds.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import litert_torch
import numpy as np
import onnxruntime
import torch
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from bench_price import OPSET, quantized, save, some, timed, trained
from scipy.stats import spearmanr
from torch import Tensor, nn

from dripgate.fitting.brought import calibration_part
from dripgate.heatmap import SCORES, heatmap_of_linear_head, score
from dripgate.types import Array

NETS = {"resnet8": "cifar10", "dscnn": "speechcommands"}
#: The torch module whose output is the gate's target.
TARGETS = {"resnet8": "3", "dscnn": "26"}
SPEC = SCORES["loss_mean"]
#: From the net's input (1, C, h, w) to logits and activations.
Run = Callable[[Array], tuple[Array, Array]]


class Twice(nn.Module):
    """Logits and target activations of a net."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__()
        self.model, self.kept = model, []
        model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: self.kept.append(out))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C) and (N, K, h, w)."""
        logits = self.model(x)
        return logits, self.kept.pop()


def main() -> None:
    """Both nets; one entry each."""
    torch.set_num_threads(1)
    for arch in os.environ.get("NETS", " ".join(NETS)).split():
        save("litert", arch, measured(arch, NETS[arch]))


def measured(arch: str, name: str) -> dict[str, Any]:
    """A row per runtime, by name."""
    data, classifier = trained(name, arch)
    part = calibration_part(data, classifier.info.holdout)
    inputs = partial(_inputs, classifier.deployed.preprocessing)
    calibration = inputs(some(part, 256)[0])
    samples, truth = some(data.test, 2000)
    x = inputs(samples)
    # Trained channels last: litert-torch writes such weights in the wrong order.
    model = classifier.model.eval().to(memory_format=torch.contiguous_format)
    twice = Twice(model, TARGETS[arch]).eval()
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    weights = head.weight.detach().numpy(), head.bias.detach().numpy()
    runs, sizes = runtimes(twice, calibration)
    exact, other = (runs[key](x[:1])[0] for key in ("onnxruntime float", "litert float"))
    if not np.allclose(exact, other, atol=1e-4 * np.abs(exact).max()):
        raise SystemExit(f"{arch}: LiteRT's logits are not onnxruntime's: {other} and {exact}")
    ratios = timed({key: partial(run, x[:1]) for key, run in runs.items()})
    first = None
    rows: dict[str, Any] = {}
    for key, run in runs.items():
        logits, scores = _scored(run, x, weights)
        first = first or (logits.argmax(1), scores, np.quantile(scores, 0.6))
        predicted, exact, threshold = first
        rows[key] = {
            "bytes": sizes[key], "time_ratio": ratios[key]["ratio"],
            "accuracy": round(float((logits.argmax(1) == truth).mean()), 4),
            "same_class": round(float((logits.argmax(1) == predicted).mean()), 4),
            "spearman": round(float(spearmanr(scores, exact).statistic), 4),
            "changed_verdicts": round(
                float(((scores > threshold) != (exact > threshold)).mean()), 4
            ),
        }  # fmt: skip
        print(arch, key, rows[key], file=sys.stderr, flush=True)
    return rows | {"samples": len(x), "steps": classifier.info.recipe.steps}


def _inputs(preprocessing: nn.Module, samples: Array) -> Array:
    with torch.inference_mode():
        return np.concatenate([
            preprocessing(torch.from_numpy(samples[i : i + 250])).numpy()
            for i in range(0, len(samples), 250)
        ])  # fmt: skip


def _scored(run: Run, x: Array, weights: tuple[Array, Array]) -> tuple[Array, Array]:
    """Logits and scores of samples one by one; the head's bias plays no part in a gradient."""
    found = [run(x[i : i + 1]) for i in range(len(x))]
    logits, maps = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return logits, score(heatmap_of_linear_head(maps, *weights, SPEC.objective, SPEC.sign), SPEC)


def runtimes(twice: Twice, calibration: Array) -> tuple[dict[str, Run], dict[str, int]]:
    """What runs the net, and how large its file is."""
    sample = torch.from_numpy(calibration[:1])
    exported = torch.onnx.export(
        twice, (sample,), dynamo=True, verbose=False, opset_version=OPSET,
        input_names=["samples"], output_names=["logits", "activations"],
    )  # fmt: skip
    plain = exported.model_proto.SerializeToString()
    small = quantized(plain, calibration, batch=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "float.tflite")
        litert_torch.convert(twice, (sample,)).export(str(path))
        floats = path.read_bytes()
        work = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
        signature = next(iter(Interpreter(model_content=floats).get_signature_list()))
        feeds = [{"args_0": calibration[i : i + 1]} for i in range(len(calibration))]
        whole = bytes(work.quantize(work.calibrate({signature: feeds})).quantized_model)
    made = {
        "onnxruntime float": (_onnx(plain), plain), "onnxruntime int8": (_onnx(small), small),
        "litert float": (_litert(floats), floats), "litert int8": (_litert(whole), whole),
    }  # fmt: skip
    return ({key: run for key, (run, _) in made.items()},
            {key: len(data) for key, (_, data) in made.items()})  # fmt: skip


def _onnx(data: bytes) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(data, options)
    return lambda x: tuple(session.run(None, {"samples": x}))


def _litert(data: bytes) -> Run:
    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    # By rank, as names and order are not kept.
    exits = sorted(interpreter.get_output_details(), key=lambda one: len(one["shape"]))

    def run(x: Array) -> tuple[Array, Array]:
        if entry["dtype"] == np.int8:
            scale, zero = entry["quantization"]
            x = np.clip(np.rint(x / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(entry["index"], x)
        interpreter.invoke()
        logits, maps = (_floats(interpreter.get_tensor(one["index"]), one) for one in exits)
        return logits, maps

    return run


def _floats(values: Array, details: dict[str, Any]) -> Array:
    if values.dtype != np.int8:
        return values
    scale, zero = details["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale)


if __name__ == "__main__":
    main()
