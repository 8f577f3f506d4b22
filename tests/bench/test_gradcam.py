"""Grad-CAM by hooks says what the arithmetic says, and leaves the model alone.

It is what the tests of the graph, the zoo and the benchmark's price compare gates with.
"""

from needs import need

need("torch", "scikit-activeml")

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from dripgate import heatmap
from dripgate.bench.gradcam import GradCam
from dripgate.errors import ModelError
from dripgate.heatmap import SCORES

torch.set_num_threads(1)
BATCH = torch.randn(6, 3, 9, 7, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))


@pytest.mark.parametrize("score", SCORES)
def test_equals_the_closed_form_of_a_linear_head(model, score):
    spec = SCORES[score]
    with GradCam(model, "0") as gradcam:
        cam = gradcam(BATCH, spec)
    with torch.no_grad():
        activations = model.eval()[0](BATCH).numpy()
    weight, bias = (p.detach().numpy() for p in model[3].parameters())
    maps = heatmap.heatmap_of_linear_head(activations, weight, bias, spec.objective, spec.sign)
    assert maps.max() > 0
    largest = maps.max()
    np.testing.assert_allclose(cam.heatmap.numpy(), maps, atol=1e-5 * largest)
    np.testing.assert_allclose(cam.score.numpy(), heatmap.score(maps, spec), rtol=1e-5)
    np.testing.assert_allclose(cam.embedding.numpy(), activations.mean((2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(cam.activations.numpy(), activations)
    assert cam.predicted.tolist() == cam.logits.argmax(1).tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**32 - 1), st.floats(0.01, 30))
def test_objective_gradients_are_autograd_of_the_objective(classes, seed, scale):
    random = np.random.default_rng(seed).normal(size=(5, classes)) * scale
    logits = torch.from_numpy(random).requires_grad_()
    predicted = logits.argmax(1)
    objectives = {
        "evidence": logits.gather(1, predicted[:, None]).sum(),
        "loss": functional.cross_entropy(logits, predicted, reduction="sum"),
    }
    for name, objective in objectives.items():
        (expected,) = torch.autograd.grad(objective, logits, retain_graph=True)
        found = heatmap.objective_gradient(random.astype(np.float32), name)
        np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)


def test_confident_samples_keep_their_order_and_their_shape(model):
    """1 - p is all rounding from a margin of 17 on; the score must still fall, the area stay."""
    with torch.no_grad():
        model[3].bias.copy_(torch.tensor([0.0, -1, -2, -3]))
        margins = []
        for margin in (10, 20, 30, 40, 50):
            model[3].bias[0] = margin
            with GradCam(model, "0") as gradcam:
                margins.append(gradcam(BATCH, SCORES["loss_mean"]))
    scores = torch.stack([cam.score for cam in margins])
    maps = [cam.heatmap.numpy() for cam in margins]
    areas = np.stack([heatmap.statistic(one, "area") for one in maps])
    np.testing.assert_allclose(scores[1:] / scores[:-1], math.exp(-10), rtol=1e-3)
    np.testing.assert_allclose(areas, np.broadcast_to(areas[:1], areas.shape), rtol=1e-3)


def test_layer_may_be_overwritten_in_place(model):
    overwriting = nn.Sequential(model[0][0], nn.ELU(inplace=True), *model[1:])
    plain = nn.Sequential(model[0][0], nn.ELU(), *model[1:])
    maps = []
    for net in (overwriting, plain):
        with GradCam(net, "0") as gradcam:
            maps.append(gradcam(BATCH, SCORES["loss_mean"]).heatmap)
    assert maps[0].any()
    torch.testing.assert_close(maps[0], maps[1])


def test_model_is_left_as_it_was(model):
    model.train()
    model[0][1].eval()
    model[3].weight.requires_grad_(False)
    model[0][0].weight.grad = torch.ones_like(model[0][0].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with GradCam(model, "0") as gradcam:
        gradcam(BATCH, SCORES["loss_mean"])
        assert not model.training
    with pytest.raises(ModelError), GradCam(model, "0") as gradcam:
        gradcam(BATCH[:, :1], SCORES["loss_mean"])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model[0]] == [True, False, True]
    assert model.training
    assert [p.requires_grad for p in model[3].parameters()] == [False, True]
    assert torch.equal(model[0][0].weight.grad, torch.ones_like(model[0][0].weight))
    assert model[3].bias.grad is None
    assert not any(m._forward_hooks for m in model.modules())


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pair, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
        self.lstm = nn.LSTM(7, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        self.lstm(x[:, 0])
        maps = self.conv(x).detach() + self.pair(x) + self.pair(x)
        return self.fc(maps.mean((2, 3)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("conv", "no gradient flows from the logits of Detached to layer 'conv'"),
        ("pair", "layer 'pair' runs 2 times"),
        ("lstm", r"layer 'lstm' \(LSTM\) gives a tuple"),
        ("cov", "Detached has no layer called 'cov'; did you mean conv"),
    ],
)
def test_unusable_layer_is_refused(layer, message):
    with pytest.raises(ModelError, match=message), GradCam(Detached(), layer) as gradcam:
        gradcam(BATCH, SCORES["loss_mean"])
