"""Releases as the commands carry them out: a gate that fails, and what arrives at a receiver."""

import json
import re

import msgspec
import numpy as np
import onnx

from dripgate.gate import Gate
from dripgate.store import Store
from dripgate.stream.force import noted_force

from .conftest import EASY


def test_a_release_s_steps_arrive_and_are_shown(
    lab, loop, gate, better, released, keys, dripgate
):  # fmt: skip
    """Activated, taken over, rolled back: told as they come, noted once, with figures by gate."""
    broker = lab.broker()
    receiver = lab.command(
        "receive", broker.address(), "--store", lab / "central.db", "--json", lab / "r.json"
    )
    release = released(better, 3, msgspec.structs.replace(EASY, watch=50_000))
    ran = ("run", loop / "gate.onnx", loop / "stream.zip", "--store", lab / "k.db", "--again",
           "--uplink", broker.address(), "--device", "north-1", "--patience", "0.3")  # fmt: skip

    def run():
        command = lab.command(*ran)
        assert command.wait() == 0, command.log()

    run()
    code, _, err = dripgate("activate", release, "--trust", keys[1], "--store", lab / "k.db")
    assert code == 0, err
    run()
    assert dripgate("rollback", "--store", lab / "k.db", "--why", "it looks odd")[0] == 0
    run()
    assert receiver.stop() == 0, receiver.log()
    log = receiver.log()
    for what in ("shadow", "switched", "rolled back"):
        assert log.count(f"north-1: {what} at ") == 1, log
    assert "it looks odd" in log
    assert f"north-1: gate {gate.id}, no release" in log
    assert re.search(rf"by {better.id}: [\d,]+ seen, [\d.]+ % kept", log)
    said = json.loads((lab / "r.json").read_text())
    assert said["devices"]["north-1"]["gate"] == gate.id
    with Store(lab / "central.db", read_only=True) as store:
        assert [one.what for one in store.events()][-3:] == ["shadow", "switched", "rolled back"]


def failing(gate, at):
    """The same gate, but a sample brighter than ``at`` of the whole range ends in an error."""
    model = onnx.load_model_from_string(gate.data)
    graph, make, white = model.graph, onnx.helper.make_node, 255.0 * at
    axes = np.arange(1, len(graph.input[0].type.tensor_type.shape.dim))
    for name, value in (("trap.axes", axes.astype(np.int64)), ("trap.white", np.float32(white)),
                        ("trap.zero", np.zeros(1, np.float32))):  # fmt: skip
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    for node in graph.node:
        for i, name in enumerate(node.output):
            if name == "logits":
                node.output[i] = "trap.logits"
        for i, name in enumerate(node.input):
            if name == "logits":
                node.input[i] = "trap.logits"
    graph.node.extend([
        make("Cast", ["samples"], ["trap.float"], to=onnx.TensorProto.FLOAT),
        make("ReduceMean", ["trap.float", "trap.axes"], ["trap.mean"], keepdims=0),
        make("ReduceMax", ["trap.mean"], ["trap.max"], keepdims=0),
        make("Greater", ["trap.max", "trap.white"], ["trap.bright"]),
        make("Cast", ["trap.bright"], ["trap.index"], to=onnx.TensorProto.INT64),
        make("Gather", ["trap.zero", "trap.index"], ["trap.nothing"]),  # of one: index 1 is none
        make("Add", ["trap.logits", "trap.nothing"], ["logits"]),
    ])  # fmt: skip
    return Gate(model.SerializeToString(), "failing.onnx")


def test_a_gate_that_fails_in_force_is_rolled_back_by_itself(
    loop, gate, released, keys, dripgate, png, tmp_path
):
    """It held its golden samples and its shadow; the sample at which it fails is decided all the
    same, by the gate before, and the run goes on.
    """
    bad = failing(gate, 0.95)
    release = released(bad, 5, msgspec.structs.replace(EASY, watch=50_000))
    store = tmp_path / "kept.db"
    ran = ("run", loop / "gate.onnx", loop / "stream.zip", "--store", store)
    assert dripgate(*ran)[0] == 0
    code, _, err = dripgate("activate", release, "--trust", keys[1], "--store", store)
    assert code == 0, err
    assert dripgate(*ran, "--again")[0] == 0
    assert in_force(store) == bad.id
    (tmp_path / "bright").mkdir()
    for i in range(5):
        (tmp_path / "bright" / f"{i}.png").write_bytes(png(255 if i == 3 else 20 + i))
    with Store(store, read_only=True) as before:
        seen = before.counters["seen"]
    code, out, err = dripgate("run", loop / "gate.onnx", tmp_path / "bright", "--store", store)
    assert code == 0, err
    assert "rolled back: release 5 rolled back: it failed" in err
    assert in_force(store) == gate.id
    with Store(store, read_only=True) as after:
        assert after.counters["seen"] == seen + 5
        events = [(one.what, one.gate) for one in after.events()]
        assert events[-1] == ("rolled back", gate.id)
        figures = json.loads(after.meta["figures"])
        assert sum(one["seen"] for one in figures.values()) == seen + 5
    code, out, _ = dripgate("inspect", store, "--releases")
    assert "it failed" in out
    assert dripgate(*ran, "--again")[0] == 0
    assert in_force(store) == gate.id


def test_a_gate_that_fails_in_the_shadow_never_comes_into_force(
    loop, gate, released, keys, dripgate, png, tmp_path
):
    release = released(failing(gate, 0.95), 5)
    store = tmp_path / "kept.db"
    (tmp_path / "bright").mkdir()
    (tmp_path / "bright" / "1.png").write_bytes(png(255))
    ran = ("run", loop / "gate.onnx", tmp_path / "bright", "--store", store)
    assert dripgate(*ran)[0] == 0
    assert dripgate("activate", release, "--trust", keys[1], "--store", store)[0] == 0
    code, _, err = dripgate(*ran, "--again")
    assert code == 0, err
    assert "refused: release 5 refused: it failed" in err
    assert in_force(store) == gate.id


def in_force(store):
    with Store(store, read_only=True) as opened:
        return noted_force(opened.meta).id
