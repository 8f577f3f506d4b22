"""What a score costs on top of the inference that runs anyway: docs/results/price.json.

Run it by `make bench-price`. One process, one thread, process CPU time; every round runs every
way once, in random order, and ratios are taken within a round. PARTS, NETS, BATCHES and SECONDS
(per net and batch) narrow it down; what is not run again stays in the file. Peers are timed where
they are installed (the target does, in an environment of their own), and only if their heatmaps
equal ours.
"""

import gc
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from dripgate.bench.gradcam import GradCam
from dripgate.data import Dataset, Split, infer_input, load, open_source
from dripgate.gate import Gate
from dripgate.gate_info import Calibration, GateInfo, Histogram, Parity, Provenance, TargetLayer
from dripgate.graph.build import build_graph, with_info
from dripgate.graph.opened import open_classifier
from dripgate.graph.read import OPSET
from dripgate.graph.target import choose_target
from dripgate.heatmap import SCORES
from dripgate.training import nets
from dripgate.training.classifier import Classifier, load_classifier
from dripgate.training.export import exported
from dripgate.training.first import train_first
from dripgate.training.preprocess import Deployed, build
from dripgate.training.train import Recipe
from dripgate.types import (
    Array,
    AudioInput,
    ImageInput,
    InputSpec,
    LogMel,
    Normalize,
    Thresholds,
)

OUT = Path(__file__).parents[1] / "docs" / "results" / "price.json"
FEWEST, MOST = 5, 400
Way = Callable[[], object]


def main() -> None:
    """Run the parts; the file is written after each net and batch."""
    torch.set_num_threads(1)
    parts = {"ways": ways, "profile": profile, "decide": decide, "cold": cold, "int8": int8}
    for name in os.environ.get("PARTS", " ".join(parts)).split():
        parts[name]()
    print(table(saved()))


def saved() -> dict[str, Any]:
    """The results so far."""
    return json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}


def save(part: str, key: str, value: object) -> None:
    """Add one entry to a part of the file."""
    found = saved()
    found.setdefault(part, {})[key] = value
    found["machine"] = {
        "cpu": next(
            (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")), platform.processor(),
        ),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
    }  # fmt: skip
    OUT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


# The nets ---------------------------------------------------------------------------------------


class Basic(nn.Module):
    """ResNet's basic block (He et al., 2016), as users write it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, rectified."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + identity)


def resnet18(classes: int = 100) -> nn.Module:
    """11 M parameters."""
    blocks, inputs = [], 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [Basic(inputs, outputs, stride), Basic(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes),
    )  # fmt: skip


def mobilenet(classes: int = 2) -> nn.Module:
    """MobileNetV1 of width 0.25 (Howard et al., 2017), as MLPerf Tiny's visual wake words."""

    def conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs), nn.ReLU(),
        )  # fmt: skip

    layers, inputs = [conv(3, 8, 3, 2)], 8
    for outputs, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2),
                            *[(128, 1)] * 5, (256, 2), (256, 1)):  # fmt: skip
        layers += [conv(inputs, inputs, 3, stride, inputs), conv(inputs, outputs, 1, 1)]
        inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*layers, *head)


SPEECH = LogMel(window=640, hop=320, bins=40, low=20, high=4000, mean=-5, std=3)
NETS: dict[str, tuple[Any, InputSpec, Callable[[Any], nn.Module]]] = {
    "lenet": (
        Normalize(mean=(0.13,), std=(0.31,)), ImageInput(height=28, width=28, channels=1),
        lambda shape: nets.lenet(shape, 10),
    ),
    "resnet8": (
        Normalize(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26)),
        ImageInput(height=32, width=32, channels=3), lambda shape: nets.resnet8(shape, 10),
    ),
    "dscnn": (SPEECH, AudioInput(rate=16000, length=16000), lambda shape: nets.dscnn(shape, 12)),
    "mobilenet": (
        Normalize(mean=(0.5,) * 3, std=(0.5,) * 3), ImageInput(height=96, width=96, channels=3),
        lambda _: mobilenet(),
    ),
    "resnet18": (
        Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ImageInput(height=224, width=224, channels=3), lambda _: resnet18(),
    ),
}  # fmt: skip


class Net(NamedTuple):
    """A net, its gate and its plain export."""

    deployed: Deployed
    layer: str
    gate: Gate
    plain: bytes


