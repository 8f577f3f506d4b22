"""What a gate remembers, in the file and out of it."""

import msgspec
import numpy as np
import onnxruntime
import pytest

from dripgate.adapting.memory import draw, parse, remember, weights
from dripgate.errors import GateError, UserError
from dripgate.gate import Gate
from dripgate.gate_tensors import Linear, changed, read_linear, read_memory

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 2], [30, 10])
FEATURES = (RNG.normal(size=(40, 8)) + 3 * LABELS[:, None]).astype(np.float32)


def test_class_means_and_spreads_are_remembered_of_the_classes_that_were_there():
    about, memory = remember(FEATURES, LABELS, 4, "stats")
    assert (about.form, about.samples, about.counts) == ("stats", 40, (30, 0, 10, 0))
    assert memory.classes.tolist() == [0, 2]
    np.testing.assert_allclose(memory.features[1], FEATURES[30:].mean(0), atol=1e-2)
    np.testing.assert_allclose(memory.spread[0], FEATURES[:30].std(0), atol=1e-2)
    assert about.size(8) == memory.size == 2 * (4 * 8 + 4)
    assert weights(about, memory).tolist() == [30, 10]
    made, classes = draw(memory, 500)
    np.testing.assert_allclose(made[classes == 2].mean(0), FEATURES[30:].mean(0), atol=0.3)


def test_so_many_vectors_of_each_class_taking_turns():
    about, memory = remember(FEATURES, LABELS, 4, 12)
    assert memory.classes.tolist()[:20] == [0, 2] * 10
    assert memory.classes.tolist()[20:] == [0, 0]
    assert about.size(8) == memory.size
    assert {tuple(v) for v in memory.features.tolist()} <= {
        tuple(v) for v in FEATURES.astype(np.float16).tolist()
    }
    assert weights(about, memory).tolist() == [1] * 22


def test_none_is_none_and_nonsense_is_refused():
    assert remember(FEATURES, LABELS, 4, "none") is None
    assert (parse("none"), parse("stats"), parse("50")) == ("none", "stats", 50)
    for text in ("some", "0", "-1", "99999999", "٣"):
        with pytest.raises(UserError, match="expected none, stats"):
            parse(text)


def test_a_fitted_gate_remembers_and_any_runtime_opens_it(gate):
    memory = read_memory(gate.data, gate.info, gate.name)
    assert gate.info.memory.form == "stats"
    assert memory.features.shape == (10, gate.info.last.width)
    onnxruntime.InferenceSession(gate.data)


def test_everything_else_of_a_changed_file_stays(gate, spec):
    linear = read_linear(gate.data, gate.info, gate.name)
    samples = RNG.integers(0, 255, (6, *spec.shape), np.uint8)
    again = Gate(changed(gate.data, gate.info, linear=linear))
    for one, other in zip(gate(samples), again(samples), strict=True):
        np.testing.assert_array_equal(one, other)
    turned = Gate(changed(gate.data, gate.info, linear=Linear(-linear.weight, -linear.bias)))
    np.testing.assert_allclose(turned(samples).logits, -gate(samples).logits, atol=1e-4)


def test_tensors_that_are_not_what_the_metadata_say_are_refused(gate):
    wide = msgspec.structs.replace(gate.info.last, width=7)
    for info in (msgspec.structs.replace(gate.info, last=wide),):
        with pytest.raises(GateError, match=r"'head.weight' is not what its metadata say"):
            read_linear(gate.data, info, "it")
        with pytest.raises(GateError, match=r"'memory.features' is not what its metadata say"):
            read_memory(gate.data, info, "it")
    with pytest.raises(GateError, match="cannot learn on"):
        read_linear(gate.data, msgspec.structs.replace(gate.info, last=None), "it")


@pytest.mark.parametrize(("memory", "size"), [("none", 0), ("3", 10 * 3 * (2 * 64 + 4))])
def test_fit_puts_it_into_the_gate_and_says_its_size(loop, tmp_path, dripgate, memory, size):
    out = tmp_path / "gate.onnx"
    code, said, err = dripgate(
        "fit", loop / "labelled.zip", "--model", loop / "model.safetensors", "--memory", memory,
        "--out", out,
    )  # fmt: skip
    assert code == 0, err
    info = Gate.load(out).info
    assert (info.memory.size(info.last.width) if info.memory else 0) == size
    assert ("may forget" in said) == (not size)
    assert dripgate("fit", loop / "labelled.zip", "--model", "x.onnx", "--memory", "few")[0] == 2
