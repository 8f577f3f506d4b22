"""Grad-CAM by hooks says what the arithmetic says, and leaves the model alone."""

import math

import numpy as np
import pytest
import torch
from dripgate.training.gradcam import GradCam
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from dripgate import heatmap
from dripgate.errors import ModelError
from dripgate.heatmap import SCORES
from dripgate.training.preprocess import build, mel_filters
from dripgate.types import ArrayInput, AudioInput, Identity, ImageInput, LogMel, Normalize

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


# Preprocessing ----------------------------------------------------------------------------------


def test_normalize_is_pixel_over_255_minus_mean_over_std():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    module = build(Normalize(mean=mean, std=std), ImageInput(height=4, width=5, channels=3))
    expected = (pixels / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(
        module(torch.from_numpy(pixels)).numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6
    )


SPEECH = LogMel(window=640, hop=320, bins=10, low=20, high=4000, mean=-4.0, std=2.5)


def _filters_one_by_one(spec: LogMel, rate: int) -> np.ndarray:
    """The HTK filterbank as its book draws it: a triangle for each three neighbouring edges."""

    def hertz(mel: float) -> float:
        return 700 * (math.exp(mel / 1127.01048) - 1)

    low, high = (1127.01048 * math.log(1 + f / 700) for f in (spec.low, spec.high))
    edges = [hertz(low + i * (high - low) / (spec.bins + 1)) for i in range(spec.bins + 2)]
    bank = np.zeros((spec.bins, spec.window // 2 + 1))
    for band in range(spec.bins):
        bank[band] = np.interp(
            np.arange(bank.shape[1]) * rate / spec.window,
            edges[band : band + 3], [0, 1, 0], left=0, right=0,
        )  # fmt: skip
    return bank


def test_log_mel_is_torch_stft_and_an_htk_filterbank():
    rate, length = 16000, 8000
    time = np.arange(length) / rate
    tone = 9000 * np.sin(2 * np.pi * 700 * time * (1 + time))
    noise = np.random.default_rng(0).normal(size=length) * 300
    pcm = np.stack([tone, noise, np.zeros(length)]).astype(np.int16)

    found = build(SPEECH, AudioInput(rate=rate, length=length))(torch.from_numpy(pcm))

    bank = _filters_one_by_one(SPEECH, rate)
    np.testing.assert_allclose(mel_filters(SPEECH, rate), bank, atol=1e-6)
    spectrum = torch.stft(
        torch.from_numpy(pcm / 32768), SPEECH.window, SPEECH.hop, center=False,
        window=torch.hann_window(SPEECH.window, dtype=torch.float64), return_complex=True,
    )  # fmt: skip
    power = np.einsum("bf,nft->ntb", bank, spectrum.abs().square().numpy())
    expected = (np.log(power + 1e-6) - SPEECH.mean) / SPEECH.std
    assert found.shape == (3, 1, 24, 10)
    np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=5e-4)


def test_identity_changes_nothing():
    values = torch.randn(2, 5)
    assert build(Identity(), ArrayInput(shape=(5,)))(values) is values


AUDIO, GREY = AudioInput(rate=8000, length=4000), ImageInput(height=8, width=8, channels=1)


@pytest.mark.parametrize(
    ("preprocessing", "given", "message"),
    [
        (Normalize(mean=(0, 0, 0), std=(1, 1, 1)), GREY, "3 means and 3 deviations for ImageInput"),
        (Normalize(mean=(0.5,), std=(0.0,)), GREY, "above 0"),
        (Normalize(mean=(0.5,), std=(1.0,)), AUDIO, "one of each per image channel"),
        (SPEECH, GREY, "needs audio"),
        (SPEECH, AudioInput(rate=16000, length=600), "window 640.* do not fit 600 samples"),
        (SPEECH, AudioInput(rate=6000, length=6000), "20 to 4000 Hz is not inside 0 to 3000 Hz"),
        (
            LogMel(window=64, hop=32, bins=40, low=20, high=4000, mean=0, std=1), AUDIO,
            "of 40 filters .* use fewer bins or a longer window",
        ),
    ],
)  # fmt: skip
def test_preprocessing_that_does_not_fit_is_refused(preprocessing, given, message):
    with pytest.raises(ModelError, match=message):
        build(preprocessing, given)
