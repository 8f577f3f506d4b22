"""What a model's file, or the files beside it, say."""

import json

import onnx
import pytest

from dripgate.errors import ModelError
from dripgate.fitting.metadata import Facts, facts_of


def _model(**properties):
    model = onnx.ModelProto()
    onnx.helper.set_model_props(model, properties)
    return model


def test_ultralytics():
    model = _model(task="classify", names="{0: 'ant', 1: 'bee'}", imgsz="[64, 96]")
    facts = facts_of(model, None)
    assert (facts.classes, facts.size) == (("ant", "bee"), (64, 96))
    assert facts.preprocessing.mean == (0.0,) * 3
    with pytest.raises(ModelError, match="for 'detect', not for classification"):
        facts_of(_model(task="detect", names="{}"), None)
    broken = facts_of(_model(task="classify", names="__import__('os')"), None)
    assert broken.classes is None
    assert "cannot be read" in broken.notes[0]


def test_a_hugging_face_folder_beside_the_file(tmp_path):
    config = {"id2label": {"0": "ant", "1": "bee"}}
    images = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 8, "width": 9}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
    facts = facts_of(_model(), tmp_path / "model.onnx")
    assert (facts.classes, facts.size) == (("ant", "bee"), (8, 9))
    assert facts.preprocessing.std == pytest.approx((0.25,) * 3)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "LABEL_0"}}))
    assert facts_of(_model(), tmp_path / "model.onnx").classes is None


def test_labels_beside_the_file(tmp_path):
    assert facts_of(_model(), tmp_path / "m.onnx") == Facts()
    (tmp_path / "labels.txt").write_text("0 ant\n1 bee\n")
    assert facts_of(_model(), tmp_path / "m.onnx").classes == ("ant", "bee")