def make(name: str) -> Net:
    """Seeded, its batch norms set by one batch; the gate checked against autograd."""
    preprocessing, spec, factory = NETS[name]
    torch.manual_seed(0)
    samples = torch.from_numpy(noise(spec, 16))
    inputs = build(preprocessing, spec)(samples)
    model = factory(tuple(inputs.shape[1:]))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(inputs)
    model.eval()
    found = exported(model, tuple(inputs.shape[1:]), name)
    opened = open_classifier(found.model, name)
    chosen = choose_target(opened)
    # The outermost module that gives the target: where torch's own Grad-CAM takes it.
    layer = chosen.module
    target = TargetLayer(name=layer, shape=chosen.cut.sizes, why=chosen.why)
    classes = model(inputs[:1]).shape[1]
    graph = build_graph(
        opened, chosen.cut, preprocessing, spec, "loss_mean", unbounded(classes)
    ).model
    deployed = Deployed(model, build(preprocessing, spec)).eval()
    parity = against_autograd(graph, deployed, layer, samples)
    gate = Gate(with_info(graph, info(classes, preprocessing, spec, target, parity)), name)
    return Net(deployed, layer, gate, plain_export(deployed, samples[:2]))


def against_autograd(graph: bytes, deployed: Deployed, layer: str, samples: Tensor) -> Parity:
    """The gate's outputs beside torch's own, relative to the largest; stops where they differ."""
    names = ["logits", "score", "heatmap"]
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found = dict(zip(names, session.run(names, {"samples": samples.numpy()}), strict=True))
    with GradCam(deployed, f"model.{layer}") as gradcam:
        cam = gradcam(samples, SCORES["loss_mean"])
    expected = {name: getattr(cam, name).numpy() for name in names}
    worst = {
        name: float(np.abs(found[name] - value).max() / max(np.abs(value).max(), 1e-30))
        for name, value in expected.items()
    }
    if max(worst.values()) > 1e-4:
        raise SystemExit(f"the gate differs from autograd at '{layer}': {worst}")
    return Parity(samples=len(samples), tolerance=1e-4, **worst)


def noise(spec: InputSpec, n: int) -> Array:
    """Raw samples."""
    random = np.random.default_rng(n)
    if isinstance(spec, AudioInput):
        return random.normal(0, 3000, (n, *spec.shape)).astype(np.int16)
    colours = random.uniform(0.2, 1, (n, 1, 1, spec.shape[-1]))
    return (random.uniform(0, 255, (n, *spec.shape)) * colours).astype(np.uint8)


def plain_export(deployed: nn.Module, samples: Tensor) -> bytes:
    """What a user deploys who does not know dripgate: same preprocessing, logits only."""
    exported = torch.onnx.export(
        deployed, (samples,), dynamo=True, verbose=False, opset_version=OPSET,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["samples"], output_names=["logits"],
    )  # fmt: skip
    return bytes(exported.model_proto.SerializeToString())


def cut_at_logits(gate: bytes) -> bytes:
    """The gate's own graph without all that comes after the logits."""
    model = onnx.load_model_from_string(gate)
    return bytes(onnx.utils.Extractor(model).extract_model(["samples"], ["logits"])
                 .SerializeToString())  # fmt: skip


def unbounded(classes: int) -> Thresholds:
    """Thresholds that keep everything; what is typical does not change what it costs."""
    none = (None,) * classes
    return Thresholds(low=none, high=none, quality_low=None)


def info(
    classes: int, preprocessing: Any, spec: InputSpec, layer: TargetLayer, parity: Parity
) -> GateInfo:
    """What the gate says about itself, with nothing learned."""
    nothing = Histogram(edges=(), counts=())
    return GateInfo(
        schema=1, score="loss_mean", keep=1.0, classes=tuple(map(str, range(classes))),
        thresholds=unbounded(classes), input=spec, preprocessing=preprocessing, layer=layer,
        calibration=Calibration(
            samples=0, accuracy=0, score=nothing, quality=nothing, predicted=(), kept=(),
            curve=(), full=0, why="bench",
        ),
        parity=parity,
        provenance=Provenance(
            dripgate="", onnx="", onnxruntime="", opset=OPSET, data="", seed=0
        ),
    )  # fmt: skip


