"""ONNX files as people have them: what is read, and what is refused before anything runs."""

import numpy as np
import onnx
import pytest
import support

from dripgate.errors import ModelError
from dripgate.graph import read
from dripgate.graph.opened import open_classifier

X = support.floats(6, 3, 8, 8)


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 20, 21])
def test_operator_sets_old_and_new_give_the_same(opset):
    model = support.small_cnn("y = Softmax <axis = 1> (z)", opset=opset)
    found = support.run(support.gate_of(model, (3, 8, 8)), X)
    expected = support.run(support.gate_of(support.small_cnn(), (3, 8, 8)), X)
    np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-5)


def test_weights_beside_the_file_are_read_and_none_elsewhere(tmp_path):
    onnx.save(support.small_cnn(), tmp_path / "m.onnx", save_as_external_data=True,
              location="m.data", size_threshold=0)  # fmt: skip
    assert open_classifier(read.load(tmp_path / "m.onnx")).cuts
    with pytest.raises(ModelError, match=r"weights lie in another file"):
        read.load((tmp_path / "m.onnx").read_bytes())
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../m.data"
    (tmp_path / "evil.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"'\.\./m\.data'.*own folder only"):
        read.load(tmp_path / "evil.onnx")
    (tmp_path / "m.data").unlink()
    with pytest.raises(ModelError, match="weights beside it cannot be read"):
        read.load(tmp_path / "m.onnx")


def test_files_that_are_none_or_too_large(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(support.small_cnn().SerializeToString())
    monkeypatch.setattr(read, "LARGEST_FILE", 100)
    with pytest.raises(ModelError, match="more than the 0 MB"):
        read.load(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="no such file"):
        read.load(tmp_path / "n.onnx")
    with pytest.raises(ModelError, match="no ONNX model"):
        read.load(b"PK")


def test_operators_outside_of_onnx_are_named():
    model = support.small_cnn()
    model.graph.node[-1].domain = "com.microsoft"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(ModelError, match=r"com.microsoft.Identity; it was written by onnxruntime"):
        open_classifier(model)


def test_operators_that_a_converter_left_as_they_were_are_named():
    model = support.small_cnn()  # as tf2onnx writes Keras's ConvNeXt
    model.opset_import[0].version = 17
    model.graph.node[-1].op_type = "StatefulPartitionedCall"
    with pytest.raises(ModelError, match=r"no operator of ONNX: StatefulPartitionedCall; the conv"):
        open_classifier(model)


@pytest.mark.parametrize("batch", ["1", "2"])
def test_a_fixed_batch_is_made_free(batch):
    model = support.small_cnn(given=f"float[{batch}, 3, 8, 8] x", result=f"float[{batch}, 4] y")
    assert open_classifier(model).measured.batch is None


def test_samples_that_mix_in_a_batch_are_taken_one_at_a_time():
    model = support.small_cnn("q = ReduceMean <keepdims = 1> (z, zero) y = Sub (z, q)",
                              given="float[4, 3, 8, 8] x", result="float[4, 4] y")  # fmt: skip
    model.graph.initializer.append(support.numpy_helper.from_array(np.array([0]), "zero"))
    opened = open_classifier(model)
    assert opened.measured.batch == 4
    assert any("takes 4 sample(s) at a time" in note for note in opened.notes)


def test_sizes_left_open_must_be_said():
    model = support.small_cnn(given="float[N, 3, h, w2] x")
    with pytest.raises(ModelError, match=r"sizes left open; say them with --size"):
        open_classifier(model)
    assert open_classifier(model, shape=(3, 8, 8)).cuts


def test_public_files_become_gates_but_a_detector():
    folder = support.shared_models()
    for name in ("pretrainedResnet", "pretrainedResnet_quant", "kws_ref_model", "ei_audio_float"):
        assert open_classifier(read.load(folder / f"{name}.onnx"), name).cuts
    with pytest.raises(ModelError, match="no classifier"):
        open_classifier(read.load(folder / "ei_fomo_int8.onnx"), "FOMO")
