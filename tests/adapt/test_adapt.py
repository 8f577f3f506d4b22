"""``dripgate adapt``: what it learns, what it refuses, what it says."""

import json
import random

import numpy as np
import pytest

import dripgate as package
from dripgate.errors import GateError, StoreError, UserError
from dripgate.gate import Gate
from dripgate.gate_tensors import read_memory


def _accuracy(gate: Gate, stream, change, wanted=lambda name: True) -> float:
    chosen = [(name.split("/")[-2], data) for name, data in stream if wanted(name.split("/")[-2])]
    samples = [package.Sample(payload=change(data)) for _, data in chosen[300:600]]
    found = [gate.info.classes[one.predicted] for one in gate.decide_batch(samples)]
    return float(np.mean([a == b for a, (b, _) in zip(found, chosen[300:600], strict=True)]))


def test_a_changed_camera_is_repaired_and_the_old_one_not_forgotten(dark, gate, stream, filled):
    path, ids, _ = filled(change=dark)
    adapted = package.adapt(gate, path)
    new, outcome = adapted.gate, adapted.outcome
    assert new is not None
    assert (outcome.used.labelled, outcome.used.run_again) == (len(ids), 0)
    assert outcome.labels.gain > outcome.labels.half
    assert _accuracy(new, stream, dark) > _accuracy(gate, stream, dark) + 0.1
    assert new.info.provenance.lineage == (gate.id,)
    assert new.info.calibration.accuracy == outcome.labels.after.value
    assert new.info.thresholds.low != gate.info.thresholds.low


def test_where_nothing_changed_nothing_gets_worse(gate, stream, filled):
    path, *_ = filled()
    new = package.adapt(gate, path).gate or gate
    assert _accuracy(new, stream, bytes) >= _accuracy(gate, stream, bytes) - 0.02


def test_samples_without_features_are_run_again_with_the_same_result(dark, gate, filled):
    with_, *_ = filled(change=dark)
    without, *_ = filled(change=dark, embeddings=False, name="bare.db")
    one, other = package.adapt(gate, with_), package.adapt(gate, without)
    assert (one.outcome.used.run_again, other.outcome.used.run_again) == (0, 300)
    assert one.outcome.labels.gain == pytest.approx(other.outcome.labels.gain, abs=0.02)


def test_features_of_another_trunk_are_not_believed(dark, gate, filled):
    path, *_ = filled(change=dark)
    import sqlite3

    with sqlite3.connect(path) as db:
        db.execute("UPDATE embeddings SET numbers = zeroblob(length(numbers))")
    assert package.adapt(gate, path).outcome.used.run_again == 300


def test_without_labels_of_a_class_it_is_not_forgotten(gate, stream, filled):
    path, *_ = filled(wanted=lambda name: name != "3")
    new = package.adapt(gate, path)
    assert new.outcome.missing == ["3"]
    three = lambda name: name == "3"  # noqa: E731
    kept = [(n, d) for n, d in stream if three(n.split("/")[-2])]
    found = (new.gate or gate).decide_batch([package.Sample(payload=data) for _, data in kept])
    before = gate.decide_batch([package.Sample(payload=data) for _, data in kept])
    right = [sum(one.predicted == 3 for one in verdicts) for verdicts in (before, found)]
    assert right[1] >= right[0] - 0.1 * len(kept)


def test_adapting_twice_goes_on_from_the_features_of_the_first(dark, gate, filled):
    path, *_ = filled(change=dark)
    once = package.adapt(gate, path).gate
    twice = package.adapt(once, path)
    assert twice.outcome.used.run_again == 0
    assert twice.gate.info.provenance.lineage == (gate.id, once.id)


# Poisoned labels --------------------------------------------------------------------------------


def test_labels_of_one_class_alone_are_refused(gate, filled):
    path, ids, _ = filled(label=False)
    adapted = package.adapt(gate, path, labels=dict.fromkeys(ids, "7"))
    assert adapted.gate is None
    assert "all labels are '7'" in adapted.outcome.why
    assert adapted.outcome.memory.gain < -0.05


def test_wrong_labels_are_refused_or_said(gate, stream, filled):
    path, ids, truths = filled(label=False)
    chance = random.Random(1)
    wrong = {
        id: chance.choice([c for c in gate.info.classes if c != truth])
        if chance.random() < 0.3 else truth
        for id, truth in zip(ids, truths, strict=True)
    }  # fmt: skip
    adapted = package.adapt(gate, path, labels=wrong)
    outcome = adapted.outcome
    true = dict(zip(ids, truths, strict=True))
    assert outcome.doubted > 30
    assert any("contradict both heads" in note for note in outcome.notes)
    assert all(wrong[id] != true[id] for id in outcome.doubtful)
    if adapted.gate is not None:
        assert _accuracy(adapted.gate, stream, bytes) >= _accuracy(gate, stream, bytes) - 0.05