# The ways ---------------------------------------------------------------------------------------


def ways() -> None:
    """Every way of getting a score, net by net."""
    for name in os.environ.get("NETS", " ".join(NETS)).split():
        net = make(name)
        for batch in map(int, os.environ.get("BATCHES", "1 64").split()):
            found = timed(all_ways(net, noise(NETS[name][1], batch)))
            save("ways", f"{name} b{batch}", found)
            for way, row in found.items():
                print(
                    f"{name} b{batch} {way}: {row['us']:.1f} µs, × {row['ratio']:.3f}",
                    file=sys.stderr,
                )


def all_ways(net: Net, x: Array) -> dict[str, Way]:
    """plain first: ratios are to it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    open_ = partial(
        onnxruntime.InferenceSession, sess_options=options, providers=["CPUExecutionProvider"]
    )
    plain, own = open_(net.plain), open_(cut_at_logits(net.gate.data))
    gate = open_(net.gate.data)
    feed = {"samples": x}
    batch = torch.from_numpy(x)
    decide: Way = partial(net.gate.decide_batch, list(x))
    if len(x) == 1:
        decide = partial(net.gate.decide, x[0])
    brief = ["logits", "score", "verdict", "quality"]
    found: dict[str, Way] = {
        "plain": lambda: plain.run(["logits"], feed),
        "gate's own logits": lambda: own.run(["logits"], feed),
        "gate, verdict": lambda: gate.run(["verdict"], feed),
        "gate, brief": lambda: gate.run(brief, feed),
        "gate, all outputs": lambda: gate.run(None, feed),
        "Gate.decide": decide,
        "torch forward": partial(inference, net.deployed, batch),
        "torch hook": partial(hook, net, batch, "loss_mean"),
    }
    return found | peers(net, batch)


def inference(model: nn.Module, batch: Tensor) -> Tensor:
    """The eager forward pass."""
    with torch.inference_mode():
        return model(batch)


def hook(net: Net, batch: Tensor, score: str) -> Tensor:
    """Grad-CAM by one hook, backward through the head only: the best we know in torch."""
    kept: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()

    handle = net.deployed.model.get_submodule(net.layer).register_forward_hook(cut)
    logits = net.deployed(batch)
    handle.remove()
    if score == "loss_mean":
        objective = nn.functional.cross_entropy(logits, logits.argmax(1), reduction="sum").neg()
    else:
        objective = logits.amax(1).sum()
    (gradient,) = torch.autograd.grad(objective, kept[0])
    return torch.einsum("nk,nkhw->nhw", gradient.mean((2, 3)), kept[0].detach()).relu()


def peers(net: Net, batch: Tensor) -> dict[str, Way]:
    """Those that are installed, after a check that they give our heatmaps (evidence)."""
    for parameter in net.deployed.parameters():
        parameter.requires_grad_(True)  # as a user's model has it; peers differentiate the model
    with GradCam(net.deployed, f"model.{net.layer}") as gradcam:
        cam = gradcam(batch, SCORES["evidence_mean"])
    layer = net.deployed.model.get_submodule(net.layer)
    found: dict[str, Way] = {}
    for name, (module, factory) in PEERS.items():
        if importlib.util.find_spec(module) is None:
            print(f"{name} is not installed: left out", file=sys.stderr)
            continue
        way, ours = factory(net, layer, batch, cam.predicted, cam.heatmap)
        theirs = torch.as_tensor(way()).reshape(ours.shape)
        apart = float((theirs - ours).abs().max() / ours.abs().max().clamp(min=1e-30))
        # Scaled to 0…1 by themselves, flat heatmaps have their rounding enlarged.
        if apart > (1e-4 if name == "captum" else 1e-2):
            print(f"{name} differs from our heatmap by {apart:.1e}: not timed", file=sys.stderr)
            continue
        found[name] = way
    return found


Peer = tuple[Callable[[], Any], Tensor]


def _captum(net: Net, layer: nn.Module, batch: Tensor, target: Tensor, maps: Tensor) -> Peer:
    from captum.attr import LayerGradCam

    cam = LayerGradCam(net.deployed, layer)
    return lambda: cam.attribute(batch, target=target, relu_attributions=True).detach(), maps


def _grad_cam(net: Net, layer: nn.Module, batch: Tensor, target: Tensor, maps: Tensor) -> Peer:
    # It imports torchvision for transforms that Grad-CAM does not use; torchvision has no
    # build for this torch (docs/performance.md), so the names are stubbed.
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        stub = sys.modules.setdefault(name, ModuleType(name))
        for attribute in ("Compose", "Normalize", "ToTensor", "resize"):
            setattr(stub, attribute, object)
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    # It resizes to what it takes for the input's height and width: give it channels first.
    cam = GradCAM(model=net.deployed.model, target_layers=[layer])
    targets = [ClassifierOutputTarget(int(c)) for c in target]

    def way() -> Array:
        return cam(input_tensor=net.deployed.preprocessing(batch), targets=targets)

    size = way().shape[:0:-1]
    ours = scale_cam_image(scale_cam_image(maps.numpy(), size))  # as it does, twice
    return way, torch.as_tensor(ours)


def _torch_cam(net: Net, _: nn.Module, batch: Tensor, target: Tensor, maps: Tensor) -> Peer:
    from torchcam.methods import GradCAM

    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    classes = target.tolist()

    def way() -> Tensor:
        # Its hooks retain gradients on every later forward pass too: they live for one call.
        with GradCAM(net.deployed, f"model.{net.layer}") as cam:
            return cam(classes, net.deployed(batch))[0]

    return way, (maps - low) / (high - low).clamp(min=1e-30)


PEERS: dict[str, tuple[str, Callable[..., Peer]]] = {
    "captum": ("captum", _captum),
    "grad-cam": ("pytorch_grad_cam", _grad_cam),
    "torch-cam": ("torchcam", _torch_cam),
}


def timed(found: dict[str, Way]) -> dict[str, dict[str, float]]:
    """Medians and quartiles of process CPU time in µs, and of the ratio to the first way."""
    names = list(found)
    once = np.array([_clock(found[name], 1) for name in names])  # warms up, too
    once = np.array([_clock(found[name], 1) for name in names])
    seconds = float(os.environ.get("SECONDS", "20"))
    # Short ways run several times a turn, so that the clock is not what is measured.
    repeat = np.maximum(1, np.minimum(20, 2e-3 / once)).astype(int)
    rounds = int(min(MOST, max(FEWEST, seconds / (once * repeat).sum())))
    random, times = np.random.default_rng(0), np.zeros((rounds, len(names)))
    gc.collect()
    gc.disable()  # what the garbage of all the others costs is not the price of one way
    for row in times:
        for i in random.permutation(len(names)):
            row[i] = _clock(found[names[i]], int(repeat[i]))
    gc.enable()
    ratios = times / times[:, :1]
    return {
        name: {
            "us": round(1e6 * float(np.median(times[:, i])), 1),
            "us_quartiles": [round(1e6 * q, 1) for q in np.quantile(times[:, i], (0.25, 0.75))],
            "ratio": round(float(np.median(ratios[:, i])), 4),
            "ratio_quartiles": [round(q, 4) for q in np.quantile(ratios[:, i], (0.25, 0.75))],
            "ratio_of_fastest_tenth": round(
                float(np.quantile(times[:, i], 0.1) / np.quantile(times[:, 0], 0.1)), 4
            ),
            "rounds": rounds,
        }
        for i, name in enumerate(names)
    }  # fmt: skip


def _clock(way: Way, times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        way()
    return (time.process_time() - started) / times


# The profile ------------------------------------------------------------------------------------


def profile() -> None:
    """Median µs of each operator behind the logits at batch 1, by onnxruntime's profiler.

    The profiler itself adds about 3 µs to each: read the differences.
    """
    for name in ("resnet8", "lenet", "dscnn"):
        net = make(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.enable_profiling = 1, True
        with TemporaryDirectory() as folder:
            options.profile_file_prefix = str(Path(folder, "profile"))
            session = onnxruntime.InferenceSession(net.gate.data, options)
            feed = {"samples": noise(NETS[name][1], 1)}
            for _ in range(200):
                session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        spent: dict[str, list[int]] = {}
        for event in events:
            if event["name"].endswith("_kernel_time"):
                label = f"{event['args']['op_name']} {event['name'].removesuffix('_kernel_time')}"
                spent.setdefault(label, []).append(event["dur"])
        save("profile", name, {label: median(times) for label, times in spent.items()})


# Cold start -------------------------------------------------------------------------------------

COLD = """
import time; began = time.perf_counter()
import sys, dripgate, numpy as np
gate = dripgate.Gate.load(sys.argv[1])
verdict = gate.decide(np.load(sys.argv[2]))
wall, cpu = time.perf_counter() - began, time.process_time()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
assert not {"torch", "onnx", "PIL", "soundfile"} & set(sys.modules), "something heavy came along"
import json
print(json.dumps({"wall_s": wall, "cpu_s": cpu, "rss_mb": int(status["VmRSS"].split()[0]) / 1e3,
                  "peak_mb": int(status["VmHWM"].split()[0]) / 1e3}))
