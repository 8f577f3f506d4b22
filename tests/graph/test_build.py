"""The graph file: its form, its verdicts, its thresholds, and what it costs."""

from needs import need

need("torch")

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import support
import torch
from torch import Tensor, nn

from dripgate import quality
from dripgate.bench.gradcam import GradCam
from dripgate.errors import GateError
from dripgate.gate_info import (
    FEATURES,
    METADATA_KEY,
    OUTPUT_NAMES,
    Calibration,
    GateInfo,
    Histogram,
    Parity,
    Provenance,
    TargetLayer,
    read_info,
)
from dripgate.graph.build import with_info, with_thresholds
from dripgate.heatmap import SCORES
from dripgate.training import nets
from dripgate.training.preprocess import build
from dripgate.types import (
    ArrayInput,
    AudioInput,
    ImageInput,
    LogMel,
    Normalize,
    Thresholds,
    Typical,
)

torch.set_num_threads(1)
IMAGE = ImageInput(height=24, width=20, channels=3)
NORMALIZE = Normalize(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
SPEECH = LogMel(window=256, hop=128, bins=16, low=60, high=3800, mean=-5, std=3)
F32 = np.finfo(np.float32)
TYPICAL = Typical(centre=(0.5, 0.0, 0.1, 0.2), whitening=((1.0, 0.2, 0.0, 0.1),) * 4)


def _open(classes: int) -> Thresholds:
    return Thresholds(
        low=(None,) * classes, high=(None,) * classes, quality_low=None,
        typical=TYPICAL,
    )  # fmt: skip


def _images(n: int) -> np.ndarray:
    """Noise in a random colour each."""
    random = np.random.default_rng(3)
    colours = random.uniform(0, 1, (n, 1, 1, 3))
    return (random.uniform(0, 255, (n, *IMAGE.shape)) * colours).astype(np.uint8)


def _gate(model: nn.Module, preprocessing: Normalize, score: str, classes: int) -> bytes:
    return support.gate_of(
        model, (3, 24, 20), "conv", score=score, preprocessing=preprocessing, spec=IMAGE,
        thresholds=_open(classes),
    )  # fmt: skip


# The three reference nets -----------------------------------------------------------------------

CASES = {
    "resnet8": (NORMALIZE, IMAGE),
    "lenet": (NORMALIZE, IMAGE),
    "dscnn": (SPEECH, AudioInput(rate=8000, length=4000)),
}


#: Operators behind the logits: each costs about a microsecond (docs/performance.md).
FEWEST = {"resnet8": 34, "lenet": 41, "dscnn": 34}


def _samples(spec, n: int) -> np.ndarray:
    if isinstance(spec, ImageInput):
        return _images(n)
    return np.random.default_rng(3).normal(0, 3000, (n, *spec.shape)).astype(np.int16)


@pytest.mark.parametrize("arch", CASES)
def test_reference_nets_have_few_operators_and_the_right_form(arch):
    preprocessing, spec = CASES[arch]
    samples = _samples(spec, 32)
    inputs = build(preprocessing, spec)(torch.from_numpy(samples))
    torch.manual_seed(0)
    model = nets.NETS[arch](tuple(inputs.shape[1:]), 6)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    for _ in range(5):  # moves the batch norms and spreads the scores
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), torch.arange(32) % 6).backward()
        optimizer.step()
    graph = support.gate_of(
        model, tuple(inputs.shape[1:]), preprocessing=preprocessing, spec=spec,
        thresholds=_open(6),
    )  # fmt: skip
    assert model.training
    operators = support.operators(graph)
    assert operators.count("Conv") == sum(isinstance(m, nn.Conv2d) for m in model.modules()) + (
        1 + 2 * (arch == "dscnn")  # quality; log-mel
    )
    # Neither a gradient plane nor pooling indices: the exact rewrites.
    assert not {"Expand", "ScatterElements", "ConvTranspose"} & set(operators)
    assert len(operators) - operators.index("Hardmax") <= FEWEST[arch]
    _assert_form(graph, spec, samples)


