"""Retraining: which samples are used, with which labels, and that worse models are said to be."""

import numpy as np
import pytest

from dripgate.data import load
from dripgate.errors import DataError, StoreError
from dripgate.store import Store
from dripgate.training.classifier import load_classifier
from dripgate.training.retrain import collect, read_labels, retrain
from dripgate.training.train import Recipe
from dripgate.types import Decision, Reason, Sample, Verdict

QUICK = Recipe(steps=3, batch=32, lr=0.01)


@pytest.fixture(scope="module")
def classifier(loop):
    return load_classifier(str(loop / "model.safetensors"))


def verdict(decision=Decision.KEEP):
    return Verdict(decision=decision, reason=Reason.BAND, score=1.0, quality=0.5, predicted=0,
                   propensity=1.0)  # fmt: skip


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
    with pytest.raises(DataError, match="not a table of labels"):
        read_labels(table)
    with pytest.raises(DataError, match="not a table of labels"):
        read_labels(tmp_path / "none.csv")