"""


DECIDE = """
import json, sys, time
import dripgate, numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 3
session = onnxruntime.InferenceSession(sys.argv[1], options)
gate, x = dripgate.Gate.load(sys.argv[1]), np.load(sys.argv[2])
names, feed = ["logits", "score", "verdict", "quality"], {"samples": x[None]}
ways = [lambda: session.run(names, feed), lambda: gate.decide(x)]
clock, times = time.process_time_ns, np.zeros((3000, 2))
for i, row in enumerate(times):
    for j in (0, 1) if i % 2 else (1, 0):
        started = clock(); ways[j](); row[j] = clock() - started
assert "torch" not in sys.modules
print(json.dumps([*np.median(times[100:] / 1e3, axis=0),
                  *np.quantile(np.diff(times[100:])[:, 0] / 1e3, (0.25, 0.5, 0.75))]))
"""


def decide() -> None:
    """What ``Gate.decide`` adds to onnxruntime's run, µs, in an interpreter without torch."""
    for name in ("resnet8", "lenet", "dscnn"):
        net = make(name)
        with TemporaryDirectory() as folder:
            net.gate.save(Path(folder, "gate.onnx"))
            np.save(Path(folder, "sample.npy"), noise(NETS[name][1], 1)[0])
            command = [sys.executable, "-c", DECIDE, "gate.onnx", "sample.npy"]
            found = [json.loads(subprocess.check_output(command, cwd=folder)) for _ in range(5)]  # noqa: S603
        run, whole, low, middle, high = np.median(found, axis=0).round(1).tolist()
        save("decide", name, {
            "run_us": run, "decide_us": whole, "adds_us": middle, "adds_us_quartiles": [low, high],
        })  # fmt: skip