@pytest.mark.parametrize("shape", [(3, 75, 130), (1, 96, 12), (200,)])
def test_quality_of_inputs_large_and_small(shape):
    """Blocks lie apart on large inputs; both sides must take the same."""
    planes = shape if len(shape) == 3 else (1, 10, 20)
    model = support.onnx_model(
        f"""(float[N, {", ".join(map(str, shape))}] x) => (float[N, 4] y) {{
        a = Reshape (x, r) c = Conv (a, w) p = GlobalAveragePool (c) f = Flatten (p)
        y = Gemm (f, m) }}""",
        r=np.array([-1, *planes]), w=support.floats(4, planes[0], 1, 1), m=support.floats(4, 4),
    )  # fmt: skip
    samples = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    found = support.run(support.gate_of(model, shape, thresholds=_open(4)), samples)
    expected = quality.quality(quality.statistics(samples), TYPICAL)
    np.testing.assert_allclose(found["quality"], expected, rtol=1e-4)


def _assert_form(graph: bytes, spec, samples: np.ndarray) -> None:
    model = onnx.load_model_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.domain for entry in model.opset_import] == [""]
    assert not model.functions
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert b"/work" not in graph
    assert b".py" not in graph
    session = onnxruntime.InferenceSession(graph)
    (samples_in,) = session.get_inputs()
    assert (samples_in.name, samples_in.shape) == ("samples", ["batch", *spec.shape])
    assert samples_in.type == f"tensor({spec.dtype.name})"
    outputs = session.get_outputs()
    own = [FEATURES] if len(outputs) > len(OUTPUT_NAMES) else []  # what a deep head's end takes
    assert [out.name for out in outputs] == [*OUTPUT_NAMES, *own]
    types = ["float", "float", "int8", "float", "float", "float", "float"]
    assert [out.type for out in outputs] == [f"tensor({t})" for t in types[: len(outputs)]]
    assert [len(out.shape) for out in outputs] == [2, 1, 1, 1, 2, 3, 2][: len(outputs)]
    assert all(out.shape[0] == "batch" for out in session.get_outputs())
    together = session.run(None, {"samples": samples[:7]})
    for i in range(7):
        alone = session.run(None, {"samples": samples[i : i + 1]})
        for name, one, all_ in zip([*OUTPUT_NAMES, *own], alone, together, strict=True):
            np.testing.assert_allclose(
                one[0], all_[i], rtol=1e-5, atol=1e-5 * np.abs(all_).max(), err_msg=name
            )


# Verdicts ---------------------------------------------------------------------------------------


class Tiny(nn.Module):
    def __init__(self, inputs: int = 3) -> None:
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(inputs, 6, 3), nn.MaxPool2d(3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(torch.relu(self.conv(x))).mean((2, 3)) * 20)


@pytest.fixture(scope="module")
def tiny() -> tuple[Tiny, bytes, np.ndarray]:
    torch.manual_seed(2)
    model = Tiny()
    return model, _gate(model, NORMALIZE, "loss_max", 4), _images(60)


def _rule(results: dict[str, np.ndarray], thresholds: Thresholds) -> list[int]:
    """The rule as the design words it, one sample at a time."""
    verdicts = []
    for logits, score, value in zip(
        results["logits"], results["score"], results["quality"], strict=True
    ):
        c = int(np.argmax(logits))

        def inside(value: np.float32, low: float | None, high: float | None) -> bool:
            above = low is None or value >= np.float32(low)
            return bool(
                np.isfinite(value) and above and (high is None or value <= np.float32(high))
            )

        if not inside(value, thresholds.quality_low, None):
            verdicts.append(2)
        else:
            verdicts.append(int(inside(score, thresholds.low[c], thresholds.high[c])))
    return verdicts


