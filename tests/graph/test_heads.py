"""Heads of every usual kind become gates that say in onnxruntime what autograd says in torch.

One trunk, briefly trained on scikit-learn's digits with each head. The reference here shares no
code with the graph: the model is split by hand, the objective is torch's own cross-entropy,
the gradient autograd's, and the heatmap the NumPy reference's.
"""

from needs import need

need("torch")

from collections.abc import Callable

import numpy as np
import pytest
import support
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from dripgate import heatmap, quality
from dripgate.bench.gradcam import GradCam
from dripgate.errors import ModelError
from dripgate.graph.check import check_gate, make_reference
from dripgate.graph.classifier import OnnxClassifier
from dripgate.graph.read import load
from dripgate.graph.target import choose_target
from dripgate.heatmap import SCORES
from dripgate.training.export import to_onnx
from dripgate.training.preprocess import build
from dripgate.types import ImageInput, Normalize, Thresholds, Typical

torch.set_num_threads(1)
K, SIDE, CLASSES = 8, 8, 10
TRUNK = "/trunk/trunk.2/Relu_output_0"  # as torch's older exporter calls it
INPUT = ImageInput(height=SIDE, width=SIDE, channels=1)
PREPROCESSING = Normalize(mean=(0.3,), std=(0.35,))
TYPICAL = Typical(
    centre=(0.1, -0.2, 0.3, -0.4),
    whitening=((1.0, 0.1, 0.2, 0.3), (0.0, 2.0, 0.4, 0.5), (0.0, 0.0, 3.0, 0.6), (0.0, 0, 0, 4.0)),
)
OPEN = Thresholds(low=(None,) * 10, high=(None,) * 10, quality_low=None, typical=TYPICAL)


class Residual(nn.Module):
    """An in-place sum with what went in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(K, K, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(torch.tanh(x))
        out += x
        return functional.relu_(out)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(K, 4, 1), nn.Conv2d(4, K, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = functional.relu(self.down(functional.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(self.up(squeezed))


class AttentionPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Conv2d(K, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.key(x).flatten(2).softmax(2)
        return (x.flatten(2) * weights).sum(2)


class Tokens(nn.Module):
    """The map's cells as tokens (N, T, K) through a transformer's layer, and their mean."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return self.inner(tokens).mean(1)