def cold() -> None:
    """A fresh interpreter to the first verdict of DS-CNN, and its memory. CPU time is of it all."""
    net = make("dscnn")
    with TemporaryDirectory() as folder:
        net.gate.save(Path(folder, "gate.onnx"))
        np.save(Path(folder, "sample.npy"), noise(NETS["dscnn"][1], 1)[0])
        command = [sys.executable, "-c", COLD, "gate.onnx", "sample.npy"]
        found = [json.loads(subprocess.check_output(command, cwd=folder)) for _ in range(15)]  # noqa: S603
    row = {key: round(median(run[key] for run in found), 3) for key in found[0]}
    save("cold", "dscnn", row | {"fastest_wall_s": round(min(run["wall_s"] for run in found), 3)})


# INT8 -------------------------------------------------------------------------------------------


def int8() -> None:
    """Static QDQ quantisation of trained gates on real data, by onnxruntime itself.

    MODELS, a folder with lenet, resnet8 and dscnn.safetensors, spares the training.
    """
    from dripgate.fitting.brought import calibration_part
    from dripgate.models import fit

    for name, arch in (("cifar10", "resnet8"), ("speechcommands", "dscnn"), ("mnist", "lenet")):
        if name not in os.environ.get("DATA", "cifar10 speechcommands mnist").split():
            continue
        data, classifier = trained(name, arch)
        gate = fit(classifier, data, keep=0.4)
        part = calibration_part(data, classifier.info.holdout)
        small = Gate(quantized(gate.data, some(part, 256)[0]), "int8")
        x, y = some(data.test, 2000)
        row = compared(gate, small, x)
        accuracy = round(classifier.accuracy(x, y), 4)
        steps = classifier.info.recipe.steps
        save("int8", f"{name} {arch}", row | {"accuracy": accuracy, "steps": steps})