def test_verdicts_follow_the_rule_with_ties_at_every_threshold(tiny):
    _, graph, samples = tiny
    results = support.run(graph, samples)
    predicted = results["logits"].argmax(1)
    assert len(set(predicted)) >= 2
    low: list[float | None] = [None] * 4
    high: list[float | None] = [None] * 4
    for c in sorted(set(predicted)):  # thresholds that are exactly a sample's score
        scores = np.sort(results["score"][predicted == c])
        low[c], high[c] = float(scores[len(scores) // 4]), float(scores[-len(scores) // 4])
    qualities = np.sort(results["quality"])
    thresholds = Thresholds(
        low=tuple(low),
        high=tuple(high),
        quality_low=float(qualities[6]),
    )
    ruled = support.run(with_thresholds(graph, thresholds), samples)
    assert ruled["verdict"].tolist() == _rule(results, thresholds)
    assert set(ruled["verdict"].tolist()) == {0, 1, 2}
    for name in set(OUTPUT_NAMES) - {"verdict"}:
        np.testing.assert_array_equal(ruled[name], results[name])
    just_above = np.nextafter(qualities[6], np.float32(2))
    moved = msgspec.structs.replace(thresholds, quality_low=float(just_above))
    ruled = support.run(with_thresholds(graph, moved), samples)
    assert ruled["verdict"].tolist() == _rule(results, moved)


def _pools_first() -> nn.Sequential:
    """The last two rows and columns of 12 are never looked at."""
    return nn.Sequential(nn.AvgPool2d(5), nn.Conv2d(3, 6, 1), nn.Flatten(), nn.Linear(24, 4))


@pytest.mark.parametrize(("factory", "layer"), [(Tiny, "conv"), (_pools_first, "1")])
def test_non_finite_is_never_kept(factory, layer):
    """What the net would overlook must be seen where it comes in; what overflows, in the map."""
    torch.manual_seed(2)
    spec = ArrayInput(shape=(3, 12, 12))
    model = factory()
    model.get_submodule(layer).weight.data *= 1e4
    samples = np.random.default_rng(0).normal(size=(8, *spec.shape)).astype(np.float32)
    samples[1, 0, 5, 5] = np.nan
    samples[2, 2, 0, 11] = np.inf
    samples[3, 1, 3, 3] = -np.inf
    samples[4] = 7e35  # finite, and so is its sum, but nothing behind the layer
    samples[5, 0, 11, 11] = np.nan
    results = support.run(support.gate_of(model, spec.shape, layer, score="evidence_mean"), samples)
    assert results["verdict"].tolist() == [1, 2, 2, 2, 2, 2, 1, 1]
    assert np.isnan(results["score"][1:6]).all()
    assert np.isnan(results["quality"][[1, 2, 3, 5]]).all()
    assert results["quality"][4] == 0


def test_thresholds_are_a_named_initializer(tiny):
    _, graph, _ = tiny
    thresholds = Thresholds(
        low=(0.1, None, -3.0, 0.0), high=(None, 1e-9, 5.0, 0.7), quality_low=0.25
    )
    changed = with_thresholds(graph, thresholds)
    stored = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load_model_from_string(changed).graph.initializer
    }["thresholds"]
    assert stored.dtype == np.float32
    # A row for quality, one for the score, one per class; a column per rule.
    np.testing.assert_array_equal(stored[:2], [[1, 0, 0, 0], [0, 1, -1, 0]])
    np.testing.assert_array_equal(stored[2:, 0], np.full(4, -0.25, np.float32))
    np.testing.assert_array_equal(stored[2:, 1], -np.array([0.1, F32.min, -3, 0], np.float32))
    np.testing.assert_array_equal(stored[2:, 2], np.array([F32.max, 1e-9, 5, 0.7], np.float32))
    np.testing.assert_array_equal(stored[2:, 3], np.full(4, -1, np.float32))


def test_thresholds_for_other_classes_are_refused(tiny):
    with pytest.raises(GateError, match=r"thresholds are for 5 classes, the graph's for 4"):
        with_thresholds(tiny[1], _open(5))
    with pytest.raises(GateError, match=r"has no 'thresholds'"):
        empty = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
        with_thresholds(empty.SerializeToString(), _open(4))


def test_info_is_the_only_metadata(tiny):
    _, graph, samples = tiny

    bins = Histogram(edges=(0.0, 1.0), counts=(60,))
    info = GateInfo(
        schema=1,
        score="loss_max",
        thresholds=_open(4),
        keep=0.5,
        classes=("a", "b", "c", "d"),
        input=IMAGE,
        preprocessing=NORMALIZE,
        layer=TargetLayer(name="conv", shape=(6, 22, 18), why="named by the user"),
        calibration=Calibration(
            samples=60, accuracy=0.5, score=bins, quality=bins, predicted=(60, 0, 0, 0),
            kept=(30, 0, 0, 0), curve=(), full=0.5, why="test",
        ),
        parity=Parity(logits=0, score=0, heatmap=0, samples=60, tolerance=1e-4),
        provenance=Provenance(
            dripgate="0", torch="0", onnx="0", onnxruntime="0", opset=20, data="", seed=0
        ),
    )  # fmt: skip
    informed = with_info(with_info(graph, msgspec.structs.replace(info, keep=0.1)), info)
    stored = onnxruntime.InferenceSession(informed).get_modelmeta().custom_metadata_map
    assert list(stored) == [METADATA_KEY]
    assert read_info(informed, "gate.onnx") == info
    np.testing.assert_array_equal(
        support.run(informed, samples)["score"], support.run(graph, samples)["score"]
    )


# Numbers at the edge ----------------------------------------------------------------------------


class Confident(nn.Module):
    """GAP + linear whose margin grows with the brightness of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)) * 90)


def test_score_of_a_confident_sample_is_not_rounding():
    """Where p is 1 in float32, 1 - p is 0; the score must still tell 1e-9 from 1e-20."""
    torch.manual_seed(3)
    model = Confident()
    levels = np.linspace(5, 255, 40).astype(np.uint8)
    samples = np.broadcast_to(levels[:, None, None, None], (40, *IMAGE.shape)).copy()
    scale = Normalize(mean=(0.0,) * 3, std=(1.0,) * 3)
    results = support.run(_gate(model, scale, "loss_mean", 3), samples)
    exact = Confident().double()
    exact.load_state_dict(model.state_dict())
    with GradCam(exact, "conv") as gradcam:
        inputs = torch.from_numpy(samples).permute(0, 3, 1, 2).double() / 255
        expected = gradcam(inputs, SCORES["loss_mean"]).score.numpy()
    assert expected.min() < 1e-10 < 1e-4 < expected.max()
    np.testing.assert_allclose(results["score"], expected, rtol=2e-4)


# One dimension ----------------------------------------------------------------------------------


def test_one_dimensional_net_has_heatmaps_of_height_one():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 8, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 8, 3), nn.ReLU(),
        nn.AvgPool1d(3), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip
    samples = np.random.default_rng(0).normal(size=(9, 2, 30)).astype(np.float32)
    found = support.run(support.gate_of(model, (2, 30), "1"), samples)
    with GradCam(model, "1") as gradcam:
        cam = gradcam(torch.from_numpy(samples), SCORES["loss_mean"])
    maps = found["heatmap"]
    assert maps.shape == (9, 1, 26)
    np.testing.assert_allclose(maps, cam.heatmap.numpy(), atol=1e-5 * maps.max())
    np.testing.assert_allclose(found["score"], cam.score.numpy(), rtol=1e-4)


class Between(nn.Module):
    """What lies between the pool and its mean overwrites the pooled values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.max_pool2d(torch.relu(self.conv(x)), 3)
        pooled.sub_(0.5).mul_(-3)
        return self.fc(pooled.mean((2, 3)))


def test_rewrite_behind_a_relu_reads_the_pool_before_it_is_overwritten():
    torch.manual_seed(1)
    model, x = Between(), support.floats(16, 3, 24, 20)
    maps = support.run(support.gate_of(model, (3, 24, 20), "conv"), x)["heatmap"]
    with GradCam(model, "conv") as gradcam:
        cam = gradcam(torch.from_numpy(x), SCORES["loss_mean"])
    assert maps.max() > 0
    # The map before the ReLU, or behind it: torch's names end at the same module.
    np.testing.assert_allclose(maps, cam.heatmap.numpy(), atol=1e-5 * maps.max())
