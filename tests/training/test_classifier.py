"""Model files, training and hold-out: what is written is what is read, and nothing runs code."""

from needs import need

need("torch")

import pickle
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dripgate.data import Split
from dripgate.errors import DataError, ModelError
from dripgate.fitting.metadata import facts_of
from dripgate.graph.read import load
from dripgate.training.classifier import (
    Classifier,
    ModelInfo,
    default_preprocessing,
    load_classifier,
    new_classifier,
)
from dripgate.training.nets import NETS, factory
from dripgate.training.preprocess import build
from dripgate.training.train import Recipe, augment
from dripgate.types import ArrayInput, AudioInput, ImageInput, LogMel, Normalize

SPEC = ImageInput(height=12, width=12, channels=3)
CLASSES = ("left", "right")


@pytest.fixture
def halves():
    """Images that are bright on one side: (x, y)."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    x = rng.integers(0, 60, (120, 12, 12, 3)).astype(np.uint8)
    for i, side in enumerate(y):
        x[i, :, 6 * side : 6 * side + 6] += 150
    return x, y


def untrained(x, arch="lenet", **recipe):
    recipe = Recipe(**({"steps": 30, "batch": 32, "lr": 0.05, "shift": (0.0, 0.0)} | recipe))
    return new_classifier(arch, CLASSES, SPEC, x, recipe=recipe, holdout=0.2)


@pytest.mark.parametrize("arch", list(NETS))
def test_reference_nets_have_the_size_of_mlperf_tiny_and_take_any_input(arch):
    sizes = {"resnet8": 78_000, "dscnn": 23_000, "lenet": 62_000}
    shape = {"resnet8": (3, 32, 32), "dscnn": (1, 49, 10), "lenet": (1, 28, 28)}[arch]
    weights = sum(p.numel() for p in factory(arch, shape, 10)().parameters())
    assert weights == pytest.approx(sizes[arch], rel=1.0 if arch == "lenet" else 0.02)
    for shape in ((1, 8, 8), (3, 33, 57), (1, 49, 40)):
        assert factory(arch, shape, 7)().eval()(torch.zeros(2, *shape)).shape == (2, 7)


def test_unknown_net_and_too_small_an_input():
    with pytest.raises(ModelError, match="resnet8, lenet, dscnn"):
        factory("resnet9000", (3, 32, 32), 10)
    with pytest.raises(ModelError, match="at least 8 × 8, found 4 × 32"):
        factory("lenet", (3, 4, 32), 10)


def test_it_learns_and_its_file_holds_all_of_it(halves, tmp_path):
    x, y = halves
    trained = untrained(x).trained(x, y)
    assert trained.accuracy(x, y) > 0.95
    trained.save(tmp_path / "m.safetensors")
    again = load_classifier(str(tmp_path / "m.safetensors"))
    assert again.info == trained.info
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    np.testing.assert_allclose(again.logits(x), trained.logits(x), rtol=1e-4)


def test_same_seed_same_weights_other_seed_others(halves):
    x, y = halves
    one, same, other = (untrained(x, seed=s, steps=5).trained(x, y) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.logits(x), same.logits(x))
    assert np.abs(one.logits(x) - other.logits(x)).max() > 0


def test_fine_tuning_starts_from_the_old_weights(halves):
    x, y = halves
    trained = untrained(x).trained(x, y)
    barely = Recipe(steps=1, lr=1e-6, shift=(0.0, 0.0))
    tuned = trained.trained(x, y, barely, fresh=False)
    np.testing.assert_allclose(tuned.logits(x), trained.logits(x), atol=1e-2)
    fresh = trained.trained(x, y, barely)
    assert np.abs(fresh.logits(x) - trained.logits(x)).max() > 0.1


def test_training_does_not_touch_the_old_model(halves):
    x, y = halves
    first = untrained(x).trained(x, y)
    before = first.logits(x)
    first.trained(x, 1 - y)
    np.testing.assert_array_equal(first.logits(x), before)


def test_deployed_takes_raw_samples(halves):
    x, _ = halves
    made = untrained(x)
    norm = made.info.preprocessing
    by_hand = (x / 255 - np.array(norm.mean)) / np.array(norm.std)
    expected = made.model.eval()(torch.from_numpy(by_hand.transpose(0, 3, 1, 2)).float())
    np.testing.assert_allclose(made.logits(x), expected.detach().numpy(), atol=1e-4)
    assert abs(by_hand.mean()) < 0.05
    assert by_hand.std() == pytest.approx(1, abs=0.05)


def test_audio_is_trained_on_the_features_that_the_graph_computes():
    spec = AudioInput(rate=8000, length=8000)
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    t = np.arange(8000) / 8000
    tones = np.stack([np.sin(2 * np.pi * (300 + 1500 * c) * t + rng.random() * 6) for c in y])
    x = (tones * 8000 + rng.normal(size=tones.shape) * 500).astype(np.int16)
    recipe = Recipe(steps=15, batch=16, lr=0.05, shift=(0.1, 0.0))
    made = new_classifier("lenet", ("low", "high"), spec, x, recipe=recipe, holdout=0.0)
    assert isinstance(made.info.preprocessing, LogMel)
    assert made.trained(x, y).accuracy(x, y) > 0.9


def split_of(x, y):
    ids = np.array([f"{i:064x}" for i in range(len(x))])
    return Split.of(x, y, ids, [str(i) for i in range(len(x))], np.ones(len(x), np.int64))


def test_hold_out_is_disjoint_and_the_same_wherever_a_sample_turns_up(halves):
    from dripgate.data import Dataset

    x, y = halves
    whole = split_of(x, y)
    part = whole.take(np.arange(60))
    made = untrained(x)

    def sides(train):
        learned, held = made.parts(Dataset("d", CLASSES, SPEC, train, train, ()))
        return set(learned.ids), set(held.ids)

    learned, held = sides(whole)
    assert not learned & held
    assert len(learned) + len(held) == 120
    assert 0 < len(held) < 60
    assert sides(part)[1] == held & set(part.ids)


def test_classes_are_matched_by_name():
    made = Classifier(nn.Identity(), info(), nn.Identity)
    assert made.indices(("right", "left"), "d").tolist() == [1, 0]
    with pytest.raises(DataError, match="d: the model does not know the classes up"):
        made.indices(("left", "up"), "d")


def info():
    return ModelInfo(
        arch="x:y",
        classes=CLASSES,
        input=SPEC,
        preprocessing=Normalize(mean=(0.0,) * 3, std=(1.0,) * 3),
    )


def test_augment_shifts_and_mirrors_whole_samples():
    x = torch.arange(2 * 6 * 8, dtype=torch.float32).reshape(2, 6, 8, 1)
    still = Recipe(shift=(0.0, 0.0))
    assert torch.equal(augment(x, still, torch.Generator().manual_seed(0)), x)
    flipped = augment(x.repeat(50, 1, 1, 1), Recipe(shift=(0.0, 0.0), flip=True),
                      torch.Generator().manual_seed(0))  # fmt: skip
    kinds = [
        "same" if torch.equal(a, b) else "mirrored" if torch.equal(a, b.flip(1)) else "?"
        for a, b in zip(flipped, x.repeat(50, 1, 1, 1), strict=True)
    ]
    assert set(kinds) == {"same", "mirrored"}


# A user's own code and weights ------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A user's module with a factory, in the working directory."""
    (tmp_path / "mynet.py").write_text(
        "from dripgate.training.nets import lenet\n"
        "def make():\n    return lenet((3, 12, 12), 2)\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("mynet", None)


def test_a_factory_with_weights(package, halves):
    x, _ = halves
    net = NETS["lenet"]((3, 12, 12), 2)
    save_file(net.state_dict(), package / "w.safetensors")
    loaded = load_classifier("mynet:make", package / "w.safetensors", lambda arch: info())
    given = Classifier(net.eval(), info(), nn.Identity)
    np.testing.assert_allclose(loaded.logits(x), given.logits(x), rtol=1e-5)
    assert isinstance(loaded.build(), nn.Module)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ("mynet:nothing", "cannot be imported"),
        ("no.such.module:make", "cannot be imported"),
        ("mynet:wrong", "gave a int, expected a torch.nn.Module"),
        ("missing.safetensors", "no such file; make a first model"),
    ],
)
def test_models_that_are_not_there(package, model, match):
    save_file({"a": torch.zeros(1)}, package / "w.safetensors")
    with pytest.raises(ModelError, match=match) as caught:
        load_classifier(model, package / "w.safetensors", lambda arch: info())
    assert "\n" not in str(caught.value)