def trained(name: str, arch: str) -> tuple[Dataset, Classifier]:
    """A data set and a net that was trained on it, in STEPS steps where MODELS has none."""
    source = open_source(name)
    data = load(source, infer_input(source))
    ready = Path(os.environ.get("MODELS", ""), f"{arch}.safetensors")
    if ready.is_file():
        return data, load_classifier(str(ready))
    steps = int(os.environ.get("STEPS", "300"))
    recipe = Recipe(steps=steps, lr=0.1)  # as 'dripgate train' does: at 0.2 a LeNet may not learn
    return data, train_first(data, arch, recipe).classifier


def some(split: Split, count: int) -> tuple[Array, Array]:
    """So many samples at random, and their classes: files come sorted by class."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(split))[:count])
    return split.batch(chosen), split.y[chosen]


def quantized(graph: bytes, samples: Array, *, batch: int = 32) -> bytes:
    """int8 convolutions and matrices up to the logits, per channel; what follows stays float.

    Weights have 7 bits: without VNNI, sums of two products of 8 bits each saturate.
    """
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"samples": samples[i : i + batch]} for i in range(0, len(samples), batch)]

        def get_next(self) -> dict[str, Array] | None:
            return self.left.pop(0) if self.left else None

    model = onnx.load_model_from_string(graph)
    names = [node.op_type for node in model.graph.node]
    for i, node in enumerate(model.graph.node):
        node.name = f"{i}_{node.op_type}"
    start = names.index("Log") if "Log" in names[: names.index("Relu")] else names.index("Conv") - 1
    forward, needed = set(), {"logits"}
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            forward.add(node.name)
    chosen = [
        node.name for i, node in enumerate(model.graph.node)
        if node.op_type in ("Conv", "Gemm", "Add", "Relu", "MaxPool", "ReduceMean")
        and i > start and node.name in forward
    ]  # fmt: skip
    with TemporaryDirectory() as folder:
        before, after = Path(folder, "in.onnx"), Path(folder, "out.onnx")
        onnx.save(model, before)
        q.quantize_static(
            before, after, Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True,
            nodes_to_quantize=chosen, activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8, reduce_range=True,
        )  # fmt: skip
        made = onnx.load(after)
    for entry in [e for e in made.opset_import if e.domain not in ("", "ai.onnx")]:
        made.opset_import.remove(entry)
    return bytes(made.SerializeToString())


def compared(gate: Gate, small: Gate, x: Array) -> dict[str, Any]:
    """Size, speed, ranks and verdicts of the same samples."""
    from scipy.stats import spearmanr

    parts = [x[i : i + 250] for i in range(0, len(x), 250)]
    full, less = ([g(part) for part in parts] for g in (gate, small))
    join = lambda runs, i: np.concatenate([run[i] for run in runs])  # noqa: E731
    changed = float((join(full, 2) != join(less, 2)).mean())
    one = {
        f"b{batch}": timed({"float": partial(gate, x[:batch]), "int8": partial(small, x[:batch])})[
            "int8"
        ]["ratio"]
        for batch in (1, 64)
    }
    return {
        "float_bytes": len(gate.data), "int8_bytes": len(small.data), "time_ratio": one,
        "spearman": round(float(spearmanr(join(full, 1), join(less, 1)).statistic), 5),
        "same_class": round(float((join(full, 0).argmax(1) == join(less, 0).argmax(1)).mean()), 4),
        "changed_verdicts": round(changed, 4), "samples": len(x),
    }  # fmt: skip


# The table --------------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> str:
    """The ratios as Markdown: a row per way, a column per net and batch."""
    columns = list(found.get("ways", {}))
    order = [
        "plain", "gate's own logits", "gate, verdict", "gate, brief", "gate, all outputs",
        "Gate.decide", "torch forward", "torch hook", *PEERS,
    ]  # fmt: skip
    seen = {way for column in columns for way in found["ways"][column]}
    names = [way for way in order if way in seen]
    lines = [
        "| way | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
        "| plain, µs | "
        + " | ".join(f"{found['ways'][c]['plain']['us']:,.0f}" for c in columns)
        + " |",
    ]
    for name in names:
        cells = [found["ways"][column].get(name) for column in columns]
        shown = [f"{cell['ratio']:.3f}" if cell else "" for cell in cells]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
