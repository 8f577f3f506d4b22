"""fit: from a model and data to a gate that keeps what was asked for."""

from needs import need

need("torch")

import numpy as np
import pytest
import torch
from torch import nn

import dripgate
from dripgate import heatmap
from dripgate.bench.gradcam import GradCam
from dripgate.data import load
from dripgate.errors import DataError, ModelError, UserError
from dripgate.fitting.fit import run_all
from dripgate.gate import Gate
from dripgate.heatmap import SCORES
from dripgate.models import fit
from dripgate.training.classifier import load_classifier
from dripgate.training.first import train_first
from dripgate.training.preprocess import build
from dripgate.training.train import Recipe


@pytest.fixture(scope="module")
def loop(trained):
    return trained


@pytest.fixture(scope="module")
def gate(trained):
    return Gate.load(trained / "gate.onnx")


@pytest.fixture(scope="module")
def classifier(loop):
    return load_classifier(str(loop / "model.safetensors"))


@pytest.fixture(scope="module")
def dataset(loop):
    return load(loop / "labelled.zip")


def test_calibration_samples_were_not_trained_on(classifier, dataset, gate):
    _, held_out = classifier.parts(dataset)
    assert gate.info.calibration.samples == len(held_out)
    accuracy = classifier.accuracy(held_out.x, held_out.y)
    assert gate.info.calibration.accuracy == pytest.approx(accuracy)


def test_the_gate_classifies_like_the_model(classifier, dataset, gate):
    outputs = run_all(gate, dataset.test)
    expected = classifier.logits(dataset.test.x)
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("keep", [0.2, 0.7])
def test_the_share_asked_for_is_kept_of_held_out_data(classifier, dataset, keep):
    made = fit(classifier, dataset, keep=keep)
    _, held_out = classifier.parts(dataset)
    verdicts = run_all(made, held_out).verdict
    assert made.info.keep == keep
    assert (verdicts == 1).mean() == pytest.approx(keep, abs=0.06)
    assert sum(made.info.calibration.kept) / len(held_out) == pytest.approx(keep, abs=0.06)


def test_same_seed_same_gate(classifier, dataset):
    one, two = (fit(classifier, dataset, keep=0.5, seed=4) for _ in range(2))
    assert one.info.thresholds == two.info.thresholds
    assert one.data == two.data


def test_a_module_and_a_path_are_enough(loop, classifier):
    made = dripgate.fit(classifier.model, loop / "labelled.zip", keep=0.4)
    assert isinstance(made, Gate)
    assert any(note.startswith("preprocessing: '") for note in made.info.notes)  # a guess is said


@pytest.mark.parametrize("score", ["evidence_mean", "loss_max", "evidence_area"])
def test_other_scores(classifier, dataset, score):
    made = fit(classifier, dataset, keep=0.5, score=score)
    assert made.info.score == score
    assert made.info.parity.score <= 1e-4


def test_the_layer_can_be_chosen_and_is_explained(classifier, dataset, gate):
    made = fit(classifier, dataset, layer="2", keep=0.5)
    assert made.info.layer.why == "named by the user"
    assert made.info.layer.shape != gate.info.layer.shape
    assert "everything passes" in gate.info.layer.why


def test_what_cannot_be_fitted(classifier, dataset, loop):
    with pytest.raises(ModelError, match="nonsense"):
        fit(classifier, dataset, layer="nonsense")
    with pytest.raises(DataError, match="no score is called"):
        fit(classifier, dataset, score="nonsense")
    with pytest.raises(UserError, match="expected a fraction"):
        fit(classifier, dataset, keep=3.0)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    with pytest.raises(ModelError, match="spatial"):
        fit(mlp, dataset)


def test_too_few_samples(classifier, photos):
    few = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    for path in sorted(photos.rglob("*.png"))[15:]:
        if path.stem > "009":
            path.unlink()
    with pytest.raises(DataError, match="at least 30 are needed"):
        fit(few, photos)


def test_the_model_is_left_as_it_was(loop, dataset):
    model = load_classifier(str(loop / "model.safetensors")).model
    model.train()
    model[0].eval()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    fit(model, dataset, keep=0.5)
    assert model.training
    assert not model[0].training
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


#: The module whose output is the target.
LAYERS = {"resnet8": "3", "lenet": "4", "dscnn": "26"}


@pytest.mark.parametrize("arch", LAYERS)
@pytest.mark.parametrize("score", ["loss_mean", "evidence_mean"])
def test_trained_reference_nets_agree_with_autograd_and_numpy(nets, arch, score):
    classifier, dataset = nets[arch]
    made = fit(classifier, dataset, keep=0.5, score=score)
    x = dataset.test.x[:50]
    outputs = made(x)
    inputs = build(classifier.info.preprocessing, classifier.info.input)(torch.from_numpy(x))
    spec = SCORES[score]
    with GradCam(classifier.model, LAYERS[arch]) as gradcam:
        cam = gradcam(inputs, spec)
    # onnxruntime against autograd
    for name in ("score", "heatmap", "logits", "embedding"):
        expected = getattr(cam, name).detach().numpy()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(getattr(outputs, name), expected, atol=1e-4 * scale, rtol=0)
    # NumPy against autograd, split by hand
    cut = int(LAYERS[arch]) + 1
    A = classifier.model[:cut](inputs).detach().requires_grad_()
    logits = classifier.model[cut:](A)
    predicted = logits.argmax(1)
    loss = torch.nn.functional.cross_entropy(logits, predicted, reduction="sum")
    objective = loss if spec.objective == "loss" else logits.max(1).values.sum()
    (gradients,) = torch.autograd.grad(objective, A)
    by_hand = heatmap.heatmap(A.detach().numpy(), gradients.numpy(), spec.sign)
    expected = cam.heatmap.detach().numpy()
    np.testing.assert_allclose(by_hand, expected, atol=1e-5 * expected.max(), rtol=0)
    assert expected.max() > 0


@pytest.fixture(scope="module")
def nets():
    """Each reference net, trained on digits until it knows most of them."""
    dataset = load("digits")
    trained = {}
    for arch, steps in (("resnet8", 80), ("lenet", 300), ("dscnn", 80)):
        first = train_first(dataset, arch, Recipe(steps=steps, batch=64, lr=0.1))
        assert first.accuracy > 0.8
        trained[arch] = first.classifier, dataset
    return trained
