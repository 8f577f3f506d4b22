"""One rule of labels: what train takes a path for, retrain and inspect take it for (case 42)."""

from needs import need

need("torch")

import msgspec
import numpy as np
import pytest

from dripgate.data import label_of, load
from dripgate.policy import Rules
from dripgate.store import Store
from dripgate.stream.account import account
from dripgate.stream.loop import run
from dripgate.training.classifier import load_classifier
from dripgate.training.retrain import collect
from dripgate.types import Decision, Reason, Sample, Verdict

DEEP = ["{label}/site0/{i}.png", "{label}/{other}/{i}.png", "stream/{label}/2026/05/{i}.png"]


def kept():
    return Verdict(decision=Decision.KEEP, reason=Reason.BAND, score=1.0, quality=0.5,
                   predicted=0, propensity=1.0)  # fmt: skip


@pytest.mark.parametrize("form", DEEP)
def test_retrain_takes_the_class_folder_however_deep_its_files_lie(loop, stream, tmp_path, form):
    classifier = load_classifier(str(loop / "model.safetensors"))
    labels = [int(name.split("/")[0]) for name, _ in stream[:10]]
    with Store(tmp_path / "kept.db") as store:
        for i, (label, (_, payload)) in enumerate(zip(labels, stream[:10], strict=True)):
            source = form.format(label=label, other=(label + 1) % 10, i=i)
            store.put(Sample(payload, source), kept())
        found = collect(store, classifier, {})
    assert found.y.tolist() == labels
    assert found.unlabelled == 0


def test_a_label_in_another_normal_form_is_the_same_label():
    classes = {"café", "tea"}
    assert label_of("cafe\u0301", "x/1.png", classes) == "café"
    assert label_of(None, "cafe\u0301/1.png", classes) == "café"
    assert label_of("", "tea/site/1.png", classes) == "tea"
    assert label_of("cake", "tea/1.png", classes) == "cake"


def test_inspect_counts_the_same_labels(gate, stream, tmp_path):
    with Store(tmp_path / "kept.db") as store:
        deep = [
            Sample(payload, f"{name.split('/')[0]}/site/{i}.png")
            for i, (name, payload) in enumerate(stream[:60])
        ]
        run(gate, deep, store, rules=Rules(audit=1.0, keep=1.0))
        found = account(store)
        assert found is not None
        assert found.estimates is not None, found.why
        assert found.estimates.labelled == store.summary().samples


def test_a_rare_class_is_learned(loop, tmp_path, png):
    """Case 15: whatever share is held out for fit, no class is as a whole."""
    folder = tmp_path / "photos"
    for k, (label, n) in enumerate([("dark", 40), *((f"rare{i}", 1) for i in range(10))]):
        (folder / label).mkdir(parents=True)
        for i in range(n):
            (folder / label / f"{i}.png").write_bytes(png(seed=100 * k + i))
    data = load(folder, cache=False)
    classifier = load_classifier(str(loop / "model.safetensors"))
    info = msgspec.structs.replace(classifier.info, holdout=0.6, classes=data.classes)
    from dataclasses import replace

    learned, held_out = replace(classifier, info=info).parts(data)
    assert set(np.unique(learned.y)) == set(range(11))
    assert len(held_out)
