"""Killed at any moment: the old gate or the new one, whole; never neither, never a part."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from dripgate.gate import Gate
from dripgate.store import Store
from dripgate.stream.force import InForce

KILLS = int(os.environ.get("DRIPGATE_ADAPT_KILLS", "12"))

ADAPT = """
import sys
from dripgate.adapting.learning import adapt
from dripgate.gate import Gate
gate, store, out = sys.argv[1:]
new = adapt(Gate.load(gate), store).gate
print("ready", flush=True)
while True:
    new.save(out)
    Gate.load(gate).save(out)
"""
SWITCH = """
import sys
from dripgate.gate import Gate
from dripgate.store import Store
from dripgate.stream.force import InForce
old, new, path = sys.argv[1:]
with Store(path) as store:
    force = InForce(store, Gate.load(old))
    gates = [Gate.load(new), Gate.load(old)]
    print("ready", flush=True)
    while True:
        for gate in gates:
            force.offer(gate, "adapted", "by a test")
            force.take({})
"""


def _killed(code: str, *arguments: object, after: float) -> None:
    """Run code and kill it so many writes after it says that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_adapt_leaves_the_old_gate_or_the_new_one(dark, gate, filled, tmp_path):
    path, *_ = filled(change=dark)
    given, out = tmp_path / "gate.onnx", tmp_path / "out" / "gate2.onnx"
    gate.save(given)
    out.parent.mkdir()
    gate.save(out)
    chance, seen = random.Random(0), set()
    for _ in range(KILLS):
        _killed(ADAPT, given, path, out, after=chance.uniform(0.0, 0.05))
        seen.add(Gate.load(out).id)
        assert Gate.load(given).id == gate.id
    assert len(seen) <= 2


def test_a_killed_switch_leaves_one_gate_in_force(dark, gate, filled, tmp_path):
    from dripgate.adapting.learning import adapt

    path, *_ = filled(change=dark)
    old, new = tmp_path / "old.onnx", tmp_path / "new.onnx"
    gate.save(old)
    adapted = adapt(gate, path).gate
    assert adapted is not None
    adapted.save(new)
    chance, store_path = random.Random(1), Path(tmp_path / "run.db")
    for _ in range(KILLS):
        _killed(SWITCH, old, new, store_path, after=chance.uniform(0.0, 0.1))
        with Store(store_path) as store:
            told: list[str] = []
            force = InForce(store, gate, told=told.append)
            assert force.gate.id in (gate.id, adapted.id)
            assert store.meta["gate_id"] == force.gate.id
            assert not told