def test_labels_of_another_store_are_counted_and_change_nothing(gate, filled):
    path, *_ = filled(label=False)
    strangers = {f"{i:064x}": "3" for i in range(50)}
    with pytest.raises(StoreError, match=r"no labelled samples.*50 labels of samples that are not"):
        package.adapt(gate, path, labels=strangers)


def test_too_few_labels_are_said_with_what_was_left_out(gate, filled):
    path, ids, _ = filled(label=False)
    labels = dict.fromkeys(ids[:5], "3") | dict.fromkeys(ids[5:40], "kiwi")
    with pytest.raises(UserError, match=r"5 labels, at least 20 .*'kiwi' 35"):
        package.adapt(gate, path, labels=labels)


# New classes, and gates without a memory --------------------------------------------------------


def test_a_new_class_is_a_new_row_with_a_name_and_thresholds(dark, gate, filled):
    _, plain, truths = filled(200)
    path, ids, _ = filled(300, change=dark, label=False)
    labels = dict.fromkeys(ids, "negative") | dict(zip(plain, truths, strict=True))
    refused = package.adapt(gate, path, labels=labels)
    assert refused.outcome.used.unknown == {"negative": 300}
    adapted = package.adapt(gate, path, labels=labels, new_classes=True)
    new = adapted.gate
    assert adapted.outcome.grown == ["negative"]
    assert new.info.classes == (*gate.info.classes, "negative")
    assert len(new.info.thresholds.low) == len(new.info.calibration.kept) == 11
    memory = read_memory(new.data, new.info, "it")
    assert memory.classes.tolist() == list(range(11))
    assert new(np.zeros((3, *new.info.input.shape), np.uint8)).logits.shape == (3, 11)
    found = {one.name: one.after for one in adapted.outcome.classes}
    assert found["negative"] > 0.5


def test_without_a_memory_it_says_that_it_may_forget(dark, gate, filled):
    import msgspec

    from dripgate.gate_tensors import changed

    bare = Gate(changed(gate.data, msgspec.structs.replace(gate.info, memory=None)))
    path, ids, _ = filled(change=dark)
    adapted = package.adapt(bare, path)
    assert adapted.gate is not None
    assert adapted.outcome.memory is None
    assert adapted.outcome.pull >= 30
    assert any("may forget" in note for note in adapted.outcome.notes)
    one = package.adapt(bare, path, labels=dict.fromkeys(ids, "7"))
    assert one.gate is None


def test_audit_samples_count_for_those_they_stand_for(gate, filled):
    path, *_ = filled(audit=60)
    weighed = package.adapt(gate, path).outcome.used
    equal = package.adapt(gate, path, weigh=False).outcome.used
    assert equal.effective == pytest.approx(300)
    assert weighed.effective < 200


def test_a_gate_whose_head_is_no_linear_layer_is_refused(gate, filled):
    import msgspec

    from dripgate.gate_tensors import changed

    path, *_ = filled()
    other = Gate(changed(gate.data, msgspec.structs.replace(gate.info, last=None, memory=None)))
    with pytest.raises(GateError, match="retrain the classifier"):
        package.adapt(other, path)


# The command line -------------------------------------------------------------------------------


def test_the_command_writes_the_gate_and_says_all(dark, gate, filled, tmp_path, dripgate):
    path, ids, _ = filled(change=dark)
    gate.save(tmp_path / "gate.onnx")
    code, out, err = dripgate(
        "adapt", tmp_path / "gate.onnx", path, "--out", tmp_path / "gate2.onnx",
        "--json", tmp_path / "said.json",
    )  # fmt: skip
    assert (code, "learning from 300 labels" in err) == (0, True)
    assert "on labels" in out
    assert "on memory" in out
    said = json.loads((tmp_path / "said.json").read_text())
    new = Gate.load(tmp_path / "gate2.onnx")
    assert (said["id"], said["outcome"]["better"]) == (new.id, True)
    assert sum(said["outcome"]["used"]["classes"].values()) == len(ids)


def test_the_command_refuses_and_leaves_what_is_there(gate, filled, tmp_path, dripgate):
    path, ids, _ = filled(label=False)
    gate.save(tmp_path / "gate.onnx")
    (tmp_path / "poison.csv").write_text("id,label\n" + "".join(f"{id},7\n" for id in ids))
    (tmp_path / "gate2.onnx").write_bytes(b"what was there")
    code, out, _ = dripgate(
        "adapt", tmp_path / "gate.onnx", path, "--labels", tmp_path / "poison.csv",
        "--out", tmp_path / "gate2.onnx",
    )  # fmt: skip
    assert code == 0
    assert "nothing was written, the old gate stays: it forgets" in out
    assert (tmp_path / "gate2.onnx").read_bytes() == b"what was there"
