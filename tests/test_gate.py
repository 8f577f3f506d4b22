"""The gate file: what it refuses, and that every way of asking gives the same verdicts."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from dripgate.errors import GateError
from dripgate.gate import Gate
from dripgate.gate_info import METADATA_KEY, OUTPUT_NAMES
from dripgate.types import Decision, Reason, Sample


@pytest.fixture
def samples(stream):
    return [Sample(payload, name) for name, payload in stream[:70]]


def edited(gate, change):
    """The gate's bytes after ``change`` was applied to the ONNX model."""
    model = onnx.load_model_from_string(gate.data)
    change(model)
    return model.SerializeToString()


def with_metadata(gate, **fields):
    def change(model):
        entry = next(e for e in model.metadata_props if e.key == METADATA_KEY)
        entry.value = json.dumps(json.loads(entry.value) | fields)

    return edited(gate, change)


def test_batches_and_single_samples_get_the_same_verdicts(gate, samples):
    together, alone = gate.decide_batch(samples), [gate.decide(sample) for sample in samples]
    # Kernels for one sample add up in another order, so scores agree to rounding.
    np.testing.assert_allclose([v.score for v in together], [v.score for v in alone], rtol=1e-5)
    assert [v.decision for v in together] == [v.decision for v in alone]
    assert [v.predicted for v in together] == [v.predicted for v in alone]


def test_same_verdicts_without_dripgate(gate, loop, samples):
    session = onnxruntime.InferenceSession(str(loop / "gate.onnx"))
    x = np.stack([gate.decode(sample) for sample in samples])
    verdicts, scores = session.run(["verdict", "score"], {"samples": x})
    ours = gate.decide_batch(samples)
    assert [v.decision.code for v in ours] == verdicts.tolist()
    np.testing.assert_allclose([v.score for v in ours], scores, rtol=1e-6)
    assert len(set(verdicts.tolist())) > 1


def test_verdicts_follow_the_thresholds_in_the_metadata(gate, samples):
    t = gate.info.thresholds
    for sample in samples:
        verdict = gate.decide(sample)
        low, high = t.low[verdict.predicted], t.high[verdict.predicted]
        inside = (low is None or verdict.score >= low) and (high is None or verdict.score <= high)
        expected = Decision.KEEP if inside else Decision.DROP
        if verdict.quality < t.quality_low:
            expected = Decision.QUARANTINE
        assert verdict.decision is expected
        assert verdict.stored == (expected is not Decision.DROP)
        assert verdict.propensity == (expected is not Decision.DROP)


def test_arrays_are_decided_like_their_payloads(gate, samples):
    assert gate.decide(gate.decode(samples[0])) == gate.decide(samples[0])


def test_a_second_time_gives_the_same(gate, samples):
    assert gate.decide_batch(samples) == gate.decide_batch(samples)


def test_shapes_of_all_outputs(gate, samples, spec):
    x = np.stack([gate.decode(sample) for sample in samples[:5]])
    out = gate(x)
    K, h, w = gate.info.layer.shape
    assert out.logits.shape == (5, 10)
    assert out.embedding.shape == (5, K)
    assert out.heatmap.shape == (5, h, w)
    assert out.verdict.dtype == np.int8
    assert x.shape == (5, *spec.shape)
    np.testing.assert_allclose(out.heatmap.mean((1, 2)), out.score, rtol=1e-5)  # loss_mean


def test_unreadable_payloads_are_dropped_with_their_cause(gate, samples):
    bad = [Sample(b"not an image", "a.jpg"), Sample(b"", "b.jpg"), Sample(b"", "c", problem="gone")]
    verdicts = gate.decide_batch([samples[0], *bad, samples[1]])
    assert [v.reason for v in verdicts[1:4]] == [Reason.UNREADABLE] * 3
    assert [v.decision for v in verdicts[1:4]] == [Decision.DROP] * 3
    assert all(v.detail for v in verdicts[1:4])
    assert verdicts[3].detail == "gone"
    good = gate.decide_batch(samples[:2])
    assert [verdicts[0].decision, verdicts[4].decision] == [v.decision for v in good]


def test_no_samples_no_verdicts(gate):
    assert gate.decide_batch([]) == []


def test_another_shape_or_dtype_is_refused(gate, spec):
    with pytest.raises(GateError, match=r"expected uint8 \(N, 16, 16, 1\)"):
        gate(np.zeros((2, 9, 16, 1), np.uint8))
    with pytest.raises(GateError, match="samples are float32"):
        gate(np.zeros((2, *spec.shape), np.float32))


