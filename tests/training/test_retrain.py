"""Retraining: which samples are used, with which labels, and that worse models are said to be."""

from needs import need

need("torch")

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dripgate.data import load
from dripgate.errors import DataError, StoreError
from dripgate.store import Store
from dripgate.training.classifier import load_classifier
from dripgate.training.retrain import collect, read_labels, retrain
from dripgate.training.train import Recipe, train
from dripgate.types import Decision, Reason, Sample, Verdict

QUICK = Recipe(steps=3, batch=32, lr=0.01)


@pytest.fixture(scope="module")
def classifier(loop):
    return load_classifier(str(loop / "model.safetensors"))


def verdict(decision=Decision.KEEP, propensity=1.0):
    return Verdict(decision=decision, reason=Reason.BAND, score=1.0, quality=0.5, predicted=0,
                   propensity=propensity)  # fmt: skip


@pytest.fixture
def store(tmp_path, stream):
    """Kept: 0 and 1 from class folders, 2 from elsewhere, 3 of an unknown label; 4 quarantined."""
    with Store(tmp_path / "kept.db") as opened:
        for i, (name, payload) in enumerate(stream[:5]):
            source = name if i < 2 else f"camera/{i}.png"
            decision = Decision.QUARANTINE if i == 4 else Decision.KEEP
            opened.put(Sample(payload, source), verdict(decision))
        opened.label(Sample(stream[3][1]).id, "strange")
        yield opened


def test_labels_come_from_the_table_then_the_store_then_the_folder(store, stream, classifier):
    kept = collect(store, classifier, {})
    assert kept.y.tolist() == [int(name.split("/")[0]) for name, _ in stream[:2]]
    assert (kept.unlabelled, kept.unknown) == (1, 1)
    table = {Sample(stream[2][1]).id: "7", Sample(stream[0][1]).id: "9"}
    assert collect(store, classifier, table).y.tolist()[0::2] == [9, 7]


def test_quarantined_samples_are_never_used(store, stream, classifier):
    table = {Sample(payload).id: "1" for _, payload in stream[:5]}
    assert len(collect(store, classifier, table).y) == 4


def test_kept_samples_are_decoded_as_they_were_decided(store, stream, classifier, gate):
    x = collect(store, classifier, {}).x
    np.testing.assert_array_equal(x[1], gate.decode(Sample(stream[1][1])))


def test_old_and_new_are_compared_on_the_same_test_samples(loop, classifier):
    dataset = load(loop / "labelled.zip")
    result = retrain(loop / "kept.db", dataset, classifier)
    assert result.tested == len(dataset.test)
    assert result.old_accuracy == classifier.accuracy(dataset.test.x, dataset.test.y)
    assert result.new_accuracy == result.classifier.accuracy(dataset.test.x, dataset.test.y)
    assert result.better == (result.new_accuracy >= result.old_accuracy)
    assert result.classifier.info.holdout == classifier.info.holdout


def test_training_goes_on_from_the_old_weights_unless_from_scratch(loop, classifier):
    gentle = Recipe(steps=2, batch=32, lr=1e-6)
    store, data = loop / "kept.db", loop / "labelled.zip"
    onward = retrain(store, data, classifier, recipe=gentle)
    assert abs(onward.new_accuracy - onward.old_accuracy) < 0.02
    fresh = retrain(store, data, classifier, recipe=gentle, from_scratch=True)
    assert not fresh.better


def test_weights_are_those_of_a_loss_over_the_repeated_samples(loop):
    """Once with weights 1, 2 and 5, once with each sample there that often: the same step."""
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.normal(size=(30, 4, 4, 1)).astype(np.float32)), np.arange(30) % 3
    times = np.array([1, 2, 5])[rng.integers(0, 3, 30)]
    recipe = Recipe(steps=1, batch=1000, lr=0.5, shift=(0, 0), weight_decay=0)
    start = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    models = [copy.deepcopy(start) for _ in range(3)]
    train(models[0], x, y, recipe, weights=7.0 * times)
    train(models[1], x[np.repeat(np.arange(30), times)], np.repeat(y, times), recipe)
    train(models[2], x, y, recipe)
    weighed, repeated, equal = (model[1].weight.detach().numpy() for model in models)
    np.testing.assert_allclose(weighed, repeated, atol=1e-6)
    assert np.abs(weighed - equal).max() > 1e-3


def test_a_kept_sample_weighs_what_it_stands_for(tmp_path, stream, classifier, loop):
    """The model is the one that is trained with 1/propensity by hand."""
    with Store(tmp_path / "kept.db") as opened:
        for (name, payload), propensity in zip(stream[:3], (1.0, 0.5, 0.01), strict=True):
            opened.put(Sample(payload, name), verdict(propensity=propensity))
        kept = collect(opened, classifier, {})
    dataset = load(loop / "labelled.zip")
    weighed = retrain(tmp_path / "kept.db", dataset, classifier, recipe=QUICK, weigh="stream")
    part, _ = classifier.parts(dataset)
    by_hand = classifier.trained(
        np.concatenate([part.x, kept.x]), np.concatenate([part.y, kept.y]), QUICK, fresh=False,
        weights=np.array([1.0] * len(part) + [1.0, 2.0, 100.0]),
    )  # fmt: skip
    for ours, theirs in zip(
        weighed.classifier.model.parameters(), by_hand.model.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert weighed.effective == pytest.approx(103**2 / (1 + 4 + 10_000))
    equal = retrain(tmp_path / "kept.db", dataset, classifier, recipe=QUICK)
    assert equal.effective == 3
    assert not all(
        torch.equal(a, b)
        for a, b in zip(
            weighed.classifier.model.parameters(), equal.classifier.model.parameters(), strict=True
        )
    )


def test_weights_need_a_propensity(tmp_path, stream, classifier, loop):
    with Store(tmp_path / "kept.db") as opened:
        opened.put(Sample(stream[0][1], stream[0][0]), verdict(propensity=0.0))
    data = loop / "labelled.zip"
    with pytest.raises(StoreError, match="1 kept samples have no propensity"):
        retrain(tmp_path / "kept.db", data, classifier, recipe=QUICK, weigh="stream")
    assert retrain(tmp_path / "kept.db", data, classifier, recipe=QUICK).used == 1


def test_a_store_without_labels(tmp_path, stream, classifier, loop):
    with Store(tmp_path / "kept.db") as opened:
        opened.put(Sample(stream[0][1], "camera/1.png"), verdict())
    with pytest.raises(StoreError, match=r"no labelled kept samples .*--labels FILE.csv"):
        retrain(tmp_path / "kept.db", loop / "labelled.zip", classifier, recipe=QUICK)


def test_a_store_of_another_gate(tmp_path, classifier, loop):
    with Store(tmp_path / "kept.db") as opened:
        opened.put(Sample(b"RIFF not an image", "3/sound.wav"), verdict())
    with pytest.raises(StoreError, match="another input"):
        retrain(tmp_path / "kept.db", loop / "labelled.zip", classifier, recipe=QUICK)


def test_label_tables(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("id,label,note\nabc,cat,x\ndef,,\n", encoding="utf-8-sig")
    assert read_labels(table) == {"abc": "cat"}
    table.write_text("name,class\nabc,cat\n")
    with pytest.raises(DataError, match="header line 'id,label'"):
        read_labels(table)
    table.write_bytes(b"\xff\xfe\x00id")
    with pytest.raises(DataError, match=r"not a table of labels|cannot be read"):
        read_labels(table)
    with pytest.raises(DataError, match=r"not a table of labels|cannot be read"):
        read_labels(tmp_path / "none.csv")