def test_weights_of_another_net(package):
    save_file({"a": torch.zeros(1)}, package / "w.safetensors")
    with pytest.raises(ModelError, match="do not fit"):
        load_classifier("mynet:make", package / "w.safetensors", lambda arch: info())


def test_a_factory_without_weights(package):
    with pytest.raises(ModelError, match="add --weights"):
        load_classifier("mynet:make")


def test_weights_without_metadata_and_of_foreign_code(package, halves):
    save_file({"a": torch.zeros(1)}, package / "w.safetensors")
    with pytest.raises(ModelError, match=r"package\.module:factory --weights"):
        load_classifier(str(package / "w.safetensors"))
    net = NETS["lenet"]((3, 12, 12), 2)
    Classifier(net, info(), nn.Identity).save(package / "theirs.safetensors")
    with pytest.raises(ModelError, match="--model x:y --weights"):
        load_classifier(str(package / "theirs.safetensors"))


def test_pickles_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    (tmp_path / "model.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match=r"pickled weights .* are not loaded"):
        load_classifier(str(tmp_path / "model.pt"))
    assert not (tmp_path / "ran").exists()


def test_audio_has_no_default_preprocessing():
    with pytest.raises(ModelError, match="LogMel"):
        default_preprocessing(AudioInput(rate=16000, length=16000))


def test_the_exported_file_says_what_the_classifier_is_and_gives_its_logits(halves):
    x, _ = halves
    net = Classifier(NETS["lenet"]((3, 12, 12), 2).eval(), info(), nn.Identity)
    file = net.exported().file()
    facts = facts_of(load(file), None)
    assert (facts.classes, facts.input) == (net.info.classes, net.info.input)
    assert facts.preprocessing == net.info.preprocessing
    session = onnxruntime.InferenceSession(file)
    prepared = build(net.info.preprocessing, net.info.input)(torch.from_numpy(x)).numpy()
    (logits,) = session.run(None, {session.get_inputs()[0].name: prepared})
    np.testing.assert_allclose(logits, net.logits(x), rtol=1e-4, atol=1e-5)


def test_arrays_need_a_net_of_their_own():
    x = np.zeros((4, 7), np.float32)
    with pytest.raises(ModelError, match="bring your own net"):
        new_classifier("lenet", CLASSES, ArrayInput(shape=(7,)), x, recipe=Recipe(), holdout=0.0)


def test_bfloat16_learns_the_same_and_its_weights_stay_float32(halves):
    x, y = halves
    found = {}
    for dtype in ("float32", "bfloat16"):
        classifier = untrained(x, dtype=dtype).trained(x, y)
        assert {weight.dtype for weight in classifier.model.parameters()} == {torch.float32}
        found[dtype] = classifier.logits(x)
        assert (found[dtype].argmax(axis=1) == y).mean() > 0.95
    assert not np.array_equal(*found.values())