def test_one_wrong_array_among_right_ones_is_refused(gate, spec):
    right, wrong = np.zeros(spec.shape, np.uint8), np.zeros((3, 3, 1), np.uint8)
    with pytest.raises(GateError, match="samples are uint8"):
        gate.decide_batch([right, wrong])


def test_saved_whole_and_loaded_equal(gate, tmp_path):
    gate.save(tmp_path / "again.onnx")
    again = Gate.load(tmp_path / "again.onnx")
    assert again.info == gate.info
    assert again.id == gate.id
    assert [path.name for path in tmp_path.iterdir()] == ["again.onnx"]


def test_a_failed_save_leaves_no_part(gate, tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(GateError, match=r"folder.onnx: cannot be written"):
        gate.save(tmp_path / "folder.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.onnx"]


def test_metadata_tells_what_the_design_asks_for(gate):
    info = gate.info
    assert info.classes == tuple("0123456789")
    assert 0 < info.keep <= 1
    assert sum(info.calibration.score.counts) == info.calibration.samples
    assert info.parity.score <= info.parity.tolerance
    assert len(info.provenance.model) == 64
    assert len(info.provenance.data) == 64


# What is refused --------------------------------------------------------------------------------


def refused(data, match):
    with pytest.raises(GateError, match=match) as caught:
        Gate(data, "suspect.onnx")
    message = str(caught.value)
    assert message.startswith("suspect.onnx: ")
    assert "\n" not in message


@pytest.mark.parametrize("data", [b"", b"hello, world", b"\x80\x04\x95pickle", bytes(1000)])
def test_what_is_no_model(data):
    refused(data, "not an ONNX model")


def test_every_truncation_is_refused_cleanly(gate):
    for size in np.linspace(1, len(gate.data) - 1, 40).astype(int):
        with pytest.raises(GateError):
            Gate(gate.data[:size], "cut.onnx")


def test_a_model_that_is_no_gate():
    node = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    refused(model.SerializeToString(), "no gate .*dripgate fit")


def test_another_schema(gate):
    refused(with_metadata(gate, schema=99), "gate schema 99, this dripgate reads schema 1")


def test_unknown_and_missing_fields(gate):
    refused(with_metadata(gate, extra=1), "metadata is damaged")

    def remove(model):
        entry = next(e for e in model.metadata_props if e.key == METADATA_KEY)
        fields = json.loads(entry.value)
        del fields["keep"]
        entry.value = json.dumps(fields)

    refused(edited(gate, remove), "metadata is damaged")


def test_contradictions(gate):
    refused(with_metadata(gate, classes=["one"]), "contradicts itself")
    refused(with_metadata(gate, score="magic"), "contradicts itself")


def test_external_data(gate):
    def change(model):
        tensor = model.graph.initializer[0]
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "/etc/passwd"

    refused(edited(gate, change), "external data")


def test_external_data_hidden_in_a_nested_graph(gate):
    def change(model):
        inner = onnx.TensorProto(name="secret", data_type=1, dims=[1])
        inner.data_location = TensorProto.EXTERNAL
        body = helper.make_graph([], "body", [], [], initializer=[inner])
        node = helper.make_node("If", ["c"], ["o"], then_branch=body, else_branch=body)
        model.graph.node.append(node)

    refused(edited(gate, change), "external data")


def test_foreign_domains_and_local_functions(gate):
    def foreign(model):
        model.graph.node[0].domain = "com.evil"

    def local(model):
        model.functions.append(onnx.FunctionProto(name="f", domain="local"))

    refused(edited(gate, foreign), "com.evil")
    refused(edited(gate, local), "model-local functions")


def test_other_outputs(gate):
    def change(model):
        del model.graph.output[1]

    refused(edited(gate, change), "has the outputs")
    assert OUTPUT_NAMES[1] == "score"


def test_a_graph_that_onnxruntime_cannot_run(gate):
    def change(model):
        model.graph.node[0].op_type = "NoSuchOperator"

    refused(edited(gate, change), "onnxruntime .* cannot run it")


def test_missing_file(tmp_path):
    with pytest.raises(GateError, match=r"none.onnx: cannot be read .*dripgate fit"):
        Gate.load(tmp_path / "none.onnx")


def test_oversize(gate, monkeypatch):
    monkeypatch.setattr("dripgate.gate_info.LARGEST_FILE", 1000)
    refused(gate.data, "more than the 0 MB")
