"""Gate files with intent: what passes for a gate and is none costs one line, and little time."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dripgate.errors import GateError
from dripgate.gate import Gate
from dripgate.gate_info import METADATA_KEY
from dripgate.types import Sample

FLOAT = TensorProto.FLOAT


def edited(gate, change):
    """The gate's bytes after ``change`` was applied to the ONNX model."""
    model = onnx.load_model_from_string(gate.data)
    change(model)
    return model.SerializeToString()


def with_metadata(gate, change):
    def apply(model):
        entry = next(e for e in model.metadata_props if e.key == METADATA_KEY)
        fields = json.loads(entry.value)
        change(fields)
        entry.value = json.dumps(fields)

    return edited(gate, apply)


def refused(data, match):
    with pytest.raises(GateError, match=match) as caught:
        Gate(data, "suspect.onnx")
    message = str(caught.value)
    assert message.startswith("suspect.onnx: ")
    assert "\n" not in message
    assert len(message) < 1000


def constant(name, values, kind=np.int64):
    return numpy_helper.from_array(np.array(values, kind), name)


def replaced(gate, output, nodes, *initializers):
    """The gate with one of its outputs made by other nodes, from "was", what it was before."""

    def change(model):
        for node in model.graph.node:
            for names in (node.output, node.input):
                for i, name in enumerate(names):
                    if name == output:
                        names[i] = "was"
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(initializers)

    return edited(gate, change)


# onnxruntime's own format ------------------------------------------------------------------------


