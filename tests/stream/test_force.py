"""One gate is in force, whole, whoever is killed; another takes over between two samples."""

import os
import signal
import subprocess
import sys

import msgspec
import pytest

from dripgate.errors import GateError
from dripgate.gate import Gate
from dripgate.graph.build import with_info, with_thresholds
from dripgate.policy import Rules
from dripgate.store import Store
from dripgate.stream.force import InForce, Observer
from dripgate.stream.loop import run
from dripgate.types import Sample


def other(gate, **changes):
    """Another gate of the same classifier; it keeps everything unless told otherwise."""
    none = (None,) * len(gate.info.classes)
    thresholds = msgspec.structs.replace(
        gate.info.thresholds, **({"low": none, "high": none, "quality_low": None} | changes)
    )
    info = msgspec.structs.replace(gate.info, thresholds=thresholds)
    return made(gate.data, info)


def made(data, info):
    return Gate(with_info(with_thresholds(data, info.thresholds), info), "other.onnx")


class After(Observer):
    """Offers a gate when so many samples were decided."""

    def __init__(self, force, gate, samples):
        self.force, self.gate, self.left = force, gate, samples

    def decided(self, batch):
        self.left -= len(batch.samples)
        return {}

    def turn(self):
        if self.gate and self.left <= 0:
            self.force.offer(self.gate, "switched", "a test wants it")
            self.gate = None


@pytest.fixture
def samples(stream):
    return [Sample(payload, name, float(i)) for i, (name, payload) in enumerate(stream[:128])]


def by_gate(store):
    found = {}
    for stored in store:
        found.setdefault(stored.gate, set()).add(stored.id)
    return found


@pytest.mark.parametrize("rules", [None, Rules(keep=0.3, audit=0.1, seed=1)])
def test_another_gate_takes_over_between_two_samples(gate, samples, tmp_path, rules):
    new = other(gate)
    with Store(tmp_path / "kept.db") as store:
        force = InForce(store, gate)
        seen = run(force, samples, store, rules=rules, batch=16, observers=[After(force, new, 64)])
        assert force.gate is new
        assert seen.seen == store.counters["seen"] == 128
        found = by_gate(store)
        assert set(found) <= {gate.id, new.id}
        if rules is None:
            assert found[new.id] == {one.id for one in samples[64:]}
            assert found.get(gate.id, set()) < {one.id for one in samples[:64]}
        (event,) = store.events()
        assert (event.what, event.gate) == ("switched", new.id)
    with Store(tmp_path / "kept.db") as store:  # the next start
        again = InForce(store, gate)
        assert (again.gate.id, again.origin, again.previous) == (new.id, gate.id, gate.id)


def test_files_that_one_gate_decided_are_not_decided_again_by_the_next(
    dripgate, gate, loop, tmp_path
):
    command = ("run", loop / "gate.onnx", loop / "stream.zip", "--store", tmp_path / "kept.db")
    dripgate(*command)
    with Store(tmp_path / "kept.db") as store:
        before = store.counters["seen"]
        force = InForce(store, gate)
        force.offer(other(gate), "switched", "by hand")
        force.take({})
    code, out, _ = dripgate(*command)
    assert code == 0
    assert f"known        {before:>9,}" in out
    with Store(tmp_path / "kept.db") as store:
        assert store.counters["seen"] == before


def test_a_gate_of_another_input_or_other_classes_does_not_fit(gate, tmp_path):
    info = msgspec.structs.replace(gate.info, classes=gate.info.classes[::-1])
    turned = made(gate.data, info)
    with Store(tmp_path / "kept.db") as store:
        force = InForce(store, gate)
        with pytest.raises(GateError, match="its classes do not begin with those"):
            force.offer(turned, "switched", "")
        assert not force.offered


def test_a_gate_that_is_given_by_hand_takes_over_from_all(gate, tmp_path):
    said = []
    with Store(tmp_path / "kept.db") as store:
        InForce(store, gate)
        force = InForce(store, other(gate), told=said.append)
        assert force.origin == force.gate.id != gate.id
        assert [event.what for event in store.events()] == ["given"]
    assert "takes the place of" in said[0]


def test_a_gate_whose_file_was_altered_is_not_run(gate, tmp_path):
    new, said = other(gate), []
    with Store(tmp_path / "kept.db") as store:
        force = InForce(store, gate)
        force.offer(new, "switched", "")
        force.take({})
        path = force.folder / f"{new.id}.onnx"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        assert InForce(store, gate, told=said.append).gate.id == gate.id
        assert store.events()[-1].what == "lost"
    assert gate.id in said[0]


_SWITCHED = """
import os, signal, sys
import dripgate.stream.force as force
from dripgate.gate import Gate
from dripgate.store import Store
path, old, new, at = sys.argv[1:]
count = 0
def step(*_):
    global count
    count += 1
    if count == int(at):
        os.kill(os.getpid(), signal.SIGKILL)
for name in ("write_whole", "sync_folder"):
    def wrapped(*given, real=getattr(force, name)):
        step(); real(*given); step()
    setattr(force, name, wrapped)
with Store(path) as store:
    real = store.put_many
    def put_many(*given, **named):
        step(); found = real(*given, **named); step()
        return found
    store.put_many = put_many
    inforce = force.InForce(store, Gate.load(old))
    inforce.offer(Gate.load(new), "switched", "")
    inforce.take({})
    print("end", count)
"""


def test_whoever_is_killed_at_whatever_step_one_gate_is_in_force(gate, tmp_path):
    new = other(gate)
    for name, one in (("old", gate), ("new", new)):
        one.save(tmp_path / f"{name}.onnx")

    def switched(store, at):
        return subprocess.run(
            [sys.executable, "-c", _SWITCHED, store, tmp_path / "old.onnx", tmp_path / "new.onnx",
             str(at)], capture_output=True, text=True, check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    steps = int(switched(tmp_path / "whole.db", 0).stdout.split()[1])
    assert steps >= 14
    found = []
    for at in range(1, steps + 1):
        path = tmp_path / f"{at}.db"
        assert switched(path, at).returncode == -signal.SIGKILL
        with Store(path) as store:
            force = InForce(store, gate)
            assert force.gate.decide_batch([Sample(b"")])  # whole, and works
            switches = [event.what for event in store.events()]
            assert switches == ["switched"] * (force.gate.id == new.id)
            found.append(force.gate.id)
    assert found == [gate.id] * found.count(gate.id) + [new.id] * found.count(new.id)
    assert {gate.id, new.id} == set(found)