class Both(nn.Module):
    """Global average and maximum beside each other."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [functional.adaptive_avg_pool2d(x, 1), functional.adaptive_max_pool2d(x, 1)], 1
        ).flatten(1)


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _flat(*layers: nn.Module) -> list[nn.Module]:
    return [*layers, nn.Flatten(), nn.LazyLinear(CLASSES)]


def _acts(*activations: nn.Module) -> list[nn.Module]:
    """A convolution before each activation, then a linear layer that weighs the cells apart."""
    convolutions = (nn.Conv2d(6 if i else K, 6, 1 if i else 3) for i in range(len(activations)))
    return _flat(*(layer for pair in zip(convolutions, activations, strict=True) for layer in pair))


HEADS: dict[str, Callable[[], list[nn.Module]]] = {
    "gap": lambda: _flat(nn.AdaptiveAvgPool2d(1)),
    "avg-pool-all": lambda: _flat(nn.AvgPool2d(SIDE)),
    "fc": lambda: _flat(),
    "fc-stack": lambda: _flat(
        nn.Flatten(), nn.Linear(K * 64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3)
    ),
    "batch-norm": lambda: _flat(nn.BatchNorm2d(K), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2)),
    "squeeze-excite": lambda: _flat(SqueezeExcite()),
    "residual": lambda: _flat(Residual(), nn.AdaptiveAvgPool2d(1)),
    "conv-1x1": lambda: [
        nn.Conv2d(K, CLASSES, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ],
    "conv-unreached-rows": lambda: _flat(nn.Conv2d(K, 6, 2, stride=(3, 5)), nn.ReLU()),
    "conv-overpadded": lambda: _flat(nn.Conv2d(K, 6, 3, stride=2, padding=4), nn.ReLU()),
    "conv-dilated": lambda: _flat(nn.Conv2d(K, 6, 3, dilation=2, padding=1), nn.ReLU()),
    "conv-grouped": lambda: _flat(nn.Conv2d(K, 12, 3, groups=4), nn.ReLU()),
    "conv-separable": lambda: _flat(nn.Conv2d(K, K, 3, groups=K), nn.ReLU(), nn.Conv2d(K, 6, 1)),
    "conv-transposed": lambda: _flat(
        nn.ConvTranspose2d(K, 4, 3, stride=2, padding=1, output_padding=1), nn.ReLU()
    ),
    "avg-pool-padded": lambda: _flat(nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True)),
    "avg-pool-inside": lambda: _flat(nn.AvgPool2d((3, 2), padding=1, count_include_pad=False)),
    "adaptive-avg-pool": lambda: _flat(nn.AdaptiveAvgPool2d((2, 4))),
    "max-pool": lambda: _flat(nn.MaxPool2d(2)),
    "max-pool-padded": lambda: _flat(
        nn.Conv2d(K, 6, 3), nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
    ),
    "adaptive-max-pool": lambda: _flat(nn.Conv2d(K, 6, 3, padding=1), nn.AdaptiveMaxPool2d(4)),
    "avg-and-max": lambda: _flat(Both()),
    "layer-norm": lambda: _flat(nn.LayerNorm([K, SIDE, SIDE])),
    "group-norm": lambda: _flat(nn.Conv2d(K, K, 3), nn.GroupNorm(2, K), nn.ReLU()),
    "relu6-leaky-prelu": lambda: _acts(nn.ReLU6(), nn.LeakyReLU(0.1), nn.PReLU(6)),
    "elu-softplus-tanh-sigmoid": lambda: _acts(nn.ELU(), nn.Softplus(), nn.Tanh(), nn.Sigmoid()),
    "silu-hardswish-mish": lambda: _acts(nn.SiLU(), nn.Hardswish(), nn.Mish()),
    "gelu": lambda: _acts(nn.GELU(), nn.GELU("tanh")),
    "attention-pool": lambda: _flat(AttentionPool()),
    "transformer": lambda: _flat(
        Tokens(nn.TransformerEncoderLayer(K, 2, 16, dropout=0.1, batch_first=True))
    ),
    "generalised-mean": lambda: _flat(Lambda(lambda x: (x + 1e-3).pow(3).mean((2, 3)).pow(1 / 3))),
}


#: Heads whose evidence maps are empty on every digit: there is nothing to compare.
EMPTY_EVIDENCE = {"fc", "squeeze-excite"}
#: Heads that torch's newer exporter, which takes its time, writes in other operators.
BY_DYNAMO = {
    "gap", "conv-1x1", "avg-and-max", "elu-softplus-tanh-sigmoid", "silu-hardswish-mish",
    "attention-pool", "transformer", "layer-norm",
}  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return (data.images * 15).astype(np.uint8)[..., None], data.target


@pytest.fixture(scope="module")
def trunk_state(digits) -> dict[str, Tensor]:
    model = _model(HEADS["gap"]())
    _train(model, digits, steps=60)
    return model.trunk.state_dict()


class Net(nn.Module):
    def __init__(self, head: list[nn.Module]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, K, 3, padding=1), nn.BatchNorm2d(K), nn.ReLU(inplace=True)
        )
        self.head = nn.Sequential(*head)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def _model(head: list[nn.Module]) -> Net:
    torch.manual_seed(0)
    model = Net(head)
    model(torch.zeros(2, 1, SIDE, SIDE))  # sizes the lazy layer
    return model


def _train(model: Net, digits, steps: int) -> None:
    images, labels = torch.from_numpy(digits[0]), torch.from_numpy(digits[1])
    preprocessing = build(PREPROCESSING, INPUT)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    model.train()
    for step in range(steps):
        chosen = torch.arange(step * 64, step * 64 + 64) % 1500
        loss = functional.cross_entropy(model(preprocessing(images[chosen])), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def _reference(model: Net, samples: np.ndarray, score: str) -> dict[str, np.ndarray]:
    spec = SCORES[score]
    inputs = build(PREPROCESSING, INPUT)(torch.from_numpy(samples))
    activations = model.trunk(inputs).detach()
    activations.requires_grad_()
    logits = model.head(activations.clone())
    predicted = logits.argmax(1)
    if spec.objective == "loss":
        objective = functional.cross_entropy(logits.double(), predicted, reduction="sum")
    else:
        objective = logits.gather(1, predicted[:, None]).sum()
    (gradients,) = torch.autograd.grad(objective, activations)
    maps = heatmap.heatmap(activations.detach().numpy(), gradients.numpy(), spec.sign)
    return {
        "logits": logits.detach().numpy(),
        "heatmap": maps,
        "score": heatmap.score(maps, spec),
        "quality": quality.quality(quality.statistics(inputs.numpy()), TYPICAL),
        "embedding": activations.detach().mean((2, 3)).numpy(),
        "alpha": spec.sign * gradients.mean((2, 3)).numpy(),
    }


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    """Of as many as were found, relative to the largest expected of all."""
    assert found.shape[1:] == expected.shape[1:]
    assert np.abs(expected).max() > 0
    return float(np.abs(found - expected[: len(found)]).max() / np.abs(expected).max())


def _classifier(model: nn.Module, classic: bool) -> OnnxClassifier:
    data = to_onnx(model, torch.zeros(2, 1, SIDE, SIDE), classic=classic)
    return OnnxClassifier(load(data))


def _gate(classifier: OnnxClassifier, score: str) -> bytes:
    """Either exporter's name for what the trunk gives."""
    cuts = [cut.name for cut in classifier.open().cuts]
    return support.gate_of(
        classifier, (1, SIDE, SIDE), TRUNK if TRUNK in cuts else "trunk", score=score,
        preprocessing=PREPROCESSING, spec=INPUT, thresholds=OPEN, with_alpha=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_head_matches_autograd(name, digits, trunk_state):
    model = _model(HEADS[name]())
    model.trunk.load_state_dict(trunk_state)
    _train(model, digits, steps=30)
    by_loss = list(HEADS).index(name) % 2 == 0 or name in EMPTY_EVIDENCE
    score = "loss_mean" if by_loss else "evidence_max"
    samples = digits[0][1500:1533]
    reference = _reference(model, samples, score)

    with GradCam(model, "trunk") as gradcam:
        cam = gradcam(build(PREPROCESSING, INPUT)(torch.from_numpy(samples)), SCORES[score])
    for output in set(reference) - {"quality", "alpha"}:
        assert _apart(getattr(cam, output).numpy(), reference[output]) <= 1e-5, output

    graph = _gate(_classifier(model, name not in BY_DYNAMO), score)
    for size in (1, 33):
        results = support.run(graph, samples[:size])
        for output, expected in reference.items():
            assert _apart(results[output], expected) <= 1e-4, (output, size)
        assert results["verdict"].tolist() == [1] * size


DEGENERATE = {
    "right-behind": lambda: _flat(nn.InstanceNorm2d(K), nn.ReLU()),
    "behind-a-convolution": lambda: _flat(nn.Conv2d(K, 6, 3), nn.InstanceNorm2d(6), nn.ReLU()),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_head_that_cancels_every_mean_gradient_is_refused(name, digits):
    model = _model(DEGENERATE[name]())
    _train(model, digits, steps=20)
    classifier = _classifier(model, classic=True)
    samples = digits[0][:40]
    inputs = build(PREPROCESSING, INPUT)(torch.from_numpy(samples)).numpy()
    opened = classifier.open()
    reference = make_reference(opened, choose_target(opened, TRUNK).cut, inputs[:4])
    graph = _gate(classifier, "loss_mean")
    with pytest.raises(ModelError, match="the score tells none of 40 samples from another"):
        check_gate(graph, samples, reference, "loss_mean", None, 0.0)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.fc = nn.GRU(K, 6, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.gru(x.flatten(2).transpose(1, 2))[0].mean(1))


def test_operator_without_a_rule_is_named_with_the_cut():
    opened = _classifier(_model([Recurrent()]), classic=True).open()
    with pytest.raises(ModelError, match=r"Relu_output_0.*no rule for GRU") as caught:
        choose_target(opened, TRUNK)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["layer-norm", "conv-1x1"])
def test_what_is_easily_misread(name):
    """A LayerNorm over (K, h, w) says no channel axis; logits of a ReLU are no probabilities."""
    opened = _classifier(_model(HEADS[name]()), classic=True).open()
    assert {cut.channel for cut in opened.cuts} == {1}
    assert (opened.head.kind, opened.head.ends) == ("softmax", "none")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_of_another_float_type_is_a_gate_and_is_left_so(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).to(dtype)
    before = [value.clone() for value in model.state_dict().values()]
    gate = support.gate_of(model, (1, SIDE, SIDE))
    x = np.random.default_rng(0).normal(size=(5, 1, SIDE, SIDE)).astype(np.float32)
    logits = support.run(gate, x)["logits"]
    assert [value.dtype for value in model.state_dict().values()] == [dtype] * 4
    assert all(map(torch.equal, before, model.state_dict().values()))
    single = model.float()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(logits, single, atol=1e-5)