def in_their_format(folder):
    """A model in onnxruntime's own format."""
    node = helper.make_node("Identity", ["samples"], ["verdict"])
    values = [helper.make_tensor_value_info(n, FLOAT, [1]) for n in ("samples", "verdict")]
    graph = helper.make_graph([node], "theirs", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "theirs.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    data = (folder / "theirs.ort").read_bytes()
    assert data[4:8] == b"ORTM"
    return data


def polyglot(gate, theirs):
    """A file that is the gate as ONNX, and another model as onnxruntime's own format.

    Its first four bytes are to the one where the root is, 72 MB further on; to the other they are
    a number nobody knows, and the head of a field of four bytes, which are "ORTM". The root is
    copied to a multiple of eight bytes, in front of what it points to.
    """
    head = bytes([0x48, 0x00, 0x4A, 0x04])
    at = int.from_bytes(head, "little")
    root = int.from_bytes(theirs[:4], "little")
    table = root - int.from_bytes(theirs[root : root + 4], "little", signed=True)
    size = int.from_bytes(theirs[table + 2 : table + 4], "little")
    shift = at + size + 64 - (at + size) % 64  # all but the root moves by so much
    copy = bytearray(theirs[root : root + size])
    copy[:4] = (at - table - shift).to_bytes(4, "little", signed=True)
    for slot in range(table + 4, table + int.from_bytes(theirs[table : table + 2], "little"), 2):
        if field := int.from_bytes(theirs[slot : slot + 2], "little"):
            target = root + field + int.from_bytes(copy[field : field + 4], "little")
            copy[field : field + 4] = (target + shift - at - field).to_bytes(4, "little")
    last = 8 + len(gate.data) + 6  # where a last field nobody knows begins to hold the rest
    body = bytes(at - last) + bytes(copy) + bytes(shift - at - size) + theirs
    length = bytes(len(body) >> 7 * i & 0x7F | (0x80 if i < 4 else 0) for i in range(5))
    return head + b"ORTM" + gate.data + b"\x7a" + length + body


def test_a_polyglot_is_run_as_what_it_was_checked_as(gate, tmp_path, stream):
    data = polyglot(gate, in_their_format(tmp_path))
    plain = onnxruntime.InferenceSession(data)
    assert [one.name for one in plain.get_outputs()] == ["verdict"]  # left alone it is theirs
    both = Gate(data, "polyglot.onnx")
    samples = [Sample(payload, name) for name, payload in stream[:20]]
    assert both.decide_batch(samples) == gate.decide_batch(samples)


# What has no end ---------------------------------------------------------------------------------


def test_loops_and_branches_are_refused(gate):
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("go", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["", "true"], [], body=body)
    branch = helper.make_node("If", ["true"], ["x"], then_branch=body, else_branch=body)
    for node in (loop, branch):
        data = replaced(gate, "score", [helper.make_node("Identity", ["was"], ["score"]), node],
                        constant("true", True, bool))  # fmt: skip
        refused(data, f"loops or branches .{node.op_type}")


BOMBS = {
    "ConstantOfShape": [helper.make_node("ConstantOfShape", ["size"], ["big"])],
    "Expand": [helper.make_node("Expand", ["one", "size"], ["big"])],
    "Tile": [helper.make_node("Tile", ["one", "size"], ["big"])],
    "RandomNormal": [helper.make_node("RandomNormal", [], ["big"], shape=[200_000, 200_000])],
    "doubling": [
        helper.make_node("Concat", ["one", "one"], ["c0"], axis=0),
        *(helper.make_node("Concat", [f"c{i}"] * 2, [f"c{i + 1}"], axis=0) for i in range(36)),
        helper.make_node("Identity", ["c36"], ["big"]),
    ],
}  # fmt: skip

SMALL = """
import resource, sys
from dripgate.gate import Gate
from dripgate.errors import GateError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    Gate.load(sys.argv[1])
except GateError as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, error)
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_gate_cannot_ask_for_more_memory_than_there_is(gate, tmp_path, name):
    """160 GB and more, from a few bytes."""
    nodes = [
        *BOMBS[name],
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["was", "sum"], ["score"]),
    ]
    data = replaced(gate, "score", nodes, constant("size", [200_000, 200_000]),
                    constant("one", [[1]], np.float32))  # fmt: skip
    (tmp_path / "bomb.onnx").write_bytes(data)
    done = subprocess.run([sys.executable, "-c", SMALL, tmp_path / "bomb.onnx"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    grown, _, message = done.stdout.partition(" ")
    assert "cannot be run" in message, done.stderr
    assert message.count("\n") == 1
    assert done.stderr == ""
    assert int(grown) < 5000


def test_a_first_run_that_does_not_end_is_ended(gate, monkeypatch):
    """A thousand products of large matrices: a minute is a second here."""
    monkeypatch.setattr("dripgate.gate_session.TRIAL", 0.2)
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["m0"]),
        *(helper.make_node("MatMul", ["m0", f"m{i}"], [f"m{i + 1}"]) for i in range(1000)),
        helper.make_node("ReduceSum", ["m1000"], ["sum"], keepdims=0),
        helper.make_node("Add", ["was", "sum"], ["score"]),
    ]
    refused(replaced(gate, "score", nodes, constant("size", [2000, 2000])), "no result after")


# Outputs and inputs ------------------------------------------------------------------------------


def test_outputs_of_another_shape_or_type_are_refused(gate):
    wide = [helper.make_node("Concat", ["was", "was"], ["logits"], axis=1)]
    refused(replaced(gate, "logits", wide), r"gives logits as float32 \(1, 20\).*\(1, 10\)")
    tall = [helper.make_node("Concat", ["was", "was"], ["score"], axis=0)]
    refused(replaced(gate, "score", tall), r"gives score as float32 \(2,\)")

    def change(model):
        next(o for o in model.graph.output if o.name == "verdict").type.tensor_type.elem_type = 6

    other = replaced(gate, "verdict", [helper.make_node("Cast", ["was"], ["verdict"], to=6)])
    model = onnx.load_model_from_string(other)
    change(model)
    refused(model.SerializeToString(), "gives verdict as int32")


@pytest.mark.parametrize("code", [-1, 3, 127])
def test_a_verdict_that_is_none_is_an_error_not_a_keep(gate, code, stream):
    nodes = [
        helper.make_node("Mul", ["was", "nought"], ["n"]),
        helper.make_node("Add", ["n", "code"], ["verdict"]),
    ]
    data = replaced(gate, "verdict", nodes, constant("nought", [0], np.int8),
                    constant("code", [code], np.int8))  # fmt: skip
    sample = Sample(stream[0][1])
    with pytest.raises(GateError, match=f"the verdict {code}"):
        Gate(data).decide(sample)
    with pytest.raises(GateError, match=f"the verdict {code}"):
        Gate(data).decide_batch([sample, sample])
    with pytest.raises(GateError, match=f"the verdict {code}"):
        bad = Gate(data)
        bad(bad.decode(sample)[None])


def test_weights_that_are_no_numbers_are_refused(gate):
    def change(model):
        for tensor in model.graph.initializer:
            if tensor.data_type == FLOAT and len(tensor.dims) == 4:
                values = np.full(tuple(tensor.dims), np.nan, np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    refused(edited(gate, change), "logits that are no numbers")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kind": "image", "height": 10**9, "width": 10**9, "channels": 1}, "more than 268 MB"),
        ({"kind": "image", "height": 0, "width": 8, "channels": 1}, r"the shape \(0, 8, 1\)"),
        ({"kind": "image", "height": -8, "width": -8, "channels": 1}, r"the shape \(-8, -8, 1\)"),
        ({"kind": "image", "height": 8, "width": 8, "channels": 7}, "7 channels"),
        ({"kind": "audio", "rate": 0, "length": 100}, "0 Hz"),
        ({"kind": "audio", "rate": 16000, "length": 10**15}, "more than 268 MB"),
        ({"kind": "array", "shape": [10**6] * 8}, "more than 268 MB"),
        ({"kind": "array", "shape": [1] * 5000}, "5000 dimensions"),
        ({"kind": "image", "height": 16, "width": 8, "channels": 1}, "cannot be run"),
        ({"kind": "array", "shape": [8, 8, 1]}, "cannot be run"),
    ],
)
def test_the_shape_of_samples_is_bounded_and_the_graph_s(gate, spec, words):
    refused(with_metadata(gate, lambda fields: fields.update(input=spec)), words)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("calibration", {"predicted": [1]}),
        ("calibration", {"score": {"edges": [0.0], "counts": [1, 2]}}),
        ("calibration", {"score": {"edges": [2.0, 1.0, 0.0], "counts": [1, 2]}}),
        ("calibration", {"quality": {"edges": [0.0, 1.0], "counts": [-5]}}),
        ("calibration", {"quality": {"edges": [0.0, 1.0], "counts": [2**62]}}),
        ("calibration", {"distances": [1e999]}),
        ("thresholds", {"low": [-1e999] * 10}),
        ("thresholds", {"low": [0.0] * 11}),
        ("layer", {"shape": [10**18, 3, 3]}),
        ("layer", {"shape": [4, 0, 3]}),
        ("input", {"range": [5, 10**9]}),
        ("input", {"range": [9, 9]}),
    ],
)
def test_tables_that_do_not_agree_are_refused(gate, part, change):
    refused(with_metadata(gate, lambda fields: fields[part].update(change)),
            "contradicts itself|metadata is damaged")  # fmt: skip


@pytest.mark.parametrize("keep", [1e308, 10**30, -1])
def test_a_share_that_is_none_is_refused(gate, keep):
    refused(with_metadata(gate, lambda fields: fields.update(keep=keep)), "a share to keep of")


def test_a_second_input_is_refused(gate):
    def change(model):
        model.graph.input.append(helper.make_tensor_value_info("more", FLOAT, [1]))

    refused(edited(gate, change), "has the inputs samples, more")


# Files that are none -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda path: os.mkfifo(path), lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.mkdir(),
], ids=["pipe", "device", "folder"])  # fmt: skip
def test_what_is_no_file_is_refused_before_it_is_read(tmp_path, make):
    make(tmp_path / "gate.onnx")
    with pytest.raises(GateError, match=r"gate\.onnx: cannot be read"):
        Gate.load(tmp_path / "gate.onnx")


def test_a_file_of_a_terabyte_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "gate.onnx").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(GateError, match="more than the 512,000,000 that are read"):
        Gate.load(tmp_path / "gate.onnx")


# Processes and threads ---------------------------------------------------------------------------


def test_a_gate_is_pickled_and_unpickled(gate, stream):
    again = pickle.loads(pickle.dumps(gate))
    samples = [Sample(payload) for _, payload in stream[:10]]
    assert again.decide_batch(samples) == gate.decide_batch(samples)
    assert (again.id, again.info, again.name) == (gate.id, gate.info, gate.name)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_gate_decides_after_a_fork(gate, stream, threads):
    """With threads of its own the graph of the parent would wait for ever in the child."""
    mine = Gate(gate.data, threads=threads)
    samples = [Sample(payload) for _, payload in stream[:64]]
    expected = mine.decide_batch(samples)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # what hangs is ended
        os.write(writing, b"same" if mine.decide_batch(samples) == expected else b"other")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        assert file.read() == b"same"
    os.waitpid(child, 0)
    assert mine.decide_batch(samples) == expected


def test_decoding_in_threads_leaves_the_filters_of_warnings_alone(gate, stream):
    """warnings.catch_warnings is the process's, not a thread's: filters were lost or stayed."""
    import warnings

    before = list(warnings.filters)
    samples = [Sample(payload) for _, payload in stream[:50]]
    changed = []

    def decode():
        for _ in range(10):
            for sample in samples:
                gate.decode(sample)
                if warnings.filters != before:
                    changed.append(list(warnings.filters))

    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
    assert not changed
